"""The two clients: the same calls, one that waits and one for an event loop."""

import importlib
import importlib.util
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast, overload

from towpath.client.answers import Answer, Prediction, PushAnswer
from towpath.client.asking import CONNECT_S, Asking, Came, Found, Lost, Sending, Steps, first_of, one_of
from towpath.errors import ExtraError, RefusedError

if TYPE_CHECKING:
    import httpx

__all__ = ["AsyncClient", "Client"]

_KEPT_OPEN_S = 60.0
"""Shorter than a server's ``serving.idle_timeout_s``, so that it is we who close what lies idle."""
Row = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]


class Client(Asking):
    """Calls a Towpath server; one for a whole program, from as many threads as there are.

    It waits, also in a notebook, whose event loop stands still meanwhile; a program that lives in a loop has `AsyncClient`.

    Connections are kept open. A call is tried again, with growing and jittered pauses, when the server cannot be reached or
    says 503, never for what the caller must mend (4xx); ``Retry-After`` is the least that is waited. All tries together
    stay within ``timeout_s``, the server is told what is left of it (``Towpath-Timeout-Ms``), and all carry the same
    ``X-Request-Id``: a prediction changes nothing, so it may be asked for twice. The present span of OpenTelemetry, where
    the program has one, goes along as ``traceparent``.

    Args:
        address: Such as ``http://host:8080``.
        key: Of the consumer, ``env:NAME`` or ``file:PATH``; a file is read again when the server denies the key, as after a
            rotation. Empty where the server asks for none.
        timeout_s: Of a whole call, all tries together.
        tries: At the most.

    Raises:
        ExtraError: httpx is not installed.
        InputError: The address is none.
        ProjectError: The key's variable or file is not there.

    Example:
        >>> with Client("http://127.0.0.1:1", timeout_s=0.2) as client:
        ...     client.ready()
        False
    """

    def __init__(self, address: str, *, key: str = "", timeout_s: float = 5.0, tries: int = 8) -> None:
        super().__init__(address, key=key, timeout_s=timeout_s, tries=tries)
        library = _library()
        from towpath.client.deadline import Deadline

        self._http = library.Client(base_url=self.address, timeout=None, limits=_limits(library))
        self._deadline = Deadline(CONNECT_S)
        self._deadline.rule(self._http)
        self._lost_by = library.RequestError

    @overload
    def predict(
        self, model: str, rows: Row, *, timeout_s: float | None = None, request_id: str = "", traceparent: str = ""
    ) -> Prediction: ...
    @overload
    def predict(
        self, model: str, rows: Rows, *, timeout_s: float | None = None, request_id: str = "", traceparent: str = ""
    ) -> Answer: ...
    def predict(
        self,
        model: str,
        rows: Row | Rows,
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        traceparent: str = "",
    ) -> Answer | Prediction:
        """Ask a model.

        Args:
            model: Its name.
            rows: A list of rows, or one row: keys, raw features, or both.
            timeout_s: Of this call; the client's own unless given.
            request_id: In the server's log and journal; a new one unless given.
            traceparent: W3C trace context, where the program's own is not to be used.

        Returns:
            A `Prediction` for one row, an `Answer` for a list.

        Raises:
            TowpathError: The class that the server's code names: `InputError`, `UnknownError`, `DeniedError`, `ForbiddenError`,
                `QuotaError`, `OverloadedError` …; `UnavailableError` where it cannot be reached in time.
        """
        asked, single = one_of(rows)
        steps = self.predict_steps(model, asked, timeout_s=timeout_s, request_id=request_id, traceparent=traceparent)
        return first_of(self._driven(steps), single=single)

    def outcomes(self, model: str, outcomes: Row | Rows, *, timeout_s: float | None = None) -> int:
        """Say what really happened.

        Args:
            model: Whose predictions it is about.
            outcomes: A list or one: ``prediction_id``, or ``entity_key`` and ``target_at``; ``value`` or ``label``.
            timeout_s: Of this call; the client's own unless given.

        Returns:
            How many were kept; they are on the server's disk.
        """
        return self._driven(self.outcome_steps(model, one_of(outcomes)[0], timeout_s=timeout_s))

    def push(self, view: str, rows: Row | Rows, *, timeout_s: float | None = None) -> PushAnswer:
        """Hand in feature rows that no table has yet; they are in the next answer of every worker.

        Args:
            view: Its name; ``project/view`` where several projects have one of that name.
            rows: A list or one: keys, the event time, features. A feature that is not named is null.
            timeout_s: Of this call; the client's own unless given.

        Returns:
            How many were kept, which are on the server's disk and online, and which did not fit.

        Raises:
            InputError: Not one row fits; the text names the first fault.
            UnknownError: No served model reads such a view.
            UnavailableError: Nothing was kept; the same rows may be pushed again.
        """
        return self._driven(self.push_steps(view, one_of(rows)[0], timeout_s=timeout_s))

    def ready(self, model: str = "") -> bool:
        """Whether callers should come; asked once, and false where the server cannot be reached.

        Args:
            model: Only this one; the whole server unless given.
        """
        return self._driven(self.ready_steps(model))

    def models(self) -> tuple[str, ...]:
        """The names of the models that are served."""
        return self._driven(self.model_steps())

    def close(self) -> None:
        """Close the connections; calls after it are refused."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _driven(self, steps: Steps[Found]) -> Found:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sending):
                    step = steps.send(self._sent(step))
                else:
                    time.sleep(step)
                    step = steps.send(None)
        except StopIteration as done:
            return cast("Found", done.value)

    def _sent(self, step: Sending) -> Came | Lost:
        if self._http.is_closed:
            raise _closed()
        try:
            self._deadline.at = step.deadline
            answer = self._http.request(step.method, step.path, content=step.content, headers=step.headers)
        except self._lost_by as error:
            return Lost(_why(error), error)
        return Came(answer.status_code, answer.headers, answer.content)

    def _stood_still(self) -> str:
        loops = sys.modules.get("asyncio")
        if loops is None or loops._get_running_loop() is None:  # noqa: SLF001 - what get_running_loop asks, without an error
            return ""
        return "; if the server runs in this very event loop, which stands still meanwhile: await towpath.AsyncClient"


class AsyncClient(Asking):
    """`Client` for an event loop; the same calls, awaited.

    Args:
        address: As for `Client`.
        key: As for `Client`.
        timeout_s: As for `Client`.
        tries: As for `Client`.
    """

    def __init__(self, address: str, *, key: str = "", timeout_s: float = 5.0, tries: int = 8) -> None:
        super().__init__(address, key=key, timeout_s=timeout_s, tries=tries)
        library = _library()
        patience = library.Timeout(None, connect=CONNECT_S)
        self._http = library.AsyncClient(base_url=self.address, timeout=patience, limits=_limits(library))
        self._lost_by = library.RequestError
        self._loops: Any = importlib.import_module("anyio")  # httpx stands on it, so any loop of its will do

    @overload
    async def predict(
        self, model: str, rows: Row, *, timeout_s: float | None = None, request_id: str = "", traceparent: str = ""
    ) -> Prediction: ...
    @overload
    async def predict(
        self, model: str, rows: Rows, *, timeout_s: float | None = None, request_id: str = "", traceparent: str = ""
    ) -> Answer: ...
    async def predict(
        self,
        model: str,
        rows: Row | Rows,
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        traceparent: str = "",
    ) -> Answer | Prediction:
        """Ask a model; see `Client.predict`."""
        asked, single = one_of(rows)
        steps = self.predict_steps(model, asked, timeout_s=timeout_s, request_id=request_id, traceparent=traceparent)
        return first_of(await self._driven(steps), single=single)

    async def outcomes(self, model: str, outcomes: Row | Rows, *, timeout_s: float | None = None) -> int:
        """Say what really happened; see `Client.outcomes`."""
        return await self._driven(self.outcome_steps(model, one_of(outcomes)[0], timeout_s=timeout_s))

    async def push(self, view: str, rows: Row | Rows, *, timeout_s: float | None = None) -> PushAnswer:
        """Hand in feature rows that no table has yet; see `Client.push`."""
        return await self._driven(self.push_steps(view, one_of(rows)[0], timeout_s=timeout_s))

    async def ready(self, model: str = "") -> bool:
        """Whether callers should come; see `Client.ready`."""
        return await self._driven(self.ready_steps(model))

    async def models(self) -> tuple[str, ...]:
        """The names of the models that are served."""
        return await self._driven(self.model_steps())

    async def close(self) -> None:
        """Close the connections; calls after it are refused."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _driven(self, steps: Steps[Found]) -> Found:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sending):
                    step = steps.send(await self._sent(step))
                else:
                    await self._loops.sleep(step)
                    step = steps.send(None)
        except StopIteration as done:
            return cast("Found", done.value)

    async def _sent(self, step: Sending) -> Came | Lost:
        if self._http.is_closed:
            raise _closed()
        with self._loops.move_on_after(step.deadline - time.monotonic()):
            try:
                answer = await self._http.request(step.method, step.path, content=step.content, headers=step.headers)
            except self._lost_by as error:
                return Lost(_why(error), error)
            return Came(answer.status_code, answer.headers, answer.content)
        return Lost("the deadline is over", TimeoutError())


def _library() -> Any:
    if importlib.util.find_spec("httpx") is None:
        raise ExtraError("towpath.Client needs httpx, which is not installed.", mend="uv add 'towpath[client]'")
    return importlib.import_module("httpx")


def _limits(library: Any) -> "httpx.Limits":
    return library.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=_KEPT_OPEN_S)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _closed() -> RefusedError:
    return RefusedError("The client is closed.", mend="one client for the whole program, closed at its end")
