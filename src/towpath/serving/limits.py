"""What one connection may cost: bytes and number of headers, slow heads, slow bodies, idling, and how many there may be."""

import msgspec

from towpath.settings import ServingSettings

__all__ = ["Limits"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a connection, read once."""

    header_bytes: int = 32_768
    headers: int = 100
    header_s: float = 10.0
    body_bytes_per_s: int = 1_000
    idle_s: float = 75.0
    connections: int = 4_096

    @classmethod
    def of(cls, settings: ServingSettings) -> "Limits":
        """As ``[serving]`` says."""
        return cls(
            header_bytes=settings.max_header_bytes,
            headers=settings.max_headers,
            header_s=settings.header_timeout_s,
            body_bytes_per_s=settings.min_body_bytes_per_s,
            idle_s=settings.idle_timeout_s,
            connections=settings.max_connections,
        )
