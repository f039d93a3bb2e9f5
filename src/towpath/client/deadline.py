"""One deadline for a whole call that waits; httpx has one for each operation, and a peer that drips begins many."""

import socket
import threading
import time
from collections.abc import Iterable
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

import httpcore

if TYPE_CHECKING:
    from httpcore import SOCKET_OPTION

__all__ = ["Deadline"]

_PIECE_BYTES = 16 << 10
"""As much as a socket that takes anything takes at once: time is asked for again before each."""


class Deadline(threading.local, httpcore.NetworkBackend):
    """Ends every operation of the calling thread at one moment.

    Only the search for the server's address is not ended: Python cannot interrupt the system's resolver.

    Args:
        connect_s: What one address of the server may take at the most, so that there is time for another one.
    """

    at = float("inf")
    """Seconds of `time.monotonic`; each thread has its own."""

    def __init__(self, connect_s: float) -> None:
        self._connect_s = connect_s
        self._sockets = httpcore.SyncBackend()

    def rule(self, http: Any) -> None:
        """Stand between a client of httpx, also on its way through proxies, and the network."""
        for way in (http._transport, *http._mounts.values()):  # noqa: SLF001 - httpx has no public way to name a backend
            if way is not None:  # an address that no proxy stands before
                way._pool._network_backend = self  # noqa: SLF001

    def left_s(self, over: type[Exception]) -> float:
        """Seconds that are left, above 0; `over` is raised where none are."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise over("the deadline is over")
        return left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - ours is asked
        local_address: str | None = None,
        socket_options: "Iterable[SOCKET_OPTION] | None" = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address that answers."""
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        why: Exception = httpcore.ConnectError(f"'{host}' has no address")
        for *_, address in addresses:
            left_s = min(self.left_s(httpcore.ConnectTimeout), self._connect_s)
            try:
                found = self._sockets.connect_tcp(str(address[0]), port, left_s, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                why = error
            else:
                return _Stream(found, self)
        raise why


class _Stream(httpcore.NetworkStream):
    """A connection each of whose operations asks what is left; whatever httpcore would grant is not looked at."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, self._deadline.left_s(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        for start in range(0, len(buffer), _PIECE_BYTES):
            left_s = self._deadline.left_s(httpcore.WriteTimeout)
            self._stream.write(buffer[start : start + _PIECE_BYTES], left_s)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        left_s = self._deadline.left_s(httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left_s), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
