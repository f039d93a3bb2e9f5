"""Incidents: one opens at the first failing check, stays one while it fails, and closes at the first that passes."""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from towpath.errors import ConflictError
from towpath.monitors.check import Checked
from towpath.types import duration_text, micros

if TYPE_CHECKING:
    from towpath.stores.catalog import Catalog, Transaction

__all__ = ["Incident", "address_digest", "incidents", "record"]


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is or was wrong with one segment of one model."""

    incident_id: str
    project: str
    model: str
    monitor: str
    segment: str
    severity: str
    status: Literal["open", "closed"]
    opened_at: datetime
    last_seen_at: datetime
    closed_at: datetime | None
    failing_rows: int
    detail: dict[str, Any]
    """``rows``: the first failing rows when it was last seen; ``error`` where the monitor could not be asked."""
    owner: str
    mend: str
    delivered_at: datetime | None


def record(catalog: "Catalog", checked: Sequence[Checked], *, addresses: Sequence[str] = ()) -> tuple[Incident, ...]:
    """Write down what was found: the check itself, and the incidents that it opens, keeps open or closes.

    A monitor that could not be asked opens an incident without a segment and closes none, because it knows nothing.

    Args:
        catalog: Where incidents live.
        checked: Answers; the same ones again change nothing but `last_seen_at`.
        addresses: Where messages go; each change is put into the outbox for each of them, in the same transaction.

    Returns:
        The incidents that opened or closed.

    Raises:
        UnavailableError: The catalog cannot be written; check again later.
    """
    ids = [name for one in checked for name in _recorded(catalog, one, addresses)]
    return tuple(incident for name in ids for incident in incidents(catalog, incident_id=name))


def incidents(
    catalog: "Catalog",
    *,
    model: str | None = None,
    status: Literal["open", "closed"] | None = None,
    incident_id: str | None = None,
    limit: int = 1_000,
) -> tuple[Incident, ...]:
    """Incidents, those that opened last first.

    Args:
        catalog: Where they live.
        model: Only of this one.
        status: Only open or only closed ones.
        incident_id: Only this one.
        limit: The most that are given.
    """
    wanted = {"model": model, "status": status, "incident_id": incident_id}
    given = {name: value for name, value in wanted.items() if value is not None}
    where = " and ".join(["1 = 1", *(f"{name} = :{name}" for name in given)])
    rows = catalog.read(
        f"select * from incidents where {where} order by opened_at_us desc, incident_id limit :limit",
        limit=limit,
        **given,
    )
    return tuple(_incident(row) for row in rows)


def address_digest(address: str) -> str:
    """What the catalog keeps of an address, which itself holds a secret."""
    return hashlib.sha256(address.encode()).hexdigest()[:16]


def _recorded(catalog: "Catalog", checked: Checked, addresses: Sequence[str]) -> list[str]:
    try:
        with catalog.writing() as transaction:
            return _record_one(transaction, checked, addresses)
    except ConflictError:  # another checker opened the same one at the same moment: now there is one to keep
        with catalog.writing() as transaction:
            return _record_one(transaction, checked, addresses)


def _record_one(transaction: "Transaction", checked: Checked, addresses: Sequence[str]) -> list[str]:
    monitor, now_us = checked.monitor, micros(checked.at)
    key = {"project": monitor.project, "model": monitor.model, "monitor": monitor.name}
    transaction.write(
        "insert into checks (project, model, monitor, at_us, status, failing_rows, duration_ms, error) "
        "values (:project, :model, :monitor, :at_us, :status, :failing_rows, :duration_ms, :error)",
        at_us=now_us,
        status=checked.status,
        failing_rows=checked.failing_rows,
        duration_ms=checked.duration_ms,
        error=checked.error,
        **key,
    )
    rows = transaction.read(
        "select * from incidents where project = :project and model = :model and monitor = :monitor and status = 'open'",
        **key,
    )
    still_open = {row["segment"]: row for row in rows}
    failing = {"": 0} if checked.status == "error" else checked.segments
    changed: list[str] = []
    for segment, count in failing.items():
        detail = msgspec.json.encode(_detail(checked, segment)).decode()
        if segment in still_open:
            transaction.write(
                "update incidents set last_seen_at_us = :now_us, failing_rows = :failing_rows, detail = :detail "
                "where incident_id = :incident_id",
                now_us=max(now_us, still_open[segment]["last_seen_at_us"]),
                failing_rows=count,
                detail=detail,
                incident_id=still_open[segment]["incident_id"],
            )
        else:
            changed.append(_open(transaction, checked, segment, count, detail, addresses))
    if checked.status != "error":
        for segment, row in still_open.items():
            if segment not in failing:
                _close(transaction, checked, row, addresses)
                changed.append(row["incident_id"])
    return changed


def _open(
    transaction: "Transaction", checked: Checked, segment: str, count: int, detail: str, addresses: Sequence[str]
) -> str:
    monitor, now_us, incident_id = checked.monitor, micros(checked.at), secrets.token_hex(8)
    transaction.write(
        "insert into incidents (incident_id, project, model, monitor, segment, severity, status, opened_at_us, "
        "last_seen_at_us, failing_rows, detail, owner, mend) values (:incident_id, :project, :model, :monitor, :segment, "
        ":severity, 'open', :now_us, :now_us, :failing_rows, :detail, :owner, :mend)",
        incident_id=incident_id,
        project=monitor.project,
        model=monitor.model,
        monitor=monitor.name,
        segment=segment,
        severity=monitor.header.severity,
        now_us=now_us,
        failing_rows=count,
        detail=detail,
        owner=monitor.owner,
        mend=monitor.header.mend,
    )
    said = f"could not be asked: {checked.error}" if checked.status == "error" else f"{count} failing rows"
    lines = [monitor.header.description, said]
    if monitor.owner:
        lines.append(f"owner: {monitor.owner}")
    if monitor.header.mend:
        lines.append(f"mend:  {monitor.header.mend}")
    title = f"[{monitor.header.severity}] {_about(monitor.model, monitor.name, segment)}"
    _post(transaction, checked, (incident_id, "opened"), title, "\n".join(lines), addresses)
    return incident_id


def _close(transaction: "Transaction", checked: Checked, row: dict[str, Any], addresses: Sequence[str]) -> None:
    now_us = max(micros(checked.at), row["opened_at_us"])
    transaction.write(
        "update incidents set status = 'closed', closed_at_us = :now_us where incident_id = :incident_id",
        now_us=now_us,
        incident_id=row["incident_id"],
    )
    took = duration_text(timedelta(microseconds=now_us - row["opened_at_us"]))
    title = f"[closed] {_about(checked.monitor.model, checked.monitor.name, row['segment'])}"
    _post(transaction, checked, (row["incident_id"], "closed"), title, f"Passed again after {took}.", addresses)


def _post(
    transaction: "Transaction",
    checked: Checked,
    message: tuple[str, str],
    title: str,
    body: str,
    addresses: Sequence[str],
) -> None:
    for address in dict.fromkeys(addresses):
        transaction.write(
            "insert into outbox (incident_id, kind, address, title, body, severity, created_at_us, next_at_us) "
            "values (:incident_id, :kind, :address, :title, :body, :severity, :now_us, :now_us)",
            incident_id=message[0],
            kind=message[1],
            address=address_digest(address),
            title=title,
            body=body,
            severity=checked.monitor.header.severity,
            now_us=micros(checked.at),
        )


def _about(model: str, monitor: str, segment: str) -> str:
    about = f"{model}: {monitor}" if model else monitor
    return f"{about} on {segment}" if segment else about


def _detail(checked: Checked, segment: str) -> dict[str, Any]:
    if checked.status == "error":
        return {"error": checked.error}
    return {"rows": [row for row in checked.rows if str(row.get("segment") or "") == segment][:5]}


def _incident(row: dict[str, Any]) -> Incident:
    def moment(name: str) -> datetime | None:
        us = row[name]
        return None if us is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)

    fields = {name: row[name] for name in Incident.__struct_fields__ if name in row and not name.endswith("_at")}
    times = {name: moment(f"{name}_us") for name in ("opened_at", "last_seen_at", "closed_at", "delivered_at")}
    return msgspec.convert(fields | times | {"detail": msgspec.json.decode(row["detail"])}, Incident)
