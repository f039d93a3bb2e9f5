"""The models of a project: train, gate, promote, roll back, kill, and what became of them."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from towpath.errors import RefusedError, UnknownError, nearest
from towpath.gate.verdict import Verdict
from towpath.platform import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from towpath.models.manifest import Manifest
    from towpath.platform.answering import Collected, Predicted, Tried
    from towpath.platform.opened import Platform
    from towpath.platform.training import TrainedVersion
    from towpath.project import ModelFolder
    from towpath.registry.log import LogEntry

__all__ = ["HistoryRow", "ModelHandle", "ModelRow", "Models", "VersionRow", "history_rows", "version_rows"]

_VERDICTS = {None: "not judged", True: "passed", False: "refused"}


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``tow models``."""

    model: str
    tier: str
    owner: str
    champion: int | None
    versions: int
    newest: int | None
    newest_passed: bool | None
    """Verdict of the newest version; null where it was not judged."""
    killed: bool
    description: str


class VersionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model."""

    version: int
    champion: bool
    created_at: datetime
    created_by: str
    as_of: datetime | None
    format: str
    rows: int | None
    metrics: dict[str, float]
    passed: bool | None
    run_id: str | None


class HistoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a model's log."""

    revision: int
    at: datetime
    kind: str
    version: int | None
    champion: int | None
    by: str
    because: str
    override: bool
    verdict: str | None


class Models(Mapping[str, "ModelHandle"]):
    """The project's models by name."""

    def __init__(self, platform: "Platform") -> None:
        self._platform = platform

    def __getitem__(self, name: str) -> "ModelHandle":
        known = self._platform.project.models
        if name not in known:
            raise UnknownError(
                f"There is no model '{name}'{nearest(name, known)}",
                f"{self._platform.folder}/models",
                "tow models lists them",
            )
        return ModelHandle(self._platform, known[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._platform.project.models)

    def __len__(self) -> int:
        return len(self._platform.project.models)

    def __repr__(self) -> str:
        return shown.or_the_fault(lambda: shown.as_text(self._title(), self._shown()))

    def _repr_html_(self) -> str:
        return shown.or_the_fault(lambda: shown.as_html(self._title(), self._shown()), html=True)

    def _title(self) -> str:
        return f"{len(self)} model{'' if len(self) == 1 else 's'} of {self._platform.settings.project.name}"

    def _shown(self) -> "list[dict[str, object]]":
        return [
            {
                "model": row.model,
                "champion": None if row.champion is None else f"@{row.champion}",
                "newest": None if row.newest is None else f"@{row.newest} {_VERDICTS[row.newest_passed]}",
                "killed": row.killed,
                "tier": row.tier,
                "owner": row.owner,
                "description": row.description,
            }
            for row in self.list()
        ]

    def list(self) -> "list[ModelRow]":
        """One row for each model of the project."""
        rows: list[ModelRow] = []
        for name in self:
            handle = self[name]
            entry, versions = handle.current(), handle.versions()
            declaration = handle.folder.declaration
            rows.append(
                ModelRow(
                    model=name,
                    tier=declaration.tier,
                    owner=declaration.owner,
                    champion=entry.state.champion if entry else None,
                    versions=len(versions),
                    newest=versions[0].version if versions else None,
                    newest_passed=versions[0].passed if versions else None,
                    killed=bool(entry and entry.state.kills),
                    description=declaration.description,
                )
            )
        return rows


class ModelHandle:
    """One model of the project; what ``platform.models["demand"]`` is."""

    def __init__(self, platform: "Platform", folder: "ModelFolder") -> None:
        self.platform = platform
        self.folder = folder
        self.name = folder.name

    def __repr__(self) -> str:
        return shown.or_the_fault(lambda: shown.as_text(self._title(), self._shown()))

    def _repr_html_(self) -> str:
        declaration = self.folder.declaration
        about = (
            f"{declaration.description}; fallback: {', '.join(link.name for link in declaration.fallback) or 'none'}"
        )
        return shown.or_the_fault(
            lambda: shown.as_html(
                f"{self._title()}. {about}", self._shown(), empty=f"No version yet: tow train {self.name}"
            ),
            html=True,
        )

    def _title(self) -> str:
        entry = self.current()
        champion = entry.state.champion if entry else None
        stands = "no champion yet" if champion is None else f"champion @{champion}"
        killed = ", killed" if entry and entry.state.kills else ""
        return f"Model {self.name}: {self.folder.declaration.tier}, {stands}{killed}"

    def _shown(self) -> "list[dict[str, object]]":
        metric = self.folder.declaration.gate.metric
        return [
            {
                "version": f"@{row.version}",
                "champion": row.champion,
                "verdict": _VERDICTS[row.passed],
                metric: row.metrics.get(metric),
                "rows": row.rows,
                "as of": row.as_of,
                "by": row.created_by,
            }
            for row in self.versions()
        ]

    def train(self, *, sample_share: float = 1.0, on_line: "Callable[[str], None] | None" = None) -> "TrainedVersion":
        """Train on what is known now, and publish a version.

        Args:
            sample_share: Of the entities, above 0 and at most 1; a version of less than 1 cannot be promoted.
            on_line: Called with each line that the user's code prints.

        Raises:
            ModelError: The train function failed; the text is its own traceback.
            ResourceError: It asked for more than there is, or used more than it was allowed.
            RefusedError: The model's name belongs to another project.
        """
        from towpath.platform.training import train

        return train(self, sample_share=sample_share, on_line=on_line)

    def gate(self, version: int | None = None) -> Verdict:
        """Judge a version, the newest unless given, and store the verdict.

        Raises:
            UnknownError: There is no such version.
        """
        from towpath.platform.judging import judge_version

        return judge_version(self, version or self.newest())

    def promotion(self, version: int | None = None) -> dict[str, Any]:
        """What `promote` would do, without doing it."""
        from towpath.registry import versions

        number = version or self.newest()
        entry = self.current()
        found = versions.verdicts(self.platform.objects, self.name, number, self.platform.trusted)
        path, verdict = next(reversed(found.items()), (None, None))
        return {
            "model": self.name,
            "version": number,
            "champion_now": entry.state.champion if entry else None,
            "revision": (entry.revision if entry else 0) + 1,
            "verdict": path,
            "passed": verdict.passed if verdict else None,
            "against": verdict.against if verdict else None,
        }

    def promote(self, version: int | None = None, *, override: bool = False, because: str = "") -> "LogEntry":
        """Make a version the champion, on the strength of its newest verdict.

        Args:
            version: The newest unless given.
            override: Without a passing verdict; needs `because`.
            because: Why.

        Raises:
            RefusedError: The verdict is missing, failed, or was won against another champion.
        """
        from towpath.registry import history

        number = version or self.newest()
        platform = self.platform
        if not override:
            return history.promote(
                platform.objects,
                self.name,
                number,
                trusted=platform.trusted,
                by=platform.who,
                clock=platform.clock,
                because=because,
            )
        entry = self.current()
        return history.override(
            platform.objects,
            self.name,
            number,
            against=entry.state.champion if entry else None,
            because=because,
            trusted=platform.trusted,
            by=platform.who,
            clock=platform.clock,
        )

    def rollback(self, *, because: str, leaving: int | None = None) -> "LogEntry":
        """Return to the champion before; `leaving` says which champion shall go, so that two people go back one step."""
        from towpath.registry import history

        platform = self.platform
        return history.rollback(
            platform.objects, self.name, by=platform.who, because=because, clock=platform.clock, leaving=leaving
        )

    def kill(
        self, *, because: str, version: int | None = None, consumer: str | None = None, segment: str | None = None
    ) -> "LogEntry":
        """Send rows to the fallback: all, or those of a version, a consumer, a segment (``price_band=low``).

        Raises:
            UnknownError: There is no such version or segment column: a switch that matches nothing stops nobody.
        """
        from towpath.registry import history

        numbers, columns = self._numbers(), self.folder.training.header.segments
        if version is not None and version not in numbers:
            known = ", ".join(map(str, numbers)) or "none"
            raise UnknownError(
                f"There is no version {self.name}@{version}; there are: {known}.", mend=f"tow show {self.name}"
            )
        column, equals, value = (segment or "").partition("=")
        if segment is not None and (column not in columns or not equals or not value):
            raise UnknownError(
                f"'{segment}' is no segment of '{self.name}'{nearest(column, columns)}",
                f"models/{self.name}/training.sql, segments",
                "--segment COLUMN=VALUE",
            )
        return history.kill(
            self.platform.objects,
            self.name,
            by=self.platform.who,
            because=because,
            clock=self.platform.clock,
            version=version,
            consumer=consumer,
            segment=segment,
        )

    def revive(
        self, *, because: str = "", version: int | None = None, consumer: str | None = None, segment: str | None = None
    ) -> "LogEntry":
        """Take kill switches back: all, or those that are named.

        Raises:
            UnknownError: No such switch stands, so nothing was taken back.
        """
        from towpath.registry import history

        named = {"version": version, "consumer": consumer, "segment": segment}
        asked = {key: value for key, value in named.items() if value is not None}
        standing = history.current(self.platform.objects, self.name)
        kills = standing.state.kills if standing else ()
        if not any(all(getattr(kill, key) == value for key, value in asked.items()) for kill in kills):
            only = "".join(f" for {key} '{value}'" for key, value in asked.items())
            raise UnknownError(
                f"'{self.name}' is not killed{only}; nothing was changed.", mend=f"tow history {self.name}"
            )
        return history.revive(
            self.platform.objects,
            self.name,
            by=self.platform.who,
            because=because,
            clock=self.platform.clock,
            version=version,
            consumer=consumer,
            segment=segment,
        )

    def predict(self, *, to: Path | str | None = None) -> "Predicted":
        """Answer every row of the newest moment of the spine: one run, journalled; `to` is a file, or a table as text."""
        from towpath.platform.answering import predict

        return predict(self, to=to)

    def try_row(self, row: Mapping[str, object], *, version: int | None = None) -> "Tried":
        """Answer one row in this process, with its features, their age and timings; not journalled."""
        from towpath.platform.answering import try_row

        return try_row(self, row, version=version)

    def collect(self, *, since: datetime | None = None) -> "Collected":
        """Take the labels of the spine that became known, as outcomes."""
        from towpath.platform.answering import collect

        return collect(self, since=since)

    def current(self) -> "LogEntry | None":
        """The newest entry of the log, which holds the whole state."""
        from towpath.registry import history

        return history.current(self.platform.objects, self.name)

    def history(self) -> list[HistoryRow]:
        """The whole log, oldest first."""
        return history_rows(self.platform, self.name)

    def newest(self) -> int:
        """The newest version.

        Raises:
            UnknownError: There is none yet.
        """
        numbers = self._numbers()
        if not numbers:
            raise UnknownError(f"'{self.name}' has no version yet.", mend=f"tow train {self.name}")
        return numbers[-1]

    def manifest(self, version: int) -> "Manifest":
        """A version's manifest, its signature checked."""
        from towpath.registry import versions

        return versions.manifest(self.platform.objects, self.name, version, self.platform.trusted)

    def versions(self) -> list[VersionRow]:
        """All versions, newest first."""
        return version_rows(self.platform, self.name)

    def version(self, number: int) -> dict[str, Any]:
        """Everything about one version: its manifest, and each verdict."""
        from towpath.registry import versions

        manifest = msgspec.to_builtins(self.manifest(number))
        for lock in manifest["features"]:
            lock.pop("sql")
        found = versions.verdicts(self.platform.objects, self.name, number, self.platform.trusted)
        return manifest | {"verdicts": [msgspec.to_builtins(verdict) for verdict in found.values()]}

    def show(self) -> dict[str, Any]:
        """Charter, owner, traffic and versions."""
        entry, declaration = self.current(), self.folder.declaration
        state = entry.state if entry else None
        return {
            "description": declaration.description,
            "owner": declaration.owner,
            "tier": declaration.tier,
            **{name: value for name, value in msgspec.structs.asdict(declaration.charter).items() if value},
            "champion": state.champion if state else None,
            "previous": state.previous if state else None,
            "killed": [kill.because for kill in state.kills] if state else [],
            "features": list(declaration.features),
            "fallback": [link.name for link in declaration.fallback],
            "metric": declaration.gate.metric,
            "versions": self.versions(),
        }

    def champion(self) -> int:
        """The champion's number.

        Raises:
            RefusedError: There is none yet.
        """
        entry = self.current()
        if entry is None or entry.state.champion is None:
            raise RefusedError(
                f"'{self.name}' has no champion yet.", mend=f"tow gate {self.name}, then tow promote {self.name}"
            )
        return entry.state.champion

    def _numbers(self) -> list[int]:
        from towpath.registry import versions

        return versions.versions(self.platform.objects, self.name)


def history_rows(platform: "Platform", model: str, *, until: datetime | None = None) -> list[HistoryRow]:
    """The log of any model of the store, oldest first; what had happened at a moment where one is given."""
    from towpath.registry import history

    return [
        HistoryRow(
            revision=entry.revision,
            at=entry.event.at,
            kind=entry.event.kind,
            version=entry.event.version,
            champion=entry.state.champion,
            by=entry.event.by,
            because=entry.event.because,
            override=entry.event.override,
            verdict=entry.event.verdict,
        )
        for entry in history.entries(platform.objects, model)
        if until is None or entry.event.at <= until
    ]


def version_rows(platform: "Platform", model: str, *, until: datetime | None = None) -> list[VersionRow]:
    """The versions of any model of the store, newest first; looked at, not trusted. As of a moment where one is given."""
    from towpath.registry import history, versions

    if until is None:
        entry = history.current(platform.objects, model)
        champion = entry.state.champion if entry else None
    else:
        champion = history.champion_at(history.entries(platform.objects, model), until)
    rows: list[VersionRow] = []
    for number in reversed(versions.versions(platform.objects, model)):
        manifest = versions.manifest(platform.objects, model, number, None)
        if until is not None and manifest.created_at > until:
            continue
        verdicts = [
            verdict
            for verdict in versions.verdicts(platform.objects, model, number, None).values()
            if until is None or verdict.at <= until
        ]
        training = manifest.training
        rows.append(
            VersionRow(
                version=number,
                champion=champion == number,
                created_at=manifest.created_at,
                created_by=manifest.created_by,
                as_of=training.as_of if training else None,
                format=manifest.artefact.format,
                rows=training.rows if training else None,
                metrics=training.metrics if training else {},
                passed=verdicts[-1].passed if verdicts else None,
                run_id=training.run_id if training else None,
            )
        )
    return rows
