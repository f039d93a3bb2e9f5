"""Messages to people: an outbox in the catalog, sent through Apprise, tried again, never sent twice on purpose."""

import logging
import threading
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from towpath.errors import ProjectError
from towpath.monitors.incidents import address_digest
from towpath.types import micros

if TYPE_CHECKING:
    from towpath.stores.catalog import Catalog

__all__ = ["Delivered", "check_addresses", "deliver"]

_log = logging.getLogger("towpath.monitors")
_FIRST_WAIT_US = 30_000_000
_LONGEST_WAIT_US = 3_600_000_000
_ATTEMPTS = 20
_LOUDNESS = {"info": "info", "warning": "warning", "critical": "failure"}
_TALKATIVE = ("apprise", "urllib3", "requests")
_quiet = threading.Lock()


class Delivered(msgspec.Struct, frozen=True):
    """What one pass over the outbox did."""

    sent: int = 0
    failed: int = 0
    """Tried in vain; they wait, longer each time, and are tried again."""


def check_addresses(addresses: Sequence[str]) -> None:
    """Refuse an address that Apprise does not understand; the text shows its scheme alone.

    Raises:
        ProjectError: One cannot be read.
    """
    for address in addresses:
        _channel(address)


def deliver(catalog: "Catalog", addresses: Sequence[str], *, now: datetime) -> Delivered:
    """Send what waits in the outbox.

    Each message is claimed before it is sent, so that two processes do not both send it; one that dies in between
    leaves it to be tried again. That an incident closed is only told where its opening was. After twenty attempts, a
    day or so, a message is left as it is.

    Args:
        catalog: Where the outbox is.
        addresses: In Apprise's form, secrets resolved. Messages for an address that is no longer here are left alone.
        now: Of the clock; what waits for a later moment is left alone.

    Raises:
        ProjectError: An address cannot be read.
        UnavailableError: The catalog is away.
    """
    channels = {address_digest(address): _channel(address) for address in addresses}
    now_us = micros(now)
    sent = failed = 0
    waiting = catalog.read(
        "select * from outbox where delivered_at_us is null and next_at_us <= :now_us and attempts < :attempts "
        "order by created_at_us, kind desc",
        now_us=now_us,
        attempts=_ATTEMPTS,
    )
    for message in waiting:
        channel = channels.get(message["address"])
        if channel is None or not _claimed(catalog, message, now_us):
            continue
        if _sent(channel, message):
            _mark(catalog, message, now_us)
            sent += 1
        else:
            failed += 1
            _log.warning(
                "alerts: '%s' was not delivered to %s, attempt %d",
                message["title"],
                channel[0],
                message["attempts"] + 1,
            )
    return Delivered(sent, failed)


def _claimed(catalog: "Catalog", message: dict[str, Any], now_us: int) -> bool:
    """Whether it is ours to send; the wait until the next attempt begins here, whatever becomes of this one."""
    wait_us = min(_FIRST_WAIT_US << min(message["attempts"], 20), _LONGEST_WAIT_US)
    return bool(
        catalog.write(
            "update outbox set attempts = attempts + 1, next_at_us = :next_at_us "
            "where incident_id = :incident_id and kind = :kind and address = :address "
            "and delivered_at_us is null and attempts = :attempts "
            "and not (kind = 'closed' and exists (select 1 from outbox o where o.incident_id = :incident_id "
            "and o.address = :address and o.kind = 'opened' and o.delivered_at_us is null))",
            next_at_us=now_us + wait_us,
            attempts=message["attempts"],
            **_key(message),
        )
    )


def _mark(catalog: "Catalog", message: dict[str, Any], now_us: int) -> None:
    with catalog.writing() as transaction:
        transaction.write(
            "update outbox set delivered_at_us = :now_us "
            "where incident_id = :incident_id and kind = :kind and address = :address",
            now_us=now_us,
            **_key(message),
        )
        transaction.write(
            "update incidents set delivered_at_us = :now_us where incident_id = :incident_id",
            now_us=now_us,
            incident_id=message["incident_id"],
        )


def _sent(channel: tuple[str, Any], message: dict[str, Any]) -> bool:
    loudness = "success" if message["kind"] == "closed" else _LOUDNESS.get(message["severity"], "warning")
    with _without_foreign_logs():
        return bool(channel[1].notify(body=message["body"], title=message["title"], notify_type=loudness))


def _key(message: dict[str, Any]) -> dict[str, str]:
    return {name: message[name] for name in ("incident_id", "kind", "address")}


def _channel(address: str) -> tuple[str, Any]:
    """The scheme, which may be shown, and what sends."""
    scheme = address.partition("://")[0] if "://" in address else "?"
    with _without_foreign_logs(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its plugins import modules that Python is about to drop
        import apprise

        channel = apprise.Apprise()
        understood = channel.add(address)
    if not understood:
        raise ProjectError(
            f"An alert address of kind '{scheme}' cannot be read.",
            "towpath.toml, alerts.urls",
            "write it in Apprise's form, such as json://host/path or slack://…",
        )
    return f"{scheme}://…", channel


@contextmanager
def _without_foreign_logs() -> Generator[None]:
    """Apprise and the HTTP client below it log addresses, and an address holds its secret."""
    with _quiet:
        loggers = [logging.getLogger(name) for name in _TALKATIVE]
        states = [logger.disabled for logger in loggers]
        children = [
            logger
            for name, logger in logging.root.manager.loggerDict.items()
            if isinstance(logger, logging.Logger) and name.startswith(tuple(f"{t}." for t in _TALKATIVE))
        ]
        loggers += children
        states += [logger.disabled for logger in children]
        for logger in loggers:
            logger.disabled = True
        try:
            yield
        finally:
            for logger, state in zip(loggers, states, strict=True):
                logger.disabled = state
