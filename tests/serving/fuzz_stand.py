"""One worker with a model of every kind of input, for whoever throws things at it."""

from pathlib import Path
from typing import Any

import numpy as np
from serving_stand import OnlineTable, PlainModel, Running, a_manifest, deployed
from test_push import locks_of, view_of

from towpath.gate.golden import GoldenCase
from towpath.models.manifest import Field, Signature
from towpath.project.declarations import FallbackDeclaration, OutputDeclaration
from towpath.serving.served import Served

ZERO = FallbackDeclaration(name="zero", constant=0.0)
TYPED = (
    Field(name="count", type="int64", nullable=False),
    Field(name="price", type="double"),
    Field(name="shop", type="string", levels=("north", "south")),
    Field(name="open", type="bool"),
    Field(name="at", type="timestamp[us, tz=UTC]"),
    Field(name="note", type="string"),
)
GOLDEN = GoldenCase(request={"a": 1.0, "b": 2.0}, answer=3.0)


def _typed(columns: Any) -> dict[str, Any]:
    return {"prediction": np.asarray(columns["count"], dtype=float)}


def a_model(name: str, inputs: tuple[Field, ...], *, container: str = "numpy", predict: Any = None, inline: bool = True, **changes: Any) -> Any:  # fmt: skip
    outputs = (Field(name="prediction", type="FP64" if container == "tensors" else "double"),)
    manifest = a_manifest(signature=Signature(container=container, inputs=inputs, outputs=outputs), **changes)
    model = PlainModel(inputs=inputs, container=container, predict=predict, inline=inline, outputs=outputs)
    return deployed(Served(manifest, model)).replaced(model=name)


def a_server(folder: Path, **settings: Any) -> Running:
    """A running worker.

    demand: two numbers. late: the same, in a thread. typed: every type of column. image and words: tensors. item: by key, its
    view takes pushed rows. ranked: a list. private: keeps no journal. lost: never has an answer.
    """
    numbers = (Field(name="a", type="double"), Field(name="b", type="double"))
    served = Served(a_manifest(description="How many & when."), PlainModel())
    served.golden = (GOLDEN,)
    private = Served(a_manifest(journal="none", fallback=(ZERO,)), PlainModel())
    private.golden = (GoldenCase(request={"a": 40.5, "b": 41.5}, answer=82.0),)
    looked_up = (Field(name="sales.price", type="double"), Field(name="c", type="double"))
    item = Served(
        a_manifest(
            entity=("item_id",),
            segments=("band",),
            fallback=(ZERO,),
            features=locks_of(view_of(folder / "project"), "price"),
            signature=Signature(container="numpy", inputs=looked_up, outputs=()),
        ),
        PlainModel(inputs=looked_up),
        reader=OnlineTable({"x": {"sales.price": 1.5}}, ("sales.price",)),
    )
    return Running(
        folder,
        deployed(served),
        deployed(private).replaced(model="private"),
        deployed(item).replaced(model="item"),
        a_model("late", numbers, inline=False),
        a_model("typed", TYPED, predict=_typed, fallback=(ZERO,)),
        a_model("image", (Field(name="image", type="FP32", shape=(-1, 2)),), container="tensors", predict=lambda c: {"prediction": c["image"].sum(axis=1).astype(float)}),
        a_model("words", (Field(name="words", type="BYTES"),), container="tensors", predict=lambda c: {"prediction": np.array([float(len(w or b"")) for w in c["words"]])}, fallback=(ZERO,)),
        a_model("ranked", numbers, predict=_ranked, output=OutputDeclaration(kind="ranking", top=3)),
        a_model("lost", numbers, predict=lambda c: {"prediction": c["a"] * np.nan}),
        online_url=f"lmdb://{folder / 'online'}",
        **{"max_body_bytes": 100_000, "max_rows": 100} | settings,
    )  # fmt: skip


def _ranked(columns: Any) -> dict[str, Any]:
    found = np.empty(len(columns["a"]), dtype=object)
    found[:] = [["x", "y", "z"] for _ in found]
    return {"items": found}
