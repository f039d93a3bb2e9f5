"""The last good answer to each entity key, kept by the workers of a server so that a fallback link can give it again."""

import mmap
import os
import struct
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec

if TYPE_CHECKING:
    from towpath.serving.answered import Answered

__all__ = ["LEFT", "LastAnswers", "SharedAnswers"]

LEFT: Any = object()
"""Stands for a row that a link of the chain leaves to the next one."""
_KEYS = 100_000
"""Keys of one model that a worker remembers by itself; beyond it the one that was answered longest ago is forgotten."""
_PLACES = 1 << 18
_WAYS = 4
"""Places that a key may take; of four that are taken the one that was written longest ago is lost."""
_PLACE = struct.Struct("<16sqIB35s")
"""Digest of the key, when it was answered, checksum, length of the prediction, the prediction."""
_PLACE_BYTES = _PLACE.size
_SET_BYTES = _PLACE_BYTES * _WAYS
_DIGEST_BYTES = 16
_PREDICTION_BYTES = 35
_SMALL = frozenset({float, int, bool, str})
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class SharedAnswers:
    """Small predictions by entity key in a table that all workers of a server have mapped, and the one that replaces a dead one.

    Nobody waits for a lock: what two wrote at once does not fit its checksum, and counts as not there.

    Args:
        file: Of one model, 17 MB; it is made where it is not there, and never grows.

    Raises:
        OSError: There is no room for it.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            size = _PLACES * _PLACE_BYTES
            os.ftruncate(descriptor, size)
            if hasattr(
                os, "posix_fallocate"
            ):  # a page that a full disk has no room for would end the process at its first write
                os.posix_fallocate(descriptor, 0, size)
            self._memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def put(self, key: str, prediction: Any, at_us: int) -> bool:
        """Keep one answer; False where it is too large."""
        if type(prediction) not in _SMALL:
            return False
        data = _encode(prediction)
        if len(data) > _PREDICTION_BYTES:
            return False
        digest, start = _placed(key)
        memory = self._memory
        for place in range(start, start + _SET_BYTES, _PLACE_BYTES):
            if memory[place : place + _DIGEST_BYTES] == digest:
                break
        else:
            place = min(range(start, start + _SET_BYTES, _PLACE_BYTES), key=self._written_at)
        _PLACE.pack_into(memory, place, digest, at_us, _checksum(digest, at_us, data), len(data), data)
        return True

    def get(self, key: str) -> tuple[int, Any] | None:
        """When it was answered, and what."""
        digest, start = _placed(key)
        for place in range(start, start + _SET_BYTES, _PLACE_BYTES):
            found, at_us, checksum, length, data = _PLACE.unpack_from(self._memory, place)
            if found == digest and checksum == _checksum(digest, at_us, data[:length]):
                return at_us, _decode(data[:length])
        return None

    def _written_at(self, place: int) -> int:
        return _PLACE.unpack_from(self._memory, place)[1]


def _placed(key: str) -> tuple[bytes, int]:
    """What a key is known by, and where its places begin."""
    digest = blake2b(key.encode(), digest_size=_DIGEST_BYTES).digest()
    return digest, int.from_bytes(digest[:4], "little") % (_PLACES // _WAYS) * _SET_BYTES


def _checksum(digest: bytes, at_us: int, data: bytes) -> int:
    return crc32(data, crc32(digest, at_us & 0xFFFFFFFF))


class LastAnswers:
    """Predictions that a model itself gave, by entity key.

    Args:
        keys: How many a worker keeps by itself.
        shared: Where all workers of a server keep those that are small; none where each has its own.

    Example:
        >>> kept = LastAnswers()
        >>> kept.put('["x"]', 7.0, 1_000_000)
        >>> kept.get('["x"]', now_us=3_000_000, age_us=2_000_000), kept.get('["x"]', now_us=3_000_001, age_us=2_000_000) is LEFT
        (7.0, True)
    """

    def __init__(self, keys: int = _KEYS, shared: SharedAnswers | None = None) -> None:
        self._keys = keys
        self.shared = shared
        self._kept: dict[str, tuple[int, Any]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: str, prediction: Any, at_us: int) -> None:
        """Keep one answer."""
        if self.shared is not None and self.shared.put(key, prediction, at_us):
            return
        kept = self._kept
        kept.pop(key, None)  # so that it stands last
        kept[key] = (at_us, prediction)
        if len(kept) > self._keys:
            kept.pop(next(iter(kept)), None)

    def get(self, key: str | None, *, now_us: int, age_us: int) -> Any:
        """The answer that was kept; `LEFT` where there is none, or it is older than `age_us`."""
        if key is None:
            return LEFT
        found = self._kept.get(key)
        others = self.shared.get(key) if self.shared is not None else None
        if others is not None and (found is None or others[0] > found[0]):
            found = others
        return LEFT if found is None or now_us - found[0] > age_us else found[1]

    def keep(self, answered: "Answered", keys: Sequence[str | None], at_us: int) -> None:
        """Keep what a model answered itself; what a fallback said is not worth repeating."""
        for key, source, prediction in zip(keys, answered.sources, answered.predictions, strict=True):
            if key is not None and not source.startswith("fallback:"):
                self.put(key, prediction, at_us)
