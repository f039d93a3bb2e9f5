"""Reads of the online store on the side of a project: many keys at once, or one row with what it lacks and why."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import msgspec

from towpath.errors import InputError
from towpath.features import OnlineReader
from towpath.features.builds import build_state
from towpath.features.keys import key_column, key_part
from towpath.platform import on_demand
from towpath.types import duration, micros, type_name

if TYPE_CHECKING:
    import numpy as np

    from towpath.features import OnlineRows, Split
    from towpath.platform.opened import Platform

__all__ = ["OnlineReads"]

_FOREVER_US = 2**62


class OnlineReads:
    """The online rows of a project's features.

    Args:
        platform: Whose.
    """

    def __init__(self, platform: "Platform") -> None:
        self._platform = platform
        self._readers: dict[tuple[str, ...], OnlineReader] = {}

    def forget(self) -> None:
        """Let the next read look anew where rows are; it would look a second longer where they were before."""
        self._readers.clear()

    def get(self, view: str, key: Sequence[object], inputs: Mapping[str, object]) -> dict[str, object]:
        """One row; see `Features.get`."""
        from towpath.platform.answering import age_text

        if self._platform.features.on_demand(view) is not None:
            return on_demand.get(self._platform, view, key, inputs)
        if inputs:
            raise InputError(f"'{view}' reads no column of the request.", mend="leave --input out")
        described = self._platform.features.view(view)
        if len(key) != len(described.header.keys):
            raise InputError(
                f"'{view}' is keyed by {', '.join(described.header.keys)}; {len(key)} part(s) were given.",
                mend="--key once for each column, in that order",
            )
        for name, part, kind in zip(described.header.keys, key, described.key_types or (), strict=False):
            if key_part(part, kind) is None:
                raise InputError(f"The key '{name}' is {part!r}, which is no {type_name(kind)}.", described.place(name))
        keys = {name: [part] for name, part in zip(described.header.keys, key, strict=True)}
        now_us = micros(self._platform.now())
        found = self._glanced(view, keys, now_us, ageless=False)
        event_us = next(iter(found.event_us.values())).item()
        gone = "no row for this key"
        if event_us < 0 and build_state(self._platform.online_glance, described.table) is None:
            never = f"it is never online: online = false in {described.place('online')}"
            gone = f"nothing of it is online yet: tow features build {view}" if described.header.online else never
        hidden = False
        if event_us < 0:
            whenever = self._glanced(view, keys, _FOREVER_US, ageless=True)
            event_us = next(iter(whenever.event_us.values())).item()
            hidden = event_us >= 0
        if hidden:
            ttl = described.header.ttl
            old = ttl is not None and now_us - event_us > duration(ttl) / timedelta(microseconds=1)
            gone = (
                f"expired: older than the ttl of {ttl}" if old else "its row became known later than the moment asked"
            )
        event = None if event_us < 0 else datetime.fromtimestamp(event_us / 1e6, tz=UTC)
        return {
            **{name: _plain(values) for name, values in found.columns.items()},
            "event_time": event,
            "age": age_text(now_us, event_us),
            "missing": dict.fromkeys(found.missing[0], gone if event is None or hidden else "null in the row"),
        }

    def read(
        self, features: Sequence[str], keys: Mapping[str, object], inputs: Mapping[str, object]
    ) -> "dict[str, np.ndarray]":
        """Columns of many rows; see `Features.read`."""
        columns, count = _broadcast(keys)
        reader = self._readers.get(tuple(features))
        if reader is None:
            asked = self._platform.features.split(features)
            if asked.files:
                return self._computed(asked, keys, inputs)
            reader = self._reader(features)
        if not reader.keys <= keys.keys():
            raise _without_key(reader.keys, keys)
        if inputs:
            raise InputError(f"No feature that was asked for reads '{next(iter(inputs))}'.", mend="leave inputs out")
        return reader.columns(columns, count, micros(self._platform.now()))

    def _reader(self, features: Sequence[str]) -> OnlineReader:
        """Made once for a list of features: sorting them by view took as long as reading them."""
        asked = tuple(features)
        if asked not in self._readers:
            own = self._platform.settings.project.name
            self._readers[asked] = OnlineReader(self._platform.online, self._platform.features.locks(asked), own)
        return self._readers[asked]

    def _computed(
        self, asked: "Split", keys: Mapping[str, object], inputs: Mapping[str, object]
    ) -> "dict[str, np.ndarray]":
        """Of a read that asks for on-demand features too."""
        wanted = frozenset(
            key for view in self._platform.features.views_of(asked.features).values() for key in view.header.keys
        )
        if not wanted <= keys.keys():
            raise _without_key(wanted, keys)
        given = {name: f"input {name}" for name in inputs}
        columns, _ = _broadcast({**keys, **{called: inputs[name] for name, called in given.items()}})
        return on_demand.read(
            self._platform,
            asked,
            {name: columns[name] for name in keys},
            {name: columns[called] for name, called in given.items()},
        )

    def _glanced(self, view: str, keys: Mapping[str, Sequence[object]], now_us: int, *, ageless: bool) -> "OnlineRows":
        """One row for somebody who waits for it; whatever its age, where that is asked for."""
        platform = self._platform
        locks = platform.features.locks([f"{view}.*"])
        if ageless:
            locks = tuple(msgspec.structs.replace(kept, ttl_us=None) for kept in locks)
        return OnlineReader(platform.online_glance, locks, platform.settings.project.name).read(keys, 1, now_us)


def _plain(values: "np.ndarray") -> object:
    """The first value as Python has it; what is no number is none."""
    (value,) = values[:1].tolist()
    return None if value != value else value  # noqa: PLR0124 - NaN and NaT


def _broadcast(keys: Mapping[str, object]) -> tuple[Mapping[str, Sequence[object]], int]:
    """Key columns of one length, and that length: one value stands for all rows."""
    if len(keys) == 1:
        (only,) = keys.values()
        if type(only) is list:
            return cast("dict[str, Sequence[object]]", keys), len(cast("Sequence[object]", only))
    given = {name: key_column(name, value) for name, value in keys.items()}
    single = {name: value for name, (alone, value) in given.items() if alone}
    columns = {name: cast("Sequence[object]", value) for name, (alone, value) in given.items() if not alone}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        said = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise InputError(f"Key columns are of different lengths: {said}.", mend="one value a row, or one for all rows")
    count = lengths.pop() if lengths else 1
    return {name: [single[name]] * count if name in single else columns[name] for name in keys}, count


def _without_key(wanted: frozenset[str], keys: Mapping[str, object]) -> InputError:
    """A server reads such a view as one without rows; a person has misspelt its key."""
    missing = min(wanted - keys.keys())
    spare = sorted(keys.keys() - wanted)
    return InputError(
        f"The key '{missing}' is not among the keys{f', which have {spare[0]!r}' if spare else ''}.",
        mend=f"give {{'{missing}': [...]}}, one value a row",
    )
