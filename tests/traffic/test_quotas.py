"""Quotas: what may come at once, what is paid for later, and workers that share one truth."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.errors import InputError
from towpath.traffic import Quota, Quotas, quota_of, sla_of
from towpath.traffic import quotas as room


class Ticking:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def __call__(self) -> float:
        return self.at


@given(
    rate=st.floats(0.1, 10_000),
    steps=st.lists(st.tuples(st.floats(0, 3), st.floats(1, 50)), min_size=1, max_size=60),
)
def test_in_no_stretch_of_time_more_is_taken_than_the_rate_and_one_seconds_worth(
    rate: float, steps: list[tuple[float, float]]
) -> None:
    clock = Ticking()
    bucket = Quotas(now=clock).rows("a", rate)
    begun, taken, largest = clock.at, 0.0, 0.0
    for pause, count in steps:
        clock.at += pause
        wait = bucket.take(count)
        if wait == 0:
            taken += count
            largest = max(largest, count)
            # one second's worth at once, or one larger request when nothing is owed
            assert taken <= rate * (clock.at - begun) + max(rate, largest) + largest + 1e-6
        else:
            # then waiting as long as was said is enough
            clock.at += wait + 1e-6
            assert bucket.take(count) == 0
            return


def test_who_keeps_to_the_rate_is_never_refused() -> None:
    clock = Ticking()
    bucket = Quotas(now=clock).requests("a", 100.0)
    for _ in range(1_000):
        assert bucket.take() == 0
        clock.at += 0.01


def test_a_request_larger_than_a_seconds_worth_is_taken_when_nothing_is_owed_and_paid_for() -> None:
    clock = Ticking()
    bucket = Quotas(now=clock).rows("a", 100.0)
    assert bucket.take(1_000) == 0
    assert bucket.take(1) == pytest.approx(9.01)
    clock.at += 10
    assert bucket.take(1_000) == 0


def test_requests_and_rows_and_consumers_are_apart() -> None:
    quotas = Quotas()
    buckets = [quotas.requests("a", 1.0), quotas.rows("a", 1.0), quotas.requests("b", 1.0)]
    assert [bucket.take() for bucket in buckets] == [0, 0, 0]
    assert all(bucket.take() > 0 for bucket in buckets)
    # the same consumer again, after its quota was changed, has still to pay
    assert quotas.requests("a", 2.0).take() > 0


def test_beyond_the_places_a_worker_counts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_PLACES", 2)
    quotas = Quotas()
    assert [quotas.requests(name, 1.0).take() for name in "abc"] == [0, 0, 0]
    assert quotas.requests("a", 1.0).take() > 0


def test_processes_share_what_was_taken(tmp_path: Path) -> None:
    # given a quota of 500/s, and four processes that each ask as fast as they can for a second
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from towpath.traffic import Quotas\n"
        "bucket = Quotas(Path(sys.argv[1])).requests('brand-a', 500.0)\n"
        "until = float(sys.argv[2])\n"
        "while time.monotonic() < until - 1.0: time.sleep(0.001)\n"
        "taken = 0\n"
        "while time.monotonic() < until:\n"
        "    taken += bucket.take() == 0\n"
        "    time.sleep(0.0002)\n"
        "print(taken)\n"
    )
    until = str(time.monotonic() + 4.0)
    argv = [sys.executable, "-c", code, str(tmp_path / "quotas.bin"), until]
    children = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    taken = sum(int(child.communicate()[0]) for child in children)
    # then together they got a second's worth at once and one by the rate, give or take those that met in the same moment
    assert 900 <= taken <= 1_050


@pytest.mark.parametrize("text", ["", "100", "100/d", "-1/s", "0/s", "1/s,2/s", "1/s,,", "many/s", "1 rows/s"])
def test_a_quota_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="quota"):
        quota_of(text)


def test_quotas_are_read_in_any_order() -> None:
    assert quota_of("60rows/m, 2/s") == Quota(requests_per_s=2, rows_per_s=1)


@pytest.mark.parametrize("text", ["", "p99=20", "p99=20%", "availability=20ms", "availability=101%", "p50=1ms"])
def test_a_promise_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        sla_of(text)
