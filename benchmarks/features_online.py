"""Online reads of 30 features over 3 views, for 1, 10 and 100 keys, beside Feast: LMDB to its SQLite, Redis to Redis.

    uv run python benchmarks/features_online.py [--entities 20000] [--reads 500] [--rounds 5] [--stores lmdb redis]

Both sides call their public API with a ttl, in turns, each in a process of its own, and give the same values, which is looked at.
Figures are medians of the rounds. `ratio` sets our answer beside Feast's, both as they come: ours makes its columns when the first
is asked for, Feast's its lists with ``to_dict``. `whole_ratio` sets both beside each other with all of that done.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from features_stand import (
    FEATURES,
    SINCE,
    TTL_DAYS,
    UNTIL,
    current_tables,
    feast,
    feast_python,
    ours,
    project,
    redis,
)
from measure import emit, median

VIEWS = ("a", "b", "c")
NAMES = [f"{view}.f{n}" for view in VIEWS for n in range(FEATURES)]
KEYS = (1, 10, 100)
BARS = {"lmdb": {1: 30, 10: 30, 100: 30}, "redis": {1: 5, 100: 10}}
P99_BAR_MS = 5.0


def main() -> None:
    """One line for each store, side and number of keys, and one for each ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=20_000)
    parser.add_argument("--reads", type=int, default=500, help="of one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stores", nargs="+", choices=["lmdb", "redis"], default=["lmdb", "redis"])
    given = parser.parse_args()
    python, version = feast_python()
    emit(benchmark="features_online", peer=f"feast {version}", entities=given.entities, rounds=given.rounds)
    for name in given.stores:
        with tempfile.TemporaryDirectory(prefix="towpath-bench-") as made:
            folder = Path(made)
            current_tables(folder, VIEWS, given.entities)
            if name == "lmdb":
                compare(folder, name, given, python, ours_at="lmdb://.towpath/online", peer_at="sqlite")
            else:
                with redis() as address, redis() as peer:
                    compare(folder, name, given, python, ours_at=f"redis://{address}/0", peer_at=peer)


def compare(folder: Path, name: str, given: argparse.Namespace, python: Path, *, ours_at: str, peer_at: str) -> None:
    """Build on both sides, then read in turns."""
    project(folder, VIEWS, online=ours_at)
    moment = UNTIL.isoformat()
    here: dict[str, Any] = {"folder": str(folder), "moment": moment}
    there: dict[str, Any] = {"folder": str(folder), "online": peer_at, "ttl_days": TTL_DAYS}
    with ours() as us, feast(python) as them:
        for view in VIEWS:
            us.ask("build", **here, view=view)
            them.ask("build", **there, view=view, since=SINCE.isoformat(), until=moment)
        for keys in KEYS:
            asked = {"features": NAMES, "keys": keys, "entities": given.entities}
            rounds = [
                (
                    us.ask("read", **here, **asked, times=given.reads),
                    them.ask("read", **there, **asked, times=times(given, keys)),
                )
                for _ in range(given.rounds)
            ]
            same(rounds[0][0]["values"], rounds[0][1]["values"])
            report(name, peer_at, keys, rounds)


def times(given: argparse.Namespace, keys: int) -> int:
    """Feast's 100 keys take a while."""
    return max(50, given.reads // (5 if keys > 10 else 1))


def same(left: dict[str, list[float]], right: dict[str, list[float]]) -> None:
    """Refuse to time two different answers."""
    for name in NAMES:
        if not np.allclose(np.array(left[name], float), np.array(right[name], float)):
            raise SystemExit(f"the values of {name} differ: {left[name][:3]} {right[name][:3]}")


def report(name: str, peer_at: str, keys: int, rounds: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Medians of both, and the ratio beside its bar."""
    figures = ("p50_us", "p99_us", "columns_p50_us", "columns_p99_us")
    us = {figure: round(median([mine[figure] for mine, _ in rounds]), 1) for figure in figures}
    figures = ("p50_us", "p99_us", "to_dict_p50_us", "to_dict_p99_us")
    them = {figure: round(median([theirs[figure] for _, theirs in rounds]), 1) for figure in figures}
    about = {"benchmark": "features_online", "features": len(NAMES), "views": len(VIEWS), "keys": keys}
    emit(**about, side=f"towpath {name}", **us)
    emit(**about, side=f"feast {'sqlite' if peer_at == 'sqlite' else 'redis'}", **them)
    ratio, bar = them["p50_us"] / us["p50_us"], BARS[name].get(keys)
    met = (bar is None or ratio >= bar) and (name != "redis" or us["p99_us"] < P99_BAR_MS * 1_000)
    emit(
        **about,
        store=name,
        ratio=round(ratio, 1),
        whole_ratio=round(them["to_dict_p50_us"] / us["columns_p50_us"], 1),
        bar=bar,
        met=met,
    )


if __name__ == "__main__":
    main()
