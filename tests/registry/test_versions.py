import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from towpath.errors import ConflictError, FormatError, RefusedError, UnknownError
from towpath.gate.verdict import Verdict
from towpath.models.manifest import Manifest
from towpath.registry import versions
from towpath.registry.signing import Signer, Trusted, make_keys
from towpath.stores.objects import Objects

MANIFEST = "models/demand/versions/000001/manifest.json"


def on_disk(objects: Objects, path: str) -> Path:
    assert objects.path is not None
    return objects.path / path


def test_what_was_published_is_read_back_with_digests_of_its_files(
    objects: Objects, trusted: Trusted, publish: Callable[..., Manifest]
) -> None:
    stored = publish()
    assert versions.manifest(objects, "demand", 1, trusted) == stored
    assert [file.path for file in stored.files] == ["code/model.py", "golden.jsonl"]
    assert stored.artefact.file.size_bytes == 100
    assert versions.versions(objects, "demand") == [1]


def test_numbers_are_never_given_twice_and_a_crash_leaves_a_gap(
    objects: Objects, trusted: Trusted, publish: Callable[..., Manifest]
) -> None:
    publish()
    # given a run that died between its claim and its manifest
    assert versions.next_version(objects, "demand", run_id="dies") == 2
    objects.put_new("models/demand/versions/000002/model.txt", b"half")
    # when the next one publishes
    assert publish().version == 3
    # then there is a gap and no half version
    assert versions.versions(objects, "demand") == [1, 3]
    with pytest.raises(UnknownError, match="there are: 1, 3"):
        versions.manifest(objects, "demand", 2, trusted)


def test_a_manifest_comes_last_so_that_every_crash_is_a_gap(
    objects: Objects, signer: Signer, a_manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"model.txt": b"tree", "golden.jsonl": b"{}"}
    written: list[str] = []
    put_new = objects.put_new

    def dies_after(count: int) -> None:
        written.clear()

        def put(path: str, data: bytes) -> None:
            if len(written) == count:
                raise KeyboardInterrupt
            written.append(path)
            put_new(path, data)

        monkeypatch.setattr(objects, "put_new", put)

    number = versions.next_version(objects, "demand", run_id="r")
    for count in range(4):
        dies_after(count)
        with pytest.raises(KeyboardInterrupt):
            versions.publish(objects, a_manifest(number), files, signer)
        assert versions.versions(objects, "demand") == []
    # and the same again makes it whole
    monkeypatch.undo()
    versions.publish(objects, a_manifest(number), files, signer)
    assert versions.versions(objects, "demand") == [number]


def test_a_version_is_never_replaced(
    objects: Objects, signer: Signer, publish: Callable[..., Manifest], a_manifest: Callable[..., Manifest]
) -> None:
    publish()
    with pytest.raises(ConflictError):
        versions.publish(objects, a_manifest(1), {"model.txt": b"another"}, signer)


def test_a_number_that_nobody_took_and_a_foreign_name_are_refused(
    objects: Objects, signer: Signer, a_manifest: Callable[..., Manifest]
) -> None:
    with pytest.raises(UnknownError, match="demand@9"):
        versions.publish(objects, a_manifest(9), {"model.txt": b""}, signer)
    with pytest.raises(RefusedError, match="belongs to project 'shop' of team 'fresh'"):
        versions.publish(objects, a_manifest(1, project="other"), {"model.txt": b""}, signer)
    with pytest.raises(UnknownError, match="did you mean 'demand'"):
        versions.manifest(objects, "demnad", 1, None)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/x", "a/../../x", "a\\b", "", "manifest.json", "verdicts/000001.json", "./x"]
)
def test_a_path_that_leads_out_or_over_our_own_is_refused(
    objects: Objects, signer: Signer, a_manifest: Callable[..., Manifest], path: str
) -> None:
    number = versions.next_version(objects, "demand", run_id="r")
    with pytest.raises(FormatError):
        versions.publish(objects, a_manifest(number), {"model.txt": b"", path: b""}, signer)


def test_a_tampered_manifest_is_refused_with_what_differs(
    objects: Objects, trusted: Trusted, publish: Callable[..., Manifest]
) -> None:
    publish()
    path = on_disk(objects, MANIFEST)
    raw = json.loads(path.read_bytes())
    raw["tier"] = "critical"
    path.write_bytes(json.dumps(raw, separators=(",", ":")).encode())
    with pytest.raises(RefusedError, match=r"bytes of '.*manifest\.json' were changed"):
        versions.manifest(objects, "demand", 1, trusted)
    # and it can still be looked at
    assert versions.manifest(objects, "demand", 1, None).tier == "critical"


def test_a_missing_signature_is_refused(objects: Objects, trusted: Trusted, publish: Callable[..., Manifest]) -> None:
    publish()
    objects.delete(MANIFEST + ".sig")
    with pytest.raises(RefusedError, match="is not signed"):
        versions.manifest(objects, "demand", 1, trusted)


def test_a_wrong_key_is_refused(objects: Objects, publish: Callable[..., Manifest], tmp_path: Path) -> None:
    publish()
    make_keys(tmp_path / "strangers")
    with pytest.raises(RefusedError, match="not trusted"):
        versions.manifest(objects, "demand", 1, Trusted(tmp_path / "strangers"))


def test_a_signed_manifest_of_another_version_is_refused(
    objects: Objects, trusted: Trusted, publish: Callable[..., Manifest]
) -> None:
    publish()
    publish()
    for suffix in ("", ".sig"):
        objects.put(MANIFEST + suffix, objects.get(MANIFEST.replace("000001", "000002") + suffix))
    with pytest.raises(RefusedError, match="manifest of demand@2, not of demand@1"):
        versions.manifest(objects, "demand", 1, trusted)


def test_a_fetched_version_holds_exactly_its_files_and_is_cached(
    objects: Objects, publish: Callable[..., Manifest], tmp_path: Path
) -> None:
    stored = publish()
    folder = versions.fetch(objects, stored, tmp_path / "cache")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {"model.txt", "golden.jsonl", "code/model.py"}
    # and a second time needs no store
    assert versions.fetch(Objects("memory://"), stored, tmp_path / "cache") == folder
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_a_tampered_artefact_is_refused_and_leaves_nothing(
    objects: Objects, publish: Callable[..., Manifest], tmp_path: Path
) -> None:
    stored = publish()
    on_disk(objects, "models/demand/versions/000001/model.txt").write_bytes(b"evil " * 20)
    with pytest.raises(RefusedError, match=r"'model.txt' of demand@1 is not what was signed: 100 bytes sha256:"):
        versions.fetch(objects, stored, tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


def _link(path: Path, to: Path) -> None:
    if path.is_dir():
        shutil.move(path, to)
    else:
        path.rename(to)
    path.symlink_to(to)


@pytest.mark.parametrize(
    "alter",
    [
        lambda folder: (folder / "model.txt").write_bytes(b""),
        lambda folder: (folder / "model.txt").write_bytes(b"eert " * 20),
        lambda folder: (folder / "golden.jsonl").unlink(),
        lambda folder: (folder / "MLmodel").write_text("flavors: {python_function: {}}"),
        lambda folder: (folder / "code" / "more.py").write_text("import os"),
        lambda folder: _link(folder / "model.txt", folder.parent.parent / "elsewhere"),
        lambda folder: _link(folder / "code", folder.parent.parent / "elsewhere"),
    ],
    ids=["emptied", "altered", "missing", "more", "more within", "link", "link to a folder"],
)
def test_a_cache_that_is_not_exactly_the_version_is_fetched_again(
    alter: Callable[[Path], object], objects: Objects, publish: Callable[..., Manifest], tmp_path: Path
) -> None:
    stored = publish()
    folder = versions.fetch(objects, stored, tmp_path / "cache")
    alter(folder)
    assert versions.fetch(objects, stored, tmp_path / "cache") == folder
    assert (folder / "model.txt").read_bytes() == b"tree " * 20
    found = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    assert {str(path.relative_to(folder)) for path in found} == {"model.txt", "golden.jsonl", "code/model.py"}
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_many_that_fetch_into_one_cache_get_one_whole_folder(
    objects: Objects, publish: Callable[..., Manifest], tmp_path: Path
) -> None:
    stored = publish()
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: versions.fetch(objects, stored, tmp_path / "cache"), range(24)))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name for folder in folders]


def test_verdicts_are_kept_in_order_and_signed(
    objects: Objects,
    signer: Signer,
    trusted: Trusted,
    publish: Callable[..., Manifest],
    a_verdict: Callable[..., Verdict],
) -> None:
    publish(against=None, passed=False)
    second = versions.put_verdict(objects, a_verdict(1, 3), signer)
    assert second.endswith("versions/000001/verdicts/000002.json")
    found = versions.verdicts(objects, "demand", 1, trusted)
    assert [(verdict.passed, verdict.against) for verdict in found.values()] == [(False, None), (True, 3)]
    # and a changed one is refused
    on_disk(objects, second).write_bytes(objects.get(second).replace(b'"against":3', b'"against":4'))
    with pytest.raises(RefusedError, match=r"000002\.json' were changed"):
        versions.verdicts(objects, "demand", 1, trusted)


def test_a_field_that_a_later_release_adds_is_ignored(
    objects: Objects, signer: Signer, trusted: Trusted, publish: Callable[..., Manifest]
) -> None:
    publish()
    newer = json.dumps(json.loads(objects.get(MANIFEST)) | {"colour": "green", "schema": 2}).encode()
    objects.put(MANIFEST, newer)
    objects.put(MANIFEST + ".sig", signer.seal(newer))
    assert versions.manifest(objects, "demand", 1, trusted).schema == 2
