"""What a driver says, in our words: who acts next, what was said, and in which file; never with a password."""

import re
from typing import NoReturn
from urllib.parse import unquote, urlsplit

import msgspec

from towpath.errors import ProjectError, ResourceError, UnavailableError
from towpath.settings import masked
from towpath.sql import Query

__all__ = ["Faults", "address", "line_in", "raise_ours"]


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine says things."""

    door: re.Pattern[str]
    """It does not let us in."""
    away: re.Pattern[str]
    """It does not answer."""
    spent: re.Pattern[str]
    """It gave up."""
    mends: tuple[tuple[re.Pattern[str], str], ...]
    """What it refuses, and how to mend that."""


def address(url: str) -> str:
    """The URL for people: without a password, and without its query, which may hold a key.

    Example:
        >>> address("snowflake://app:hunter2@acme/shop/marts?token=abc")
        'snowflake://app:***@acme/shop/marts'
    """
    return masked(url.partition("?")[0])


def raise_ours(error: Exception, asked: Query | str, url: str, faults: Faults, *, secret_url: str = "") -> NoReturn:
    """Turn what a driver raised into ours.

    Args:
        error: Of the driver.
        asked: The file, or a statement of ours.
        url: For people.
        faults: How the engine says things.
        secret_url: What is in it as password or query value is blanked.

    Raises:
        ProjectError: The SQL, a right or the address is wrong.
        ResourceError: The engine has not enough memory or time, or cancelled the statement.
        UnavailableError: The engine is away.
    """
    said = _blanked(_said(error), secret_url)
    where = asked.path if isinstance(asked, Query) else url
    if faults.door.search(said):
        raise ProjectError(f"The warehouse does not let us in: {said}", url, "mend warehouse.url") from error
    if faults.away.search(said):
        raise UnavailableError(
            f"The warehouse does not answer: {said}", url, "check the address and the network"
        ) from error
    if getattr(error, "sqlstate", None) == "57014" or faults.spent.search(said):
        raise ResourceError(
            f"The warehouse gave up: {said}", where, "ask for less, or give it more memory, quota or time"
        ) from error
    mend = next((mend for words, mend in faults.mends if words.search(said)), "mend the SQL or the table")
    line = line_in(asked, said) if isinstance(asked, Query) else None
    raise ProjectError(f"The warehouse refuses: {said}", f"{where}:{line}" if line else where, mend) from error


def _said(error: Exception) -> str:
    text = str(error).split("\nLINE ", maxsplit=1)[0]
    text = re.sub(r"^[A-Z_]+: \[\w+\] ", "", text)
    text = re.sub(r"^(\d{6} \(\w+\): )+", "", text).split(" Vendor code:", maxsplit=1)[0]
    return " ".join(text.split()) or type(error).__name__


def _blanked(said: str, secret_url: str) -> str:
    parts = urlsplit(secret_url)
    values = [parts.password or "", *(pair.partition("=")[2] for pair in parts.query.split("&"))]
    for value in sorted({*values, *map(unquote, values)}, key=len, reverse=True):
        if len(value) > 5:  # noqa: PLR2004 - shorter ones are words such as http, and numbers
            said = said.replace(value, "***")
    if parts.password and len(parts.password) <= 5:  # noqa: PLR2004 - as above
        said = said.replace(f":{parts.password}@", ":***@")
    return said


def line_in(query: Query, said: str) -> int | None:
    """The line of the file with the first name that the engine speaks of: in quotes, or after ``with name``."""
    for word in re.findall(r"(?:with name |['\"`])([^'\"`\s]+)", said):
        if (line := query.line_of(word.rpartition(".")[2])) is not None:
            return line
    return None
