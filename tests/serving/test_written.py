"""What the journal keeps of a request: the features as JSON, whatever they are called and however they came."""

import json
import math
from typing import cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from serving_stand import PlainModel, a_manifest, deployed, responding

from towpath.models.manifest import Field, Signature
from towpath.serving.answered import Ask
from towpath.serving.served import Served

NAMES = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5, unique=True)


@given(names=NAMES, rows=st.integers(1, 3), data=st.data())
def test_features_are_kept_as_they_were_sent_and_what_is_no_number_is_null(
    names: list[str], rows: int, data: st.DataObject
) -> None:
    inputs = tuple(Field(name=name, type="double") for name in names)
    model = PlainModel(inputs=inputs, predict=lambda columns: {"prediction": np.zeros(rows)})
    manifest = a_manifest(signature=Signature(container="numpy", inputs=inputs, outputs=model.signature.outputs))
    responder, journal = responding(deployed(Served(manifest, model)))
    cells = data.draw(
        st.lists(st.lists(st.floats(), min_size=len(names), max_size=len(names)), min_size=rows, max_size=rows)
    )
    responder.run("demand", Ask(columns={"no input": np.array(cells)}, rows_count=rows))
    kept = journal.records[0].rows.features
    assert kept is not None
    assert [json.loads(cast("bytes", one)) for one in kept] == [
        {name: value if math.isfinite(value) else None for name, value in zip(names, row, strict=True)} for row in cells
    ]
