"""The consumers on the side of a project: added, rotated, revoked, and measured against what was promised to them."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from towpath.errors import UnknownError, nearest
from towpath.platform import shown
from towpath.traffic import Consumer, ConsumerBook, Quota, Sla, last_seen, make_pepper, read_pepper

if TYPE_CHECKING:
    from towpath.fleet import CallerRow
    from towpath.platform.opened import Platform

__all__ = ["Callers", "ConsumerRow", "KeyRow"]

_WINDOW = timedelta(days=7)


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a consumer."""

    id: str
    state: Literal["live", "expired", "revoked"]
    created_at: datetime
    expires_at: datetime | None
    last_seen_at: datetime | None
    """About a minute late."""


class ConsumerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer: what it may do, what was promised, and how it was answered in the last seven days."""

    name: str
    team: str
    state: Literal["waiting", "live", "expired", "revoked"]
    """*Waiting* until its first call; *expired* or *revoked* where no key opens the door any more."""
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    quota: Quota
    sla: Sla
    keys: tuple[KeyRow, ...]
    last_seen_at: datetime | None
    requests: int = 0
    rows: int = 0
    p99_ms: float | None = None
    available_share: float | None = None
    sla_kept: bool | None = None
    """None where nothing was promised or nobody called."""
    by_model: tuple["CallerRow", ...] = ()
    changed_at: datetime
    changed_by: str
    change: str


class Callers:
    """What ``platform.consumers`` is."""

    def __init__(self, platform: "Platform") -> None:
        self._platform = platform

    def __repr__(self) -> str:
        return shown.or_the_fault(
            lambda: shown.as_text(f"{len(self._book(write=False).all())} consumers", self._shown())
        )

    def _repr_html_(self) -> str:
        return shown.or_the_fault(lambda: shown.as_html("Consumers", self._shown(), empty="No consumers."), html=True)

    def _shown(self) -> list[dict[str, object]]:
        return [
            {"name": one.name, "team": one.team, "state": one.state, "seen": one.last_seen_at} for one in self.list()
        ]

    def add(
        self,
        name: str,
        *,
        team: str = "",
        models: tuple[str, ...] = (),
        scopes: tuple[str, ...] = ("predict", "outcomes"),
        quota: Quota | None = None,
        sla: Sla | None = None,
        lifetime: timedelta | None = None,
    ) -> str:
        """Make a consumer; gives its key, which is shown this once.

        Raises:
            InputError: The name is none.
            RefusedError: There is one of that name.
            UnknownError: There is no such model in the store.
        """
        self._check_models(models)
        platform = self._platform
        return self._book().add(
            name,
            team=team or name,
            at=platform.now(),
            by=platform.who,
            models=models,
            scopes=scopes,
            quota=quota,
            sla=sla,
            lifetime=lifetime,
        )

    def change(self, name: str, **fields: object) -> Consumer:
        """Change team, models, scopes, quota or SLA; servers follow with their next poll.

        Raises:
            UnknownError: There is no such consumer or model.
        """
        models = fields.get("models")
        self._check_models(models if isinstance(models, tuple) else ())
        return self._book(write=False).change(name, at=self._platform.now(), by=self._platform.who, **fields)

    def rotate(
        self, name: str, *, overlap: timedelta = timedelta(days=7), lifetime: timedelta | None = None
    ) -> tuple[str, Consumer]:
        """Make a new key; the old one goes on for the overlap.

        Raises:
            UnknownError: There is no such consumer.
            RefusedError: It has two live keys already.
        """
        platform = self._platform
        return self._book().rotate(name, at=platform.now(), by=platform.who, overlap=overlap, lifetime=lifetime)

    def revoke(self, name: str, *, key: str | None = None) -> Consumer:
        """End all keys of a consumer, or one by its id.

        Raises:
            UnknownError: There is no such consumer or key.
        """
        return self._book(write=False).revoke(name, at=self._platform.now(), by=self._platform.who, key=key)

    def list(self) -> "list[ConsumerRow]":
        """All consumers, by name."""
        known = self._book(write=False).all()
        return self._rows(known) if known else []

    def show(self, name: str) -> ConsumerRow:
        """One consumer, with its keys and how each model answered it.

        Raises:
            UnknownError: There is none of that name; the text offers the nearest.
        """
        return self._rows({name: self._book(write=False).get(name)})[0]

    def kit(
        self, name: str, to: Path, *, endpoint: str = "", grpc_endpoint: str = "", new_key: bool = False
    ) -> "list[Path]":
        """Write what the consumer's engineers need; see `towpath.platform.kit`.

        Raises:
            UnknownError: There is no such consumer.
            RefusedError: None of its models has a champion; or with `new_key`, it has two live keys.
        """
        from towpath.platform.kit import write_kit

        consumer = self._book(write=False).get(name)
        return write_kit(
            self._platform,
            consumer,
            to,
            endpoint=endpoint,
            grpc_endpoint=grpc_endpoint,
            make_key=(lambda: self.rotate(name)[0]) if new_key else None,
        )

    def _book(self, *, write: bool = True) -> ConsumerBook:
        """With the pepper where a key is made; the first one on this machine makes the pepper, too."""
        platform = self._platform
        if not write:
            return ConsumerBook(platform.objects)
        setting = platform.settings.stores.pepper
        pepper = read_pepper(setting, platform.keys, platform.folder, platform.variables)
        if not pepper and not any(
            key.pepper for one in ConsumerBook(platform.objects).all().values() for key in one.keys
        ):
            pepper = make_pepper(platform.keys)
        return ConsumerBook(platform.objects, pepper)

    def _check_models(self, models: tuple[str, ...]) -> None:
        from towpath.registry import claims

        known = {*claims.models(self._platform.objects), *self._platform.project.models}
        for model in models:
            if model not in known:
                raise UnknownError(f"There is no model '{model}'{nearest(model, known)}", mend="tow models lists them")

    def _rows(self, known: Mapping[str, Consumer]) -> "list[ConsumerRow]":
        platform = self._platform
        now, seen = platform.now(), last_seen(platform.objects)
        measured: dict[str, list[CallerRow]] = {}
        for row in platform.watch.callers(window=_WINDOW):
            measured.setdefault(row.consumer, []).append(row)
        return [_row(one, now, seen, measured.get(name, [])) for name, one in sorted(known.items())]


def _row(
    consumer: Consumer,
    now: datetime,
    seen: Mapping[tuple[str, str], datetime],
    measured: "list[CallerRow]",
) -> ConsumerRow:
    keys = tuple(
        KeyRow(
            id=key.id,
            state="live" if key.live(now) else "expired" if key.revoked_at is None else "revoked",
            created_at=key.created_at,
            expires_at=key.expires_at,
            last_seen_at=seen.get((consumer.name, key.id)),
        )
        for key in consumer.keys
    )
    total = next((row for row in measured if row.model is None), None)
    times = [key.last_seen_at for key in keys if key.last_seen_at is not None]
    times += [total.last_called_at] if total is not None else []
    state: Literal["waiting", "live", "expired", "revoked"] = "live" if times else "waiting"
    if not any(key.state == "live" for key in keys):
        state = "expired" if keys[-1].state == "expired" else "revoked"
    return ConsumerRow(
        name=consumer.name,
        team=consumer.team,
        state=state,
        scopes=consumer.scopes,
        models=consumer.models,
        quota=consumer.quota,
        sla=consumer.sla,
        keys=keys,
        last_seen_at=max(times, default=None),
        requests=total.requests if total else 0,
        rows=total.rows if total else 0,
        p99_ms=total.p99_ms if total else None,
        available_share=total.available_share if total else None,
        sla_kept=_kept(consumer.sla, total),
        by_model=tuple(row for row in measured if row.model is not None),
        changed_at=consumer.changed_at,
        changed_by=consumer.changed_by,
        change=consumer.change,
    )


def _kept(sla: Sla, total: "CallerRow | None") -> bool | None:
    if total is None or sla == Sla():
        return None
    slow = sla.p99_ms and total.p99_ms is not None and total.p99_ms > sla.p99_ms
    away = (
        sla.availability_share and total.available_share is not None and total.available_share < sla.availability_share
    )
    return not (slow or away)
