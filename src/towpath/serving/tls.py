"""TLS: one certificate for HTTP and gRPC, proven by a handshake before it is used, and taken up again when it is renewed."""

import logging
import ssl
from datetime import UTC, datetime
from pathlib import Path

from towpath.errors import ProjectError

__all__ = ["Tls", "tls_of"]

_log = logging.getLogger("towpath.serving")
_SETTING = "serving.tls_cert, serving.tls_key"


class Tls:
    """The certificate of a server.

    Args:
        cert: PEM file of the certificate and its chain.
        key: PEM file of its private key.

    Raises:
        ProjectError: A file is missing or damaged, the two do not belong together, or the certificate is expired or not valid yet.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert, self._key = cert, key
        self.pair = self._read()
        """The bytes of key and certificate that are in use."""
        self.expires_at = _proven(cert, key)
        self.context = _context(cert, key, "http/1.1")
        """For HTTP; it stays the same when the certificate is renewed."""
        self.grpc_context = _context(cert, key, "h2")
        """The same for gRPC."""
        self._refused: tuple[bytes, bytes] | None = None

    def follow(self) -> bool:
        """Take up a renewed certificate; one that is damaged or half written is said once, and the old one goes on.

        Returns:
            Whether it was renewed.
        """
        try:
            pair = self._read()
        except ProjectError as error:
            pair = (b"", str(error).encode())
        if pair in (self.pair, self._refused):
            return False
        try:
            expires_at = _proven(self._cert, self._key)
            if self._read() != pair:  # it is being written at this moment: the next turn sees it whole
                return False
            for context in (self.context, self.grpc_context):
                context.load_cert_chain(self._cert, self._key)
        except (ProjectError, OSError) as error:
            self._refused = pair
            _log.error("the renewed certificate is not used: %s", str(error).splitlines()[0])
            return False
        self.pair, self.expires_at, self._refused = pair, expires_at, None
        _log.info("the certificate was renewed; it ends %s", expires_at)
        return True

    def _read(self) -> tuple[bytes, bytes]:
        try:
            return self._key.read_bytes(), self._cert.read_bytes()
        except OSError as error:
            raise ProjectError(
                f"'{error.filename}' cannot be read: {error.strerror}.", _SETTING, "check the path and its rights"
            ) from error


def tls_of(cert: str, key: str, folder: Path) -> Tls | None:
    """What ``serving.tls_cert`` and ``serving.tls_key`` ask for; none where they are empty.

    Args:
        cert: The first setting.
        key: The second; the same file unless given.
        folder: What relative paths stand in.

    Raises:
        ProjectError: See `Tls`; or there is a key without a certificate.
    """
    if not cert and not key:
        return None
    if not cert:
        raise ProjectError("There is a key for TLS and no certificate.", _SETTING, "set serving.tls_cert, too")
    return Tls(folder / cert, folder / (key or cert))


def _context(cert: Path, key: Path, protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([protocol])
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        said = (
            "the key does not belong to the certificate" if mismatch else "one of them holds no PEM block of its kind"
        )
        raise ProjectError(
            f"The certificate '{cert}' with the key '{key}' cannot be used: {said}.", _SETTING, "check both files"
        ) from None
    except (OSError, ValueError) as error:
        raise ProjectError(
            f"The certificate '{cert}' with the key '{key}' cannot be used: {error}.", _SETTING
        ) from None
    return context


def _no_password() -> str:
    raise ValueError("the key has a password, which nobody could type here")


def _proven(cert: Path, key: Path) -> str:
    """Shake hands with ourselves, trusting that certificate alone; gives when it ends."""
    server_context = _context(cert, key, "http/1.1")
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False  # whose name it bears is for callers to judge
    client_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client_context.load_verify_locations(cert)
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context.wrap_bio(to_client, to_server)
        server = server_context.wrap_bio(to_server, to_client, server_side=True)
        for side in (client, server, client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLCertVerificationError as error:
        raise ProjectError(
            f"The certificate '{cert}' cannot be used: {error.verify_message}.", _SETTING, "renew it"
        ) from None
    except ssl.SSLError as error:
        raise ProjectError(f"The certificate '{cert}' cannot be used: {error.reason}.", _SETTING, "renew it") from None
    found = client.getpeercert() or {}
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(found["notAfter"])), UTC).isoformat()
