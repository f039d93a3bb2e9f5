"""What the feature benchmarks share: made-up tables, a project over them, a private Redis, and a process for each side."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from measure import free_port, process
from towpath.clock import SystemClock
from towpath.warehouse import Engine

HERE = Path(__file__).parent
UNTIL = SystemClock().now().replace(hour=0, minute=0, second=0, microsecond=0)
"""The end of the tables' time: Feast counts ttl from the machine's own clock."""
SINCE = UNTIL - timedelta(days=365)
FEATURES = 10
TTL_DAYS = 400
"""So that every key has its values on both sides, and both look."""


def numbers() -> str:
    """Ten features of six digits, by hash."""
    return ", ".join(f"(hash(i * 13 + {n}) % 1000000) / 1e4 as f{n}" for n in range(FEATURES))


def current_tables(folder: Path, views: tuple[str, ...], entities: int) -> None:
    """One row for each entity and view: what an online store is built from."""
    sql = f"""
        select i::bigint as id, make_timestamptz((epoch_us(timestamptz '{UNTIL:%Y-%m-%d}') - 1000000 - (hash(i) % 2592000) * 1000000)::bigint) as happened_at,
            happened_at as landed, {numbers()}
        from range({entities}) as t(i)
    """
    _write(folder, dict.fromkeys(views, sql))


def history_tables(folder: Path, view_rows: Mapping[str, int], spine_rows: int, entities: int) -> None:
    """A year of rows for each view, which land up to ten days late and in no order, and a spine."""
    moment = f"epoch_us(timestamptz '{SINCE:%Y-%m-%d}') + (hash(i * 3 + 2) % 31536000) * 1000000"
    tables = {
        name: f"""
            select (hash(i * 7 + {seed}) % {entities})::bigint as id, make_timestamptz(({moment})::bigint) as happened_at,
                make_timestamptz(({moment} + (hash(i) % 864000) * 1000000)::bigint) as landed, {numbers()}
            from range({rows}) as t(i)
        """
        for seed, (name, rows) in enumerate(view_rows.items())
    }
    tables["spine"] = f"""
        select (hash(i * 7 + 1) % {entities})::bigint as id, make_timestamptz(({moment})::bigint) as event_timestamp, i as label
        from range({spine_rows}) as t(i)
    """
    _write(folder, tables)


def project(
    folder: Path, views: tuple[str, ...], *, online: str, memory_mib: int = 1_024, ttl_days: int = TTL_DAYS
) -> None:
    """A project over the tables of a folder: one view each, and nothing else."""
    (folder / "features").mkdir(parents=True, exist_ok=True)
    (folder / "towpath.toml").write_text(
        f'[project]\nname = "bench"\nteam = "bench"\n\n[warehouse]\nmemory_mib = {memory_mib}\n\n'
        f'[stores]\nonline = "{online}"\nonline_timeout_ms = 1000\n'
    )
    for view in views:
        head = f'entity = "id"\nevent_time = "happened_at"\ncreated_time = "landed"\nttl = "{ttl_days}d"\n'
        chosen = ", ".join(f"f{n}" for n in range(FEATURES))
        (folder / "features" / f"{view}.sql").write_text(
            f"/* ---\n{head}--- */\nselect id, happened_at, landed, {chosen} from {view}\n"
        )


class Side:
    """A process that answers one request at a time; ends with it.

    Args:
        python: Its interpreter.
        script: One of the two sides.
    """

    def __init__(self, python: Path | str, script: str) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        quiet = {
            "FEAST_USAGE": "False",
            "PYTHONWARNINGS": "ignore",
            "TQDM_DISABLE": "1",
            "ARROW_DEFAULT_MEMORY_POOL": "system",
        }
        self._process = subprocess.Popen(
            [str(python), str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | quiet,
        )

    def ask(self, do: str, **request: object) -> dict[str, Any]:
        """One request, one answer.

        Raises:
            SystemExit: It failed; with the end of what it said.
        """
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(10)
            self._said.seek(0)
            raise SystemExit(f"{self._process.args[1]} failed:\n{self._said.read()[-4_000:]}")
        return json.loads(line)

    def close(self) -> None:
        """Let it go."""
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
        self._said.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ours() -> Side:
    """Towpath's side, in this environment."""
    return Side(sys.executable, "features_ours.py")


def feast(python: Path) -> Side:
    """Feast's side, in its own."""
    return Side(python, "features_feast.py")


def feast_python() -> tuple[Path, str]:
    """The interpreter of an environment with the newest Feast of PyPI, made in a cache folder, and that version."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "towpath-bench" / "feast"
    python = cache / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    if not python.exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        subprocess.run(["uv", "venv", "-q", "--python", version, str(cache)], check=True, env=environment)
    install = ["uv", "pip", "install", "-q", "--upgrade", "--python", str(python), "feast[redis,duckdb]"]
    subprocess.run(install, check=True, env=environment)
    ask = "from importlib.metadata import version as v; print(v('feast'), 'with duckdb', v('duckdb'))"
    found = subprocess.run([str(python), "-c", ask], check=True, capture_output=True, text=True)
    return python, found.stdout.strip()


@contextmanager
def redis() -> Iterator[str]:
    """A redis-server of its own, ``host:port``, that keeps nothing on disk.

    Raises:
        SystemExit: It is not installed.
    """
    if shutil.which("redis-server") is None:
        raise SystemExit("redis-server is missing: apt-get install redis-server")
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="towpath-redis-") as folder,
        process(["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder]),
    ):
        until = time.monotonic() + 10
        while subprocess.run(["redis-cli", "-p", str(port), "ping"], capture_output=True, check=False).returncode:
            if time.monotonic() > until:
                raise SystemExit("redis-server does not answer")
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"


def _write(folder: Path, tables: Mapping[str, str]) -> None:
    (folder / "warehouse").mkdir(parents=True, exist_ok=True)
    engine = Engine(memory_mib=1_024)
    for name, sql in tables.items():
        engine.write_parquet(sql, folder / "warehouse" / f"{name}.parquet")
    engine.close()
