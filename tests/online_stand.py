"""Where an empty online store of each engine is."""

import itertools

import pytest

__all__ = ["STORES", "online_address"]

STORES = ("lmdb", "redis")
_prefixes = itertools.count()


def online_address(store: str, request: pytest.FixtureRequest) -> str:
    """The URL of an empty store of that engine: in the folder that it is opened with, or on the private server of this run."""
    if store == "lmdb":
        return "lmdb://online"
    return f"{request.getfixturevalue('shared_redis').url()}?prefix=stand{next(_prefixes)}"
