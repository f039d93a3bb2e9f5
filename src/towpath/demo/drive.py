"""The demo: a project is written, trained, judged, served and called while simulated days pass."""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import numpy as np

from towpath.clock import SteppedClock
from towpath.demo.files import write_project
from towpath.demo.shop import Shop, append, open_shop
from towpath.demo.story import STORY, Story
from towpath.errors import RefusedError, UnavailableError
from towpath.journal.append import SUFFIX
from towpath.types import duration

if TYPE_CHECKING:
    from towpath.platform import Platform

__all__ = ["Demo", "Progress", "Summary"]

_MARK = ".towpath/demo.json"
_CLOCK = ".towpath/clock"
_SEED = 7
_MODEL = "demand"
_ROWS = 24
"""Rows of one request of the ordering service."""
_SINGLES = 8
"""Requests of one row, as a shop page sends them."""
_NOBODYS_ITEM = "99999"
"""A page of the shop asks for it every day, by a link that somebody mistyped; it has no features, so the fallback answers."""
_DAYS_MORE = 3
"""How many days an existing demo goes on for."""
_STARTS = 5
"""Tries to serve, each at ports that were free a moment before."""

Say = Callable[[str], None]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """``.towpath/demo.json``: whose folder this is, and how far it came."""

    made_by: str = "tow demo"
    seed: int = _SEED
    next_day: int = 0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo did, read back from the stores."""

    folder: str
    model: str
    champion: int | None
    versions: int
    days: int
    calls: int
    predictions: int
    fallback_share: float | None
    by_reason: dict[str, int]
    consumers: dict[str, int]
    outcomes: int
    matured: int
    metric: str
    model_value: float | None
    fallback_value: float | None
    incidents_opened: int
    incidents_closed: int
    seconds: float


class Demo:
    """One demo folder.

    Args:
        folder: Made if it is missing; one that the demo made is continued.
        story: What happens on which day.
        say: Told each step in one line.
        port: Of HTTP; a busy one gives way to the next free one.

    Raises:
        RefusedError: The folder holds something that the demo did not make.
    """

    def __init__(self, folder: Path, *, story: Story = STORY, say: Say, port: int = 8080) -> None:
        self.folder = folder.resolve()
        self.story = story
        self._say = say
        self._started = time.perf_counter()
        self._refuse_foreign()
        self.continued = (self.folder / _MARK).is_file()
        self.progress = self._read_progress()
        self.clock = SteppedClock(self.folder / _CLOCK)
        self.shop: Shop = open_shop(np.random.default_rng(self.progress.seed))
        self._pick_ports(port)

    def prepare(self) -> "Platform":
        """Write the project and its warehouse, build features, train, gate and promote; or open what is there."""
        from towpath.platform import Platform

        if not self.continued:
            self._say(f"writing the project to {self.folder}")
            write_project(self.folder)
            (self.folder / ".gitignore").write_text(".towpath/\nwarehouse/\n", "utf-8")
            settings = self.folder / "towpath.toml"
            settings.write_text(settings.read_text("utf-8") + _SIMULATED.format(clock=_CLOCK), "utf-8")
            self._say("simulating a year of sales")
            append(self.warehouse, self.shop, self.story.history_since, self.story.start)
            self.clock.step(self.story.morning(0))
            self._keep()
        platform = Platform.open(self.folder, clock=self.clock)
        handle = platform.models[_MODEL]
        if handle.current() is None:  # fresh, or a first try that was interrupted
            self.clock.step(self.story.morning(0))
            self._say("building features: 3 views, known as of that morning")
            platform.features.build()
            self._crown(platform)
        return platform

    @property
    def warehouse(self) -> Path:
        """Where the simulated tables are."""
        return self.folder / "warehouse" / "shop"

    @property
    def days(self) -> range:
        """The days that this call simulates."""
        first = self.progress.next_day
        return range(first, self.story.days if first < self.story.days else first + _DAYS_MORE)

    @contextmanager
    def serving(self) -> Generator[None]:
        """``tow serve`` in a process of its own, on loopback; it drains when the block ends.

        Ports that were free when they were picked and are taken since give way to others.
        """
        with (self.folder / ".towpath" / "serve.log").open("ab") as log:
            server = self._server(log)
            try:
                yield
            finally:
                server.terminate()
                try:
                    server.wait(30)
                except subprocess.TimeoutExpired:
                    server.kill()
                    server.wait()

    def _server(self, log: "BinaryIO") -> "subprocess.Popen[bytes]":
        said = ""
        for _ in range(_STARTS):
            argv = [sys.executable, "-m", "towpath.cli", "serve", "--project", str(self.folder)]
            argv += ["--port", str(self.http), "--grpc-port", str(self.grpc)]
            before = os.fstat(log.fileno()).st_size
            server = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)  # noqa: S603 - ourselves
            try:
                said = self._wait_until_ready(server, before)
            except BaseException:
                server.kill()
                server.wait()
                raise
            if server.poll() is None:
                return server
            if "is taken" not in said:
                break
            self._pick_ports(self.http)
        raise UnavailableError(f"tow serve ended: {said[-500:]}", str(self.folder / ".towpath" / "serve.log"))

    def _pick_ports(self, wanted: int) -> None:
        self.http = _free_port(wanted)
        self.grpc = _free_port(self.http + 1)
        self.address = f"127.0.0.1:{self.http}"

    def live(self, platform: "Platform", number: int) -> None:
        """One simulated day: data lands, features are built, callers call, outcomes arrive, monitors run."""
        day, story = self.story.day(number), self.story
        events = {event.kind: event for event in story.on(number)}
        yesterday = day - timedelta(days=1)
        # Prices of the day are there in the morning; its sales carry the time at which they will land, and count from then.
        wrong = frozenset({day}) if "cents" in events else frozenset[date]()
        append(self.warehouse, self.shop, yesterday, day + timedelta(days=1), cents_on=wrong)
        self.clock.step(story.morning(number))
        platform.features.build(since=story.morning(number) - timedelta(days=4))
        if "retrain" in events:
            self._say(f"{day}: retraining, because of {events['retrain'].because}")
            self._crown(platform)
        if "silence" in events:
            self._say(f"{day}: nobody calls, because {events['silence'].because}")
        else:
            platform.models[
                _MODEL
            ].predict()  # the nightly ordering run, which also keeps what the fallback would have said
            self._call(platform, number, events.get("kill"), new_items="new_items" in events)
        self.clock.step(story.morning(number) + timedelta(hours=17))
        self._report_outcomes(platform, story.morning(number) - timedelta(days=1))
        self._wait_for_journal(platform)
        failing = [check for check in platform.watch.check() if check.status != "ok"]
        for check in failing:
            self._say(
                f"{day}: monitor '{check.monitor}' fails ({check.failing_rows} rows): {check.mend or check.error}"
            )
        self.progress = msgspec.structs.replace(self.progress, next_day=number + 1)
        self._keep()

    def summary(self, platform: "Platform") -> Summary:
        """What the stores say; nothing that the demo remembers."""
        calls = platform.sql(
            "select count(distinct request_id) as calls, count(*) as predictions, "
            "avg(case when source like 'fallback:%' then 1.0 else 0.0 end) as fallback_share, "
            "count(distinct cast(predicted_at as date)) as days from predictions"
        ).to_pylist()[0]
        reasons = platform.sql(
            "select reason, count(*) as n from predictions group by reason order by n desc"
        ).to_pylist()
        servers = platform.sql(
            "select consumer, count(*) as n from predictions group by consumer order by n desc"
        ).to_pylist()
        outcomes = platform.sql("select count(*) as n from outcomes").to_pylist()[0]["n"]
        row = next(row for row in platform.watch.fleet() if row.model == _MODEL)
        incidents = platform.watch.incidents(_MODEL)
        return Summary(
            folder=str(self.folder),
            model=_MODEL,
            champion=row.champion,
            versions=len(platform.models[_MODEL].versions()),
            days=calls["days"],
            calls=calls["calls"],
            predictions=calls["predictions"],
            fallback_share=calls["fallback_share"],
            by_reason={one["reason"]: one["n"] for one in reasons},
            consumers={one["consumer"]: one["n"] for one in servers},
            outcomes=outcomes,
            matured=row.matured_rows,
            metric=row.metric,
            model_value=row.beside_fallback_value or row.metric_value,
            fallback_value=row.fallback_value,
            incidents_opened=len(incidents),
            incidents_closed=sum(incident.status == "closed" for incident in incidents),
            seconds=round(time.perf_counter() - self._started, 1),
        )

    def _crown(self, platform: "Platform") -> None:
        handle = platform.models[_MODEL]
        self._say("training demand: LightGBM on what was known, in a process of its own")
        trained = handle.train()
        verdict = handle.gate(trained.version)
        interval = verdict.versus_fallback
        against = f"{verdict.metric} {verdict.candidate or 0:.3f} against {verdict.fallback or 0:.3f} of the fallback"
        bounds = f", difference [{interval.low:+.3f}, {interval.high:+.3f}]" if interval else ""
        self._say(f"gate of demand@{trained.version}: {'passed' if verdict.passed else 'refused'}, {against}{bounds}")
        for rule in verdict.rules:
            if not rule.passed:
                self._say(f"  {rule.name.replace('_', ' ')}: {rule.reason}")
        if verdict.passed:
            entry = handle.promote(trained.version, because="tow demo")
            self._say(f"demand@{entry.state.champion} is champion")
        elif handle.current() is None:
            failed = "; ".join(rule.reason for rule in verdict.rules if not rule.passed)
            raise RefusedError(f"The gate refused the first version: {failed}", str(self.folder), "tow gate demand")

    def _call(self, platform: "Platform", number: int, kill: Any, *, new_items: bool) -> None:
        items = [str(item) for item in self.shop.items["item_id"]]
        listed = items[: len(items) - 3] if number < 3 else items  # noqa: PLR2004 - the story lists three on day 3
        asked = listed if new_items or number > 3 else listed[:120]  # noqa: PLR2004 - as above
        batches = [asked[at : at + _ROWS] for at in range(0, len(asked), _ROWS)]
        half = len(batches) // 2
        morning = self.story.morning(number).isoformat()  # the moment that the ordering run is about, to the second
        for position, batch in enumerate(batches):
            if kill is not None and position == half:
                platform.models[_MODEL].kill(because=kill.because)
                self._say(f"{self.story.day(number)}: killed, because {kill.because}")
                self._until_reason("killed", listed[0])
            self._post(f"/predict/{_MODEL}", {"rows": [{"item_id": item, "morning": morning} for item in batch]})
        if kill is not None:
            platform.models[_MODEL].revive(because="it was a promotion nobody had announced")
            self._until_reason("ok", listed[0])
        for item in [*listed[:_SINGLES], _NOBODYS_ITEM]:
            self._post(f"/predict/{_MODEL}", {"rows": [{"item_id": item}]})
        from towpath.serving.call import infer_over_grpc

        infer_over_grpc(f"127.0.0.1:{self.grpc}", _MODEL, {"item_id": listed[:_SINGLES]})

    def _until_reason(self, reason: str, item: str) -> None:
        """A kill switch reaches running servers by their poll; ask until it has."""
        until = time.perf_counter() + 10
        while time.perf_counter() < until:
            answer = self._post(f"/predict/{_MODEL}", {"rows": [{"item_id": item}]})
            if answer["predictions"][0]["reason"] == reason:
                return
            time.sleep(0.05)
        raise UnavailableError(f"The server did not come to answer '{reason}' within 10 s.", self.address)

    def _report_outcomes(self, platform: "Platform", since: Any) -> None:
        """Post what the warehouse knows by now, as the ordering service would, for predictions that were made."""
        import pyarrow as pa
        import pyarrow.compute as pc

        spine = platform.models[_MODEL].folder.training
        header, now = spine.header, platform.now()
        table = platform.warehouse.read(spine.query, {"as_of": now, "since": since, "until": now})
        known = table.column(header.label_time or header.time)
        first = pa.scalar(self.story.morning(0), pa.timestamp("us", "UTC"))
        after = pc.call_function("greater", [known, pa.scalar(since + timedelta(hours=17), pa.timestamp("us", "UTC"))])
        asked = pc.call_function("greater_equal", [table.column(header.time), first])
        fresh = table.filter(pc.call_function("and", [after, asked])).to_pylist()
        horizon = duration(platform.models[_MODEL].folder.declaration.output.horizon or "0s")
        rows = [
            {
                "entity_key": [row[name] for name in header.keys],
                "target_at": (row[header.time] + horizon).isoformat(),
                "happened_at": row[header.label_time or header.time].isoformat(),
                "value": row[header.label],
            }
            for row in fresh
            if row[header.label] is not None
        ]
        if rows:
            self._post(f"/outcomes/{_MODEL}", {"outcomes": rows})

    def _wait_for_journal(self, platform: "Platform") -> None:
        """The worker closes its file every half second; what the monitors look at should be the whole day."""
        folder = self.folder / platform.settings.serving.journal
        until = time.perf_counter() + 10
        while time.perf_counter() < until:
            platform.watch.flush()
            if not any(path.stat().st_size for path in folder.glob(f"*{SUFFIX}")):
                return
            time.sleep(0.05)

    def _post(self, path: str, body: object) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=10)
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            data = answer.read()
        except OSError as error:
            raise UnavailableError(
                f"The server is gone: {error}", str(self.folder / ".towpath" / "serve.log")
            ) from error
        finally:
            connection.close()
        if answer.status >= 300:  # noqa: PLR2004 - 200 OK, 202 kept
            raise UnavailableError(
                f"{path} was answered {answer.status}: {data[:300].decode(errors='replace')}", self.address
            )
        return json.loads(data)

    def _wait_until_ready(self, server: "subprocess.Popen[bytes]", before: int) -> str:
        """What it wrote until it was ready, or ended. An answer alone could be that of somebody else's server."""
        path = self.folder / ".towpath" / "serve.log"
        until = time.perf_counter() + 60
        while time.perf_counter() < until:
            ended = server.poll() is not None
            said = path.read_bytes()[before:].decode("utf-8", "replace")
            if ended or (f"http: http://{self.address}\n" in said and self._answers_ready()):
                return said
            time.sleep(0.05)
        raise UnavailableError("tow serve was not ready within 60 s.", str(path))

    def _answers_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=1)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200  # noqa: PLR2004 - OK
        except OSError:
            return False
        finally:
            connection.close()

    def _refuse_foreign(self) -> None:
        if self.folder.exists() and any(self.folder.iterdir()) and not (self.folder / _MARK).is_file():
            raise RefusedError(
                f"'{self.folder}' holds something that the demo did not make.",
                str(self.folder),
                "tow demo ANOTHER-FOLDER",
            )

    def _read_progress(self) -> Progress:
        if not self.continued:
            return Progress()
        try:
            return msgspec.json.decode((self.folder / _MARK).read_bytes(), type=Progress)
        except msgspec.DecodeError as error:
            raise RefusedError(
                f"The demo's mark cannot be read: {error}", str(self.folder / _MARK), "tow demo ANOTHER-FOLDER"
            ) from error

    def _keep(self) -> None:
        path = self.folder / _MARK
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(self.progress))


_SIMULATED = """
# The demo's days are simulated: every process of this folder reads the time from this file.
[clock]
file = "{clock}"

[serving]
poll_ms = 100
flush_s = 0.5
"""


def _free_port(wanted: int) -> int:
    import socket

    for port in range(wanted, wanted + 50):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise UnavailableError(f"Ports {wanted} to {wanted + 49} are all taken.", mend="tow demo --port N")
