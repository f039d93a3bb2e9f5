"""One call with its tries, written once: a generator of what to send and how long to wait, driven with or without a loop."""

import importlib.metadata
import secrets
import ssl
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import quote, urlsplit

import msgspec

from towpath.client.answers import Answer, Prediction, PushAnswer, Said
from towpath.errors import (
    CallerError,
    DeniedError,
    InputError,
    QuotaError,
    RetryError,
    TowpathError,
    UnavailableError,
    by_code,
)
from towpath.settings import secret

__all__ = ["CONNECT_S", "Asking", "Came", "Found", "Lost", "Sending", "Step", "Steps", "first_of", "one_of"]

_GOOD = range(200, 300)
_NEVER_S = float("inf")
_AWAY = frozenset({502, 503, 504})
"""Ours, or said by a proxy that cannot reach us."""
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
CONNECT_S = 2.0
"""A connection that does not come up by then is tried again, while there is time."""
_ID_CHARACTERS = 128
_VIEW_PARTS = 2
_chance = secrets.SystemRandom()
Rows = Sequence[Mapping[str, Any]]
Found = TypeVar("Found")


class Sending(NamedTuple):
    """A request to be sent now."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes | None
    deadline: float
    """When it must be over, whatever it does then; seconds of `time.monotonic`."""


class Came(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Lost(NamedTuple):
    """Nothing came back."""

    why: str
    error: Exception


Step = Sending | float
"""A request, or seconds to wait."""
Steps = Generator[Step, Came | Lost | None, Found]


class Asking:
    """What both clients know: address, key, patience; and each call as steps.

    Args:
        address: Such as ``http://host:8080``.
        key: Of the consumer, ``env:NAME`` or ``file:PATH``; empty where the server asks for none.
        timeout_s: Of a whole call, all tries together.
        tries: At the most.
    """

    def __init__(self, address: str, *, key: str = "", timeout_s: float = 5.0, tries: int = 8) -> None:
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.username is not None:
            raise InputError("The address is no http:// or https:// URL without a password.", mend="http://host:8080")
        if timeout_s <= 0 or tries < 1:
            raise InputError(f"timeout_s = {timeout_s:g} and tries = {tries}: both must be above 0.")
        self.address = address.rstrip("/")
        self.timeout_s = timeout_s
        self.tries = tries
        self._key_from = key
        self._key = secret(key, Path()) if key else ""
        self._version = importlib.metadata.version("towpath")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    def predict_steps(
        self, model: str, rows: Rows, *, timeout_s: float | None, request_id: str, traceparent: str
    ) -> Steps[Answer]:
        """Ask a model."""
        path = f"/predict/{quote(model, safe='')}"
        headers = {"x-request-id": request_id} if request_id else {}
        if traceparent:
            headers["traceparent"] = traceparent
        came = yield from self._call("POST", path, {"rows": rows}, headers, timeout_s)
        return self._read(came, path, Answer)

    def outcome_steps(self, model: str, outcomes: Rows, *, timeout_s: float | None) -> Steps[int]:
        """Say what happened; said twice it counts once, because the last one that arrives stands."""
        path = f"/outcomes/{quote(model, safe='')}"
        came = yield from self._call("POST", path, {"outcomes": outcomes}, {}, timeout_s)
        return self._read(came, path, dict[str, int])["accepted"]

    def push_steps(self, view: str, rows: Rows, *, timeout_s: float | None) -> Steps[PushAnswer]:
        """Hand in feature rows; said twice they count once, for a row that stands there already changes nothing."""
        parts = view.split("/")
        if len(parts) > _VIEW_PARTS or {"", ".", ".."} & set(parts):
            raise InputError(f"'{view}' is no name of a view.", mend="'<view>' or '<project>/<view>'")
        path = "/features/" + "/".join(quote(part, safe="") for part in parts)
        came = yield from self._call("POST", path, {"rows": rows}, {}, timeout_s)
        return self._read(came, path, PushAnswer)

    def model_steps(self) -> Steps[tuple[str, ...]]:
        """Ask for the names of the models."""
        came = yield from self._call("GET", "/v2", None, {}, None)
        return tuple(cast("list[str]", self._read(came, "/v2", dict[str, Any])["models"]))

    def ready_steps(self, model: str) -> Steps[bool]:
        """Ask once whether callers should come; a server that cannot be reached is not ready."""
        path = f"/v2/models/{quote(model, safe='')}/ready" if model else "/v2/health/ready"
        deadline = time.monotonic() + self.timeout_s
        came = yield self._sending("GET", path, None, {}, deadline)
        if not isinstance(came, Came) or came.status in _AWAY:
            return False
        if came.status not in _GOOD:
            raise _fault(came, f"GET {self.address}{path}")
        return True

    def _call(
        self, method: str, path: str, document: object, headers: dict[str, str], timeout_s: float | None
    ) -> Steps[Came]:
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        if timeout_s <= 0:
            raise InputError(f"timeout_s is {timeout_s:g}, and must be above 0.")
        deadline = time.monotonic() + timeout_s
        headers = {**_trace(), **headers}
        # the same over all tries, so that the journal tells two answers to one request from two requests
        request_id = headers.setdefault("x-request-id", secrets.token_hex(16))
        if len(request_id) > _ID_CHARACTERS or not (request_id.isascii() and request_id.isprintable()):
            raise InputError(f"A request_id has at most {_ID_CHARACTERS} printable ASCII characters.")
        content = None if document is None else _encoded(document)
        where = f"{method} {self.address}{path}, request {request_id}"
        number, fresh_key = 0, False
        while True:
            number += 1
            came = yield self._sending(method, path, content, headers, deadline)
            if not isinstance(came, Came):
                lost = cast("Lost", came)
                fault: TowpathError = self._lost(lost, where, timeout_s, number, deadline)
                fault.__cause__, again_s = lost.error, _pause_s(number, 0.0)
            else:
                if came.status in _GOOD:
                    return came
                fault = _fault(came, where)
                again_s = _pause_s(number, _after_s(came)) if came.status in _AWAY else _NEVER_S
                if isinstance(fault, DeniedError) and not fresh_key and self._key_changed():
                    fresh_key, again_s = True, 0.0
            if number >= self.tries or again_s >= deadline - time.monotonic():
                raise fault
            yield again_s

    def _sending(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str], deadline: float
    ) -> Sending:
        sent = {
            **headers,
            "towpath-timeout-ms": str(max(1, int((deadline - time.monotonic()) * 1e3))),
            "user-agent": f"towpath/{self._version}",
        }
        if content is not None:
            sent["content-type"] = "application/json"
        if self._key:
            sent["authorization"] = f"Bearer {self._key}"
        return Sending(method, path, sent, content, deadline)

    def _lost(self, lost: Lost, where: str, timeout_s: float, number: int, deadline: float) -> UnavailableError:
        tries = f" ({number} tries)" if number > 1 else ""
        if time.monotonic() >= deadline - 0.001:
            mend = "a longer timeout_s" + self._stood_still()
            return UnavailableError(f"No answer within {timeout_s:g} s{tries}: {lost.why}.", where, mend)
        return UnavailableError(f"The server cannot be reached{tries}: {lost.why}.", where, _way_to_reach(lost.error))

    def _stood_still(self) -> str:
        """What else to try where the wait itself may be what kept the answer away."""
        return ""

    def _read(self, came: Came, path: str, kind: type[Found]) -> Found:
        try:
            return msgspec.json.decode(came.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnavailableError(
                f"The answer cannot be read: {error}.", self.address + path, "is this the address of a Towpath server?"
            ) from error

    def _key_changed(self) -> bool:
        """Whether the file of the key says another one by now, as after a rotation."""
        if not self._key_from.startswith("file:"):
            return False
        before, self._key = self._key, secret(self._key_from, Path())
        return self._key != before


def _way_to_reach(error: BaseException | None) -> str:
    """What to try, by what went wrong at the bottom of it."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return "SSL_CERT_FILE=ca.pem, where that file holds who signed the server's certificate"
        if isinstance(error, ssl.SSLError):
            return "does the server speak TLS? http:// where it does not"
        error = error.__cause__ or error.__context__
    return "is it running, and is this its address?"


def one_of(rows: Mapping[str, Any] | Rows) -> tuple[list[Mapping[str, Any]], bool]:
    """The rows, and whether only one was given and not a list."""
    if isinstance(rows, Mapping):
        return [rows], True
    return list(rows), False


def first_of(answer: Answer, *, single: bool) -> Answer | Prediction:
    """The whole answer, or that of the one row."""
    return answer[0] if single else answer


def _fault(came: Came, where: str) -> TowpathError:
    """The server's error as ours, by its code."""
    try:
        said = msgspec.json.decode(came.body, type=Said)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = Said()
    kind = by_code().get(said.code)
    if kind is None:
        kind = UnavailableError if came.status >= 500 else CallerError  # noqa: PLR2004 - theirs, not the caller's
    what = said.error or f"The server answered {came.status} and no Towpath error: {_beginning(came.body)}"
    mend = said.mend or ("" if said.error else "is this the address of a Towpath server?")
    if issubclass(kind, RetryError | QuotaError):
        return kind(what, where, mend, _after_s(came) or 1.0)
    return kind(what, where, mend)


def _pause_s(number: int, after_s: float) -> float:
    """Before the next try: longer each time, never the same for two callers, and no less than the server asks for."""
    backoff_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (number - 1))
    return after_s + backoff_s * _chance.uniform(0.5, 1.5)


def _after_s(came: Came) -> float:
    text = came.headers.get("retry-after", "")
    return float(text) if text.isdigit() else 0.0


def _trace() -> dict[str, str]:
    """The present span's context, where the program has OpenTelemetry loaded; it is never imported for this."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier


def _encoded(document: object) -> bytes:
    try:
        return msgspec.json.encode(document, enc_hook=_plain)
    except (TypeError, ValueError) as error:
        raise InputError(f"The rows cannot be written as JSON: {error}", mend="numbers, text, times, lists") from error


def _plain(value: Any) -> Any:
    """Of numpy and its friends, which are not imported for this."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} is no JSON value")


def _beginning(body: bytes) -> str:
    text = body[:80].decode("utf-8", "replace").strip()
    return repr(text + "…" if len(body) > 80 else text)  # noqa: PLR2004 - fits on a line
