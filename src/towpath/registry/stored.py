"""Stored JSON: written once, digested as bytes, read with unknown fields ignored."""

import hashlib
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import msgspec.inspect

from towpath.errors import ConflictError, FormatError
from towpath.stores.objects import Objects

__all__ = ["decode", "digest_of", "digest_of_file", "encode", "put_once"]

StructT = TypeVar("StructT", bound=msgspec.Struct)

_BLOCK_BYTES = 1 << 20
_OBJECTS = (msgspec.inspect.StructType, msgspec.inspect.DictType)
_LISTS = (msgspec.inspect.ListType, msgspec.inspect.VarTupleType)


def encode(value: msgspec.Struct) -> bytes:
    """The bytes that are stored, signed and digested."""
    return msgspec.json.encode(value)


def decode(data: bytes, kind: type[StructT], where: str) -> StructT:
    """Read stored JSON; fields that this release does not know are ignored, so that a rolling upgrade is no outage.

    Raises:
        FormatError: It is no JSON, or a field that must be there is missing or of another type.
    """
    try:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:  # what people declare forbids unknown keys, and stands in manifests too
            return msgspec.convert(_known(msgspec.json.decode(data), msgspec.inspect.type_info(kind)), kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FormatError(
            f"'{where}' is no {kind.__name__}: {error} (first of {len(data)} bytes: {data[:24]!r}).",
            where,
            "restore the object from a backup; nothing that Towpath wrote reads like this",
        ) from error


def _known(raw: Any, kind: msgspec.inspect.Type) -> Any:
    """Plain values without the keys that their structs do not have."""
    match kind:
        case msgspec.inspect.StructType(fields=fields) if isinstance(raw, dict):
            types = {field.encode_name: field.type for field in fields}
            return {name: _known(value, types[name]) for name, value in raw.items() if name in types}
        case msgspec.inspect.DictType(value_type=inner) if isinstance(raw, dict):
            return {name: _known(value, inner) for name, value in raw.items()}
        case msgspec.inspect.ListType(item_type=inner) | msgspec.inspect.VarTupleType(item_type=inner) if isinstance(
            raw, list
        ):
            return [_known(value, inner) for value in raw]
        case msgspec.inspect.UnionType(types=types):
            wanted = _OBJECTS if isinstance(raw, dict) else _LISTS if isinstance(raw, list) else ()
            return next((_known(raw, one) for one in types if isinstance(one, wanted)), raw)
        case _:
            return raw


def digest_of(data: bytes) -> str:
    """Digest of stored bytes.

    Example:
        >>> digest_of(b"")[:18]
        'sha256:e3b0c44298f'
    """
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    """Digest of a file, read in blocks."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            sha.update(block)
    return "sha256:" + sha.hexdigest()


def put_once(objects: Objects, path: str, data: bytes) -> None:
    """Write an object create-only; the same bytes again are no conflict, so that a lost acknowledgement is not one either.

    Raises:
        ConflictError: Other bytes stand there.
    """
    try:
        objects.put_new(path, data)
    except ConflictError:
        if objects.get(path) != data:
            raise
