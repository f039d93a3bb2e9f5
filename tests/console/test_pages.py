"""What the pages say, of a fleet that somebody wrote down: no store, no browser."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import httpx
import msgspec
import pytest

from towpath.console import application
from towpath.errors import UnavailableError
from towpath.fleet import FleetRow
from towpath.monitors import Incident
from towpath.platform.callers import ConsumerRow
from towpath.platform.lifecycle import HistoryRow
from towpath.registry.log import Kill
from towpath.settings import ProjectSettings, Settings
from towpath.traffic import Quota, Sla

NOW = datetime(2026, 4, 22, 6, tzinfo=UTC)
SETTINGS = Settings(project=ProjectSettings(name="shop", team="forecasting"))
ROW = FleetRow(
    project="shop",
    team="forecasting",
    model="demand",
    owner="forecasting",
    tier="critical",
    state="live",
    champion=1,
    waiting_since=None,
    integrator="ordering",
    first_called_at=NOW,
    last_called_at=NOW,
    calls=7,
    rows=852,
    fallback_share=0.141,
    consumers=("ordering",),
    latency_p99_ms=12.0,
    metric="wape",
    better="lower",
    metric_value=0.15,
    fallback_value=0.2,
    beside_fallback_value=0.15,
    beside_rows=120,
    difference=-0.05,
    difference_low=-0.08,
    difference_high=-0.02,
    unmeasured="",
    matured_rows=238,
    matured_until=NOW,
    open_incidents=0,
    last_incident_id=None,
    last_incident_monitor=None,
    last_incident_segment=None,
    last_incident_status=None,
    last_incident_at=None,
)
INCIDENT = Incident(
    incident_id="1",
    project="shop",
    model="demand",
    monitor="did_it_run",
    segment="price_band=<low>",
    severity="critical",
    status="open",
    opened_at=datetime(2026, 4, 21, 6, tzinfo=UTC),
    last_seen_at=NOW,
    closed_at=None,
    failing_rows=1,
    detail={},
    owner="forecasting",
    mend="start the run again",
    delivered_at=None,
)

TOLD: dict[str, Any] = {
    "model": "demand",
    "description": "",
    "facts": {},
    "metric": "waste_eur",
    "row": ROW,
    "chart_days": [],
    "rows_a_day": [],
    "series": {"model": [], "fallback": []},
    "unmeasured": "",
    "answers": [],
    "kills": (),
    "incidents": [],
    "versions": [],
    "history": [],
}


@dataclass
class Watched:
    """A fleet as the pages see it."""

    rows: tuple[FleetRow, ...] = ()
    open: tuple[Incident, ...] = ()
    told: dict[str, Any] | None = None
    settings: Settings = SETTINGS
    callers: tuple[ConsumerRow, ...] = ()

    @property
    def watch(self) -> "Watched":
        return self

    @property
    def consumers(self) -> "Watched":
        return self

    def list(self) -> tuple[ConsumerRow, ...]:
        return self.callers

    def now(self) -> datetime:
        return NOW

    def fleet(self) -> tuple[FleetRow, ...]:
        return self.rows

    def incidents(self, *, only_open: bool = False) -> tuple[Incident, ...]:
        assert only_open
        return self.open

    def page(self, model: str) -> dict[str, Any]:
        if self.told is None:
            raise UnavailableError(f"The store of '{model}' is away.", mend="try again")
        return TOLD | self.told


def asked(watched: Watched, path: str = "/", method: Literal["GET", "POST"] = "GET") -> httpx.Response:
    import asyncio

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(application(watched))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://console") as client:
            return await client.request(method, path)

    return asyncio.run(ask())


def of(**changes: Any) -> FleetRow:
    return msgspec.structs.replace(ROW, **changes)


def order(page: str, *names: str) -> list[str]:
    return sorted(names, key=lambda name: page.index(f'href="/models/{name}">'))


def caller(name: str, *, kept: bool | None, sla: Sla | None = None) -> ConsumerRow:
    return ConsumerRow(
        name=name,
        team="shop",
        state="live",
        scopes=("predict",),
        models=(),
        quota=Quota(),
        sla=sla or Sla(p99_ms=20.0, availability_share=0.999),
        keys=(),
        last_seen_at=NOW,
        requests=1_234,
        rows=5_678,
        p99_ms=34.56,
        available_share=0.9912,
        sla_kept=kept,
        changed_at=NOW,
        changed_by="ana",
        change="added",
    )


def test_a_broken_promise_stands_first_with_what_was_promised_and_what_was_measured() -> None:
    page = asked(
        Watched(callers=(caller("a", kept=True), caller("z", kept=False), caller("c", kept=None))), "/consumers"
    ).text
    assert page.index(">z<") < page.index(">a<") < page.index(">c<")
    for said in (
        "1 promise is broken.",
        "p99 20 ms, 99.9%",
        "<span class=ill>34.6 ms</span>",
        "<span class=ill>99.12%</span>",
        "1,234",
        "not called",
        "all models",
    ):
        assert said in page
    # and nobody is accused where nothing was promised, nor where nobody is there
    assert "No promise is broken." in asked(Watched(callers=(caller("a", kept=None, sla=Sla()),)), "/consumers").text
    assert "tow consumers add" in asked(Watched(), "/consumers").text


def test_those_in_trouble_stand_first() -> None:
    rows = (
        of(model="calm"),
        of(model="waiting", state="waiting", champion=2),
        of(model="losing", beside_fallback_value=0.3),
        of(model="silent", state="silent"),
        of(model="burning", open_incidents=2),
    )
    page = asked(Watched(rows)).text
    names = ("burning", "silent", "losing", "calm", "waiting")
    assert order(page, *names) == list(names)


def test_open_incidents_say_what_to_do_and_where() -> None:
    page = asked(Watched((of(open_incidents=1),), (INCIDENT,))).text
    assert "1 open incident<" in page
    assert "did_<wbr>it_<wbr>run" in page
    assert "start the run again" in page
    assert "price_<wbr>band=&lt;low&gt;" in page


def test_an_incident_that_opens_later_is_not_there_yet() -> None:
    later = msgspec.structs.replace(INCIDENT, opened_at=datetime(2026, 4, 23, tzinfo=UTC))
    assert "No open incidents." in asked(Watched((ROW,), (later,))).text


@pytest.mark.parametrize(
    ("better", "model", "fallback", "said"),
    [
        ("lower", 0.15, 0.2, "25.0% better"),
        ("lower", 0.25, 0.2, "25.0% worse"),
        ("higher", 0.9, 0.8, "12.5% better"),
        ("higher", 0.6, 0.8, "25.0% worse"),
        ("zero", -0.1, 0.2, "50.0% better"),
        ("zero", 0.3, -0.2, "50.0% worse"),
        ("lower", 0.2, 0.2, "0.0% better"),
    ],
)
def test_the_comparison_knows_which_way_is_better(better: str, model: float, fallback: float, said: str) -> None:
    row = of(better=better, beside_fallback_value=model, fallback_value=fallback)
    assert said in asked(Watched((row,))).text


@pytest.mark.parametrize("fallback", [None, 0.0])
def test_nothing_is_compared_where_no_ratio_exists(fallback: float | None) -> None:
    page = asked(Watched((of(fallback_value=fallback),))).text
    assert "better<" not in page
    assert "worse<" not in page


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.13661, "0.1366"), (12.3456, "12.35"), (0.00001234, "1.2e-05"), (1234567.8, "1,234,568"), (float("nan"), "–")],  # noqa: RUF001
)
def test_numbers_keep_four_digits(value: float, said: str) -> None:
    assert f"<span>{said}<" in asked(Watched((of(metric_value=value),))).text


def test_an_empty_store_says_how_to_begin() -> None:
    assert "tow train MODEL" in asked(Watched()).text


def test_no_page_carries_a_script_or_an_inline_style() -> None:
    answer = asked(Watched((ROW,), (INCIDENT,)))
    assert "<script" not in answer.text
    assert " style=" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_store_that_is_away_is_a_page_that_says_so() -> None:
    answer = asked(Watched(), "/models/demand")
    assert answer.status_code == 503
    assert "is away" in answer.text
    assert "try again" in answer.text


def test_a_model_about_which_nothing_is_known_says_so_in_every_part() -> None:
    page = asked(Watched(told={}), "/models/demand").text
    said = (
        "is not measured yet",
        "Nobody called it",
        "No incidents.",
        "No versions yet.",
        "Nothing happened yet.",
    )
    assert [one for one in said if one not in page] == []


def test_a_metric_that_the_journal_cannot_answer_says_why_it_is_not_drawn() -> None:
    page = asked(Watched(told={"unmeasured": "There is no column 'cost_eur'."}), "/models/demand").text
    assert "There is no column &#39;cost_eur&#39;." in page
    assert "is not measured yet" not in page


def test_a_killed_model_says_who_why_where_and_how_to_revive_it() -> None:
    kill = Kill(because="odd <numbers>", by="ana", at=NOW, segment="price_band=high")
    page = asked(Watched(told={"kills": (kill,)}), "/models/demand").text
    for part in ("odd &lt;numbers&gt;", "by ana", "price_band=high", "tow revive demand"):
        assert part in page


def test_an_override_is_visible_in_the_history_for_ever() -> None:
    entry = HistoryRow(
        revision=1,
        at=NOW,
        kind="promoted",
        version=3,
        champion=3,
        by="ana",
        because="a launch",
        override=True,
        verdict=None,
    )
    page = asked(Watched(told={"history": [entry]}), "/models/demand").text
    assert "promoted @3" in page
    assert ">override<" in page


@pytest.mark.parametrize("path", ["/nothing", "/static/nothing.css", "/models/a/b"])
def test_a_page_that_is_not_there_leads_back_to_the_fleet(path: str) -> None:
    answer = asked(Watched(), path)
    assert answer.status_code == 404
    assert 'href="/"' in answer.text


def test_pages_are_only_read() -> None:
    assert asked(Watched(), "/", "POST").status_code == 405


@pytest.fixture
def busy() -> Iterator[int]:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_busy_port_gives_way_to_the_next_free_one(busy: int) -> None:
    from towpath.console.app import _listening

    with _listening("127.0.0.1", busy) as listening:
        assert busy < listening.getsockname()[1] < busy + 20
