"""Lets the tests of this room share `serving_stand`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from serving_stand import LOCK, LOOKED_UP, OnlineTable, PlainModel, a_manifest

from towpath.models.manifest import Signature
from towpath.project.declarations import OutputDeclaration
from towpath.serving.served import Served


@pytest.fixture
def by_key() -> Served:
    """A model whose features are looked up by ``item_id``."""
    table = OnlineTable({"x": {"sales.a": 1.0, "sales.b": 2.0}}, ("sales.a", "sales.b"))
    manifest = a_manifest(
        entity=("item_id",),
        features=(LOCK,),
        segments=("band",),
        output=OutputDeclaration(horizon="7d"),
        signature=Signature(container="numpy", inputs=LOOKED_UP, outputs=()),
    )
    return Served(manifest, PlainModel(inputs=LOOKED_UP), reader=table)
