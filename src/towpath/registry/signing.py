"""Who wrote it: Ed25519 signatures over stored bytes, and the folder of public keys that are trusted."""

import base64
import binascii
import hashlib
import os
from pathlib import Path
from typing import Literal

import msgspec

from towpath.errors import FormatError, ProjectError, RefusedError
from towpath.registry.stored import decode, digest_of, encode
from towpath.types import Digest

__all__ = ["Seal", "Signer", "Trusted", "key_id", "make_keys"]

_PRIVATE = "signing.key"
_PUBLIC = ".pub"
_PREFIX = "ed25519:"
_KEY_BYTES = 32


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """``manifest.json.sig``: whose signature over which bytes."""

    schema: int = 1
    algorithm: Literal["ed25519"] = "ed25519"
    key: str
    """Which key: the first 16 hex digits of the SHA-256 of the public key."""
    digest: Digest
    """Of the signed bytes; so that a refusal can say whether the bytes or the signature differ."""
    signature: str
    """Base64 of 64 bytes, over the stored bytes themselves."""


class Signer:
    """Signs with the private key of a folder.

    Args:
        folder: Holds ``signing.key``, such as ``.towpath/keys``.

    Raises:
        ProjectError: There is no key, or it is not one.
    """

    def __init__(self, folder: Path) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        path = folder / _PRIVATE
        try:
            text = path.read_text("ascii")
        except (FileNotFoundError, NotADirectoryError):
            raise ProjectError("There is no signing key.", str(path), "tow init makes one") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ProjectError("The signing key cannot be read.", str(path), "chmod 600, or restore it") from error
        self._key = Ed25519PrivateKey.from_private_bytes(_key_bytes(text, path))
        self.public = self._key.public_key().public_bytes_raw()
        """32 bytes that anybody may see."""
        self.key_id = key_id(self.public)
        """Which key this is."""

    def __repr__(self) -> str:
        return f"Signer({self.key_id})"

    def seal(self, data: bytes) -> bytes:
        """The stored form of a signature over `data`: what goes into the ``.sig`` beside it."""
        signature = base64.b64encode(self._key.sign(data)).decode("ascii")
        return encode(Seal(key=self.key_id, digest=digest_of(data), signature=signature))


class Trusted:
    """The public keys that a reader trusts.

    Args:
        folder: Holds one ``<key id>.pub`` for each trusted publisher. An empty folder trusts nobody.

    Raises:
        ProjectError: A ``.pub`` file is no public key.
    """

    def __init__(self, folder: Path) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        self.folder = folder
        """Where the keys were read from, for messages."""
        self._keys: dict[str, Ed25519PublicKey] = {}
        for path in sorted(folder.glob("*" + _PUBLIC)):
            raw = _key_bytes(path.read_text("ascii", errors="replace"), path)
            self._keys[key_id(raw)] = Ed25519PublicKey.from_public_bytes(raw)

    def __repr__(self) -> str:
        return f"Trusted({', '.join(sorted(self._keys)) or 'nobody'})"

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Whose signatures count, sorted."""
        return tuple(sorted(self._keys))

    def verify(self, data: bytes, seal: bytes, where: str) -> Seal:
        """Check that a trusted key signed exactly these bytes.

        Args:
            data: The stored bytes, as they were read.
            seal: The stored bytes of the ``.sig`` beside them.
            where: Path of the object, for the message.

        Raises:
            RefusedError: The key is not trusted, or the bytes or the signature differ; the text says which.
        """
        from cryptography.exceptions import InvalidSignature

        mend = "do not serve it; publish the version again, or find out who wrote to the store"
        try:
            found = decode(seal, Seal, where + ".sig")
            signature = base64.b64decode(found.signature, validate=True)
        except (FormatError, binascii.Error) as error:
            raise RefusedError(
                f"The signature of '{where}' cannot be read: {str(error).splitlines()[0]}", where + ".sig", mend
            ) from error
        key = self._keys.get(found.key)
        if key is None:
            raise RefusedError(
                f"'{where}' is signed with key {found.key}, which is not trusted; trusted: "
                f"{', '.join(self.key_ids) or 'none'}.",
                str(self.folder),
                f"if that publisher is yours, copy its '{found.key}{_PUBLIC}' into this folder",
            )
        if digest_of(data) != found.digest:
            raise RefusedError(
                f"The bytes of '{where}' were changed after they were signed: "
                f"signed {found.digest[:19]}…, found {digest_of(data)[:19]}….",
                where,
                mend,
            )
        try:
            key.verify(signature, data)
        except InvalidSignature:
            raise RefusedError(
                f"The signature of '{where}' was not made by key {found.key}.", where + ".sig", mend
            ) from None
        return found


def make_keys(folder: Path) -> str:
    """Make a signing key and trust it; a key that is there already stays.

    The private key is readable by its owner alone. The public key lies beside it as ``<key id>.pub``: copy that file
    to every server that shall trust this project.

    Returns:
        The id of the key.

    Raises:
        ProjectError: A key stands there that is none, or the folder cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    fresh = Ed25519PrivateKey.generate()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Written under another name and linked: of two that make keys at once one wins, and no half key is ever read.
        draft = folder / f".{_PRIVATE}.{os.getpid()}.{os.urandom(4).hex()}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(_key_text(fresh.private_bytes_raw()))
            (folder / _PRIVATE).hardlink_to(draft)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        signer = Signer(folder)
        public = folder / f"{signer.key_id}{_PUBLIC}"
        public.write_text(_key_text(signer.public), "ascii")
    except OSError as error:
        raise ProjectError(
            f"The signing key cannot be written: {error.strerror}.", str(folder), "check the rights"
        ) from error
    return signer.key_id


def key_id(public: bytes) -> str:
    """The name of a public key: the first 16 hex digits of its SHA-256.

    Example:
        >>> key_id(bytes(32))
        '66687aadf862bd77'
    """
    return hashlib.sha256(public).hexdigest()[:16]


def _key_text(raw: bytes) -> str:
    return _PREFIX + base64.b64encode(raw).decode("ascii") + "\n"


def _key_bytes(text: str, path: Path) -> bytes:
    try:
        raw = base64.b64decode(text.strip().removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not text.startswith(_PREFIX) or len(raw) != _KEY_BYTES:
        raise ProjectError(
            f"'{path.name}' is no Ed25519 key.", str(path), f"one line: {_PREFIX} and the base64 of {_KEY_BYTES} bytes"
        )
    return raw
