"""`tow --help` and `import towpath`, beside a bare interpreter, in turn.

uv run python benchmarks/weight.py [--rounds 15]
"""

import argparse
import subprocess
import sys
import time

from measure import emit, median

COMMANDS = {
    "bare": [sys.executable, "-c", "pass"],
    "import_towpath": [sys.executable, "-c", "import towpath"],
    "tow_help": [sys.executable, "-m", "towpath.cli", "--help"],
}


def main() -> None:
    """Print the medians in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(given.rounds):
        for name, argv in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
            taken[name].append((time.perf_counter() - started) * 1e3)
    medians = {f"{name}_ms": round(median(values), 1) for name, values in taken.items()}
    over = round(median([a - b for a, b in zip(taken["import_towpath"], taken["bare"], strict=True)]), 1)
    emit(benchmark="weight", **medians, import_over_bare_ms=over, bar_help_ms=150, bar_import_over_bare_ms=100)


if __name__ == "__main__":
    main()
