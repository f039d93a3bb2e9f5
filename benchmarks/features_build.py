"""Materialise entities x 10 features, rows a second and peak memory, beside Feast: LMDB to its SQLite, Redis to Redis.

    uv run python benchmarks/features_build.py [--entities 1000000] [--peer-entities 200000] [--rounds 5] [--large 10000000]

Each round is a new process and an empty store. Feast is measured at fewer entities, as a rate, because it takes minutes. The large
build is ours alone and once: what it holds in memory, and what of that is its own and no mapped file.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from features_stand import SINCE, TTL_DAYS, UNTIL, Side, current_tables, feast, feast_python, ours, project, redis
from measure import emit, median

BARS = {"lmdb": 20, "redis": 15}
MEMORY_BAR_MIB, LARGE_BAR_MIB = 1_024, 2_048


def main() -> None:
    """One line for each side and store, one for each ratio, one for the large build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=1_000_000)
    parser.add_argument("--peer-entities", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", type=int, default=10_000_000, help="0 leaves it out")
    parser.add_argument("--stores", nargs="+", choices=["lmdb", "redis"], default=["lmdb", "redis"])
    given = parser.parse_args()
    python, version = feast_python()
    emit(benchmark="features_build", peer=f"feast {version}", rounds=given.rounds)
    for store in given.stores:
        mine: list[dict[str, Any]] = []
        theirs: list[dict[str, Any]] = []
        for _ in range(given.rounds):  # in turns
            mine.append(at(store, given.entities, ours_once))
            theirs.append(at(store, given.peer_entities, lambda *about: feast_once(python, *about)))
        us, them = said(f"towpath {store}", mine), said(f"feast {'sqlite' if store == 'lmdb' else 'redis'}", theirs)
        ratio = us["rows_per_s"] / them["rows_per_s"]
        met = ratio >= BARS[store] and us["peak_mib"] < MEMORY_BAR_MIB
        emit(
            benchmark="features_build",
            store=store,
            ratio=round(ratio, 1),
            bar=BARS[store],
            memory_bar_mib=MEMORY_BAR_MIB,
            met=met,
        )
        if given.large:
            large = said(f"towpath {store}", [at(store, given.large, ours_once)])
            emit(
                benchmark="features_build",
                store=store,
                large=given.large,
                bar_mib=LARGE_BAR_MIB,
                met=large["peak_mib"] < LARGE_BAR_MIB,
            )


def at(store: str, entities: int, once: Callable[[Path, str, int], dict[str, Any]]) -> dict[str, Any]:
    """One build into an empty store."""
    with tempfile.TemporaryDirectory(prefix="towpath-bench-") as made:
        current_tables(Path(made), ("a",), entities)
        if store == "lmdb":
            return once(Path(made), "", entities)
        with redis() as address:
            return once(Path(made), address, entities)


def ours_once(folder: Path, redis_at: str, entities: int) -> dict[str, Any]:
    """Of a new process."""
    project(folder, ("a",), online=f"redis://{redis_at}/0" if redis_at else "lmdb://.towpath/online", memory_mib=512)
    with ours() as side:
        return _whole(side, entities, moment=UNTIL.isoformat(), folder=str(folder))


def feast_once(python: Path, folder: Path, redis_at: str, entities: int) -> dict[str, Any]:
    """Of a new process."""
    about = {"folder": str(folder), "online": redis_at or "sqlite", "ttl_days": TTL_DAYS}
    with feast(python) as side:
        return _whole(side, entities, **about, since=SINCE.isoformat(), until=UNTIL.isoformat())


def said(side: str, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians of a side."""
    entities, seconds = rounds[0]["entities"], median([one["seconds"] for one in rounds])
    found = {
        "rows_per_s": round(entities / seconds),
        "peak_mib": round(median([one["peak_mib"] for one in rounds])),
        "peak_own_mib": round(median([one["peak_own_mib"] for one in rounds])),
    }
    emit(
        benchmark="features_build",
        side=side,
        entities=entities,
        features=10,
        rounds=len(rounds),
        seconds=round(seconds, 2),
        **found,
    )
    return found


def _whole(side: Side, entities: int, **request: object) -> dict[str, Any]:
    found = side.ask("build", view="a", **request)
    if found.get("rows", entities) != entities:
        raise SystemExit(f"{found['rows']} rows were built of {entities}")
    return {**found, "entities": entities}


if __name__ == "__main__":
    main()
