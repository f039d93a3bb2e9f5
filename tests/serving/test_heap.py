"""What is set aside from the collector must not stay for ever."""

import gc
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_server import Store

from towpath.serving import deployments as module
from towpath.serving.heap import Heap


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()


class Circle:
    def __init__(self) -> None:
        self.itself: Any = self


def test_a_version_that_is_let_go_is_freed_without_the_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GRACE_S", -1e6)  # nobody is at it
    store = Store(tmp_path)
    followed = store.deployments()
    store.promote(store.publish(5.0))
    followed.poll()
    gc.collect()
    gc.disable()
    first = weakref.ref(followed.live["demand"].versions[1])
    for value in (6.0, 7.0):  # the one before stays warm
        store.promote(store.publish(value))
        followed.poll()
    assert first() is not None
    followed.poll()
    assert first() is None
    assert sorted(followed.live["demand"].versions) == [2, 3]
    followed.close()


def test_circles_that_were_set_aside_are_freed_once_enough_versions_have_gone() -> None:
    gc.collect()
    gc.disable()
    heap, circle = Heap(let_go=2), Circle()
    left = weakref.ref(circle)
    heap.settle()
    del circle
    gc.collect()
    assert left() is not None, "the collector does not look at what is set aside"
    heap.settle(1)
    assert left() is not None
    heap.settle(1)
    assert left() is None
    assert gc.get_freeze_count() > 0


def test_what_is_set_aside_is_not_looked_through_again() -> None:
    gc.unfreeze()
    gc.collect()
    heap = Heap()
    heap.settle()
    assert gc.get_freeze_count() > 10_000
    assert len(gc.get_objects()) < gc.get_freeze_count() / 100


def test_the_collector_looks_more_rarely_unless_somebody_said_otherwise() -> None:
    before, interval = gc.get_threshold(), sys.getswitchinterval()
    try:
        for own, then in (
            ((700, 10, 10), (10_000, 10, 10)),
            ((0, 10, 10), (0, 10, 10)),
            ((50_000, 5, 5), (50_000, 5, 5)),
        ):
            gc.set_threshold(*own)
            Heap.take_turns()
            assert gc.get_threshold() == then
    finally:
        gc.set_threshold(*before)
        sys.setswitchinterval(interval)
