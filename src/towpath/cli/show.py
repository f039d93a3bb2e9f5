"""What a command found: a table for people, JSON with ``--json`` or ``TOWPATH_OUTPUT=json``, the same through a pipe."""

import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import click
import msgspec

from towpath.errors import InputError, nearest
from towpath.types import duration_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["as_json_asked", "show", "working"]

_WRAPS = 16  # columns into which a longer text is wrapped
_WIDE = 10_000  # columns of a pipe, so that nothing is cut or wrapped there
_NONE = "-"
_FEW = 4  # pairs that still read well on one line
_WHOLE = 9_999.5  # from here on four digits would take an exponent, which people do not read


def show(value: object, *, as_json: bool | None = None, title: str = "", empty: str = "Nothing.") -> None:
    """Print a value to stdout.

    Args:
        value: A text; a struct, a mapping, or a sequence of either; an Arrow table; a number, a time, None.
        as_json: Whether JSON is asked for; from ``--json`` and ``TOWPATH_OUTPUT`` unless given.
        title: Stands above a table; not in JSON.
        empty: What people read where a sequence has no rows; JSON has ``[]``.

    Raises:
        InputError: ``TOWPATH_OUTPUT`` is neither json nor table.
    """
    plain = _plain(value)
    if as_json_asked() if as_json is None else as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(plain), indent=2).decode())
    elif isinstance(plain, str):
        click.echo(plain)
    elif isinstance(plain, list) and not plain:
        click.echo(empty)
    elif sys.stdout.isatty():
        console = _console(sys.stdout)
        if isinstance(plain, list) and not _fits(cast("list[object]", plain), console.width):
            for item in cast("list[object]", plain):
                console.print(_drawn(item, title))
                console.print()
        else:
            console.print(_drawn(plain, title))
    else:  # the same table; rich pads each line to the table's width, which a pipe has no use for
        console = _console(sys.stdout)
        with console.capture() as drawn:
            console.print(_drawn(plain, title))
        click.echo("\n".join(line.rstrip() for line in drawn.get().splitlines()))


def as_json_asked() -> bool:
    """Whether ``--json`` was given, else what ``TOWPATH_OUTPUT`` says.

    Raises:
        InputError: It says neither json nor table.
    """
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get("towpath.json"):
        return True
    wanted = os.environ.get("TOWPATH_OUTPUT", "table")
    if wanted not in {"json", "table"}:
        raise InputError(f"TOWPATH_OUTPUT is '{wanted}'{nearest(wanted, ['json', 'table'])}.", mend="json or table")
    return wanted == "json"


@contextmanager
def working(what: str) -> Generator[Callable[[str], None]]:
    """Show on stderr that something goes on, where a person watches; a pipe or a log sees nothing.

    Args:
        what: In the words of the one who waits, such as ``training demand``.

    Yields:
        A function that says how far it is.
    """
    if not sys.stderr.isatty() or as_json_asked():
        yield lambda _: None
        return
    with _console(sys.stderr).status(what) as status:
        yield lambda said: status.update(f"{what}: {said}")


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    width = None if stream.isatty() else _WIDE
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def _plain(value: Any) -> Any:
    """Only what JSON has: texts, numbers, lists and mappings with texts as keys."""
    if value is None or type(value) in {str, bool, int, float}:
        return value
    if isinstance(value, timedelta):
        return duration_text(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, msgspec.Struct):
        # not `msgspec.structs.fields`: it looks at the types, and some stand behind TYPE_CHECKING
        names = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
        return {said: _plain(getattr(value, name)) for said, name in names}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast("Mapping[object, object]", value).items()}
    if hasattr(value, "to_pylist"):  # Arrow
        return _plain(value.to_pylist())
    if hasattr(value, "tolist"):  # NumPy
        return _plain(value.tolist())
    if isinstance(value, Sequence | set | frozenset):
        return [_plain(item) for item in cast("Sequence[object]", value)]
    return str(value)


def _drawn(plain: Any, title: str) -> "Table | str":
    from rich.table import Table
    from rich.text import Text

    if isinstance(plain, Mapping):
        pairs = cast("Mapping[str, object]", plain)
        table = Table(box=None, show_header=False, pad_edge=False, title=title or None, title_justify="left")
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, item in pairs.items():
            table.add_row(Text(name), Text(_lines(item)))
        return table
    if not isinstance(plain, list):
        return _cell(plain)
    items = cast("list[object]", plain)
    rows = [cast("Mapping[str, object]", item) if isinstance(item, Mapping) else {"value": item} for item in items]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(box=None, pad_edge=False, header_style="bold", title=title or None, title_justify="left")
    for name in names:
        number = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name))) for name in names))
    return table


def _fits(items: list[object], width: int) -> bool:
    """Whether a table has room for each of its columns; where it has none, a row is a record of its own."""
    needed: dict[str, int] = {}
    for item in items:
        row = cast("Mapping[str, object]", item) if isinstance(item, Mapping) else {"value": item}
        for name, value in row.items():
            text = _cell(value)
            # a long text may wrap, a number or a name may not
            needed[name] = max(
                needed.get(name, len(name)), min(len(text), max(_WRAPS, *map(len, text.split() or [""])))
            )
    return sum(needed.values()) + len(needed) - 1 <= width


def _lines(item: Any) -> str:
    """One value of a record: rows within it go one a line."""
    parts = cast("list[object]", item) if isinstance(item, list) else []
    if any(isinstance(part, Mapping) for part in parts):
        return "\n".join(_cell(part) for part in parts)
    if isinstance(item, Mapping) and len(cast("Mapping[str, object]", item)) > _FEW:
        return "\n".join(f"{name} {_cell(value)}" for name, value in cast("Mapping[str, object]", item).items())
    return _cell(item)


def _cell(item: Any) -> str:
    if item is None:
        return _NONE
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, float):
        return f"{item:.4g}" if abs(item) < _WHOLE else f"{item:.0f}"
    if isinstance(item, Mapping):
        pairs = cast("Mapping[str, object]", item)
        return ", ".join(f"{name} {_cell(value)}" for name, value in pairs.items()) or _NONE
    if isinstance(item, list):
        return ", ".join(_cell(part) for part in cast("list[object]", item)) or _NONE
    return _moment(str(item))


def _moment(text: str) -> str:
    """A time without what nobody reads: 2011-09-01T00:00:00+00:00 is 2011-09-01 00:00."""
    try:
        at = datetime.fromisoformat(text) if text[10:11] == "T" else None
    except ValueError:
        return text
    if at is None or at.tzinfo is None:
        return text
    return at.strftime("%Y-%m-%d %H:%M:%S").removesuffix(":00")
