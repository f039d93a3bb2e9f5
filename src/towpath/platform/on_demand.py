"""On-demand features of a project: appended to training sets, computed beside online reads, locked for a version."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from towpath import features as room
from towpath.errors import InputError, nearest
from towpath.features.on_demand import MOMENT, gaps
from towpath.project.on_demand import TIME, is_feature
from towpath.types import micros

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from towpath.features import FeatureLock, OnDemand, Split
    from towpath.platform.opened import Platform
    from towpath.project.on_demand import OnDemandFile
    from towpath.stores.online import OnlineStore

__all__ = ["appended", "split_code", "functions_of", "get", "input_of", "read"]


def functions_of(platform: "Platform", asked: "Split", locks: "Sequence[FeatureLock]") -> "tuple[OnDemand, ...]":
    """The functions behind the features that were asked for, as the project's files stand."""
    if not asked.files:
        return ()
    from towpath.models import on_demand_of

    own = platform.settings.project.name
    code = _packed(platform, asked.files)
    return on_demand_of(code, room.lock_on_demand(asked.files, locks, own), root=platform.folder)


def _packed(platform: "Platform", files: "Sequence[OnDemandFile]") -> bytes:
    from towpath.models import pack_code

    own, beside = split_code(files)
    return pack_code(platform.folder, None, own, beside=beside)


def split_code(files: "Sequence[OnDemandFile]") -> "tuple[list[Path], dict[str, bytes]]":
    """The project's own files, and the code of other projects by its path in ``code.zip``."""
    beside = {path: data for file in files for path, data in file.files.items()}
    return [file.file for file in files if not file.files], beside


def appended(platform: "Platform", table: "pa.Table", asked: "Split", *, time: str) -> "pa.Table":
    """A training set with its on-demand features; what only they read is left out."""
    locks = platform.features.locks(asked.features)
    functions = functions_of(platform, asked, locks)
    whole = room.appended_by(functions, table, locks, project=platform.settings.project.name, time=time)
    given = {name for one in functions for name in one.outputs}
    kept = whole.drop_columns([*asked.hidden, *(given - set(asked.computed))])
    manifest = room.manifest_of(table)
    added = [name for name in kept.column_names if name in {*manifest.features, *asked.computed}]
    read = _read(platform, asked, functions, locks)
    return room.with_manifest(kept, msgspec.structs.replace(manifest, features=tuple(added), functions=read))


def _read(
    platform: "Platform", asked: "Split", functions: "Sequence[OnDemand]", locks: "Sequence[FeatureLock]"
) -> "tuple[room.FunctionRead, ...]":
    """What decides the values of functions beside their inputs: code, types, and the defaults that they see."""
    seen = [(lock.view, column) for lock in locks for column in lock.columns]
    found: list[room.FunctionRead] = []
    for one, file in zip(functions, asked.files, strict=True):
        code = _packed(platform, [file])
        digest = hashlib.sha256(msgspec.json.encode((one.lock.inputs, one.lock.columns, seen)) + code).hexdigest()
        found.append(room.FunctionRead(view=one.view, digest=f"sha256:{digest}"))
    return tuple(found)


def read(
    platform: "Platform",
    asked: "Split",
    keys: Mapping[str, Sequence[object]],
    inputs: Mapping[str, Sequence[object]],
    *,
    online: "OnlineStore | None" = None,
) -> "dict[str, NDArray[Any]]":
    """Online values of features of both kinds, for rows given by keys and by columns of the request.

    Args:
        platform: Whose features.
        asked: Which of them.
        keys: Key column → one part a row.
        inputs: Column of the request → one value a row.
        online: The platform's own unless given.

    Raises:
        InputError: There is no row, or columns differ in length; a column of the request is not of its type, or lacks.
    """
    from towpath.models.columns import array_of
    from towpath.models.manifest import Field

    lengths = {len(values) for values in [*keys.values(), *inputs.values()]} or {1}
    if len(lengths) > 1:
        raise InputError("Keys and inputs are of different lengths.", mend="one value a row in each")
    n, now_us = lengths.pop(), micros(platform.now())
    locks = platform.features.locks(asked.features)
    own = platform.settings.project.name
    columns = (
        dict(room.OnlineReader(online or platform.online, locks, own).read(keys, n, now_us).columns) if locks else {}
    )
    functions = functions_of(platform, asked, locks)
    known: dict[str, NDArray[Any]] = {**columns, MOMENT: np.full(n, np.datetime64(now_us, "us"))}
    named = {one.name: one for f in functions for one in f.lock.inputs if one.reads == "request"}
    for name in inputs:
        if name not in named:
            raise _not_asked(name, functions, named)
    for name, one in named.items():
        if one.required and name not in inputs:
            raise InputError(f"'{name}' is not given{nearest(name, inputs)}.", mend=f"--input {name}=…")
        known[name] = array_of(Field(name=name, type=one.type), inputs.get(name, [None] * n))
    computed = room.compute(functions, known, n).columns
    filled = {name: one.filled(name, computed[name]) for one in functions for name in one.outputs}
    return {
        **{name: column for name, column in columns.items() if name not in asked.hidden},
        **{name: filled[name] for name in asked.computed},
    }


def _not_asked(name: str, functions: "Sequence[OnDemand]", named: Iterable[str]) -> InputError:
    """Of an input that no function takes from the request; where it is one that is looked up, that is said."""
    mend = f"columns of the request are {', '.join(named)}" if named else "leave inputs out"
    for one in functions:
        for wanted in one.lock.inputs:
            if wanted.reads != "request" and name in {wanted.name, wanted.reads}:
                said = f"'{one.view}' looks '{wanted.name}' up, as {wanted.reads}"
                return InputError(f"'{name}' is no column of the request: {said}.", mend=mend)
    return InputError(f"No feature that was asked for reads '{name}'{nearest(name, named)}.", mend=mend)


def get(platform: "Platform", name: str, key: Sequence[object], inputs: Mapping[str, object]) -> dict[str, object]:
    """One row of an on-demand file, for people.

    Raises:
        InputError: The key has another number of parts than the views behind it have key columns.
    """
    asked = platform.features.split([f"{name}.*"])
    views = platform.features.views_of(asked.features).values()
    entity = list(dict.fromkeys(part for view in views for part in view.header.keys))
    if len(key) != len(entity):
        raise InputError(
            f"'{name}' reads views that are keyed by {', '.join(entity) or 'nothing'}; {len(key)} part(s) were given.",
            mend="--key once for each column, in that order",
        )
    given = {part: [value] for part, value in zip(entity, key, strict=True)}
    both = platform.features.split([f"{name}.*", *asked.features])
    asked_of = {part: [value] for part, value in inputs.items()}
    found = read(platform, both, given, asked_of, online=platform.online_glance)
    columns = {each: values for each, values in found.items() if each.startswith(f"{name}.")}
    missing = [each for each, values in columns.items() if gaps(values)[0]]
    values = {each: None if each in missing else values.tolist()[0] for each, values in columns.items()}
    without = [each for each in asked.features if each in found and gaps(found[each])[0]]
    without += [
        part
        for file in asked.files
        for part, one in file.header.inputs.items()
        if one.type != TIME and not is_feature(one.type) and inputs.get(part) is None
    ]
    why = f"the function gave none{', without ' if without else ''}{' and '.join(dict.fromkeys(without))}"
    return {**values, "event_time": None, "age": "now", "missing": dict.fromkeys(missing, why)}


def input_of(platform: "Platform", view: str, said: str) -> tuple[str, object]:
    """``amount=3.5`` as name and value: text for a column of text or of times, else JSON.

    Raises:
        InputError: It is not of that form, or no JSON.
    """
    import msgspec

    name, equals, text = said.partition("=")
    if not equals:
        raise InputError(f"'{said}' is no input.", "--input", "--input amount=3.5")
    known = platform.features.on_demand(view) is not None
    asked = [file.header.inputs.get(name) for file in platform.features.split([f"{view}.*"]).files] if known else []
    kinds = {one.type for one in asked if one is not None}
    if kinds & {"string", "timestamp"}:
        return name, text
    try:
        return name, msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise InputError(f"'{text}' is no JSON value.", "--input", f"--input {name}=3.5") from None
