"""What goes over the socket to a model's process: a header, then arrays as raw bytes; nothing that runs when it is read.

Numbers, truth values and times cross as they lie in memory; text, bytes and lists as MessagePack.
"""

import contextlib
import re
import select
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from towpath.errors import FormatError, ModelError
from towpath.models.columns import Columns, Matrix
from towpath.models.manifest import Manifest, Signature
from towpath.types import OutputKind

__all__ = [
    "MOST_BYTES",
    "Channel",
    "Fault",
    "Loaded",
    "Message",
    "Opening",
    "Part",
    "arrays_of",
    "columns_of",
    "parts_of",
]

MOST_BYTES = 1 << 30
"""Of one frame; beyond it whoever sent it is not believed."""
_MAGIC = 0x31_50_57_54
_HEAD = struct.Struct("<IIQ")
_ROOM = 1 << 16
_PIECES = 512
"""Buffers that are handed to the system at once; it takes 1,024 at the most."""
_KINDS = {kind: np.dtype(kind) for kind in ("<f8", "<f4", "<i8", "|b1")}
"""Those that cross most often."""
_RAW = re.compile(r"[<>|=][fiubMm][0-9]{1,2}(\[[0-9]{0,4}(us|ns|ms|s|m|h|D|W|M|Y)\])?")


class Part(msgspec.Struct, frozen=True, array_like=True):
    """One array: its bytes follow the header, unless its values stand in it."""

    name: str
    dtype: str
    """Numpy's, or ``O`` for text, bytes and lists."""
    shape: tuple[int, ...]
    values: list[Any] | None = None


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """An error of ours, by the name of its class."""

    kind: str
    what: str
    where: str = ""
    mend: str = ""


class Message(msgspec.Struct, frozen=True, array_like=True):
    """One question, or the answer to it."""

    kind: str
    """``hello open load predict fallback`` or, of an answer, ``ok`` or ``fault``."""
    number: int = 0
    """Of the question; its answer repeats it."""
    name: str = ""
    """Of a function."""
    matrix: bool = False
    """Whether the first part is all inputs of the model side by side, in their order."""
    parts: tuple[Part, ...] = ()
    said: msgspec.Raw = msgspec.Raw(b"\xc0")
    """What else belongs to it, as MessagePack."""
    unseen: dict[str, int] = {}
    """Values that training never saw and that were not counted before."""
    fault: Fault | None = None


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is for."""

    name: str
    """In errors."""
    manifest: Manifest | None = None
    """Of a version; none for a bare pickle."""
    path: str
    """The version's folder, or the bare file."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What was loaded."""

    signature: Signature
    kind: OutputKind
    row_by_row: bool
    format: str
    framework: str
    warnings: tuple[str, ...] = ()
    """What was logged meanwhile, such as why a model is not served in ONNX's form."""


def _plain(thing: Any) -> Any:
    """What numpy put into a list of Python values."""
    if isinstance(thing, np.generic):
        return thing.item()
    if isinstance(thing, np.ndarray):
        return thing.tolist()
    raise NotImplementedError(f"a {type(thing).__name__}")


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)
_DECODER = msgspec.msgpack.Decoder(Message)


class Channel:
    """One end of the socket; one thread at a time may use it.

    Args:
        end: A connected stream socket.
        blocking: Whether it knows no deadlines; that spares system calls.

    Example:
        >>> here, there = map(Channel, socket.socketpair())
        >>> here.send(Message("ok", 7), [np.arange(3.0)], time.perf_counter() + 1)
        >>> message, body = there.receive(time.perf_counter() + 1)
        >>> message.number, np.frombuffer(body).tolist()
        (7, [0.0, 1.0, 2.0])
        >>> here.close(), there.close()
        (None, None)
    """

    def __init__(self, end: socket.socket, *, blocking: bool = False) -> None:
        self.socket = end
        self._blocking = blocking
        end.setblocking(blocking)
        # a timeout of the socket itself takes twice as many system calls
        self._polls = {event: select.poll() for event in (select.POLLIN, select.POLLOUT)}
        for event, poll in self._polls.items():
            poll.register(end, event)
        self._room = bytearray(_ROOM)
        self._frame = self._room
        self._got = 0

    def send(self, message: Message, arrays: Sequence[NDArray[Any]] = (), until: float = float("inf")) -> None:
        """Send one frame.

        Args:
            message: The header.
            arrays: In the order of those of its parts that have no values of their own; C-contiguous.
            until: Of `time.perf_counter`.

        Raises:
            TimeoutError: It was not taken in time.
            OSError: Nobody is there any more.
            ModelError: It holds what cannot be sent.
        """
        try:
            head = _ENCODER.encode(message)
        except (NotImplementedError, OverflowError, TypeError, ValueError) as fault:
            raise ModelError(f"It holds what cannot be sent between processes: {fault}.") from None
        views = [array.data.cast("B") for array in arrays if array.size]
        size = sum(view.nbytes for view in views)
        if size + len(head) > MOST_BYTES:
            raise ModelError(f"{size + len(head):,} bytes are more than the {MOST_BYTES:,} that one call may carry.")
        waiting: list[memoryview] = [memoryview(_HEAD.pack(_MAGIC, len(head), size) + head), *views]
        while waiting:
            try:
                sent = self.socket.sendmsg(list(islice(waiting, _PIECES)))
            except BlockingIOError:
                self._patience(select.POLLOUT, until)
                continue
            while waiting and sent >= waiting[0].nbytes:
                sent -= waiting.pop(0).nbytes
            if waiting and sent:
                waiting[0] = waiting[0][sent:]

    def receive(self, until: float = float("inf")) -> tuple[Message, bytearray]:
        """Wait for one frame.

        Args:
            until: Of `time.perf_counter`.

        Returns:
            The header, and the bytes of the arrays one after the other; they are the caller's own.

        Raises:
            TimeoutError: It is not here yet; the next call goes on where this one stopped.
            EOFError: The other end is closed.
            OSError: The connection broke.
            FormatError: What came is no frame of ours.
        """
        self._more(_HEAD.size, until)
        magic, head_size, size = _HEAD.unpack_from(self._frame)
        whole = _HEAD.size + head_size + size
        if magic != _MAGIC or whole > MOST_BYTES + _HEAD.size or self._got > whole:
            raise FormatError("The bytes on the socket are no frame of Towpath.")
        if whole > len(self._frame):
            frame = bytearray(whole)
            frame[: self._got] = self._frame[: self._got]
            self._frame = frame
        self._more(whole, until)
        frame, self._frame, self._got = self._frame, self._room, 0
        start = _HEAD.size + head_size
        try:
            message = _DECODER.decode(memoryview(frame)[_HEAD.size : start])
        except msgspec.DecodeError as fault:
            raise FormatError(f"The header of a frame cannot be read: {fault}.") from None
        return message, frame[start:whole]

    def close(self) -> None:
        """Let go of the socket."""
        self.socket.close()

    def _more(self, wanted: int, until: float) -> None:
        with memoryview(self._frame) as room:
            while self._got < wanted:
                if not self._blocking:
                    self._patience(select.POLLIN, until)
                try:
                    more = self.socket.recv_into(room[self._got :])
                except BlockingIOError:
                    continue
                if not more:
                    raise EOFError("the other end of the socket is closed")
                self._got += more

    def _patience(self, event: int, until: float) -> None:
        """Wait until the socket can be read or written."""
        left_s = until - time.perf_counter()
        if left_s <= 0:
            raise TimeoutError
        if not self._polls[event].poll(None if left_s == float("inf") else max(1.0, left_s * 1e3)):
            raise TimeoutError


def parts_of(columns: Mapping[str, NDArray[Any]]) -> tuple[tuple[Part, ...], list[NDArray[Any]]]:
    """Columns or outputs as parts of a message, and the arrays whose bytes follow it.

    Raises:
        ModelError: One holds what cannot be sent.
    """
    parts: list[Part] = []
    raw: list[NDArray[Any]] = []
    for name, given in columns.items():
        if given.dtype.kind in "fiubMm":
            array = given if given.flags.c_contiguous else np.ascontiguousarray(given)
            parts.append(Part(name, array.dtype.str, array.shape))
            raw.append(array.view("u1") if array.dtype.kind in "Mm" and array.size else array)
        elif given.dtype.kind in "OSU":
            parts.append(Part(name, "O", given.shape, given.ravel().tolist()))
        else:
            raise ModelError(f"'{name}' holds {given.dtype}, which cannot be sent between processes.")
    return tuple(parts), raw


def arrays_of(parts: Sequence[Part], body: bytearray) -> dict[str, NDArray[Any]]:
    """The arrays of a message, over its own bytes.

    Raises:
        FormatError: The sizes are not what the header says, or a type is none that may cross.
    """
    found: dict[str, NDArray[Any]] = {}
    at = 0
    for part in parts:
        count = prod(part.shape)
        if count > MOST_BYTES or (part.shape and min(part.shape) < 0):
            raise FormatError(f"'{part.name}' has the shape {list(part.shape)}.")
        if part.values is not None:
            if part.dtype != "O" or len(part.values) != count:
                raise FormatError(f"'{part.name}' has {len(part.values)} values for the shape {list(part.shape)}.")
            found[part.name] = np.fromiter(part.values, dtype=object, count=count).reshape(part.shape)
            continue
        kind = _kind(part)
        end = at + count * kind.itemsize
        if end > len(body):
            raise FormatError(f"'{part.name}' needs {end - at:,} bytes and {len(body) - at:,} came.")
        found[part.name] = np.frombuffer(body, dtype=kind, count=count, offset=at).reshape(part.shape)
        at = end
    if at != len(body):
        raise FormatError(f"{len(body) - at:,} bytes came that belong to no array.")
    return found


def _kind(part: Part) -> np.dtype[Any]:
    kind = _KINDS.get(part.dtype)
    if kind is not None:
        return kind
    with contextlib.suppress(TypeError):  # an f3, which nobody has
        if _RAW.fullmatch(part.dtype):
            return np.dtype(part.dtype)
    raise FormatError(f"'{part.name}' is of the type '{part.dtype[:20]}', which may not cross.")


def columns_of(message: Message, body: bytearray, names: tuple[str, ...]) -> Columns:
    """The columns of a question; a `Matrix` where it was one."""
    found = arrays_of(message.parts, body)
    return Matrix(names, next(iter(found.values()))) if message.matrix else found
