"""Feature views of a project: training sets, the online table, reads, publishing."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from towpath.errors import InputError, UnknownError, nearest
from towpath.platform import evolution, listed, shown
from towpath.platform.as_trained import up_to
from towpath.platform.online_reads import OnlineReads
from towpath.sql import Query

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from towpath.features import Built, Difference, Split, TrainingSetManifest, View
    from towpath.models.manifest import FeatureLock
    from towpath.platform.building import Building
    from towpath.platform.evolution import PlanRow, Pruned
    from towpath.platform.listed import ViewRow
    from towpath.platform.opened import Platform
    from towpath.platform.skew import Skew
    from towpath.platform.viewed import Viewed
    from towpath.project.on_demand import OnDemandFile
    from towpath.serving.push import PushAnswer

__all__ = ["Features"]


class Features:
    """What ``platform.features`` is; views are described by the engine when they are first asked for."""

    def __init__(self, platform: "Platform") -> None:
        self._platform = platform
        self._described: dict[str, View] = {}
        self._online = OnlineReads(platform)
        self._borrowed: dict[str, OnDemandFile | None] = {}

    def __repr__(self) -> str:
        return shown.or_the_fault(lambda: shown.as_text(self._title(), listed.as_files_say(self._platform.project)))

    def _repr_html_(self) -> str:
        return shown.or_the_fault(
            lambda: shown.as_html(self._title(), listed.as_files_say(self._platform.project)), html=True
        )

    def _title(self) -> str:
        count = len(self._platform.project.views)
        return f"{count} feature view{'' if count == 1 else 's'} of {self._platform.settings.project.name}"

    def list(self) -> "list[ViewRow]":
        """One row for each view of the project, with the models that read it."""
        return listed.rows(self._platform)

    def __getitem__(self, name: str) -> "Viewed":
        """One view of the project to look at: its columns, what they are made of, who reads it.

        Raises:
            UnknownError: There is none, with the nearest name.
        """
        from towpath.platform.viewed import Viewed

        if name not in self._platform.project.views:
            if name not in self._platform.project.on_demand:
                self.view(name)  # says what is near, or that it is another project's
            raise UnknownError(f"'{name}' has no rows of its own here.", mend=f'platform.features.show("{name}")')
        return Viewed(self._platform, name)

    def show(self, name: str) -> dict[str, Any]:
        """Everything about a view, as ``tow features show`` prints it; also of an on-demand file, and of ``project/view``.

        Raises:
            UnknownError: There is none, with the nearest name.
            ProjectError: The engine refuses it.
            UnavailableError: A store does not answer.
        """
        from towpath.platform import looked_at

        if self.on_demand(name) is not None:
            return looked_at.on_demand_shown(self._platform, name)
        if "/" in name:
            return looked_at.published_shown(self._platform, name)
        return self[name].show()

    def view(self, name: str) -> "View":
        """One view by name; ``project/view`` reads one that another project of the fleet published.

        Raises:
            UnknownError: There is none, with the nearest name.
        """
        from towpath import features

        if name in self._described:
            return self._described[name]
        if "/" in name:
            self._described[name] = self._published(name)
            return self._described[name]
        project = self._platform.project
        if name in project.on_demand:
            raise UnknownError(
                f"'{name}' is computed when it is asked for and has no rows.",
                project.on_demand[name].path,
                "name a view",
            )
        if name not in project.views:
            raise UnknownError(
                f"There is no view '{name}'{nearest(name, project.views)}", f"{self._platform.folder}/features"
            )
        described = features.describe(
            project.views[name], self._platform.warehouse, project=self._platform.settings.project.name
        )
        self._described[name] = features.placed(
            described, features.recorded(self._platform.objects, described.project, name)
        )
        return self._described[name]

    def views_of(self, names: Sequence[str]) -> "dict[str, View]":
        """The views that some features belong to: ``["prices.price", "sales.*"]`` → two views."""
        return {view: self.view(view) for view in dict.fromkeys(name.rpartition(".")[0] for name in names)}

    @overload
    def training_set(
        self,
        spine: "Query | str | pa.Table",
        features: Sequence[str],
        *,
        keys: Sequence[str] | None = None,
        time: str,
        as_of: Literal["known", "event"] = "known",
        parameters: Mapping[str, object] | None = None,
        to: None = None,
    ) -> "pa.Table": ...

    @overload
    def training_set(
        self,
        spine: "Query | str | pa.Table",
        features: Sequence[str],
        *,
        keys: Sequence[str] | None = None,
        time: str,
        as_of: Literal["known", "event"] = "known",
        parameters: Mapping[str, object] | None = None,
        to: Path | str,
    ) -> "TrainingSetManifest": ...

    def training_set(
        self,
        spine: "Query | str | pa.Table",
        features: Sequence[str],
        *,
        keys: Sequence[str] | None = None,
        time: str,
        as_of: Literal["known", "event"] = "known",
        parameters: Mapping[str, object] | None = None,
        to: Path | str | None = None,
    ) -> "pa.Table | TrainingSetManifest":
        """What was known at each moment of the spine.

        Args:
            spine: Keys and time, as SQL, a parsed query, an Arrow table or a frame of pandas or polars; further columns are kept.
            features: ``view.feature`` or ``view.*``.
            keys: Key columns of the spine; those of the views that were asked for unless given.
            time: The column with the moment of prediction.
            as_of: ``known`` also asks that a row had landed; ``event`` trusts the event time alone.
            parameters: For ``:name`` in the spine's and the views' SQL. Unless given, ``:as_of`` and ``:until`` are the platform's
                moment, and ``:since`` lies before everything.
            to: A Parquet file to write instead, in bounded memory; relative to where the process runs.

        Returns:
            One row for each spine row, in its order; then columns ``view.feature``. `towpath.features.manifest_of` says what it
            was made of. With `to`, that manifest alone.

        Raises:
            InputError: The spine lacks a key, or has one of another type than the view.
            UnknownError: A view or feature does not exist.
            ProjectError: The SQL does not parse or run.
            ResourceError: The file cannot be written.
        """
        from towpath.platform import training_sets

        if as_of not in ("known", "event"):
            raise InputError(
                f"as_of is '{as_of}'.", mend="'known', or 'event', which asks of no row whether it had landed"
            )
        query = (
            Query.parse(spine, "spine", dialect=self._platform.settings.warehouse.dialect)
            if isinstance(spine, str)
            else spine
        )
        moment = up_to(self._platform.now()) | dict(parameters or {})
        asked = training_sets.Asked(self.split(features), keys, time, as_of, moment)
        if to is None:
            return training_sets.read(self._platform, query, asked)
        return training_sets.write(self._platform, query, asked, Path(to))

    def locks(self, names: Sequence[str]) -> "tuple[FeatureLock, ...]":
        """The views as they stand, for a version that is being trained on them; also those that only functions read."""
        from towpath import features

        read = self.split(names).features
        return features.lock(self.views_of(read), read)

    def split(self, names: Sequence[str]) -> "Split":
        """Tell features of views from on-demand ones, and add what these read.

        Raises:
            InputError: It is no list; or a name has no view in front.
        """
        from towpath import features

        if isinstance(names, str):
            raise InputError(f"The features are one text, '{names}', and no list.", mend=f'["{names}"]')
        if bare := [name for name in names if "." not in name]:
            raise InputError(f"'{bare[0]}' says no view.", mend=f"<view>.{bare[0]}, or <view>.* for all of a view")
        return features.split(names, self._functions(names))

    def on_demand(self, name: str) -> "OnDemandFile | None":
        """An on-demand file by name, also one that another project published as ``project/name``; none where it is none.

        Raises:
            RefusedError: Another project's is signed by nobody whom this one trusts.
        """
        own = self._platform.project.on_demand
        if name in own or "/" not in name:
            return own.get(name)
        if name not in self._borrowed:
            from towpath.platform.borrowed import borrowed

            self._borrowed[name] = borrowed(self._platform, name)
        return self._borrowed[name]

    def _functions(self, names: Sequence[str]) -> "dict[str, OnDemandFile]":
        """The project's on-demand files, and those of others that some features belong to, or that those read."""
        found = dict(self._platform.project.on_demand)
        waiting = [name.rpartition(".")[0] for name in names]
        waiting += [one.type.rpartition(".")[0] for file in found.values() for one in file.header.inputs.values()]
        seen = set[str]()
        while waiting:
            name = waiting.pop()
            if "/" not in name or name in seen:
                continue
            seen.add(name)
            file = self.on_demand(name)
            if file is not None:
                found[name] = file
                waiting += [one.type.rpartition(".")[0] for one in file.header.inputs.values()]
        return found

    def build(
        self,
        view: str | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        full: bool = False,
        progress: "Callable[[str, int], None] | None" = None,
    ) -> "dict[str, Built]":
        """Bring the online table up to what is known now; run it again after a crash and it is right.

        Where landing can be followed only what became known since the last build is read. A view with ``online = false``
        is left out, and refused where it is asked for by name, unless a live version was trained on it before.

        Args:
            view: One view; all unless given.
            since: Build the interval of event times that begins here, and nothing else.
            until: What is known by then; the clock's present moment unless given.
            full: Build everything anew beside what is read, and swap.
            progress: Called with the view's name and the rows written so far.

        Raises:
            InputError: The interval begins before the view's ``start``; or the view is never online, or another project's.
            UnknownError: There is no such view, with the nearest name.
            ProjectError: The engine refuses a view; or the form of it that live models read, which then stands as it was built.
                Views that do not hang on it are built all the same, and named in the error.
        """
        return self.building(view, since=since, until=until, full=full, progress=progress).whole()

    def building(
        self,
        view: str | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        full: bool = False,
        progress: "Callable[[str, int], None] | None" = None,
    ) -> "Building":
        """What `build` does, where the failure of a view is an answer and no error; see there.

        Raises:
            InputError: The view is never online, or another project's.
            UnknownError: There is no such view, with the nearest name.
        """
        from towpath.platform import building

        if view in self._platform.project.on_demand and self._platform.project.on_demand[view].header.publish:
            return building.build(self._platform, view)
        if view and "/" in view:
            project, _, bare = view.partition("/")
            self.view(view)  # says what is near
            raise InputError(
                f"'{view}' is built by its own project '{project}'.",
                mend=f"tow features build {bare} there; tow features plan {view} says how fresh it is",
            )
        if (
            view
            and not self.view(view).header.online
            and view not in evolution.names(self._platform, evolution.needs(self._platform))
        ):
            raise InputError(
                f"'{view}' is never online: its header says online = false.",
                self.view(view).place("online"),
                "online = true, or leave it to training",
            )
        return building.build(self._platform, view, since=since, until=until, full=full, progress=progress)

    def plan(self, view: str | None = None) -> "list[PlanRow]":
        """What a build would do, what changed, and what that breaks for live models; nothing is built or written.

        Args:
            view: One view; all unless given. Of ``project/view`` it says who builds it, and how fresh it is.

        Raises:
            UnknownError: There is no such view, with the nearest name.
        """
        return evolution.plan(self._platform, view)

    def diff(self, view: str, a: str | int | datetime, b: str | int | datetime) -> "Difference":
        """Compare two forms of a view, or one at two moments: their schemas, and the newest values that were known.

        Args:
            view: Its name; ``project/view`` for one that another project published.
            a: The number of a recorded form (1 is the first), ``working`` (the file as it is now), or ``<model>@<version>``,
                each at the platform's moment; a moment, at which the working form is asked; or both: ``1:2011-09-01``.
            b: Another one.

        Returns:
            Its `differ` says whether they do.

        Raises:
            UnknownError: There is no such view or form; says which there are.
            ProjectError: The SQL of one of them does not run any more.
        """
        from towpath.platform import difference

        return difference.diff(self._platform, view, a, b)

    def prune(self) -> "list[Pruned]":
        """Drop the online tables that neither a file nor a live version of a model needs any more."""
        return evolution.prune(self._platform)

    def get(
        self, view: str, key: Sequence[object] = (), *, inputs: "Mapping[str, object] | None" = None
    ) -> dict[str, object]:
        """One online row: its values, event time and age, and why a value is missing.

        Args:
            view: Its name, or that of an on-demand file.
            key: One part for each key column, in order; of an on-demand file those of the views that it reads.
            inputs: Of an on-demand file, the columns of the request.

        Returns:
            ``view.feature`` → value, then ``event_time``, ``age`` and ``missing`` (feature → why; empty where all are there).

        Raises:
            InputError: The key has another number of parts than the view's entity.
        """
        return self._online.get(view, key, inputs or {})

    def read(
        self,
        features: Sequence[str],
        keys: Mapping[str, object],
        *,
        inputs: "Mapping[str, object] | None" = None,
    ) -> "dict[str, np.ndarray]":
        """Online values for many keys at once; columns in, columns out.

        Args:
            features: ``view.feature`` or ``view.*``.
            keys: Key column → one value a row, or one value for all rows: one user and 500 items are one call.
            inputs: Column of the request → one value a row, or one value for all rows, for on-demand features.

        Raises:
            InputError: Two columns are of different lengths, or are none; a view's key is not among them; or nothing that was
                asked for reads an input.
        """
        return self._online.read(features, keys, inputs or {})

    def skew(
        self,
        model: str | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        share: float = 0.05,
        limit: float = 0.01,
        tolerance: float = 1e-6,
    ) -> "Skew":
        """Replay what a model was given online against what training would have seen at that moment.

        Of the champion's answers those are compared whose features were looked up and written down; the server writes them
        down for one entity key in sixteen, picked by hash. What a caller brought himself is not compared.

        Args:
            model: Whose answers; all models of the project unless given.
            since: First moment of the answers; a week before `until` unless given.
            until: End of them, exclusive; the clock's present moment unless given.
            share: Of the entity keys, by hash.
            limit: The share of answers that may differ before a feature is *beyond*.
            tolerance: Numbers are equal that differ by no more than this share of the larger.

        Raises:
            UnknownError: There is no such model.
            InputError: The time ends before it begins; or the share is none.
        """
        from towpath.platform import skew

        def ask(text: str, parameters: "Mapping[str, object]") -> "pa.Table":
            return self._platform.watch.ask(text, parameters, since=cast("datetime", parameters["since"]))

        return skew.skew(
            self._platform, ask, model, since=since, until=until, share=share, limit=limit, tolerance=tolerance
        )

    def push(self, view: str, rows: "Mapping[str, object] | Sequence[object] | pa.Table | Any") -> "PushAnswer":
        """Take rows in real time: they are on disk and online when this comes back, and in ``landing.<view>`` from then on.

        Args:
            view: Of this project.
            rows: One row as a dict, several, an Arrow table, or a frame of pandas or polars: key, event time, features. A
                feature that is not named is null; the created time is the moment of arrival and is not given.

        Returns:
            How many were accepted, were online as they are already, and were refused, each with its number and why.

        Raises:
            UnknownError: There is no such view, with the nearest name.
            InputError: The view is not kept online.
            UnavailableError: The disk is full or the online store is away; push again.
        """
        from towpath.platform import push

        return push.push(self._platform, self.view(view), rows)

    def record(self, names: Sequence[str]) -> None:
        """Write down the forms of the views that some features belong to, so that what is trained on them finds its table."""
        for called, view in self.views_of(self.split(names).features).items():
            if "/" not in called:
                self.recorded(view)

    def recorded(self, view: "View") -> "View":
        """A view with its form written down, where it was not before."""
        from towpath import features

        recorded = features.record(self._platform.objects, view, by=self._platform.who, clock=self._platform.clock)
        self._described[view.name] = recorded
        self._online.forget()
        return recorded

    def read_by(self, name: str) -> tuple[str, ...]:
        """What of the project reads a view: on-demand features, then models, each told as such."""
        project = self._platform.project
        functions = [
            one
            for one in project.on_demand
            if name in {read.partition(".")[0] for read in self.split([f"{one}.*"]).features}
        ]
        return (
            *(f"on-demand '{one}'" for one in functions),
            *(f"model '{one}'" for one in listed.users(project, name)),
        )

    def publish(self, view: "View") -> None:
        """Let other projects of the fleet read a view as it stands."""
        from towpath.registry import claims

        settings = self._platform.settings.project
        claims.publish_view(
            self._platform.objects,
            lock=self.locks([f"{view.name}.*"])[0],
            team=settings.team,
            by=self._platform.who,
            clock=self._platform.clock,
        )

    def _published(self, name: str) -> "View":
        from towpath import features
        from towpath.registry import claims

        project, _, view = name.partition("/")
        published = claims.published_view(self._platform.objects, project, view)
        return features.view_of_lock(published.lock)
