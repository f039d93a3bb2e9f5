"""Keys: who calls, what each may do, and how keys come and go."""

import json
import stat
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from towpath.errors import DeniedError, ForbiddenError, InputError, ProjectError, QuotaError, RefusedError, UnknownError
from towpath.stores.objects import Objects
from towpath.traffic import ConsumerBook, Consumers, Quota, SeenWriter, last_seen, make_pepper, read_pepper
from towpath.traffic.consumer import ConsumerV1

AT = datetime(2026, 1, 1, tzinfo=UTC)
PEPPER = b"a pepper of sixteen or more"
DAY = timedelta(days=1)


def bearer(key: str) -> bytes:
    return f"Bearer {key}".encode()


def server(objects: Objects, at: datetime = AT, **more: Any) -> Consumers:
    made = Consumers(objects, pepper=PEPPER, **more)
    made.refresh(at)
    return made


def test_without_consumers_everybody_is_local_whatever_they_send() -> None:
    door = server(Objects("memory://"))
    assert not door.keyed
    assert [door.admit(header, "predict", "demand").name for header in (None, b"Bearer x")] == ["local", "local"]


def test_a_key_names_its_consumer_in_every_server_and_is_stored_nowhere() -> None:
    objects = Objects("memory://")
    key = ConsumerBook(objects, PEPPER).add("brand-a", team="brand", at=AT)
    other = server(objects)
    assert [other.admit(bearer(key), "predict", "demand").name for _ in range(2)] == ["brand-a", "brand-a"]
    stored = b"".join(objects.get(path) for path in objects.paths())
    secret = key.split("_", 2)[2]
    assert secret.encode() not in stored
    assert sha256(key.encode()).hexdigest().encode() not in stored
    nearly = key[:-1] + ("A" if key[-1] != "A" else "B")
    for wrong in (
        None,
        b"Bearer nonsense",
        b"Basic " + key.encode(),
        b"",
        bearer(nearly),
        b"Bearer tow__",
        b"\xff\xfe",
    ):
        with pytest.raises(DeniedError):
            other.admit(wrong, "predict", "demand")


def test_what_is_stored_says_nothing_without_the_pepper() -> None:
    objects = Objects("memory://")
    key = ConsumerBook(objects, PEPPER).add("brand-a", team="brand", at=AT)
    thief = Consumers(objects, pepper=b"another pepper, guessed")
    thief.refresh(AT)
    with pytest.raises(DeniedError):
        thief.admit(bearer(key), "predict", "demand")
    with pytest.raises(RefusedError, match="this server has"):
        thief.check_pepper()
    with pytest.raises(RefusedError, match="this machine has"):
        ConsumerBook(objects, b"another pepper, guessed").add("brand-b", team="b", at=AT)


def test_a_consumer_from_before_there_was_a_pepper_still_calls_and_can_be_rotated() -> None:
    objects = Objects("memory://")
    for name in ("brand_a", "brand_b"):
        old = ConsumerV1(name=name, team="brand", key_sha256=sha256(f"tow_{name}".encode()).hexdigest(), created_at=AT)
        objects.put_new(f"consumers/{name}.json", msgspec.json.encode(old))
    door = server(objects)
    assert door.keyed
    assert [door.admit(bearer(f"tow_{name}"), "features").name for name in ("brand_a", "brand_b")] == [
        "brand_a",
        "brand_b",
    ]
    with pytest.raises(ForbiddenError):
        door.admit(bearer("tow_brand_a"), "manage", "demand")
    key, _ = ConsumerBook(objects, PEPPER).rotate("brand_a", at=AT, overlap=timedelta())
    door.refresh(AT)
    assert door.admit(bearer(key), "predict", "demand").name == "brand_a"
    assert door.admit(bearer("tow_brand_b"), "predict", "demand").name == "brand_b"
    with pytest.raises(DeniedError):
        door.admit(bearer("tow_brand_a"), "predict", "demand")


def test_a_name_is_given_once_and_must_be_one() -> None:
    book = ConsumerBook(Objects("memory://"), PEPPER)
    book.add("brand-a", team="brand", at=AT)
    with pytest.raises(RefusedError, match="brand-a"):
        book.add("brand-a", team="other", at=AT)
    for name in ("Brand", "a/b", "local", "other", "", "ä", "a" * 64):
        with pytest.raises(InputError, match="no name"):
            book.add(name, team="x", at=AT)
    with pytest.raises(UnknownError, match="did you mean 'brand-a'"):
        book.get("brand-b")


def test_a_key_opens_its_scopes_and_its_models_only() -> None:
    objects = Objects("memory://")
    key = ConsumerBook(objects, PEPPER).add("brand-a", team="b", at=AT, models=("demand",), scopes=("predict",))
    door = server(objects)
    assert door.admit(bearer(key), "predict", "demand").name == "brand-a"
    with pytest.raises(ForbiddenError, match="'search'") as error:
        door.admit(bearer(key), "predict", "search")
    assert error.value.mend == "tow consumers change brand-a --models demand,search"
    with pytest.raises(ForbiddenError, match="outcomes") as error:
        door.admit(bearer(key), "outcomes", "demand")
    assert error.value.mend == "tow consumers change brand-a --scope predict,outcomes"
    ConsumerBook(objects).change("brand-a", at=AT, models=(), scopes=("predict", "outcomes"))
    door.refresh(AT)
    assert door.admit(bearer(key), "outcomes", "search").name == "brand-a"


def test_two_keys_live_until_the_overlap_ends_and_then_one() -> None:
    objects = Objects("memory://")
    book = ConsumerBook(objects, PEPPER)
    old = book.add("brand-a", team="b", at=AT)
    new, _ = book.rotate("brand-a", at=AT, overlap=7 * DAY)
    door = server(objects)
    assert {door.admit(bearer(key), "predict", "m").name for key in (old, new)} == {"brand-a"}
    with pytest.raises(RefusedError, match="two live keys"):
        book.rotate("brand-a", at=AT + DAY)
    # when the overlap ends, also while the store is away
    door._book = Away()  # pyright: ignore[reportAttributeAccessIssue] - a store that does not answer
    with pytest.raises(ConnectionError):
        door.refresh(AT + 7 * DAY)
    assert door.admit(bearer(new), "predict", "m").name == "brand-a"
    with pytest.raises(DeniedError, match="expired"):
        door.admit(bearer(old), "predict", "m")


class Away:
    def all(self) -> None:
        raise ConnectionError


def test_a_rotated_key_lives_as_long_as_the_one_before() -> None:
    book = ConsumerBook(Objects("memory://"), PEPPER)
    book.add("brand-a", team="b", at=AT, lifetime=90 * DAY)
    book.rotate("brand-a", at=AT + 80 * DAY, overlap=30 * DAY)
    first, second = book.get("brand-a").keys
    assert (first.expires_at, second.expires_at) == (AT + 90 * DAY, AT + 170 * DAY)


def test_revoked_keys_open_nothing_and_the_door_does_not_fall_open() -> None:
    objects = Objects("memory://")
    book = ConsumerBook(objects, PEPPER)
    key = book.add("brand-a", team="b", at=AT)
    door = server(objects)
    assert door.admit(bearer(key), "predict", "m")
    book.revoke("brand-a", at=AT)
    door.refresh(AT)
    for header in (bearer(key), None):
        with pytest.raises(DeniedError):
            door.admit(header, "predict", "m")
    assert door.keyed
    assert server(objects).keyed
    with pytest.raises(UnknownError, match="no key"):
        book.revoke("brand-a", at=AT, key="none")


def test_of_two_who_change_a_consumer_at_once_one_is_refused_and_a_revocation_lands_all_the_same() -> None:
    objects = Objects("memory://")
    book = ConsumerBook(objects, PEPPER)
    book.add("brand-a", team="b", at=AT)

    def meanwhile(get: Any, times: int) -> Any:
        def first(name: str) -> Any:
            nonlocal times
            found = get(name)
            if times:
                times -= 1
                ConsumerBook(objects).change("brand-a", at=AT, team=f"team {times}")
            return found

        return first

    slow = ConsumerBook(objects, PEPPER)
    slow.get = meanwhile(slow.get, 1)
    with pytest.raises(RefusedError, match="at the same time"):
        slow.change("brand-a", at=AT, team="mine")
    slow = ConsumerBook(objects, PEPPER)
    slow.get = meanwhile(slow.get, 2)
    assert slow.revoke("brand-a", at=AT).keys[0].revoked_at == AT


def test_one_record_that_cannot_be_read_locks_out_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    objects = Objects("memory://")
    key = ConsumerBook(objects, PEPPER).add("brand-a", team="b", at=AT)
    objects.put_new("consumers/broken/000001.json", b"{")
    door = server(objects)
    door.refresh(AT)
    assert door.admit(bearer(key), "predict", "m").name == "brand-a"
    assert len([record for record in caplog.records if "broken" in record.message]) == 1


def test_a_quota_is_refused_with_the_time_to_wait() -> None:
    objects = Objects("memory://")
    key = ConsumerBook(objects, PEPPER).add("brand-a", team="b", at=AT, quota=Quota(requests_per_s=5, rows_per_s=10))
    door = server(objects, quota_share=0.4)
    assert [door.admit(bearer(key), "predict", "m").name for _ in range(2)] == ["brand-a"] * 2
    with pytest.raises(QuotaError, match="2 requests a second") as error:
        door.admit(bearer(key), "predict", "m")
    assert 0 < error.value.retry_after_s <= 0.5
    caller = door._recognised(bearer(key))
    caller.take_rows(4)
    with pytest.raises(QuotaError, match="4 rows a second"):
        caller.take_rows(1)


def test_last_seen_is_written_once_for_many_calls_and_folded_together() -> None:
    objects = Objects("memory://")
    keys = {name: ConsumerBook(objects, PEPPER).add(name, team="b", at=AT) for name in ("brand-a", "brand-b")}
    one, two = (server(objects, seen=SeenWriter(objects, f"host-{n}")) for n in (1, 2))
    for _ in range(100):
        one.admit(bearer(keys["brand-a"]), "predict", "m")
    two.admit(bearer(keys["brand-b"]), "predict", "m")
    one.refresh(AT)
    two.refresh(AT)
    assert sorted(objects.paths("seen/")) == ["seen/host-1.json", "seen/host-2.json"]
    assert {name: at for (name, _), at in last_seen(objects).items()} == {"brand-a": AT, "brand-b": AT}
    # when it goes on within the minute, nothing is written; at the end it is
    one.admit(bearer(keys["brand-a"]), "predict", "m")
    one.refresh(AT + timedelta(seconds=30))
    assert set(last_seen(objects).values()) == {AT}
    one.close(AT + timedelta(seconds=40))
    assert max(last_seen(objects).values()) == AT + timedelta(seconds=30)
    # when both servers are gone for days and another comes, it takes over what they knew
    three = server(objects, AT + 3 * DAY, seen=SeenWriter(objects, "host-3"))
    three.admit(bearer(keys["brand-b"]), "predict", "m")
    three.refresh(AT + 3 * DAY)
    assert objects.paths("seen/") == ["seen/host-3.json"]
    found = {name: at for (name, _), at in last_seen(objects).items()}
    assert found == {"brand-a": AT + timedelta(seconds=30), "brand-b": AT + 3 * DAY}


def test_a_pepper_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    made = make_pepper(keys)
    assert make_pepper(keys) == made == read_pepper("", keys, tmp_path)
    assert stat.S_IMODE((keys / "pepper").stat().st_mode) == 0o600
    assert [path.name for path in keys.iterdir()] == ["pepper"]
    assert read_pepper("", tmp_path / "nowhere", tmp_path) == b""
    assert read_pepper("env:SALT", keys, tmp_path, {"SALT": "x" * 16}) == b"x" * 16
    for setting in ("env:SALT", "env:NONE", "file:none", "the pepper itself"):
        with pytest.raises(ProjectError) as error:
            read_pepper(setting, keys, tmp_path, {"SALT": "short"})
        assert "short" not in str(error.value)


def test_a_key_that_ends_while_it_is_recognised_is_not_remembered() -> None:
    # given a key that is being compared while another thread reads that it was revoked
    objects = Objects("memory://")
    book = ConsumerBook(objects, PEPPER)
    key = book.add("brand-a", team="b", at=AT)
    door = server(objects)
    book.revoke("brand-a", at=AT)

    class Comparing(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            found = super().get(name, default)
            door.refresh(AT)
            return found

    door._by_id = Comparing(door._by_id)
    assert door.admit(bearer(key), "predict", "m").name == "brand-a"  # it was let in before the revocation was read
    with pytest.raises(DeniedError):
        door.admit(bearer(key), "predict", "m")


def test_the_text_of_an_error_holds_no_key() -> None:
    objects = Objects("memory://")
    key = ConsumerBook(objects, PEPPER).add("brand-a", team="b", at=AT, scopes=("outcomes",))
    door = server(objects)
    for header, scope in ((bearer(key + "x"), "predict"), (bearer(key), "predict")):
        with pytest.raises((DeniedError, ForbiddenError)) as error:
            door.admit(header, scope, "m")
        assert key not in json.dumps(str(error.value))
