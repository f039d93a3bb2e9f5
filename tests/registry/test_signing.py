import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.errors import ProjectError, RefusedError
from towpath.registry.signing import Signer, Trusted, make_keys


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Signer, Trusted]:
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder)
    return Signer(folder), Trusted(folder)


@given(data=st.binary(max_size=200))
def test_what_was_signed_is_trusted(pair: tuple[Signer, Trusted], data: bytes) -> None:
    signer, trusted = pair
    assert trusted.verify(data, signer.seal(data), "a.json").key == signer.key_id


@given(data=st.binary(min_size=1, max_size=100), at=st.integers(0), bit=st.integers(0, 7))
def test_one_flipped_bit_of_the_bytes_is_refused(pair: tuple[Signer, Trusted], data: bytes, at: int, bit: int) -> None:
    signer, trusted = pair
    changed = bytearray(data)
    changed[at % len(data)] ^= 1 << bit
    with pytest.raises(RefusedError, match=r"bytes of 'a\.json' were changed"):
        trusted.verify(bytes(changed), signer.seal(data), "a.json")


@given(at=st.integers(0), bit=st.integers(0, 7))
def test_no_changed_seal_passes_for_another(pair: tuple[Signer, Trusted], at: int, bit: int) -> None:
    signer, trusted = pair
    seal = signer.seal(b"{}")
    changed = bytearray(seal)
    changed[at % len(seal)] ^= 1 << bit
    try:
        found = trusted.verify(b"{}", bytes(changed), "a.json")
    except RefusedError:
        return
    # then only what carries no meaning was changed: the schema number or the name of an unknown field
    assert found.key == signer.key_id


def test_the_private_key_is_for_its_owner_alone_and_stays(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    first = make_keys(folder)
    assert stat.S_IMODE((folder / "signing.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert make_keys(folder) == first
    assert sorted(path.name for path in folder.iterdir()) == sorted(["signing.key", f"{first}.pub"])


def test_a_stranger_is_refused_by_name_and_the_mend_names_the_file(tmp_path: Path) -> None:
    make_keys(tmp_path / "ours")
    stranger = make_keys(tmp_path / "theirs")
    seal = Signer(tmp_path / "theirs").seal(b"{}")
    with pytest.raises(RefusedError) as refused:
        Trusted(tmp_path / "ours").verify(b"{}", seal, "a.json")
    assert stranger in str(refused.value)
    assert f"{stranger}.pub" in refused.value.mend
    # and once its public key is copied, it is trusted
    (tmp_path / "ours" / f"{stranger}.pub").write_bytes((tmp_path / "theirs" / f"{stranger}.pub").read_bytes())
    assert Trusted(tmp_path / "ours").verify(b"{}", seal, "a.json").key == stranger


def test_a_stranger_who_claims_our_key_id_is_refused(tmp_path: Path) -> None:
    ours, theirs = make_keys(tmp_path / "ours"), make_keys(tmp_path / "theirs")
    forged = Signer(tmp_path / "theirs").seal(b"{}").replace(theirs.encode(), ours.encode())
    with pytest.raises(RefusedError, match=f"was not made by key {ours}"):
        Trusted(tmp_path / "ours").verify(b"{}", forged, "a.json")


def test_an_empty_folder_trusts_nobody(pair: tuple[Signer, Trusted], tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="trusted: none"):
        Trusted(tmp_path).verify(b"{}", pair[0].seal(b"{}"), "a.json")


def test_a_key_that_is_none_is_said_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="no signing key"):
        Signer(tmp_path)
    (tmp_path / "signing.key").write_text("hunter2")
    with pytest.raises(ProjectError, match=r"signing\.key") as wrong:
        Signer(tmp_path)
    assert "hunter2" not in str(wrong.value)
    (tmp_path / "x.pub").write_text("ed25519:AAAA")
    with pytest.raises(ProjectError, match=r"x\.pub"):
        Trusted(tmp_path)
