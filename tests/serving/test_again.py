"""When to come again: what a queue will take, what is left of a circuit's pause, never nothing and never long."""

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_stand import PlainModel, Running, a_manifest, deployed

from towpath.errors import (
    ConflictError,
    InputError,
    ModelError,
    OverloadedError,
    QuotaError,
    TowpathError,
    UnavailableError,
)
from towpath.project.declarations import BreakerDeclaration, ServingDeclaration
from towpath.serving.schemas import again_s
from towpath.serving.served import Served

ROW = {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (QuotaError("x", retry_after_s=0.01), 1),
        (QuotaError("x", retry_after_s=4.2), 5),
        (OverloadedError("x", retry_after_s=3_000), 30),
        (UnavailableError("x"), 1),
        (UnavailableError("x", retry_after_s=0), 1),
        (ModelError("x"), 1),
        (ConflictError("x"), None),
        (InputError("x"), None),
    ],
)
def test_it_is_between_1_and_30_seconds(error: TowpathError, seconds: int | None) -> None:
    assert again_s(error) == seconds


def test_a_full_queue_says_how_long_it_will_take_and_an_open_circuit_how_long_it_pauses(tmp_path: Path) -> None:
    def slowly(columns: Any) -> Any:
        time.sleep(0.5)
        return {"p": columns["a"]}

    slow = ServingDeclaration(timeout_ms=20_000, queue_rows=12, batch_rows=1)
    broken = ServingDeclaration(breaker=BreakerDeclaration(failures=1, pause_ms=20_000))
    running = Running(
        tmp_path,
        deployed(Served(a_manifest(serving=slow), PlainModel(inline=False, predict=slowly))),
        deployed(Served(a_manifest(serving=broken), PlainModel(predict=lambda c: 1 / 0))).replaced(model="broken"),
    )
    try:
        # given four calls in the threads and twelve that wait, half a second each
        httpx.post(f"{running.url}/predict/demand", json=ROW, timeout=20)
        answers: list[httpx.Response] = []
        ask = lambda: answers.append(httpx.post(f"{running.url}/predict/demand", json=ROW, timeout=20))
        threads = [threading.Thread(target=ask) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [one for one in answers if one.status_code == 503]
        assert 4 <= len(refused) <= 8
        assert {one.json()["code"] for one in refused} == {"overloaded"}
        assert {one.headers["retry-after"] for one in refused} <= {"2", "3"}  # 12 to 16 half seconds, by four
        for _ in range(3):
            last = httpx.post(f"{running.url}/predict/broken", json=ROW)
        assert (last.status_code, last.json()["code"]) == (503, "unavailable")
        assert 15 <= int(last.headers["retry-after"]) <= 20
    finally:
        running.close()
