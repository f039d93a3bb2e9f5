"""LMDB as an online store: the contract, and what only a file on one machine must do."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from towpath.errors import ProjectError, UnavailableError
from towpath.stores.online import OnlineStore, open_online
from towpath.testing.online_store import OnlineStoreContract, value


class TestLmdb(OnlineStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[OnlineStore]:
        opened = open_online("lmdb://online", tmp_path)
        yield opened
        opened.close()


def test_what_one_store_writes_another_of_the_process_reads(tmp_path: Path) -> None:
    first, second = open_online("lmdb://online", tmp_path), open_online(f"lmdb://{tmp_path}/online", Path("elsewhere"))
    first.write("prices", [(b"[1]", value(1, 1, b"a"))])
    first.close()
    assert second.read("prices", [b"[1]"]) == [value(1, 1, b"a")]
    second.close()


def in_another_process(folder: Path, code: str) -> str:
    head = f"""
        from pathlib import Path
        from towpath.stores.online import open_online
        from towpath.testing.online_store import value
        store = open_online("lmdb://online", Path({str(folder)!r}))
    """
    script = textwrap.dedent(head) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in {0, -9}, done.stderr
    return done.stdout


def test_a_reader_sees_what_another_process_writes_also_when_the_map_grew_there(tmp_path: Path) -> None:
    with_reader = open_online("lmdb://online", tmp_path)
    with_reader.write("prices", [(b"[1]", value(1, 1, b"old"))])
    in_another_process(
        tmp_path,
        """
        store.write("prices", [(b"[1]", value(2, 1, b"new"))])
        for part in range(10):
            store.write("large", [(f"[{part},{i}]".encode(), value(1, 1, bytes(10_000))) for i in range(1_000)])
        """,
    )
    assert with_reader.read("prices", [b"[1]"]) == [value(2, 1, b"new")]
    assert with_reader.count("large") == 10_000
    with_reader.write("prices", [(b"[1]", value(3, 1, b"newer"))])
    assert with_reader.read("prices", [b"[1]"]) == [value(3, 1, b"newer")]
    with_reader.close()


def test_a_writer_that_is_killed_leaves_the_old_rows_and_no_lock(tmp_path: Path) -> None:
    store = open_online("lmdb://online", tmp_path)
    store.write("prices", [(b"[1]", value(1, 1, b"old"))])
    in_another_process(
        tmp_path,
        """
        import os, signal
        class Last(bytes):
            def __getitem__(self, part):  # looked at when its turn comes, with the rows before it written
                os.kill(os.getpid(), signal.SIGKILL)
        rows = [(f"[{i}]".encode(), value(2, 1, b"new")) for i in range(1_000)]
        store.write("prices", [*rows, (b"[1]", Last(value(2, 2, b"never")))])
        """,
    )
    assert store.read("prices", [b"[1]", b"[2]"]) == [value(1, 1, b"old"), None]
    store.write("prices", [(b"[1]", value(2, 1, b"new"))])
    assert store.read("prices", [b"[1]"]) == [value(2, 1, b"new")]
    store.close()


def test_a_table_that_another_process_dropped_and_made_anew_is_read(tmp_path: Path) -> None:
    store = open_online("lmdb://online", tmp_path)
    store.write("prices", [(b"[1]", value(1, 1, b"old"))])
    in_another_process(tmp_path, 'store.drop("prices")')
    assert store.read("prices", [b"[1]"]) == [None]
    in_another_process(tmp_path, 'store.write("prices", [(b"[2]", value(0, 0, b"new"))])')
    assert store.read("prices", [b"[1]", b"[2]"]) == [None, value(0, 0, b"new")]
    store.close()


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "online").write_text("a file stands here")
    with pytest.raises(UnavailableError, match="online"):
        open_online("lmdb://online", tmp_path)


def test_an_unknown_scheme_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="did you mean 'lmdb'"):
        open_online("lmdbb://online", tmp_path)
