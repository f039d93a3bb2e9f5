"""How the platform's objects look in a notebook and at a prompt: small tables, escaped, and never an exception."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from html import escape

from towpath.errors import TowpathError

__all__ = ["as_html", "as_text", "or_the_fault"]

Row = Mapping[str, object]
_MOST_ROWS = 50


def as_text(title: str, rows: Sequence[Row]) -> str:
    """A title and one aligned line for each row, as `repr` prints it.

    Args:
        title: Stands above.
        rows: Column → value, all with the same columns; none gives the title alone.

    Example:
        >>> print(as_text("Models", [{"model": "demand", "champion": 3}, {"model": "churn", "champion": None}]))
        Models
          model   champion
          demand  3
          churn   -
    """
    if not rows:
        return title
    table = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows[:_MOST_ROWS])]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([title, *(f"  {line}" for line in lines), *(f"  … {n} more" for n in _more(rows))])


def as_html(title: str, rows: Sequence[Row], *, empty: str = "Nothing yet.") -> str:
    """The same as an HTML table with a caption; everything that comes from people is escaped.

    Args:
        title: The caption.
        rows: Column → value, all with the same columns.
        empty: Stands there without rows.

    Example:
        >>> as_html("Models", [{"model": "<b>"}])
        '<table><caption>Models</caption><thead><tr><th>model</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    caption = f"<caption>{escape(title)}</caption>"
    if not rows:
        return f"<table>{caption}<tbody><tr><td>{escape(empty)}</td></tr></tbody></table>"
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    lines = [[_cell(value) for value in row.values()] for row in rows[:_MOST_ROWS]]
    lines += [[f"… {n} more", *[""] * (len(rows[0]) - 1)] for n in _more(rows)]
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def or_the_fault(shown: Callable[[], str], *, html: bool = False) -> str:
    """What `shown` gives, or what is wrong: a notebook that shows an object must not fail because a project has a fault."""
    try:
        return shown()
    except TowpathError as error:
        return f"<pre>{escape(str(error))}</pre>" if html else str(error)


def _more(rows: Sequence[Row]) -> list[int]:
    return [len(rows) - _MOST_ROWS] if len(rows) > _MOST_ROWS else []


def _cell(value: object) -> str:
    match value:
        case None | "" | ():
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M}"
        case tuple():
            return _cell(", ".join(str(part) for part in value))
        case _:
            return " ".join(str(value).split()) or "-"
