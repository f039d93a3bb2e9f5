"""Keys: who calls."""

from datetime import UTC, datetime

import pytest

from towpath.errors import DeniedError, RefusedError
from towpath.stores.objects import Objects
from towpath.traffic import Consumers

AT = datetime(2026, 1, 1, tzinfo=UTC)


def test_without_consumers_everybody_is_local() -> None:
    assert Consumers(Objects("memory://")).name_of(None) == "local"


def test_a_key_names_its_consumer_in_every_server_and_is_stored_nowhere() -> None:
    objects = Objects("memory://")
    key = Consumers(objects).add("brand_a", team="brand", at=AT)
    other = Consumers(objects)
    other.refresh()
    header = f"Bearer {key}".encode()
    assert [other.name_of(header), other.name_of(header)] == ["brand_a", "brand_a"]
    assert all(key.encode() not in objects.get(path) for path in objects.paths())
    for wrong in (None, b"Bearer nonsense", b"Basic " + key.encode(), b""):
        with pytest.raises(DeniedError):
            other.name_of(wrong)


def test_a_name_is_given_once() -> None:
    consumers = Consumers(Objects("memory://"))
    consumers.add("brand_a", team="brand", at=AT)
    with pytest.raises(RefusedError, match="brand_a"):
        consumers.add("brand_a", team="other", at=AT)
