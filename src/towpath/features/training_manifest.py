"""What a training set was made of: enough to prove that the same call gives the same rows, or to say why it does not."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from towpath.clock import SystemClock
from towpath.errors import FormatError, InputError
from towpath.features.due import may_change_unseen
from towpath.features.views import View
from towpath.types import micros
from towpath.warehouse import AsOf, Snapshots, TableState

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.warehouse import Warehouse

__all__ = [
    "BLOCK_ROWS",
    "FunctionRead",
    "SpineDigest",
    "TrainingSetManifest",
    "ViewRead",
    "manifest_of",
    "merged",
    "tables_read",
    "with_manifest",
]

SCHEMA = 1
BLOCK_ROWS = 65_536
"""A spine is digested in blocks of so many rows, so that it need not be in memory at once."""
_KEY = b"towpath"
_NAMES = {
    "spine_digest": "the spine",
    "as_of": "as_of",
    "features": "the features asked for",
    "time": "the time column",
    "keys": "the key columns",
}


class ViewRead(msgspec.Struct, frozen=True, kw_only=True):
    """One view as it was joined."""

    view: str
    """As it was called; ``project/view`` for another project's."""
    fingerprint: str
    """Of SQL, keys, times and types."""
    ttl: str | None = None
    """How old a value might be."""
    null_keys: int = 0
    """Rows of the spine whose key of this view has a null part, so that nothing matched."""
    tables: tuple[str, ...] = ()
    """What its SQL reads; the fingerprint knows it already, and the digest leaves it out."""


class FunctionRead(msgspec.Struct, frozen=True, kw_only=True):
    """One on-demand file as it was computed."""

    view: str
    """Its name."""
    digest: str
    """Of its code with the project's modules that it imports, and of the defaults that it saw."""


class TrainingSetManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Stands in the metadata of a training set, in memory as in Parquet, under the key ``towpath``."""

    schema: int = SCHEMA
    rows: int
    """Of the spine, and so of the training set."""
    null_times: int
    """Rows without a moment; nothing matched them."""
    keys: tuple[str, ...]
    """Key columns of the spine."""
    time: str
    """Its column with the moment of prediction."""
    as_of: AsOf
    """``known``, or ``event``."""
    features: tuple[str, ...]
    """Columns that were added, in order."""
    spine_digest: str
    """Of the spine's columns, names, types and rows in their order; how it was chunked does not matter."""
    views: tuple[ViewRead, ...]
    """In the order in which they were joined."""
    functions: tuple[FunctionRead, ...] = ()
    """On-demand files, in the order in which they were called."""
    parameters: dict[str, str] = {}
    """What the views' SQL names, such as ``as_of``; those of the spine show in its digest."""
    tables: tuple[TableState, ...] = ()
    """What was read: the tables of all views, by name, with the state of their files."""
    unproved: tuple[str, ...] = ()
    """Tables whose state the engine cannot tell, or that changed while they were read."""

    @property
    def digest(self) -> str:
        """One digest of everything that decides the rows."""
        proved = msgspec.to_builtins(msgspec.structs.replace(self, unproved=()))
        for view in proved["views"]:
            del view["tables"]
        return "sha256:" + hashlib.sha256(msgspec.json.encode(proved)).hexdigest()

    def same_as(self, other: "TrainingSetManifest") -> bool:
        """Whether both stand for the same rows, proved: nothing differs, and each table could tell its state."""
        return self.digest == other.digest and not self.unproved and not other.unproved

    def differences(self, other: "TrainingSetManifest") -> tuple[str, ...]:
        """What differs, in words; empty where nothing does.

        Example:
            >>> one = TrainingSetManifest(
            ...     rows=1, null_times=0, keys=("id",), time="t", as_of="known", features=(), spine_digest="a", views=()
            ... )
            >>> one.differences(msgspec.structs.replace(one, spine_digest="b"))
            ('the spine',)
        """
        found = [words for name, words in _NAMES.items() if getattr(self, name) != getattr(other, name)]
        found += _differing("the view", _forms(self.views), _forms(other.views))
        found += _differing("the function", _by_name(self.functions), _by_name(other.functions))
        found += _differing("the parameter", self.parameters, other.parameters)
        read_by = [(table, view.view) for view in (*self.views, *other.views) for table in view.tables]
        for name in _names_differing(_by_name(self.tables), _by_name(other.tables)):
            views = [f"'{view}'" for view in dict.fromkeys(view for table, view in read_by if table == name)]
            readers = f", which {' and '.join(views)} read{'s' if len(views) == 1 else ''}" if views else ""
            found.append(f"the table '{name}'{readers}")
        return tuple(found)


class SpineDigest:
    """A digest of rows that come in pieces; all but the last must have a multiple of `BLOCK_ROWS` rows.

    Values count and not how Arrow holds them: chunks, dictionaries, offsets and what lies under a null leave no mark.

    Example:
        >>> import pyarrow as pa
        >>> whole, chunked = SpineDigest(), SpineDigest()
        >>> whole.add(pa.table({"id": [1, None, 3]}))
        >>> chunked.add(pa.table({"id": pa.chunked_array([[1], [None, 3]])}))
        >>> whole.text == chunked.text
        True
    """

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self._begun = False

    def add(self, table: "pa.Table") -> None:
        """Take the next rows."""
        plain = [_plain(table.column(i)) for i in range(table.num_columns)]
        if not self._begun:
            heads = [(name, str(column.type)) for name, column in zip(table.column_names, plain, strict=True)]
            self._sha.update(msgspec.json.encode(heads))
            self._begun = True
        for start in range(0, table.num_rows, BLOCK_ROWS):
            for column in plain:
                self._add(column.slice(start, BLOCK_ROWS))

    @property
    def text(self) -> str:
        """``sha256:…`` of what was taken so far."""
        return "sha256:" + self._sha.hexdigest()

    def _add(self, column: "pa.ChunkedArray") -> None:
        import pyarrow as pa

        there = column.is_valid().cast(pa.uint8())
        for each in (there, column.drop_null()):
            batch = pa.record_batch([pa.concat_arrays(each.chunks) if each.chunks else pa.nulls(0, each.type)], ["v"])
            self._sha.update(batch.serialize())


def tables_read(warehouse: "Warehouse", views: Iterable[View]) -> tuple[dict[str, TableState], set[str]]:
    """The state of all tables that views read, by name; and the tables of which it says nothing, or nothing sure yet.

    Args:
        warehouse: Where they are.
        views: Which read them.

    Raises:
        ProjectError: There is no such table.
    """
    states: dict[str, TableState] = {}
    unknown = set[str]()
    now_ns = micros(SystemClock().now()) * 1_000
    for view in views:
        found = warehouse.snapshot(view.query) if isinstance(warehouse, Snapshots) else None
        if found is None:
            unknown |= set(view.query.tables)
            continue
        for state in found:
            states[state.table] = state
            if any(may_change_unseen(ns, now_ns) for _, _, ns in state.files):
                unknown.add(state.table)
    return states, unknown


def merged(manifests: Sequence[TrainingSetManifest], spine_digest: str) -> TrainingSetManifest:
    """One manifest for all pieces of a spine.

    Args:
        manifests: Of the pieces, at least one.
        spine_digest: Of the whole spine.
    """
    first = manifests[0]
    changed = {
        state.table for other in manifests for state in other.tables if state not in first.tables
    }  # between two pieces
    return msgspec.structs.replace(
        first,
        rows=sum(one.rows for one in manifests),
        null_times=sum(one.null_times for one in manifests),
        spine_digest=spine_digest,
        views=tuple(
            msgspec.structs.replace(view, null_keys=sum(one.views[i].null_keys for one in manifests))
            for i, view in enumerate(first.views)
        ),
        unproved=tuple(sorted(changed.union(*(one.unproved for one in manifests)))),
    )


def with_manifest(table: "pa.Table", manifest: TrainingSetManifest) -> "pa.Table":
    """The table with a manifest in its schema's metadata, beside what is there.

    Args:
        table: A training set.
        manifest: Takes the place of the one that it has.
    """
    return table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: msgspec.json.encode(manifest)})


def manifest_of(source: "pa.Table | Path | str") -> TrainingSetManifest:
    """The manifest of a training set.

    Args:
        source: The table, or the Parquet file that it was written to.

    Raises:
        InputError: It has none: it is no training set, or lost its metadata on the way.
        FormatError: What stands there is no manifest.
    """
    import pyarrow as pa

    if not isinstance(source, Path | str):
        where, metadata = "", source.schema.metadata
    else:
        import pyarrow.parquet as pq

        where = str(source)
        try:
            metadata = pq.read_metadata(source).metadata
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"'{source}' cannot be read as Parquet: {error}.", where) from error
    data = (metadata or {}).get(_KEY)
    if data is None:
        raise InputError(
            "There is no manifest of a training set in the metadata.",
            where,
            "ask the table as it came, or the file by its path",
        )
    try:
        return msgspec.json.decode(data, type=TrainingSetManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"The metadata 'towpath' is no manifest of a training set: {error}.", where) from error


def _plain(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """In a form in which equal values are equal bytes."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.uint8()) if pa.types.is_boolean(column.type) else column


def _forms(views: Sequence[ViewRead]) -> dict[str, object]:
    """Without the rows that lacked a key: these are the spine's."""
    return {view.view: (view.fingerprint, view.ttl) for view in views}


def _by_name(values: Sequence[FunctionRead] | Sequence[TableState]) -> dict[str, object]:
    return {value.table if isinstance(value, TableState) else value.view: value for value in values}


def _differing(kind: str, one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    return [f"{kind} '{name}'" for name in _names_differing(one, other)]


def _names_differing(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
