"""``sources.toml``: what a project expects of the tables that it reads and does not own."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from towpath.errors import nearest
from towpath.project.cron import cron_fault
from towpath.project.declarations import Column, Duration
from towpath.project.faults import Declared

if TYPE_CHECKING:
    from towpath.project.folder import Reading

__all__ = ["FILE", "KINDS", "SourceDeclaration", "VolumeDeclaration", "kind_of", "read_sources", "unread_sources"]

FILE = "sources.toml"
KINDS = ("text", "integer", "number", "boolean", "time", "date", "other")
"""What a column may be expected to be, in words that hold for every engine."""
_NUMBERS = ("halffloat", "float", "double", "decimal")
_ARROW = (
    "string",
    "bool",
    "int",
    "uint",
    *_NUMBERS,
    "timestamp",
    "date32",
    "date64",
    "binary",
    "list",
    "struct",
    "map",
)


class VolumeDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many rows land on a day, in UTC; looked at for the newest whole day on which any landed."""

    at_least: Annotated[int, Meta(ge=0)] | None = None
    """Fewer rows on a day are an illness."""
    at_most: Annotated[int, Meta(ge=0)] | None = None
    """More rows on a day are an illness."""


class SourceDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table ``["schema.table"]`` of ``sources.toml``; everything that is left out is not looked at."""

    owner: str = ""
    """Who answers for the table, and is named where it is ill."""
    description: str = ""
    """For people."""
    landed_at: Column | None = None
    """The column that says when a row landed; the time of the newest file unless given."""
    freshness: Duration | None = None
    """How long ago the newest row may have landed."""
    lands: str | None = None
    """When rows land, as a cron line in UTC; for views that do not say it themselves by a ``created_time``."""
    volume: VolumeDeclaration = VolumeDeclaration()
    """How many rows land on a day; needs ``landed_at``."""
    columns: dict[str, str] = {}
    """Column → text, integer, number, boolean, time, date or other, or an exact Arrow type such as ``int32``. Columns that
    are not named may come and go."""

    @property
    def asks_for_volume(self) -> bool:
        """Whether a number of rows a day is expected."""
        return self.volume.at_least is not None or self.volume.at_most is not None


def kind_of(arrow_type: str) -> str:
    """The kind of a column by Arrow's name for its type.

    Example:
        >>> [kind_of(name) for name in ("int32", "decimal128(18, 2)", "timestamp[us, tz=UTC]", "list<item: int64>")]
        ['integer', 'number', 'time', 'other']
    """
    name = arrow_type.lower()
    if name.startswith(("list", "large_list", "struct", "map")):
        return "other"
    kinds = {
        "text": ("string", "large_string", "utf8"),
        "integer": ("int8", "int16", "int32", "int64", "uint"),
        "number": _NUMBERS,
        "boolean": ("bool",),
        "time": ("timestamp",),
        "date": ("date",),
    }
    return next((kind for kind, starts in kinds.items() if name.startswith(starts)), "other")


def read_sources(raw: Mapping[str, object], declared: Declared) -> dict[str, SourceDeclaration]:
    """Sources by table, and every fault noted at its line.

    Args:
        raw: The parsed file.
        declared: Where its keys stand, and where faults go.
    """
    found: dict[str, SourceDeclaration] = {}
    for table, values in raw.items():
        if not isinstance(values, Mapping):
            declared.note((table,), f"'{table}' is no table", '["schema.table"] and keys below it')
        elif values and all(isinstance(value, Mapping) for value in values.values()) and not _known(values):
            # [sales.lines] without quotes is a table within a table.
            inner = next(iter(values))
            declared.note((table,), f"'{table}' holds no key of a source", f'write ["{table}.{inner}"] with quotes')
        else:
            source = declared.read(SourceDeclaration, values, (table,))
            _check(table, source, declared)
            found[table] = source
    return found


def unread_sources(reading: "Reading", tables: Mapping[str, object]) -> None:
    """Warn of a declared source that no SQL of the project reads, with the nearest table that is read.

    Args:
        reading: With the sources and where they stand.
        tables: The tables that views, spines and inputs of monitors read.
    """
    for table in reading.sources:
        if table not in tables:
            said = f"no view, training.sql or monitor reads '{table}'"
            reading.places[FILE].note((table,), said, nearest(table, tables).removeprefix("; "), warning=True)


def _known(values: Mapping[str, object]) -> bool:
    names = {field.encode_name for field in msgspec.structs.fields(SourceDeclaration)}
    return any(name in names for name in values)


def _check(table: str, source: SourceDeclaration, declared: Declared) -> None:
    volume: Any = source.volume
    if volume.at_least is not None and volume.at_most is not None and volume.at_least > volume.at_most:
        said = f"'{table}' is to have at least {volume.at_least} and at most {volume.at_most} rows a day"
        declared.note((table, "volume", "at_most"), said, "at_most is the greater one")
    if source.asks_for_volume and source.landed_at is None:
        mend = 'landed_at = "…", the column that says when a row landed'
        declared.note((table, "volume"), f"the volume of '{table}' cannot be counted by day", mend)
    if source.lands is not None and (fault := cron_fault(source.lands)):
        mend = 'minute hour day month weekday, such as "10 6 * * *"'
        declared.note((table, "lands"), f"'{source.lands}' is no cron line: {fault}", mend)
    for name, kind in source.columns.items():
        if not isinstance(kind, str):  # pyright: ignore[reportUnnecessaryIsInstance] - faulty, and reported where it was read
            continue
        if kind not in KINDS and not kind.startswith(_ARROW):
            near = nearest(kind, KINDS).removeprefix("; ")
            mend = near if "mean" in near else f"one of {', '.join(KINDS)}"
            declared.note((table, "columns", name), f"'{kind}' is no kind of column", mend)
    if source.landed_at and source.columns and source.landed_at not in source.columns:
        near = nearest(source.landed_at, source.columns).removeprefix("; ")
        mend = near if "mean" in near else f'columns.{source.landed_at} = "time"'
        declared.note((table, "landed_at"), f"landed_at '{source.landed_at}' is none of the columns", mend)
