"""A consumer as it is stored: who calls, with which keys, for which models, how much and how well."""

import re
import secrets
from datetime import datetime
from hashlib import sha256
from hmac import new as hmac_of
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from towpath.errors import InputError, nearest

__all__ = [
    "LOCAL",
    "SCOPES",
    "Consumer",
    "ConsumerKey",
    "ConsumerV1",
    "Quota",
    "Scope",
    "Sla",
    "key_digest",
    "new_key",
    "pepper_id",
    "quota_of",
    "scopes_of",
    "sla_of",
]

LOCAL = "local"
"""The consumer of a server without keys, which therefore binds to loopback only."""
Scope = Literal["predict", "outcomes", "features", "manage"]
"""What a key may do: ask for predictions, hand in outcomes, push feature rows, kill and revive models."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(rows)?/(s|m|h)")
_PER_S = {"s": 1, "m": 60, "h": 3_600}
_SLA = re.compile(r"(p99|availability)=([0-9]+(?:\.[0-9]+)?)(ms|s|%)")
_PREFIX = "tow"
_ID_BYTES = 5


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """How much a consumer may ask for on one server; zero is no limit. One second's worth may come at once."""

    requests_per_s: Annotated[float, Meta(ge=0)] = 0.0
    rows_per_s: Annotated[float, Meta(ge=0)] = 0.0


class Sla(msgspec.Struct, frozen=True, kw_only=True):
    """What was promised to a consumer; zero is no promise."""

    p99_ms: Annotated[float, Meta(ge=0)] = 0.0
    """99 of 100 requests are answered in so many milliseconds."""
    availability_share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Share of the rows that the model itself answers in time, and not its fallback or nobody."""


class ConsumerKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a consumer; the key itself is stored nowhere."""

    id: str
    """Stands in the key, ``tow_<id>_<secret>``, so that people can say which one they mean."""
    hmac_sha256: str = ""
    """Hex, of the whole key, with the fleet's pepper."""
    sha256: str = ""
    """Hex, of a key that was made before there was a pepper."""
    pepper: str = ""
    """Which pepper: the first 8 hex digits of its SHA-256."""
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def live(self, at: datetime) -> bool:
        """Whether it opens the door at that moment."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


class Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """``consumers/<name>/000003.json``, create-only: the whole consumer after a change; the highest number counts."""

    schema: int = 2
    name: str
    team: str
    revision: int = 1
    keys: tuple[ConsumerKey, ...]
    scopes: tuple[str, ...] = ("predict", "outcomes")
    models: tuple[str, ...] = ()
    """Which ones it may call; all where none is named."""
    quota: Quota = Quota()
    sla: Sla = Sla()
    created_at: datetime
    created_by: str = ""
    change: str = "added"
    """What made this revision: added, changed, rotated, revoked."""
    changed_at: datetime
    changed_by: str = ""


class ConsumerV1(msgspec.Struct, frozen=True, kw_only=True):
    """``consumers/<name>.json`` as it was written before rotation and scopes; read, and never written again."""

    schema: int = 1
    name: str
    team: str
    key_sha256: str
    created_at: datetime
    created_by: str = ""

    @property
    def whole(self) -> Consumer:
        """The same consumer today: one key for all that callers do, without limits."""
        return Consumer(
            name=self.name,
            team=self.team,
            revision=0,
            keys=(ConsumerKey(id="first", sha256=self.key_sha256, created_at=self.created_at),),
            scopes=("predict", "outcomes", "features"),
            created_at=self.created_at,
            created_by=self.created_by,
            changed_at=self.created_at,
            changed_by=self.created_by,
        )


def new_key() -> tuple[str, str]:
    """A new key and its id.

    Example:
        >>> key, id = new_key()
        >>> key.startswith(f"tow_{id}_"), len(key)
        (True, 58)
    """
    made = secrets.token_hex(_ID_BYTES)
    return f"{_PREFIX}_{made}_{secrets.token_urlsafe(32)}", made


def key_digest(key: str, pepper: bytes) -> str:
    """What is stored of a key: its HMAC-SHA256 with the pepper, or its plain SHA-256 where there is none.

    Example:
        >>> key_digest("tow_x_y", b"pepper")[:8], key_digest("tow_x_y", b"")[:8]
        ('2c7b24f1', '6235deba')
    """
    return hmac_of(pepper, key.encode(), sha256).hexdigest() if pepper else sha256(key.encode()).hexdigest()


def pepper_id(pepper: bytes) -> str:
    """Which pepper it is; says nothing about it.

    Example:
        >>> pepper_id(b"pepper")
        '514dad03'
    """
    return sha256(b"towpath pepper " + pepper).hexdigest()[:8]


def quota_of(text: str) -> Quota:
    """Read a quota.

    Args:
        text: One or two rates with commas between them: ``100/s`` are requests, ``5000rows/m`` are rows.

    Raises:
        InputError: It is written otherwise.

    Example:
        >>> quota_of("100/s,6000rows/m")
        Quota(requests_per_s=100.0, rows_per_s=100.0)
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        match = _RATE.fullmatch(part.strip())
        name = "rows_per_s" if match and match[2] else "requests_per_s"
        if match is None or name in found or float(match[1]) == 0:
            raise InputError(f"'{text}' is no quota.", mend="100/s, 5000rows/s, or both with a comma; per s, m or h")
        found[name] = float(match[1]) / _PER_S[match[3]]
    return Quota(**found)


def sla_of(text: str) -> Sla:
    """Read what is promised.

    Args:
        text: ``p99=20ms``, ``availability=99.9%``, or both with a comma.

    Raises:
        InputError: It is written otherwise.

    Example:
        >>> sla_of("p99=20ms,availability=99.9%")
        Sla(p99_ms=20.0, availability_share=0.999)
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        match = _SLA.fullmatch(part.strip())
        if match is None or (match[1] == "p99") == (match[3] == "%"):
            raise InputError(f"'{text}' is no SLA.", mend="p99=20ms,availability=99.9%")
        name, number = match[1], float(match[2])
        if name == "p99":
            found["p99_ms"] = number * (1_000 if match[3] == "s" else 1)
        elif number > 100:  # noqa: PLR2004 - per cent
            raise InputError(f"An availability of {number:g}% is above 100%.", mend="availability=99.9%")
        else:
            found["availability_share"] = round(number / 100, 9)
    return Sla(**found)


def scopes_of(text: str) -> tuple[Scope, ...]:
    """Read scopes, with commas between them.

    Raises:
        InputError: One is unknown; the text offers the nearest.

    Example:
        >>> scopes_of("outcomes,predict")
        ('predict', 'outcomes')
    """
    asked = {part.strip() for part in text.split(",")}
    for part in asked:
        if part not in SCOPES:
            raise InputError(f"There is no scope '{part}'{nearest(part, SCOPES)}", mend=f"of {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in asked)
