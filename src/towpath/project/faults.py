"""Turns parsed TOML into a frozen struct and names every fault on the way, not only the first."""

import re
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import msgspec

from towpath.errors import InputError, nearest
from towpath.project.declarations import Duration, FeatureName, Moment, SqlFeature
from towpath.project.lines import Lines, Place
from towpath.project.problem import Problem
from towpath.types import Digest, Name, duration, utc

__all__ = ["Declared"]


def _pattern(kind: object) -> str:
    return next(meta.pattern for meta in get_args(kind)[1:] if isinstance(meta, msgspec.Meta) and meta.pattern)


_PATTERNS = {
    _pattern(Duration): ("is no duration", "one number and one unit of us ms s m h d w, such as 30d"),
    _pattern(Moment): ("is no time", "a day or a time, such as 2011-09-01 or 2011-09-01T06:00Z"),
    _pattern(FeatureName): ("names no feature", "view.feature, view.* or project/view.feature, in lower case"),
    _pattern(SqlFeature): ("names no feature", "view.feature or project/view.feature, in lower case"),
    _pattern(Name): ("is no name", "lower case letters, digits and underscores, a letter first, at most 63"),
    _pattern(Digest): ("is no digest", "sha256: and 64 hexadecimal digits"),
}
_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}


class Declared:
    """What people declared in one file, and the problems found while it was read.

    Args:
        file: Path for messages, relative to the project folder.
        lines: Where each key stands.
        strict: False accepts ``"8080"`` for a number, as variables of the environment are written.
    """

    def __init__(self, file: str, lines: Lines, *, strict: bool = True) -> None:
        self.file = file
        self.lines = lines
        self.problems: list[Problem] = []
        self._strict = strict

    def note(self, place: Place, what: str, mend: str = "", *, warning: bool = False) -> None:
        """Add a problem at a key."""
        self.problems.append(Problem(self.file, self.lines.of(place), what, mend, warning))

    def note_at(self, line: int, what: str, mend: str = "") -> None:
        """Add a problem at a line of the file."""
        self.problems.append(Problem(self.file, line, what, mend))

    def read(self, kind: type[Any], raw: Mapping[str, object], place: Place = (), *, partial: bool = False) -> Any:
        """Make a struct of a table; a faulty key keeps its default, a missing required one is None.

        Such a value is only good for finding further problems: use it where `problems` stayed empty.

        Args:
            kind: The struct.
            raw: The parsed table.
            place: Where the table stands in its file.
            partial: Whether required keys may be missing, as in a table that is laid over another.
        """
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        for key in raw:
            if key not in fields:
                self.note((*place, key), f"unknown key '{key}'{_in(place)}", nearest(key, fields).removeprefix("; "))
        values: dict[str, object] = {}
        for name, field in fields.items():
            if name in raw:
                good, value = self._value(field.type, raw[name], (*place, name))
                if good or field.required:
                    values[field.name] = value
            elif field.required:
                values[field.name] = None
                if not partial:
                    self.note(place, f"missing key '{name}'{_in(place)}", f"{name} = {_example(field.type)}")
        return kind(**values)

    def _value(self, kind: Any, raw: object, place: Place) -> tuple[bool, Any]:
        """Whether the value is good, and what it became."""
        before = len(self.problems)
        inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        if _is_struct(inner) and isinstance(raw, Mapping):
            return True, self.read(inner, cast("Mapping[str, object]", raw), place)
        if get_origin(inner) is tuple and _is_struct(get_args(inner)[0]) and isinstance(raw, list):
            return True, self._structs(get_args(inner)[0], cast("list[object]", raw), place)
        if get_origin(inner) is dict and _is_struct(get_args(inner)[1]) and isinstance(raw, Mapping):
            table = cast("Mapping[str, object]", raw)
            return True, {
                name: self._value(get_args(inner)[1], item, (*place, name))[1] for name, item in table.items()
            }
        if get_origin(inner) is tuple and (items := _list(raw)):
            # Each item is looked at alone, so that the second wrong one is named too; a wrong one leaves None in its place.
            found = [self._leaf(get_args(inner)[0], item, (*place, i))[1] for i, item in enumerate(items)]
            if len(self.problems) > before:
                return True, tuple(found)
        return self._leaf(kind, raw, place)

    def _structs(self, kind: type, raw: Sequence[object], place: Place) -> tuple[object, ...]:
        found: list[object] = []
        for position, item in enumerate(raw):
            if isinstance(item, Mapping):
                found.append(self.read(kind, cast("Mapping[str, object]", item), (*place, position)))
            else:
                self.note((*place, position), f"{_path(place)}[{position}] is no table", "[[…]] or { name = … }")
        return tuple(found)

    def _leaf(self, kind: Any, raw: object, place: Place) -> tuple[bool, Any]:
        try:
            value = msgspec.convert(raw, kind, strict=self._strict)
            if value is not None and _is(kind, Duration):
                duration(str(value))
            if value is not None and _is(kind, Moment):
                utc(str(value))
        except msgspec.ValidationError as error:
            self.note(place, *_said(str(error), kind, raw, place))
            return False, None
        except InputError as error:
            self.note(place, f"{_path(place)}: {error.what.rstrip('.')}", error.mend)
            return False, None
        return True, value


def _list(raw: object) -> list[object]:
    return cast("list[object]", raw) if isinstance(raw, list) else []


def _said(message: str, kind: Any, raw: object, place: Place) -> tuple[str, str]:
    """What msgspec said, in the words of the one who wrote the file: the fault, and how to mend it."""
    message = message.split(" - at `", maxsplit=1)[0]
    shown = f"'{raw}'" if isinstance(raw, str) else _shown(raw)
    for pattern, (what, mend) in _PATTERNS.items():
        if repr(pattern) in message:
            return f"{_path(place)}: {shown} {what}", mend
    choices = _choices(kind)
    if message.startswith("Invalid enum value") and choices:
        near = nearest(str(raw), choices).removeprefix("; ")
        return (
            f"{_path(place)}: {shown} is none of {', '.join(choices)}",
            near if "mean" in near else "take one of them",
        )
    expected = message.removeprefix("Expected ").split(", got ")[0].replace(" | ", " or ").replace("`", "")
    expected = re.sub(r"\w+", lambda word: _WORDS.get(word[0], word[0]), expected).replace(" or nothing", "")
    return f"{_path(place)} = {shown}", f"expected {expected}"


def _shown(raw: object) -> str:
    if isinstance(raw, bool):
        return str(raw).lower()
    text = str(raw)
    return text if len(text) <= 60 else text[:57] + "…"  # noqa: PLR2004 - one line


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    if get_origin(kind) in {Annotated, Union, types.UnionType}:
        return [choice for part in get_args(kind) for choice in _choices(part)]
    return []


def _is(kind: Any, named: object) -> bool:
    return kind == named or named in get_args(kind)


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _example(kind: object) -> str:
    inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if _is_struct(inner):
        return "{ … }"
    return "[…]" if get_origin(inner) is tuple else '"…"'


def _in(place: Place) -> str:
    return f" in [{_path(place)}]" if place else ""


def _path(place: Place) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")
