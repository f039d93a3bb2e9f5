"""The object store: create-only has one winner, names come in order, faults have a class; folder, memory and S3."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.errors import ConflictError, RefusedError, UnavailableError, UnknownError
from towpath.stores.objects import Objects

RACER = """
import sys
from towpath.errors import ConflictError
from towpath.stores.objects import Objects
objects = Objects(sys.argv[1])
won = 0
sys.stdin.readline()
for n in range(40):
    try:
        objects.put_new(f"log/{n:06}.json", sys.argv[2].encode())
        won += 1
    except ConflictError:
        pass
print(won)
"""


@pytest.fixture(params=["folder", "memory", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """An empty store of each kind."""
    if request.param == "s3":
        return Objects(f"{request.getfixturevalue('s3_url')}/{tmp_path.name}")
    return Objects("memory://" if request.param == "memory" else str(tmp_path / "objects"))


def test_the_first_writer_of_a_new_object_stands(objects: Objects) -> None:
    objects.put_new("models/demand/log/000001.json", b"first")
    with pytest.raises(ConflictError, match=r"log/000001\.json"):
        objects.put_new("models/demand/log/000001.json", b"second")
    assert objects.get("models/demand/log/000001.json") == b"first"
    objects.check_create_only()
    assert objects.paths() == ["models/demand/log/000001.json"]


def test_threads_that_race_for_a_name_have_one_winner(objects: Objects) -> None:
    won: list[int] = []
    start = threading.Barrier(8)

    def race(n: int) -> None:
        start.wait()
        try:
            objects.put_new("claim.json", b"%d" % n)
        except ConflictError:
            return
        won.append(n)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert objects.get("claim.json") == b"%d" % won[0]


def test_processes_that_race_for_forty_names_win_forty_together(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(4)
    ]
    said = [racer.communicate("go\n")[0] for racer in racers]
    assert sum(map(int, said)) == 40
    assert len(Objects(str(tmp_path)).paths("log/")) == 40


def test_listing_is_sorted_and_a_prefix_is_a_folder(objects: Objects) -> None:
    for path in ["models/b/2.json", "models/a/10.json", "models/a/9.json", "models_of_others/x", "top"]:
        objects.put(path, b"{}")
    assert objects.paths("models/") == ["models/a/10.json", "models/a/9.json", "models/b/2.json"]
    assert objects.paths("models") == objects.paths("models/")
    assert objects.folders("models/") == ["a", "b"]
    assert objects.folders("") == ["models", "models_of_others"]
    assert objects.paths("nothing/") == objects.folders("nothing/") == []


def test_an_object_is_replaced_only_where_that_is_asked_for_and_removed_without_a_word(objects: Objects) -> None:
    objects.put("index.json", b"1")
    objects.put("index.json", b"")
    assert objects.get("index.json") == b""
    assert objects.exists("index.json")
    objects.delete("index.json")
    objects.delete("index.json")
    assert not objects.exists("index.json")
    with pytest.raises(UnknownError, match=r"no object 'index\.json'"):
        objects.get("index.json")


@given(data=st.binary(max_size=100_000), name=st.from_regex(r"[a-zA-Z0-9_=.-]{1,40}", fullmatch=True))
def test_bytes_come_back_as_they_went_in_under_any_name(data: bytes, name: str) -> None:
    objects = Objects("memory://")
    if name in {".", ".."}:
        return
    objects.put_new(f"x/{name}", data)
    assert objects.get(f"x/{name}") == data
    assert objects.paths("x/") == [f"x/{name}"]


def test_a_relative_folder_is_made_where_it_is_relative_to(tmp_path: Path) -> None:
    objects = Objects(".towpath/objects", tmp_path)
    assert objects.path == tmp_path / ".towpath" / "objects"
    objects.put_new("a", b"1")
    assert Objects(f"file://{tmp_path}/.towpath/objects").get("a") == b"1"


def test_a_store_that_ignores_create_only_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects("memory://")
    monkeypatch.setattr(objects, "put_new", objects.put)
    with pytest.raises(RefusedError, match="ignores create-only"):
        objects.check_create_only()
    assert objects.paths() == []


def test_a_store_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    # given a folder that has become a file
    broken = Objects(str(tmp_path / "objects"))
    (tmp_path / "objects").rmdir()
    (tmp_path / "objects").write_text("in the way")
    with pytest.raises(UnavailableError):
        broken.put("a/b", b"1")
    with pytest.raises(UnavailableError):
        broken.get("a/b")
