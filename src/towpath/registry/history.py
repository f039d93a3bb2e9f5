"""Who is champion, since when and why: a log of create-only entries; of writers that race one wins."""

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from towpath.clock import Clock
from towpath.errors import ConflictError, FormatError, RefusedError
from towpath.models.manifest import Manifest
from towpath.registry.claims import owner
from towpath.registry.log import Event, Follows, Kill, LogEntry, TrafficState
from towpath.registry.signing import Trusted
from towpath.registry.stored import decode, digest_of, encode
from towpath.registry.versions import manifest, verdicts
from towpath.stores.objects import Objects

__all__ = [
    "Reign",
    "append",
    "champion_at",
    "current",
    "entries",
    "kill",
    "override",
    "promote",
    "reigns",
    "revive",
    "rollback",
]

_ATTEMPTS = 1_000


class Reign(msgspec.Struct, frozen=True, kw_only=True):
    """A version's time as champion, ``[since, until)``."""

    version: int | None
    """None while nobody was."""
    since: datetime
    until: datetime | None = None
    """None for today's champion."""
    event: Event
    """What began it; ``event.override`` is visible for ever."""


def entries(objects: Objects, model: str) -> list[LogEntry]:
    """The whole log of a model, oldest first, each entry checked against the digest of the one before.

    Raises:
        FormatError: An entry is missing, or was changed after the next one was written.
    """
    found: list[LogEntry] = []
    before: Follows | None = None
    for path in _log_paths(objects, model):
        data = objects.get(path)
        entry = decode(data, LogEntry, path)
        if entry.follows != before or entry.revision != len(found) + 1:
            raise FormatError(
                f"The log of '{model}' is broken: entry {entry.revision} follows "
                f"{_told(entry.follows)}, found {_told(before)}.",
                path,
                "restore the object from a backup; entries are never changed or deleted",
            )
        found.append(entry)
        before = Follows(revision=entry.revision, digest=digest_of(data))
    return found


def current(objects: Objects, model: str) -> LogEntry | None:
    """The newest entry, which holds the whole state; None where nothing ever happened."""
    return _current(objects, model)[0]


def append(
    objects: Objects,
    model: str,
    event: Event,
    change: Callable[[TrafficState], TrafficState],
    *,
    on: int,
    commutes: bool = False,
) -> LogEntry:
    """Write the next entry of a model's log.

    Args:
        objects: The fleet's store.
        model: A claimed model name.
        event: Who, when, why; it gets an id of its own.
        change: The state before → the state after. Called again for each attempt where the event commutes.
        on: Revision that the decision was made on; 0 for an empty log.
        commutes: Whether the event is right whatever landed since (kill, revive); then it is tried again.

    Raises:
        RefusedError: Another entry landed since `on`, and the event does not commute.
        UnknownError: Nobody claimed the model's name.
        ConflictError: The log changed at each of 1,000 attempts.
    """
    event = msgspec.structs.replace(event, id=secrets.token_hex(8))
    claim = owner(objects, model)
    for _ in range(_ATTEMPTS):
        standing, follows = _current(objects, model)
        revision = standing.revision if standing else 0
        if revision != on and not commutes:
            raise _overtaken(model, event, on, standing)
        entry = LogEntry(
            project=claim.project,
            team=claim.team,
            model=model,
            revision=revision + 1,
            follows=follows,
            event=event,
            state=change(standing.state if standing else TrafficState(salt=model)),
        )
        path = f"models/{model}/log/{entry.revision:06d}.json"
        try:
            objects.put_new(path, encode(entry))
        except ConflictError:
            landed = decode(objects.get(path), LogEntry, path)
            if landed.event.id == event.id:  # ours; its acknowledgement was lost on the way
                return landed
            if not commutes:
                raise _overtaken(model, event, on, landed) from None
        else:
            return entry
    raise ConflictError(f"The log of '{model}' changed at each of {_ATTEMPTS} attempts.", objects.url, "try again")


def promote(
    objects: Objects, model: str, version: int, *, trusted: Trusted, by: str, clock: Clock, because: str = ""
) -> LogEntry:
    """Make a version champion on the strength of its newest verdict.

    The verdict says which champion it was won against. Of promoters that race one wins; the others, and whoever tries
    again with the same verdict, are refused, because that champion is champion no longer.

    Args:
        objects: The fleet's store.
        model: Its name.
        version: The candidate.
        trusted: Whose signatures on manifest and verdict count.
        by: The person or job that promotes.
        clock: Says when.
        because: Why, for people.

    Raises:
        RefusedError: No verdict, a failing one, one won against another champion, a version trained on a sample, or
            bytes that differ from what was signed.
        UnknownError: There is no such version.
    """
    standing = current(objects, model)
    _whole(objects, model, version, trusted)
    found = verdicts(objects, model, version, trusted)
    if not found:
        raise RefusedError(
            f"{model}@{version} was not promoted: it has no verdict.",
            f"models/{model}/versions/{version:06d}/verdicts",
            f"tow gate {model}@{version}",
        )
    path, verdict = list(found.items())[-1]
    if not verdict.passed:
        failing = "; ".join(f"{rule.name}: {rule.reason}" for rule in verdict.rules if not rule.passed)
        raise RefusedError(
            f"{model}@{version} was not promoted: its verdict of {verdict.at:%Y-%m-%d %H:%M} fails. {failing}",
            path,
            f'train a better one, or tow promote {model}@{version} --override --because "…"',
        )
    event = Event(kind="promoted", at=clock.now(), by=by, because=because, version=version, verdict=path)
    return _crown(objects, model, version, standing, against=verdict.against, event=event)


def override(
    objects: Objects,
    model: str,
    version: int,
    *,
    against: int | None,
    because: str,
    trusted: Trusted,
    by: str,
    clock: Clock,
) -> LogEntry:
    """Make a version champion without a passing verdict; recorded, and visible for ever.

    Args:
        objects: The fleet's store.
        model: Its name.
        version: The candidate.
        against: The champion that the person saw when deciding; None where there was none.
        because: Why; must not be empty.
        trusted: Whose signature on the manifest counts.
        by: The person who answers for it.
        clock: Says when.

    Raises:
        RefusedError: No reason given, another champion by now, a version trained on a sample, or bytes that differ
            from what was signed.
        UnknownError: There is no such version.
    """
    if not because.strip():
        raise RefusedError(
            f"{model}@{version} was not promoted: an override needs a reason.", mend='--override --because "…"'
        )
    standing = current(objects, model)
    _whole(objects, model, version, trusted)
    found = verdicts(objects, model, version, trusted)
    event = Event(
        kind="promoted",
        at=clock.now(),
        by=by,
        because=because.strip(),
        version=version,
        verdict=next(reversed(found), None),
        override=True,
    )
    return _crown(objects, model, version, standing, against=against, event=event)


def rollback(
    objects: Objects, model: str, *, by: str, because: str, clock: Clock, leaving: int | None = None
) -> LogEntry:
    """Return to the champion before; a second rollback goes one further back.

    Args:
        objects: The fleet's store.
        model: Its name.
        by: The person or job.
        because: Why.
        clock: Says when.
        leaving: The champion that shall go; whoever is champion unless given. With it, two people who press the
            button at once go back one step, not two.

    Raises:
        RefusedError: There is no champion before, `leaving` is not champion, or somebody else wrote first.
    """
    log = entries(objects, model)
    state = log[-1].state if log else TrafficState()
    if leaving is not None and state.champion != leaving:
        raise RefusedError(
            f"'{model}' was not rolled back: champion is {_name(state.champion)}, not {leaving}.",
            f"models/{model}/log",
            f"tow history {model}",
        )
    back = state.previous
    if back is None:
        raise RefusedError(
            f"'{model}' was not rolled back: no version was champion before {_name(state.champion)}.",
            f"models/{model}/log",
            f'to send all rows to the fallback: tow kill {model} --because "…"',
        )
    further = next(iter(_line(log)[-3:-2]), None)
    event = Event(kind="rolled_back", at=clock.now(), by=by, because=because, version=back)
    return append(
        objects,
        model,
        event,
        lambda before: msgspec.structs.replace(before, champion=back, previous=further),
        on=log[-1].revision,
    )


def kill(
    objects: Objects,
    model: str,
    *,
    by: str,
    because: str,
    clock: Clock,
    version: int | None = None,
    consumer: str | None = None,
    segment: str | None = None,
) -> LogEntry:
    """Send rows to the fallback: all of the model, or those of one version, consumer or segment.

    Right whatever else happens, so a race is tried again inside and never refused.

    Raises:
        RefusedError: No reason given.
        UnknownError: There is no such model.
    """
    if not because.strip():
        raise RefusedError(f"'{model}' was not killed: say why.", mend=f'tow kill {model} --because "…"')
    switch = Kill(because=because.strip(), by=by, at=clock.now(), version=version, consumer=consumer, segment=segment)
    event = Event(kind="killed", at=switch.at, by=by, because=switch.because, version=version)
    return append(
        objects,
        model,
        event,
        lambda before: msgspec.structs.replace(
            before, kills=(*(k for k in before.kills if _scope(k) != _scope(switch)), switch)
        ),
        on=0,
        commutes=True,
    )


def revive(
    objects: Objects,
    model: str,
    *,
    by: str,
    clock: Clock,
    because: str = "",
    version: int | None = None,
    consumer: str | None = None,
    segment: str | None = None,
) -> LogEntry:
    """Take back kill switches: all of the model, or only those of the version, consumer or segment named.

    Raises:
        UnknownError: There is no such model.
    """
    named = {"version": version, "consumer": consumer, "segment": segment}
    asked = {key: value for key, value in named.items() if value is not None}

    def change(before: TrafficState) -> TrafficState:
        stay = tuple(k for k in before.kills if any(getattr(k, key) != value for key, value in asked.items()))
        return msgspec.structs.replace(before, kills=stay)

    event = Event(kind="revived", at=clock.now(), by=by, because=because, version=version)
    return append(objects, model, event, change, on=0, commutes=True)


def reigns(log: Sequence[LogEntry]) -> list[Reign]:
    """Who was champion when, oldest first.

    Args:
        log: As `entries` gave it.
    """
    found: list[Reign] = []
    for entry in log:
        version = entry.state.champion
        if version == (found[-1].version if found else None):
            continue
        if found:
            found[-1] = msgspec.structs.replace(found[-1], until=entry.event.at)
        found.append(Reign(version=version, since=entry.event.at, event=entry.event))
    return found


def champion_at(log: Sequence[LogEntry], time: datetime) -> int | None:
    """Which version was champion at a moment; None before the first.

    Args:
        log: As `entries` gave it.
        time: Aware; an entry counts from its own moment on.
    """
    return next((entry.state.champion for entry in reversed(log) if entry.event.at <= time), None)


def _line(log: Sequence[LogEntry]) -> list[int | None]:
    """The champions that led to today's, oldest first: a promotion adds one, a rollback takes one away.

    Without it 1, 2, 1 and two rollbacks would lead from 1 to 2 and round again.
    """
    line: list[int | None] = []
    for entry in log:
        if entry.event.kind == "promoted":
            line.append(entry.event.version)
        elif entry.event.kind == "rolled_back":
            line.pop()
    return line


def _whole(objects: Objects, model: str, version: int, trusted: Trusted) -> Manifest:
    found = manifest(objects, model, version, trusted)
    share = found.training.sample_share if found.training else 1.0
    if share < 1:
        raise RefusedError(
            f"{model}@{version} was not promoted: it was trained on a sample of {share:.2%} (100% is needed).",
            f"models/{model}/versions/{version:06d}/manifest.json",
            f"tow train {model} without --sample",
        )
    return found


def _crown(
    objects: Objects, model: str, version: int, standing: LogEntry | None, *, against: int | None, event: Event
) -> LogEntry:
    champion = standing.state.champion if standing else None
    if champion == version:
        raise RefusedError(f"{model}@{version} is the champion already.", f"models/{model}/log", f"tow show {model}")
    if champion != against:
        how = "decided on" if event.override else "won"
        raise RefusedError(
            f"{model}@{version} was not promoted: it was {how} against {_name(against)}, "
            f"and the champion now is {_name(champion)}.",
            event.verdict or f"models/{model}/log",
            f"tow gate {model}@{version}, which measures it against today's champion",
        )
    return append(
        objects,
        model,
        event,
        lambda before: msgspec.structs.replace(before, champion=version, previous=before.champion, retired=False),
        on=standing.revision if standing else 0,
    )


def _log_paths(objects: Objects, model: str) -> list[str]:
    return [path for path in objects.paths(f"models/{model}/log/") if path.endswith(".json")]


def _current(objects: Objects, model: str) -> tuple[LogEntry | None, Follows | None]:
    paths = _log_paths(objects, model)
    if not paths:
        return None, None
    data = objects.get(paths[-1])
    entry = decode(data, LogEntry, paths[-1])
    return entry, Follows(revision=entry.revision, digest=digest_of(data))


def _overtaken(model: str, event: Event, on: int, landed: LogEntry | None) -> RefusedError:
    seen = f"revision {on}"
    now = f"{landed.event.kind} by {landed.event.by} at revision {landed.revision}" if landed else "an empty log"
    return RefusedError(
        f"'{model}' was not changed ({event.kind}): it was decided on {seen}, and meanwhile there is {now}.",
        f"models/{model}/log",
        f"tow history {model}, and decide again",
    )


def _scope(switch: Kill) -> tuple[int | None, str | None, str | None]:
    return switch.version, switch.consumer, switch.segment


def _name(version: int | None) -> str:
    return "the fallback alone (no champion)" if version is None else f"version {version}"


def _told(follows: Follows | None) -> str:
    return "nothing" if follows is None else f"{follows.revision} ({follows.digest[:19]}…)"
