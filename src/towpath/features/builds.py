"""Where a build got to: a row of the online store itself, which readers follow to the table that holds a view's rows.

A lost online store so loses what is known about it too, and the next build is a whole one, never a silent gap.
"""

import hashlib
import os
import secrets
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from towpath.clock import SystemClock
from towpath.errors import ConflictError, FormatError
from towpath.stores.online import OnlineStore
from towpath.types import micros

__all__ = [
    "BUILDS",
    "Filling",
    "BuildState",
    "Former",
    "begin_beside",
    "build_state",
    "forget",
    "give_up",
    "going_on",
    "put_state",
    "rows_table",
    "swap",
    "sweep",
    "table_said",
    "write_rows",
]

BUILDS = "builds"
"""The online table with one row for each view and version: how far it is built."""
GRACE_S = 60.0
"""A table that was swapped out stays that long, for readers that still hold its name."""
_ABANDONED_S = 600.0
_CLOCKS_S = 5.0
"""By how much two clocks of one machine may disagree."""
_SETTLED_S = 5.0
_SETTLING_S = 0.005
_SIGN = 1 << 63
_NO_FORMER: tuple["Former", ...] = ()


class Filling(msgspec.Struct, frozen=True, kw_only=True):
    """A table that is being filled beside the one that is read."""

    table: str
    host: str
    pid: int
    seen_at: datetime
    """When its builder last said that it goes on."""

    def abandoned(self, now: datetime) -> bool:
        """Whether its builder is gone: the process, where it ran here; else nothing was heard for ten minutes."""
        if self.host == socket.gethostname():
            return not _alive(self.pid, _began(self.table))
        return (now - self.seen_at).total_seconds() > _ABANDONED_S


class Former(msgspec.Struct, frozen=True, kw_only=True):
    """A table that was swapped out."""

    table: str
    since: datetime


class BuildState(msgspec.Struct, frozen=True, kw_only=True):
    """Row of the online table ``builds`` under the name that a lock gives: where the rows are, and what is in them."""

    schema: int = 1
    step: int
    """Counts the changes of this row; the greatest stands."""
    table: str = ""
    """Which table holds the rows; none before the first build has ended."""
    as_of: datetime | None = None
    """All that was known then is in the table; none where only single intervals were built."""
    fingerprint: str = ""
    """Of the form that was built last."""
    number: int = 1
    """Of that form's rows."""
    snapshot: str | None = None
    """Digest of what the view's tables looked like; none where the engine does not tell."""
    counted_until: datetime | None = None
    counted_rows: int | None = None
    """Rows of the view that were known at `counted_until`: another number later, and rows landed behind the lookback."""
    built_at: datetime | None = None
    beside: Filling | None = None
    former: tuple[Former, ...] = ()


def build_state(online: OnlineStore, table: str) -> BuildState | None:
    """How far a view is built; none where it never was.

    Args:
        online: The store.
        table: The name that the view's form or a lock gives.

    Raises:
        FormatError: The row is damaged.
    """
    (stored,) = online.read(BUILDS, [table.encode()])
    return None if stored is None else _decoded(stored, table)


def _decoded(stored: bytes, table: str) -> BuildState:
    try:
        return msgspec.json.decode(stored[16:], type=BuildState)
    except msgspec.DecodeError as error:
        raise FormatError(
            f"How far '{table}' is built cannot be read: {error}.", mend="tow features build --full"
        ) from error


def put_state(online: OnlineStore, table: str, state: BuildState) -> None:
    """Write how far a view is built; a greater step wins over a smaller one."""
    head = (state.step + _SIGN).to_bytes(8, "big") + bytes(8)
    online.write(BUILDS, [(table.encode(), head + msgspec.json.encode(state))])


def rows_table(online: OnlineStore, table: str) -> str:
    """The table that holds the rows now; the name itself where nothing was built.

    Args:
        online: The store.
        table: The name that the view's form or a lock gives.
    """
    (stored,) = online.read(BUILDS, [table.encode()])
    return table_said(stored, table)


def table_said(stored: bytes | None, table: str) -> str:
    """The table that a stored row of ``builds`` names; the name itself where there is none yet.

    Raises:
        FormatError: The row is damaged.
    """
    return table if stored is None else _decoded(stored, table).table or table


def write_rows(online: OnlineStore, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
    """Write rows so that no swap loses them: to the table that is read, and to the one that is being filled beside it.

    Args:
        online: The store.
        table: The name that the view's form or a lock gives.
        rows: Keys and encoded values.
    """
    written: set[str] = set()
    while True:
        state = build_state(online, table)
        if state is None or not state.table:
            state = BuildState(
                step=(state.step if state else 0) + 1, table=table, beside=state.beside if state else None
            )
            put_state(online, table, state)
        wanted = {state.table, *([state.beside.table] if state.beside else [])} - written
        if not wanted:
            return
        for each in sorted(wanted):
            online.write(each, rows)
        written |= wanted  # and look again: a swap may have come between


def begin_beside(online: OnlineStore, table: str) -> BuildState:
    """Announce a table beside the one that is read, and remove what a builder that is gone left.

    Of builders that begin within the same moment one gets it, without a lock that every engine would have to have: each makes
    a table of its own first and then looks for those of others. Whoever sees an older one goes; whoever sees a younger
    one waits until that has gone, or has announced itself because it came too early to see.

    Args:
        online: The store.
        table: The name that the view's form or a lock gives.

    Raises:
        ConflictError: Another builder is filling one.
    """
    now = SystemClock().now()
    mine = f"{table}~{micros(now):x}.{_here()}.{os.getpid():x}.{secrets.token_hex(2)}"
    online.write(mine, [])
    try:
        state = _alone(online, table, mine)
    except BaseException:
        online.drop(mine)
        raise
    beside = Filling(table=mine, host=socket.gethostname(), pid=os.getpid(), seen_at=now)
    state = msgspec.structs.replace(state, step=state.step + 1, beside=beside)
    put_state(online, table, state)
    return state


def _alone(online: OnlineStore, table: str, mine: str) -> BuildState:
    """How far the view is built, once no other builder is under way."""
    until = time.monotonic() + _SETTLED_S
    while True:
        names = [name for name in online.tables() if name.startswith(f"{table}~") and name != mine]
        state = build_state(online, table) or BuildState(step=0)  # read after the names: what was swapped in is kept
        now = SystemClock().now()
        if state.beside is not None and not state.beside.abandoned(now):
            raise _conflict(table, f"process {state.beside.pid} on {state.beside.host}", _began(state.beside.table))
        keep = {state.table, *(former.table for former in state.former)}
        others = [name for name in names if name not in keep]
        for name in [each for each in others if _left(each, now)]:
            online.drop(name)
            others.remove(name)
        if not others:
            return state
        if min(others) < mine or time.monotonic() > until:
            first = min(others)
            raise _conflict(table, _builder(first), _began(first))
        time.sleep(_SETTLING_S)


def _left(name: str, now: datetime) -> bool:
    """Whether the builder that made a table, which nobody announced, is gone."""
    began, builder = _began(name), _parts(name)[1:]
    if (now - began).total_seconds() > _ABANDONED_S:
        return True
    return len(builder) < 2 or (builder[0] == _here() and not _alive(int(builder[1], 16), began))  # noqa: PLR2004 - host, process


def _parts(name: str) -> list[str]:
    """Of ``table~began.host.process.chance`` what stands behind the mark."""
    return name.rpartition("~")[2].split(".")


def _began(name: str) -> datetime:
    """When the builder of a table made it."""
    return datetime.fromtimestamp(int(_parts(name)[0], 16) / 1e6, tz=UTC)


def _builder(name: str) -> str:
    _, host, process, *_ = _parts(name)
    return f"process {int(process, 16)} on {socket.gethostname() if host == _here() else 'another machine'}"


def _here() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _conflict(table: str, who: str, since: datetime) -> ConflictError:
    project, view = table.split(".")[:2]
    return ConflictError(
        f"The view '{view}' of '{project}' is being built already, by {who} since {since:%Y-%m-%d %H:%M:%S}.",
        mend="wait until it has ended, or end it, then tow features build; of one that is gone on another machine it is known"
        " after ten minutes",
    )


def going_on(online: OnlineStore, table: str, state: BuildState) -> BuildState:
    """Say now and then that the builder of the table beside is alive.

    Raises:
        ConflictError: Another builder took over.
    """
    now = SystemClock().now()
    assert state.beside is not None
    if (now - state.beside.seen_at).total_seconds() < _ABANDONED_S / 20:
        return state
    standing = _mine(online, table, state)
    beside = msgspec.structs.replace(state.beside, seen_at=now)
    state = msgspec.structs.replace(standing, step=standing.step + 1, beside=beside)
    put_state(online, table, state)
    return state


def swap(online: OnlineStore, table: str, state: BuildState, done: BuildState) -> BuildState:
    """Let readers go over to the table beside: one row is written, and what stood before goes after a grace.

    Args:
        online: The store.
        table: The name that the view's form gives.
        state: As `begin_beside` gave it.
        done: What the new table holds.

    Raises:
        ConflictError: Another builder took over.
    """
    standing, now = _mine(online, table, state), SystemClock().now()
    assert state.beside is not None
    former = standing.former
    if standing.table:
        former = (*former, Former(table=standing.table, since=now))
    former, gone = _aged(former, now)
    after = msgspec.structs.replace(done, step=standing.step + 1, table=state.beside.table, beside=None, former=former)
    put_state(online, table, after)
    for each in gone:
        online.drop(each.table)
    return after


def give_up(online: OnlineStore, table: str, state: BuildState) -> None:
    """Take an announcement back after a failure; what is read stays as it was."""
    standing = build_state(online, table)
    if standing is not None and standing.beside is not None and standing.beside == state.beside:
        put_state(online, table, msgspec.structs.replace(standing, step=standing.step + 1, beside=None))
        online.drop(standing.beside.table)


def sweep(online: OnlineStore, table: str, state: BuildState) -> BuildState:
    """Drop tables that were swapped out longer ago than any reader holds them."""
    former, gone = _aged(state.former, SystemClock().now())
    if not gone:
        return state
    state = msgspec.structs.replace(state, step=state.step + 1, former=former)
    put_state(online, table, state)
    for each in gone:
        online.drop(each.table)
    return state


def forget(online: OnlineStore, table: str) -> None:
    """Let the next build do everything, because the rows are about to be dropped; a builder that is under way gives up.

    Args:
        online: The store.
        table: The name that the view's form or a lock gives.
    """
    state = build_state(online, table)
    if state is not None:
        put_state(online, table, BuildState(step=state.step + 1))


def _aged(former: tuple[Former, ...], now: datetime) -> tuple[tuple[Former, ...], list[Former]]:
    gone = [each for each in former if (now - each.since).total_seconds() > GRACE_S]
    return tuple(each for each in former if each not in gone), gone


def _mine(online: OnlineStore, table: str, state: BuildState) -> BuildState:
    standing = build_state(online, table)
    mine = state.beside.table if state.beside else ""
    if standing is None or standing.beside is None or standing.beside.table != mine:
        project, view = table.split(".")[:2]
        raise ConflictError(
            f"Another build of the view '{view}' of '{project}' took over from this one.", mend="tow features build"
        )
    return standing


def _alive(pid: int, since: datetime) -> bool:
    """Whether the process of that number, which ran at a moment, still runs: a container that starts anew has the same numbers."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    started = _started(pid)
    return started is None or started <= since.timestamp() + _CLOCKS_S


def _started(pid: int) -> float | None:
    """When a process started, in seconds since 1970; none where the system does not tell as Linux does."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
        return int(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return None
