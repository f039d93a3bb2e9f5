"""LMDB as an online store: the contract, and what only a file on one machine must do."""

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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

    @pytest.fixture
    def address(self, tmp_path: Path) -> tuple[str, Path]:
        return "lmdb://online", tmp_path


def test_what_one_store_writes_another_of_the_process_reads(tmp_path: Path) -> None:
    first, second = open_online("lmdb://online", tmp_path), open_online(f"lmdb://{tmp_path}/online", Path("elsewhere"))
    first.write("prices", [(b"[1]", value(1, 1, b"a"))])
    first.close()
    assert second.read("prices", [b"[1]"]) == [value(1, 1, b"a")]
    second.close()


def script(folder: Path, code: str) -> str:
    head = f"""
        from pathlib import Path
        from towpath.stores.online import open_online
        from towpath.testing.online_store import value
        store = open_online("lmdb://online", Path({str(folder)!r}))
    """
    return textwrap.dedent(head) + textwrap.dedent(code)


def in_another_process(folder: Path, code: str) -> str:
    run = [sys.executable, "-c", script(folder, code)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)
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


def test_a_path_is_open_once_in_a_process_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "same").symlink_to(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: open_online("lmdb://online", tmp_path), range(16)))
    stores.append(open_online("lmdb://same/online", tmp_path))
    assert len({id(store._env) for store in stores}) == 1  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
    stores[0].write("prices", [(b"[1]", value(1, 1, b"a"))])
    for store in stores[:-1]:
        store.close()
    assert stores[-1].read("prices", [b"[1]"]) == [value(1, 1, b"a")]
    stores[-1].close()
    with pytest.raises(UnavailableError):
        stores[-1].read("prices", [b"[1]"])
    again = open_online("lmdb://online", tmp_path)
    assert again.read("prices", [b"[1]"]) == [value(1, 1, b"a")]
    again.close()


def test_readers_that_were_killed_keep_no_pages(tmp_path: Path) -> None:
    # given a store whose rows are written again and again, and a process that is killed while it reads
    store = open_online("lmdb://online", tmp_path)
    rows = [(f"[{i}]".encode(), value(1, 1, bytes(10_000))) for i in range(1_000)]
    store.write("prices", rows)
    killed = """
    import os, signal
    table = store._env.handle("prices")
    reading = store._env.begin()
    assert reading.get(b"[1]", None, table)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    in_another_process(tmp_path, killed)
    # when it goes on being written
    for step in range(2, 20):
        store.write("prices", [(key, value(step, 1, bytes(10_000))) for key, _ in rows])
    # then the file did not grow by what that reader would have kept: 20 times 10 MiB
    assert (tmp_path / "online" / "data.mdb").stat().st_size < 80 << 20
    store.close()
    # and who opens the store next clears what it left behind
    in_another_process(tmp_path, killed)
    again = open_online("lmdb://online", tmp_path)
    listed: str = again._env._lmdb.readers()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    assert {int(line.split()[0]) for line in listed.splitlines()[1:]} <= {os.getpid()}
    again.close()


def test_the_map_grows_under_writes_while_threads_and_another_process_read(tmp_path: Path) -> None:
    store = open_online("lmdb://online", tmp_path)
    store.write("prices", [(b"[1]", value(1, 1, b"a"))])
    stop, bad = threading.Event(), list[object]()

    def read() -> None:
        while not stop.is_set():
            found = store.read("prices", [b"[1]"])
            if found != [value(1, 1, b"a")]:
                bad.append(found)

    reading = """
    import time
    print("reading", flush=True)
    times = 0
    while store.read("done", [b"[1]"]) == [None]:
        assert store.read("prices", [b"[1]"]) == [value(1, 1, b"a")]
        times += 1
    print(store.count("large"), times > 0)
    """
    elsewhere = subprocess.Popen(
        [sys.executable, "-c", script(tmp_path, reading)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert elsewhere.stdout is not None
    assert elsewhere.stdout.readline() == "reading\n"
    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for part in range(10):
        store.write("large", [(f"[{part},{i}]".encode(), value(1, 1, bytes(10_000))) for i in range(1_000)])
    stop.set()
    for thread in threads:
        thread.join()
    store.write("done", [(b"[1]", value(1, 1, b""))])
    said, error = elsewhere.communicate(timeout=60)
    assert (said, error) == ("10000 True\n", "")
    assert bad == []
    store.close()


def test_a_disk_that_is_full_refuses_the_write_and_keeps_what_it_has(tmp_path: Path) -> None:
    said = in_another_process(
        tmp_path,
        """
        import resource
        from towpath.errors import UnavailableError
        store.write("prices", [(b"[1]", value(1, 1, b"a"))])
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))  # as a full disk, for one process
        rows = [(f"[{i}]".encode(), value(2, 1, bytes(10_000))) for i in range(1_000)]
        try:
            store.write("prices", rows)
        except UnavailableError as error:
            print(error.what, error.where, error.mend)
        print(store.read("prices", [b"[1]"]) == [value(1, 1, b"a")], store.count("prices"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.write("prices", rows)  # there is room again
        print(store.count("prices"))
        """,
    )
    first, second, third = said.splitlines()
    assert "cannot be used" in first
    assert str(tmp_path) in first
    assert "check the disk" in first
    assert (second, third) == ("True 1", "1000")


def test_a_folder_that_may_only_be_read_is_read_and_a_write_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = open_online("lmdb://online", tmp_path)
    writer.write("prices", [(b"[1]", value(1, 1, b"a"))])
    writer.close()
    monkeypatch.setattr("towpath.stores.online.lmdb.os.access", lambda *_: False)  # the tests may run as root
    store = open_online("lmdb://online", tmp_path)
    assert store.read("prices", [b"[1]", b"[2]"]) == [value(1, 1, b"a"), None]
    assert store.read("none", [b"[1]"]) == [None]
    with pytest.raises(UnavailableError, match="cannot be used") as caught:
        store.write("prices", [(b"[1]", value(2, 1, b"b"))])
    assert "rights" in caught.value.mend
    store.close()


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "online").write_text("a file stands here")
    with pytest.raises(UnavailableError, match="online"):
        open_online("lmdb://online", tmp_path)


def test_an_unknown_scheme_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="did you mean 'lmdb'"):
        open_online("lmdbb://online", tmp_path)
