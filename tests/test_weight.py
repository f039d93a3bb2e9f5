"""``import towpath`` and ``tow --help`` are light: they load none of the heavy libraries, and the help is there at once."""

import os
import subprocess
import sys
import time

import pytest

HEAVY = ["torch", "sklearn", "pandas", "polars", "pyarrow", "duckdb", "sqlalchemy", "rich", "mlflow", "ray", "faiss", "lightgbm", "scipy", "sqlglot", "grpc", "uvicorn", "numpy", "xgboost", "catboost", "onnxruntime", "skops", "obstore", "lmdb", "apprise", "starlette", "cryptography"]  # fmt: skip


def _loaded(code: str) -> set[str]:
    """The heavy libraries that a fresh interpreter has loaded after some code."""
    report = f"import sys\n{code}\nprint('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def _run(*arguments: str) -> str:
    return f"""
from towpath.cli import main
try:
    main({list(arguments)!r})
except SystemExit as ended:
    assert ended.code in (0, 2), ended.code
"""


@pytest.mark.parametrize("code", ["import towpath", _run("--help"), _run("--version"), _run(), _run("chekc")])
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert _loaded(code) == set()


@pytest.mark.parametrize("command", ["check", "init"])
def test_the_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    assert _loaded(_run(command, "--help")) == set()


def test_help_names_every_command_without_importing_one() -> None:
    code = f"{_run('--help')}\nprint('MODULES', *[m for m in sys.modules if m.startswith('towpath.cli.')])"
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, check=True)
    from towpath.cli import COMMANDS

    assert done.stdout.splitlines()[-1] == "MODULES"
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_help_costs_little_more_than_the_interpreter() -> None:
    # CPU time of the best of five, against a bare interpreter in the same run: other people's work on the machine does not count
    def best_s(*arguments: str) -> float:
        found: list[float] = []
        for _ in range(5):
            before = os.times()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            after = os.times()
            found.append(after.children_user + after.children_system - before.children_user - before.children_system)
        return min(found)

    start = time.perf_counter()
    more_s = best_s("-c", "from towpath.cli import main; main(['--help'])") - best_s("-c", "pass")
    assert more_s < 0.15, f"{more_s:.3f} s more than the interpreter ({time.perf_counter() - start:.1f} s in all)"
