"""Training sets: 1M rows x 3 views of 26M feature rows, beside Feast's DuckDB store; and 10M rows alone.

    uv run python benchmarks/features_training.py [--share 1] [--rounds 5] [--large 10000000]

The spine is in memory on both sides, the answer is Arrow, each round is a new process. ``--share`` is of the rows: 0.1 takes seconds.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from features_stand import UNTIL, feast, feast_python, history_tables, ours, project
from measure import emit, median

VIEW_ROWS = {"a": 10_000_000, "b": 10_000_000, "c": 6_000_000}
ENTITIES = 200_000
SPINE_ROWS = 1_000_000
NAMES = [f"{view}.f{n}" for view in VIEW_ROWS for n in range(4)]
TTL_DAYS = 30
MEMORY_BAR_MIB, LARGE_BAR_MIB = 2_560, 8_192


def main() -> None:
    """One line for each side and rule, one for the ratio, one for the large spine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the rows; 1 for the numbers of README.md")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--large", type=int, default=10_000_000, help="rows of the spine of ours alone; 0 leaves it out"
    )
    parser.add_argument("--memory-mib", type=int, default=1_536, help="what ours may use before it spills")
    given = parser.parse_args()
    python, version = feast_python()
    rows = {name: int(count * given.share) for name, count in VIEW_ROWS.items()}
    emit(benchmark="features_training", peer=f"feast {version}", share=given.share, feature_rows=sum(rows.values()))
    with tempfile.TemporaryDirectory(prefix="towpath-bench-") as made:
        folder = Path(made)
        history_tables(folder, rows, int(SPINE_ROWS * given.share), ENTITIES)
        project(folder, tuple(rows), online="lmdb://.towpath/online", memory_mib=given.memory_mib, ttl_days=TTL_DAYS)
        rounds: dict[str, list[dict[str, Any]]] = {"towpath known": [], "towpath event": [], "feast duckdb": []}
        for _ in range(given.rounds):  # in turns
            for as_of in ("known", "event"):
                rounds[f"towpath {as_of}"].append(ours_once(folder, as_of))
            with feast(python) as side:
                about = {"folder": str(folder), "online": "sqlite", "ttl_days": TTL_DAYS}
                rounds["feast duckdb"].append(side.ask("training_set", **about, features=NAMES))
        medians = {side: said(side, found) for side, found in rounds.items()}
        ratio = medians["feast duckdb"]["seconds"] / medians["towpath event"]["seconds"]
        kept = all(one["rows"] == one["rows_asked"] for name in ("known", "event") for one in rounds[f"towpath {name}"])
        met = (
            ratio >= 1
            and kept
            and max(medians[f"towpath {n}"]["peak_mib"] for n in ("known", "event")) <= MEMORY_BAR_MIB
        )
        emit(
            benchmark="features_training",
            ratio_event=round(ratio, 2),
            ratio_known=round(medians["feast duckdb"]["seconds"] / medians["towpath known"]["seconds"], 2),
            bar=1,
            memory_bar_mib=MEMORY_BAR_MIB,
            every_row_kept=kept,
            met=met,
        )
        if given.large:
            history_tables(folder, {}, given.large, ENTITIES)
            large = said("towpath known", [ours_once(folder, "known")])
            emit(
                benchmark="features_training",
                large=given.large,
                bar_mib=LARGE_BAR_MIB,
                met=large["peak_mib"] < LARGE_BAR_MIB,
            )


def ours_once(folder: Path, as_of: str) -> dict[str, Any]:
    """Of a new process, so that its peak is its own."""
    with ours() as side:
        return side.ask("training_set", folder=str(folder), moment=UNTIL.isoformat(), features=NAMES, as_of=as_of)


def said(side: str, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians of a side; the sum of a feature tells whether two sides found the same rows."""
    seconds = median([one["seconds"] for one in rounds])
    found = {"seconds": round(seconds, 2), "peak_mib": round(median([one["peak_mib"] for one in rounds]))}
    facts = {name: rounds[0][name] for name in ("rows_asked", "rows", "missing", "sum")}
    emit(benchmark="features_training", side=side, features=len(NAMES), rounds=len(rounds), **facts, **found)
    return found


if __name__ == "__main__":
    main()
