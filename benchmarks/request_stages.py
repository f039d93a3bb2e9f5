# ruff: noqa: SLF001 - a stop-watch is put on what is private
"""Where the microseconds of one request go: one-row LightGBM over 16 real connections, measured from inside, kept as JSON lines and drawn.

    uv run --group bench python benchmarks/request_stages.py            # measures, then draws
    uv run --group bench python benchmarks/request_stages.py --draw     # draws what was measured

Each stage is the time inside of some functions without the stages that they call; what the stop-watch itself costs is measured
and taken off. The stages are the best fifth of the requests, so that other people's work on the machine does not count.
"""

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inside import Inside
from measure import emit, load
from serving import model_file

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "request_stages.svg"
STAGES = ("read", "who calls", "decode", "route", "columns", "predict", "check", "journal", "count", "encode", "write")
WARM = 2_000


class StopWatch:
    """Exclusive times of nested stages, one row of them for each request."""

    def __init__(self) -> None:
        self.requests: list[tuple[float, ...]] = []
        self._now: dict[str, float] = defaultdict(float)
        self._open: list[list[float]] = []
        self.cost_ns = 0.0

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time added to a stage."""

        def measured(*given: Any, **named: Any) -> Any:
            began = self._enter()
            try:
                return function(*given, **named)
            finally:
                self._leave(stage, began)

        return measured

    def timed_coroutine(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same for one that never waits here."""

        async def measured(*given: Any, **named: Any) -> Any:
            began = self._enter()
            try:
                return await function(*given, **named)
            finally:
                self._leave(stage, began)

        return measured

    def request_ended(self) -> None:
        """One request is whole."""
        self.requests.append(tuple(self._now.get(stage, 0.0) for stage in STAGES))
        self._now.clear()

    def shared(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What is done at the end of a turn for all requests of it: each has its part."""

        def measured(turn: Any) -> None:
            ended = len(turn._leaving)
            self._now.clear()
            function(turn)
            for place in range(max(0, len(self.requests) - ended), len(self.requests)):
                row = self.requests[place]
                self.requests[place] = tuple(
                    took + self._now.get(stage, 0.0) / ended for stage, took in zip(STAGES, row, strict=True)
                )
            self._now.clear()

        return measured

    def calibrate(self) -> None:
        """What one measured call costs its caller."""
        inner = self.timed("nothing", lambda: None)
        outer = self.timed("outer", lambda: [inner() for _ in range(100)])
        for _ in range(300):
            outer()
        self.cost_ns = (self._now["outer"] - 100 * 300 * 20) / (100 * 300)
        self._now.clear()

    def _enter(self) -> int:
        self._open.append([0.0, 0.0])
        return time.perf_counter_ns()

    def _leave(self, stage: str, began: int) -> None:
        took = time.perf_counter_ns() - began
        inside, calls = self._open.pop()
        self._now[stage] += took - inside - calls * self.cost_ns
        if self._open:
            self._open[-1][0] += took
            self._open[-1][1] += 1


def main() -> None:
    """Write the line beside the figure, and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", action="store_true", help="Only draw what was measured.")
    lines = FIGURE.with_suffix(".jsonl")
    if not parser.parse_args().draw:
        with tempfile.TemporaryDirectory() as folder:
            found = measured(Path(folder))
        lines.write_text(json.dumps(found) + "\n", "utf-8")
        emit(benchmark="request_stages", load=round(os.getloadavg()[0], 1), **found)
    draw(json.loads(lines.read_text("utf-8")), FIGURE)


def measured(folder: Path) -> dict[str, float]:
    """Stage → microseconds of one request, the median of the best fifth of them."""
    from towpath.serving import http, responder
    from towpath.serving.http import App
    from towpath.serving.shortway import ShortWayProtocol
    from towpath.serving.turn import Turn

    watch = StopWatch()
    watch.calibrate()
    inside = Inside(model_file(folder), folder)
    served, worker = inside.served, inside.worker
    patched: list[tuple[Any, str, Any]] = [
        (App, "respond", watch.timed_coroutine("route", App.respond)),
        (http.oip, "decode_json", watch.timed("decode", http.oip.decode_json)),
        (worker._consumers, "admit", watch.timed("who calls", worker._consumers.admit)),
        (served, "from_rows", watch.timed("columns", served.from_rows)),
        (served.model, "predict", watch.timed("predict", served.model.predict)),
        (responder.Work, "_take", watch.timed("check", responder.Work._take)),
        (responder, "record", watch.timed("journal", responder.record)),
        (worker._journal, "append", watch.timed("journal", worker._journal.append)),
        (worker._journal, "write_held", watch.timed("journal", worker._journal.write_held)),
        (Turn, "_let_go", watch.shared(Turn._let_go)),
        (responder, "_measure", watch.timed("count", responder._measure)),
        (worker._statistics, "answered", watch.timed("count", worker._statistics.answered)),
        (ShortWayProtocol, "_write", watch.timed("write", ShortWayProtocol._write)),
        (ShortWayProtocol, "data_received", _whole(watch, watch.timed("read", ShortWayProtocol.data_received))),
    ]
    made = App.__init__

    def with_timed_encoder(self: Any, *given: Any, **named: Any) -> None:
        made(self, *given, **named)
        self._encode = watch.timed("encode", self._encode)

    App.__init__ = with_timed_encoder
    for place, name, function in patched:
        setattr(place, name, function)
    inside.start()
    load(inside.url, inside.body, connections=16, seconds=6)
    inside.stop()
    whole = sorted(watch.requests[WARM:], key=sum)[: (len(watch.requests) - WARM) // 5]
    middle = [sorted(column)[len(whole) // 2] for column in zip(*whole, strict=True)]
    return {stage: round(took / 1e3, 2) for stage, took in zip(STAGES, middle, strict=True)}


def _whole(watch: StopWatch, function: Callable[..., Any]) -> Callable[..., Any]:
    def received(*given: Any) -> None:
        function(*given)
        watch.request_ended()

    return received


def draw(stages: dict[str, float], path: Path) -> None:
    """One bar, from the first byte read to the last one written."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "towpath", "svg.fonttype": "none", "font.size": 8})
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 2.6), layout="constrained")
    began = 0.0
    for place, (stage, took) in enumerate(stages.items()):
        colour = "#c2571a" if stage == "predict" else "#1f6f8b"
        axis.barh(len(stages) - place, took, left=began, color=colour, height=0.7)
        axis.text(began + took + 0.6, len(stages) - place, f"{stage} {took:.1f}", va="center")
        began += took
    axis.set(xlabel=f"µs after the first byte was read; {began:.0f} in all", yticks=[], xlim=(0, began * 1.15))
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
