"""The object store: a folder, S3, GCS or Azure, with create-only writes that exactly one writer wins."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from towpath.errors import ConflictError, RefusedError, UnavailableError, UnknownError
from towpath.settings import masked

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Objects"]


class Objects:
    """One object-store URL: one environment of one fleet. Safe from many threads and processes.

    Args:
        url: A folder, or a URL such as ``s3://bucket/prefix`` or ``memory://``.
        folder: What a relative folder is relative to.

    Example:
        >>> objects = Objects("memory://")
        >>> objects.put_new("a/1.json", b"{}")
        >>> objects.get("a/1.json"), objects.paths("a/")
        (b'{}', ['a/1.json'])
    """

    def __init__(self, url: str, folder: Path | None = None) -> None:
        self.url = masked(url)
        self.path: Path | None = None
        self._store = self._open(url, folder or Path())

    def put_new(self, path: str, data: bytes) -> None:
        """Write an object that must not exist yet.

        Raises:
            ConflictError: It exists; the first writer's bytes stand.
            UnavailableError: The store cannot be written.
        """
        self._put(path, data, create=True)

    def put(self, path: str, data: bytes) -> None:
        """Write an object, replacing what is there; only for what may be rebuilt.

        Raises:
            UnavailableError: The store cannot be written.
        """
        self._put(path, data, create=False)

    def get(self, path: str) -> bytes:
        """The object's bytes.

        Raises:
            UnknownError: There is no such object.
            UnavailableError: The store cannot be read.
        """
        import obstore
        from obstore.exceptions import BaseError

        try:
            return bytes(obstore.get(self._store, path).bytes())
        except FileNotFoundError:
            raise UnknownError(f"There is no object '{path}'.", self.url) from None
        except (BaseError, OSError) as error:
            raise UnavailableError(f"'{path}' cannot be read: {_said(error)}", self.url) from error

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            obstore.head(self._store, path)
        except FileNotFoundError:
            return False
        except (BaseError, OSError) as error:
            raise UnavailableError(f"'{path}' cannot be asked for: {_said(error)}", self.url) from error
        return True

    def paths(self, prefix: str = "") -> list[str]:
        """All paths that begin with a folder-like prefix (``models/demand/log/``), sorted.

        Raises:
            UnavailableError: The store cannot be listed.
        """
        import obstore
        from obstore.exceptions import BaseError

        try:
            found = [
                meta["path"] for batch in obstore.list(self._store, prefix=prefix.rstrip("/") or None) for meta in batch
            ]
        except (BaseError, OSError) as error:
            raise UnavailableError(f"'{prefix}' cannot be listed: {_said(error)}", self.url) from error
        return sorted(found)

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly below a prefix, sorted: ``folders("models/")`` gives the models.

        Raises:
            UnavailableError: The store cannot be listed.
        """
        import obstore
        from obstore.exceptions import BaseError

        try:
            listed = obstore.list_with_delimiter(self._store, prefix=prefix.rstrip("/") or None)
        except (BaseError, OSError) as error:
            raise UnavailableError(f"'{prefix}' cannot be listed: {_said(error)}", self.url) from error
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in listed["common_prefixes"])

    def delete(self, path: str) -> None:
        """Remove an object; no error where there is none. Only for what a manifest has replaced."""
        import obstore

        try:
            obstore.delete(self._store, path)
        except FileNotFoundError:
            return

    def check_create_only(self) -> None:
        """Prove that the store keeps the first writer's bytes.

        Raises:
            RefusedError: A second create-only write of one path was accepted, so that two promoters could both win.
        """
        path = f".towpath-probe/{secrets.token_hex(8)}"
        self.put_new(path, b"first")
        try:
            self.put_new(path, b"second")
        except ConflictError:
            return
        finally:
            self.delete(path)
        raise RefusedError(
            "The object store ignores create-only writes.", self.url, "use a store with conditional puts"
        )

    def _put(self, path: str, data: bytes, *, create: bool) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            obstore.put(self._store, path, data, mode="create" if create else "overwrite", use_multipart=False)
        except (FileExistsError, AlreadyExistsError):
            raise ConflictError(f"'{path}' exists already.", self.url, "read it again and decide again") from None
        except (BaseError, OSError) as error:
            raise UnavailableError(f"'{path}' cannot be written: {_said(error)}", self.url) from error

    def _open(self, url: str, folder: Path) -> "ObjectStore":
        from obstore.store import LocalStore, MemoryStore, from_url

        if url == "memory://":
            return MemoryStore()
        if "://" not in url or url.startswith("file://"):
            self.path = (folder / url.removeprefix("file://")).resolve()
            self.path.mkdir(parents=True, exist_ok=True)
            return LocalStore(str(self.path))
        return from_url(url)


def _said(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
