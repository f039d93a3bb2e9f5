"""The embedded online store: one LMDB environment in a folder, shared by all processes of one machine."""

import os
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from towpath.errors import UnavailableError
from towpath.stores.online import PATIENT_MS, Health

__all__ = ["LmdbOnlineStore"]

_FIRST_MAP_BYTES = 64 * 1024 * 1024
_KEY_BYTES = 511
_TABLES = 1_024
_TIMES = slice(0, 16)
_by_key = itemgetter(0)
_Found = TypeVar("_Found")

_open: "dict[Path, _Environment]" = {}
_open_lock = threading.Lock()


class LmdbOnlineStore:
    r"""Newest feature row per entity in LMDB: readers never wait for a writer, one writer at a time.

    Args:
        url: ``lmdb://FOLDER``.
        folder: What a relative FOLDER is relative to.
        timeout_ms: Of no use here: no read waits for anybody.

    Raises:
        UnavailableError: The folder cannot be opened.

    Example:
        >>> import tempfile
        >>> store = LmdbOnlineStore("lmdb://online", Path(tempfile.mkdtemp()))
        >>> store.write("prices", [(b"[1]", b"\0" * 15 + b"\2new"), (b"[1]", b"\0" * 15 + b"\1old")])
        >>> store.read("prices", [b"[1]", b"[2]"])[0][16:], store.count("prices")
        (b'new', 1)
        >>> store.close()
    """

    waits = False

    def __init__(self, url: str, folder: Path, *, timeout_ms: int = PATIENT_MS) -> None:  # noqa: ARG002 - the plug's arguments
        self._path = (folder / url.removeprefix("lmdb://")).resolve()
        self._closed = False
        with _open_lock:
            if self._path not in _open:
                _open[self._path] = _Environment(self._path)
            self._env = _open[self._path]
            self._env.users += 1

    def __repr__(self) -> str:
        return f"LmdbOnlineStore({str(self._path)!r})"

    def write(self, table: str, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Put rows: per key the newer stays, of equals the later; all of a call, or nothing.

        Raises:
            UnavailableError: The disk is full or fails.
        """
        ordered = list(rows)
        if any(not 0 < len(key) <= _KEY_BYTES for key, _ in ordered):
            ordered = [(_stored(key), value) for key, value in ordered]
        # In key order a page is touched once; the sort is stable, so that the later of equals stays the later.
        ordered.sort(key=_by_key)
        with self._env.write_lock, _errors(self._path):
            while True:
                try:
                    return self._write(table, ordered)
                except lmdb.MapFullError:
                    self._env.grow()
                except lmdb.MapResizedError:
                    self._env.grown_elsewhere()

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """One value per key, in the order asked; None where there is none.

        Raises:
            UnavailableError: The file is damaged or away.
        """
        return self.read_many([(table, keys)])[0]

    def read_many(self, asked: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """What `read` gives for each table and its keys, all as of one moment.

        Raises:
            UnavailableError: The file is damaged or away.
        """
        env = self._env
        with env.reading_lock:
            try:
                with env.begin() as txn:
                    get, handles = txn.get, env.handles
                    found: list[list[bytes | None]] = []
                    for table, keys in asked:
                        handle = handles[table]
                        if len(keys) == 1 and len(keys[0]) <= _KEY_BYTES:
                            found.append([get(keys[0], None, handle)])  # a comprehension is a call
                        else:
                            found.append([get(_stored(k) if len(k) > _KEY_BYTES else k, None, handle) for k in keys])
                    return found
            except (KeyError, lmdb.Error, OSError) as error:
                return self._read_slowly(asked, error)

    def tables(self) -> list[str]:
        """Names of all tables, sorted."""

        def names() -> list[str]:
            with self._env.begin() as txn:
                return sorted(key.decode() for key in txn.cursor().iternext(keys=True, values=False))

        return self._as_it_is(names)

    def count(self, table: str) -> int:
        """Number of rows; 0 where there is no such table."""

        def rows() -> int:
            handle = self._env.handle(table)
            if handle is None:
                return 0
            with self._env.begin() as txn:
                return txn.stat(handle)["entries"]

        return self._as_it_is(rows)

    def drop(self, table: str) -> None:
        """Remove a table and its rows; no error where there is none."""

        def gone() -> None:
            handle = self._env.handle(table)
            if handle is not None:
                with self._env.begin(write=True) as txn:
                    txn.drop(handle, delete=True)
                self._env.handles.pop(table, None)

        with self._env.write_lock:
            self._as_it_is(gone)

    def health(self) -> Health:
        """How large the file is."""
        with self._env.reading_lock, _errors(self._path):
            used, mapped = self._env.size_bytes()
        return Health(
            detail=f"lmdb://{self._path}: {used >> 20} of {mapped >> 20} MiB, grows as it must", one_machine=True
        )

    def close(self) -> None:
        """Let go of the folder; the last of this process's stores closes it."""
        with _open_lock:
            if self._closed:
                return
            self._closed = True
            self._env.users -= 1
            if self._env.users == 0:
                del _open[self._path]
                self._env.close()

    def _write(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        with self._env.reading_lock:
            handle = self._env.handle(table, create=True)
        with self._env.begin(write=True) as txn:
            with txn.cursor(handle) as cursor:
                # A build fills an empty table: half the time of asking first. Rows behind the last leave no page half full.
                behind = bool(rows) and (not cursor.last() or cursor.key() < rows[0][0])
                _, new = cursor.putmulti(rows, overwrite=False, append=behind)
            if new == len(rows):
                return
            get, put = txn.get, txn.put
            for key, value in rows:
                standing = get(key, None, handle)
                if standing is None or standing[_TIMES] <= value[_TIMES]:
                    put(key, value, db=handle)

    def _read_slowly(self, asked: Sequence[tuple[str, Sequence[bytes]]], error: Exception) -> list[list[bytes | None]]:
        """What is seldom: a table that is first asked for or is not there, an empty key, what other processes changed."""
        if isinstance(error, lmdb.BadDbiError | lmdb.InvalidParameterError):
            for table, _ in asked:
                self._env.handles.pop(table, None)  # another process dropped it and made it anew
        elif not isinstance(error, KeyError | lmdb.BadValsizeError | lmdb.MapResizedError):
            with _errors(self._path):
                raise error

        def read() -> list[list[bytes | None]]:
            handles = [self._env.handle(table) for table, _ in asked]
            with self._env.begin() as txn:
                return [
                    [None if handle is None else txn.get(_stored(key), None, handle) for key in keys]
                    for handle, (_, keys) in zip(handles, asked, strict=True)
                ]

        return self._as_it_is(read)

    def _as_it_is(self, look: Callable[[], _Found]) -> _Found:
        """What a look gives, also where other processes make the map larger meanwhile, again and again."""
        with self._env.reading_lock, _errors(self._path):
            while True:
                try:
                    return look()
                except lmdb.MapResizedError:
                    self._env.grown_elsewhere()


class _Environment:
    """LMDB allows a file to be open once in a process; so all stores of one path share this.

    ``write_lock`` is held by the one writer, ``reading_lock`` for the microseconds of a read and while the map is resized,
    which LMDB allows only when no transaction of the process is under way.
    """

    def __init__(self, path: Path) -> None:
        self.users = 0
        self.write_lock = threading.Lock()
        self.reading_lock = threading.RLock()
        self.handles: dict[str, Any] = {}
        with _errors(path):
            path.mkdir(parents=True, exist_ok=True)
            # A folder that may only be read has no place for LMDB's lock. A read takes microseconds, and only two commits of
            # somebody who may write, within them, could take its pages away.
            writable = os.access(path, os.W_OK)
            self._lmdb = lmdb.open(
                str(path),
                map_size=_FIRST_MAP_BYTES,
                max_dbs=_TABLES,
                max_readers=1_024,
                readahead=False,
                metasync=False,
                readonly=not writable,
                lock=writable,
            )
            self.begin = self._lmdb.begin
            if writable:
                self._lmdb.reader_check()  # readers that were killed would keep old pages for ever

    def handle(self, table: str, *, create: bool = False) -> Any | None:
        """The table, opened once; none where there is none."""
        if table not in self.handles:
            try:
                self.handles[table] = self._lmdb.open_db(table.encode(), create=create)
            except (lmdb.NotFoundError, lmdb.ReadonlyError):
                return None
        return self.handles[table]

    def size_bytes(self) -> tuple[int, int]:
        """Of the file that holds rows, and of the map that it may fill before it grows."""
        known = self._lmdb.info()
        return known["last_pgno"] * self._lmdb.stat()["psize"], known["map_size"]

    def grow(self) -> None:
        with self.reading_lock:
            if self._lmdb.reader_check():
                return  # pages that readers kept who were killed may be room enough
            self._lmdb.set_mapsize(self._lmdb.info()["map_size"] * 2)

    def grown_elsewhere(self) -> None:
        """Another process made the map larger: take its size."""
        with self.reading_lock:
            self._lmdb.set_mapsize(0)

    def close(self) -> None:
        self._lmdb.close()


def _stored(key: bytes) -> bytes:
    """LMDB keys have 1 to 511 bytes; another one is kept by its digest, which no JSON text begins like."""
    return key if 0 < len(key) <= _KEY_BYTES else b"\0sha256:" + sha256(key).digest()


@contextmanager
def _errors(path: Path) -> Generator[None]:
    try:
        yield
    except (lmdb.MapFullError, lmdb.MapResizedError):
        raise
    except (lmdb.Error, OSError) as error:
        raise UnavailableError(
            f"The online store cannot be used: {error}.",
            f"lmdb://{path}",
            "check the disk and the rights of the folder",
        ) from error
