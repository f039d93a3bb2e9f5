"""Runs are written down whatever happens to them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from towpath.clock import FixedClock
from towpath.errors import UnknownError
from towpath.stores.catalog import Catalog
from towpath.training import Runs


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = Catalog("sqlite:///catalog.db", tmp_path)
    yield made
    made.close()


@pytest.fixture
def runs(catalog: Catalog, tmp_path: Path) -> Runs:
    return Runs(catalog, "shop", tmp_path / "runs", FixedClock("2011-09-01"))


def test_a_block_that_finishes_leaves_a_run_with_its_folder_and_result(runs: Runs) -> None:
    with runs.start("demand", seed=7, parameters={"rounds": 3}) as run:
        (Path(run.folder) / "model.txt").write_text("tree")
        runs.finish(run.run_id, metrics={"wape": 0.2})
    runs.note(run.run_id, version=4)
    found = runs.show(run.run_id)
    assert (found.status, found.version, found.metrics, found.parameters) == ("done", 4, {"wape": 0.2}, {"rounds": 3})
    assert (Path(found.folder) / "model.txt").exists()
    assert run.run_id.startswith("20110901T000000-")


@pytest.mark.parametrize("fault", [ValueError("no"), KeyboardInterrupt()], ids=["an error", "Ctrl-C"])
def test_a_block_that_raises_leaves_a_failed_run_without_files(runs: Runs, fault: BaseException) -> None:
    def work() -> None:
        with runs.start("demand"):
            raise fault

    with pytest.raises(type(fault)):
        work()
    (found,) = runs.newest()
    assert (found.status, found.folder, found.error) == ("failed", "", str(fault) or "KeyboardInterrupt")


def test_a_block_that_says_nothing_has_failed(runs: Runs) -> None:
    with runs.start("demand") as run:
        pass
    assert runs.show(run.run_id).error == "It ended without a result."


def test_runs_side_by_side_are_not_each_others_orphans(runs: Runs) -> None:
    with runs.start("demand") as one, runs.start("demand") as other:
        assert {run.status for run in runs.newest()} == {"running"}
        runs.finish(one.run_id)
        runs.finish(other.run_id)
    assert {run.status for run in runs.newest()} == {"done"}


def test_a_run_of_another_machine_or_project_is_left_alone(runs: Runs, catalog: Catalog, tmp_path: Path) -> None:
    with runs.start("demand") as run:
        runs.finish(run.run_id)
    catalog.write("update runs set status = 'running', host = 'another'")
    assert runs.settle() == []
    assert Runs(catalog, "search", tmp_path, FixedClock("2011-09-01")).newest() == []
    catalog.write("update runs set host = :host", host=run.host)
    assert runs.settle() == [run.run_id]


def test_a_run_is_found_by_the_beginning_of_its_name_and_a_wrong_one_offers_the_nearest(runs: Runs) -> None:
    with runs.start("demand") as run:
        runs.finish(run.run_id)
    assert runs.show(run.run_id[:-2]).run_id == run.run_id
    with pytest.raises(UnknownError, match=f"did you mean '{run.run_id}'"):
        runs.show(run.run_id[:-1] + "x")
    with runs.start("search"):
        pass
    with pytest.raises(UnknownError, match="begins 2 runs"):
        runs.show("20110901T")
    assert [found.model for found in runs.newest("demand")] == ["demand"]
    assert len(runs.newest(limit=1)) == 1
