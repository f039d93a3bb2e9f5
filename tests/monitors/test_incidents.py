"""Incidents open, stay one and close; messages reach a real HTTP server once, and no secret reaches a log."""

import json
import logging
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towpath.errors import ProjectError
from towpath.monitors import Checked, Incident, Monitor, check_addresses, deliver, incidents, record
from towpath.project.declarations import MonitorHeader
from towpath.sql import Query
from towpath.stores.catalog import Catalog
from towpath.types import utc

MONDAY = utc("2026-01-05")
HOUR = timedelta(hours=1)
MONITOR = Monitor(
    name="worse_than_promised",
    query=Query.parse("select 1 as one"),
    header=MonitorHeader(description="Is it worse?", severity="critical", mend="tow gate explain"),
    project="shop",
    model="demand",
    owner="ana",
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    catalog = Catalog("sqlite:///catalog.db", tmp_path_factory.mktemp("catalog"))
    yield catalog
    catalog.close()


@pytest.fixture
def catalog(shared: Catalog) -> Catalog:
    for table in ("incidents", "checks", "outbox"):
        shared.write(f"delete from {table}")
    return shared


def found(*segments: str, at: datetime = MONDAY, error: str = "") -> Checked:
    return Checked(
        monitor=MONITOR,
        at=at,
        status="error" if error else ("failing" if segments else "ok"),
        failing_rows=len(segments),
        segments=dict.fromkeys(segments, 3),
        rows=tuple({"segment": one, "at": at, "value": 0.3} for one in segments),
        error=error,
    )


def shown(catalog: Catalog) -> list[tuple[str, str]]:
    return sorted((one.segment, one.status) for one in incidents(catalog))


def test_an_incident_opens_stays_one_and_closes(catalog: Catalog) -> None:
    [opened] = record(catalog, [found("low")])
    assert (opened.status, opened.severity, opened.owner, opened.mend) == (
        "open",
        "critical",
        "ana",
        "tow gate explain",
    )
    assert record(catalog, [found("low", at=MONDAY + HOUR)]) == ()
    [kept] = incidents(catalog)
    assert (kept.incident_id, kept.opened_at, kept.last_seen_at) == (opened.incident_id, MONDAY, MONDAY + HOUR)
    assert (kept.failing_rows, kept.detail["rows"][0]["value"]) == (3, 0.3)
    [closed] = record(catalog, [found(at=MONDAY + 2 * HOUR)])
    assert (closed.status, closed.closed_at, closed.incident_id) == ("closed", MONDAY + 2 * HOUR, opened.incident_id)
    [again] = record(catalog, [found("low", at=MONDAY + 3 * HOUR)])
    assert again.incident_id != opened.incident_id
    assert [one.status for one in incidents(catalog, model="demand")] == ["open", "closed"]
    assert [row["status"] for row in catalog.read("select status from checks order by at_us")] == [
        "failing",
        "failing",
        "ok",
        "failing",
    ]


def test_each_segment_is_an_incident_of_its_own(catalog: Catalog) -> None:
    record(catalog, [found("low", "high")])
    record(catalog, [found("high", "new", at=MONDAY + HOUR)])
    assert shown(catalog) == [("high", "open"), ("low", "closed"), ("new", "open")]


def test_a_monitor_that_cannot_be_asked_closes_nothing_and_is_an_incident(catalog: Catalog) -> None:
    record(catalog, [found("low")])
    record(catalog, [found(error="no such table", at=MONDAY + HOUR)])
    assert shown(catalog) == [("", "open"), ("low", "open")]
    assert incidents(catalog, status="open")[0].detail == {"error": "no such table"}
    record(catalog, [found("low", at=MONDAY + 2 * HOUR)])
    assert shown(catalog) == [("", "closed"), ("low", "open")]


@settings(max_examples=15, deadline=None)
@given(story=st.lists(st.sets(st.sampled_from(["", "low", "high"])), max_size=6))
def test_there_is_never_more_than_one_open_incident_and_it_is_what_fails_now(
    shared: Catalog, story: list[set[str]]
) -> None:
    shared.write("delete from incidents")
    for hour, segments in enumerate(story):
        record(shared, [found(*segments, at=MONDAY + hour * HOUR)])
    open_now = [one.segment for one in incidents(shared, status="open")]
    assert sorted(open_now) == sorted(story[-1] if story else [])


def test_checkers_that_race_open_one(catalog: Catalog, tmp_path: Path) -> None:
    record(catalog, [found()])
    opened: list[Incident] = []
    threads = [threading.Thread(target=lambda: opened.extend(record(catalog, [found("low")]))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(opened), shown(catalog)) == (1, [("low", "open")])


class Inbox:
    """A real HTTP server that keeps what is posted to it, and refuses while it is told to."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.refuses = False
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if inbox.refuses:
                    self.send_response(503)
                else:
                    inbox.messages.append(json.loads(body))
                    self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"json://bot:hunter2@127.0.0.1:{self.server.server_port}/T0K3N-of-the-team"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.messages]


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    opened = Inbox()
    yield opened
    opened.close()


def test_opened_and_closed_arrive_once_each(catalog: Catalog, inbox: Inbox) -> None:
    record(catalog, [found("low")], addresses=[inbox.address])
    assert deliver(catalog, [inbox.address], now=MONDAY).sent == 1
    # repeated failure is the same incident and no second message
    record(catalog, [found("low", at=MONDAY + HOUR)], addresses=[inbox.address])
    assert deliver(catalog, [inbox.address], now=MONDAY + HOUR).sent == 0
    record(catalog, [found(at=MONDAY + 2 * HOUR)], addresses=[inbox.address])
    assert deliver(catalog, [inbox.address], now=MONDAY + 2 * HOUR).sent == 1
    assert inbox.titles == [
        "[critical] demand: worse_than_promised on low",
        "[closed] demand: worse_than_promised on low",
    ]
    assert "owner: ana" in inbox.messages[0]["message"]
    assert "2h" in inbox.messages[1]["message"]
    assert incidents(catalog)[0].delivered_at == MONDAY + 2 * HOUR


def test_a_channel_that_is_down_is_tried_again_later_and_in_order(catalog: Catalog, inbox: Inbox) -> None:
    inbox.refuses = True
    record(catalog, [found("low")], addresses=[inbox.address])
    record(catalog, [found(at=MONDAY)], addresses=[inbox.address])
    assert deliver(catalog, [inbox.address], now=MONDAY).failed == 1  # the closing waits for the opening
    assert deliver(catalog, [inbox.address], now=MONDAY).failed == 0
    inbox.refuses = False
    for hour in (1, 2):
        deliver(catalog, [inbox.address], now=MONDAY + hour * HOUR)
    assert [title.split("]")[0] for title in inbox.titles] == ["[critical", "[closed"]


def test_one_channel_that_is_down_does_not_repeat_the_message_on_another(catalog: Catalog, inbox: Inbox) -> None:
    down = "json://127.0.0.1:9/nobody-listens"
    record(catalog, [found("low")], addresses=[inbox.address, down])
    first = deliver(catalog, [inbox.address, down], now=MONDAY)
    second = deliver(catalog, [inbox.address, down], now=MONDAY + HOUR)
    assert ((first.sent, first.failed), (second.sent, second.failed)) == ((1, 1), (0, 1))
    assert len(inbox.messages) == 1


def test_deliverers_that_race_send_once(catalog: Catalog, inbox: Inbox) -> None:
    record(catalog, [found("a", "b", "c")], addresses=[inbox.address])
    threads = [
        threading.Thread(target=deliver, args=(catalog, [inbox.address]), kwargs={"now": MONDAY}) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inbox.messages) == 3


def test_no_secret_reaches_the_log_the_catalog_or_an_error(
    catalog: Catalog, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    record(catalog, [found("low")], addresses=[inbox.address])
    inbox.refuses = True
    deliver(catalog, [inbox.address], now=MONDAY)
    inbox.refuses = False
    deliver(catalog, [inbox.address], now=MONDAY + HOUR)
    with pytest.raises(ProjectError) as raised:
        check_addresses(["nosuch://bot:hunter2@host/T0K3N"])
    kept = str(catalog.read("select * from outbox")) + str(catalog.read("select * from incidents"))
    for text in (caplog.text, kept, str(raised.value)):
        assert "hunter2" not in text
        assert "T0K3N" not in text
    assert "was not delivered to json://…" in caplog.text
    assert len(inbox.messages) == 1
