"""The catalog: many writers, one schema, clear faults; the same on SQLite and on PostgreSQL."""

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from postgres_server import PostgresServer
from towpath.errors import ConflictError, FormatError, InputError, UnavailableError
from towpath.stores.catalog import Catalog

CHECK = "insert into checks (project, monitor, at_us, status) values (:project, :monitor, :at_us, 'ok')"
INCIDENT = (
    "insert into incidents (incident_id, project, monitor, severity, status, opened_at_us, last_seen_at_us)"
    " values (:id, 'shop', 'did_it_run', 'warning', :status, 1, 1)"
)
WRITER = """
import sys
from towpath.stores.catalog import Catalog
catalog = Catalog(sys.argv[1])
for at_us in range(10):
    with catalog.writing() as together:
        seen = together.read("select count(*) as n from checks where project = :p", p="shop")[0]["n"]
        together.write(
            "insert into checks (project, monitor, at_us, status, failing_rows) values ('shop', :m, :at, 'ok', :seen)",
            m=sys.argv[2], at=at_us, seen=seen,
        )
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


@pytest.mark.slow
def test_sixteen_processes_write_at_once_and_all_succeed(url: str) -> None:
    # given sixteen writers that find no schema yet, so that each of them may be the one that migrates
    argv = [sys.executable, "-c", WRITER, url]
    writers = [subprocess.Popen([*argv, f"m{n}"], stderr=subprocess.PIPE, text=True) for n in range(16)]
    # when they end
    said = [writer.communicate()[1] for writer in writers]
    # then none failed and no row is lost
    assert [(w.returncode, s) for w, s in zip(writers, said, strict=True) if w.returncode] == []
    catalog = Catalog(url)
    assert catalog.read("select count(*) as rows_written from checks") == [{"rows_written": 160}]
    assert catalog.read("select number from migrations order by number")[0] == {"number": 1}
    catalog.close()


def test_a_transaction_of_sqlite_sees_no_write_of_another_between_its_read_and_its_write(tmp_path: Path) -> None:
    # given four writers of which each counts the rows and writes the count
    url = f"sqlite:///{tmp_path}/catalog.db"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, url, f"m{n}"]) for n in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    # then each count was written once
    catalog = Catalog(url)
    counts = catalog.read("select failing_rows from checks order by failing_rows")
    assert [row["failing_rows"] for row in counts] == list(range(40))
    catalog.close()


def test_a_block_that_raises_leaves_nothing(url: str) -> None:
    catalog = Catalog(url)

    def fail_half_way() -> None:
        with catalog.writing() as together:
            together.write(CHECK, project="shop", monitor="m", at_us=1)
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail_half_way()
    assert catalog.read("select * from checks") == []
    assert catalog.write(CHECK, project="shop", monitor="m", at_us=2**53) == 1
    assert catalog.read("select at_us from checks") == [{"at_us": 2**53}]
    catalog.close()


def test_an_open_incident_stays_one_and_a_closed_one_makes_room(url: str) -> None:
    catalog = Catalog(url)
    catalog.write(INCIDENT, id="a", status="open")
    with pytest.raises(ConflictError):
        catalog.write(INCIDENT, id="b", status="open")
    assert catalog.write("update incidents set status = 'closed', closed_at_us = 2") == 1
    assert catalog.write(INCIDENT, id="b", status="open") == 1
    catalog.close()


def test_threads_share_one_catalog(url: str) -> None:
    catalog = Catalog(url)
    faults: list[Exception] = []

    def work(name: str) -> None:
        try:
            for at_us in range(10):
                catalog.write(CHECK, project="shop", monitor=name, at_us=at_us)
                catalog.read("select count(*) from checks")
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(f"m{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert catalog.read("select count(*) as n from checks") == [{"n": 80}]
    catalog.close()


def test_a_catalog_of_a_newer_towpath_is_used_and_not_migrated_back(url: str) -> None:
    catalog = Catalog(url)
    catalog.write("insert into migrations (number, name) values (99, '0099_later.sql')")
    catalog.close()
    again = Catalog(url)
    assert again.write(CHECK, project="shop", monitor="m", at_us=1) == 1
    again.close()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b"not a database at all, but a note" * 99), id="a foreign file"),
        pytest.param(
            lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 40_000), id="pages overwritten"
        ),
    ],
)
def test_a_damaged_file_is_named_and_its_mend_is_said(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = tmp_path / "catalog.db"
    catalog = Catalog(f"sqlite:///{path}")
    catalog.write(CHECK, project="shop", monitor="m", at_us=1)
    catalog.close()
    damage(path)
    with pytest.raises(FormatError, match="damaged") as caught:
        Catalog(f"sqlite:///{path}").read("select * from checks")
    assert "catalog.db" in caught.value.where
    assert "move the file away" in caught.value.mend


def test_a_server_that_is_away_is_unavailable_and_its_password_is_not_told() -> None:
    pytest.importorskip("psycopg")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UnavailableError) as caught:
        Catalog(f"postgresql://app:hunter2@127.0.0.1:{port}/none").read("select 1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["catalog.db", "mysql://u@h/d", "sqlite://", "sqlite:///:memory:"])
def test_another_kind_of_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"catalog|database"):
        Catalog(url)


@pytest.mark.parametrize("log", ["folded", "left"])
def test_a_catalog_that_may_not_be_written_is_read(log: str, tmp_path: Path) -> None:
    # given a catalog as somebody left it, in a file system that is mounted read only
    whole = Catalog("sqlite:///catalog.db", tmp_path)
    whole.write(CHECK, project="shop", monitor="one", at_us=1)
    kept = tmp_path / "kept"
    kept.mkdir()
    if log == "left":  # as a killed writer leaves it: the newest rows stand in its log alone
        for name in ("catalog.db", "catalog.db-wal", "catalog.db-shm"):
            shutil.copy(tmp_path / name, kept)
    whole.close()
    if log == "folded":
        shutil.copy(tmp_path / "catalog.db", kept)
    reader = """
import sys
from towpath.errors import UnavailableError
from towpath.stores.catalog import Catalog
catalog = Catalog("sqlite:///" + sys.argv[1] + "/catalog.db")
print(catalog.read("select monitor from checks"))
try:
    catalog.write("delete from checks")
except UnavailableError as error:
    print(error.what)
"""
    mounted = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"',
        str(kept),
    ]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("nothing can be mounted here")
    # when it is asked
    done = subprocess.run(
        [*mounted, sys.executable, "-c", reader, str(kept)], capture_output=True, text=True, check=False
    )
    # then it answers, and says what it cannot do
    assert done.stdout.splitlines() == ["[{'monitor': 'one'}]", "The catalog can only be read here."], done
