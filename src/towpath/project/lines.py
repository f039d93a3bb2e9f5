"""On which line of a TOML file a key stands; the parser of the standard library does not say."""

import re
from bisect import bisect_right

__all__ = ["Lines", "Place"]

Place = tuple[str | int, ...]
"""``("fallback", 0, "name")``: keys of tables and positions in arrays."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRING = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'', re.DOTALL)
_PLAIN_VALUE = re.compile(r"[^,\]}#\n]*")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", re.DOTALL)
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b", '"': '"', "\\": "\\"}


class Lines:
    r"""The line of every key of a TOML text that is known to parse.

    Args:
        text: The TOML.
        first: The line of the file on which the text begins, for a header inside another file.

    Example:
        >>> lines = Lines("a = 1\n[b]\nc.d = 2\n[[e]]\nf = [\n  1,\n]\n")
        >>> lines.of(("b", "c", "d")), lines.of(("e", 0, "f", 0)), lines.of(("b", "missing"))
        (3, 6, 2)
    """

    def __init__(self, text: str, first: int = 1) -> None:
        self._text = text
        self._first = first
        self._at = 0
        self._breaks = [i for i, letter in enumerate(text) if letter == "\n"]
        self._found: dict[Place, int] = {}
        self._arrays: dict[Place, int] = {}
        self._read()

    def of(self, place: Place) -> int:
        """The line of a key; of the table around it where it is missing."""
        while place and place not in self._found:
            place = place[:-1]
        return self._found.get(place, self._first)

    def _read(self) -> None:
        table: Place = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text.startswith("[[", self._at):
                table = self._header(2)
            elif self._text[self._at] == "[":
                table = self._header(1)
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self, brackets: int) -> Place:
        start, self._at = self._at, self._at + brackets
        keys = self._keys()
        self._at += brackets
        place: Place = ()
        for position, key in enumerate(keys):
            place = (*place, key)
            self._note(place, start)
            if brackets == 2 and position == len(keys) - 1:  # noqa: PLR2004 - [[ ]]
                self._arrays[place] = self._arrays.get(place, -1) + 1
            if place in self._arrays:
                place = (*place, self._arrays[place])
                self._note(place, start)
        return place

    def _pair(self, table: Place) -> None:
        start, place = self._at, table
        for key in self._keys():
            place = (*place, key)
            self._note(place, start)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(place)

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._skip(_SPACE)
            quoted = self._text[self._at] in "\"'"
            match = (_STRING if quoted else _BARE_KEY).match(self._text, self._at)
            if match is None:  # only in a text that does not parse
                self._at = len(self._text)
                return keys
            keys.append(_unquoted(match[0]) if quoted else match[0])
            self._at = match.end()
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _value(self, place: Place) -> None:
        letter = self._text[self._at : self._at + 1]
        if letter == "[":
            self._inside("]", place, table=False)
        elif letter == "{":
            self._inside("}", place, table=True)
        else:
            match = _STRING.match(self._text, self._at) or _PLAIN_VALUE.match(self._text, self._at)
            self._at = match.end() if match else len(self._text)

    def _inside(self, close: str, place: Place, *, table: bool) -> None:
        """An array or an inline table, item by item."""
        self._at += 1
        position = 0
        self._skip(_BLANK)
        while self._at < len(self._text) and self._text[self._at] != close:
            if table:
                self._pair(place)
            else:
                self._note((*place, position), self._at)
                self._value((*place, position))
            position += 1
            self._skip(_BLANK)
            if self._text.startswith(",", self._at):
                self._at += 1
            self._skip(_BLANK)
        self._at += 1

    def _note(self, place: Place, at: int) -> None:
        self._found.setdefault(place, self._first + bisect_right(self._breaks, at - 1))

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at


def _unquoted(text: str) -> str:
    if text[0] == "'":
        return text[1:-1]
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m[1]) or chr(int(m[1][1:], 16)), text[1:-1])
