"""Builds of a project's views: each by itself, so that one which fails stops none that does not hang on it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from towpath import features as room
from towpath.errors import ConflictError, OwnerError, ProjectError, TowpathError
from towpath.platform import borrowed, evolution, push, remembered

if TYPE_CHECKING:
    from towpath.features import Built, FeatureLock
    from towpath.platform.evolution import Needed
    from towpath.platform.opened import Platform

__all__ = ["Building", "build"]


class Building(msgspec.Struct, kw_only=True):
    """What came of a build of several views."""

    built: "dict[str, Built]" = {}
    """View, or ``view, version n`` → what was done."""
    failed: dict[str, TowpathError] = {}
    """View → why it stands as it was."""
    old: dict[str, ProjectError] = {}
    """Older forms that live models read, and that cannot be built any more."""
    hanging: dict[str, tuple[str, ...]] = {}
    """View that failed → what reads it: on-demand features and models, whose values of it grow old."""

    def whole(self) -> "dict[str, Built]":
        """What was built, where nothing failed.

        Raises:
            TowpathError: Something failed; says what, what hangs on it, and what was built all the same. Of a single
                view it is the error itself.
        """
        if not self.failed and not self.old:
            return self.built
        said = [f"{who}: {error.what}" for who, error in self.old.items()]
        if not self.failed:
            raise ProjectError(
                "Not every form that live models read could be built.",
                mend="tow features plan; promote a version that reads the new form, or bring the old columns back",
                problems=said,
            )
        (name, first), *others = self.failed.items()
        well = f"\n  built: {', '.join(self.built)}" if self.built else ""
        if not others and not said:
            raise type(first)(first.what + self._hanging(name) + well, *first.args[1:]) from first
        parts = [_said(view, error) + self._hanging(view) for view, error in self.failed.items()]
        raise ProjectError(
            f"{len(self.failed)} of {len(self.failed) + len(self.built)} views could not be built.{well}",
            mend="mend each, then tow features build again",
            problems=[*parts, *said],
        )

    def _hanging(self, view: str) -> str:
        return f"\n  hangs on it: {', '.join(self.hanging[view])}" if self.hanging.get(view) else ""


def _said(view: str, error: TowpathError) -> str:
    """A failure among others: its faults, which have their own lines, or else the error itself."""
    if isinstance(error, ProjectError) and error.problems:
        return "\n  ".join(error.problems)
    return ": ".join(part for part in (error.where, f"'{view}'", error.what) if part)


def build(
    platform: "Platform",
    view: str | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    full: bool = False,
    progress: Callable[[str, int], None] | None = None,
) -> Building:
    """Build one view or all; a store that does not answer ends it at once, a view that fails only its own part.

    Args:
        platform: The project at its moment.
        view: One view; all unless given.
        since: As in `Features.build`.
        until: As in `Features.build`.
        full: As in `Features.build`.
        progress: As in `Features.build`.
    """
    done = Building()
    published = [name for name, file in platform.project.on_demand.items() if file.header.publish]
    if view is not None and view in published:
        done.built[view] = borrowed.publish(platform, view)
        return done
    live = evolution.needs(platform)
    for name in [view] if view else evolution.names(platform, live):
        try:
            for form in _forms(platform, name, live):
                called = name if form.current else f"{name}, version {form.view.version}"
                told = (lambda rows, called=called: progress(called, rows)) if progress else None
                try:
                    done.built[called] = _built(platform, name, form, since, until or platform.now(), full, told)
                except ProjectError as error:
                    if form.current:
                        raise
                    done.old[f"{called}, which {', '.join(form.by)} reads"] = error
        except (OwnerError, ConflictError) as error:
            done.failed[name] = error
            if not isinstance(error, ConflictError):  # another build does the work
                done.hanging[name] = platform.features.read_by(name)
    for name in () if view else published:
        try:
            done.built[name] = borrowed.publish(platform, name)
        except (OwnerError, ConflictError) as error:
            done.failed[name] = error
    return done


def _forms(platform: "Platform", name: str, live: "dict[str, list[FeatureLock]]") -> "list[Needed]":
    with _ill_named(platform, name):
        return evolution.needed(platform, name, live)


def _built(
    platform: "Platform",
    name: str,
    form: "Needed",
    since: datetime | None,
    as_of: datetime,
    full: bool,
    progress: Callable[[int], None] | None,
) -> "Built":
    """One form brought up to what is known; of the file's own the sources are remembered, and it is published where it says so."""
    described = platform.features.recorded(form.view) if form.current else form.view
    landing = remembered.LandingSeen()
    with _ill_named(platform, name):
        if form.current:
            push.expire(platform, described)
        elif wrong := evolution.lost(platform, described):
            raise ProjectError(f"{', '.join(wrong)}.")  # what it wrote would not be what models were trained on
        built = room.build(
            described,
            remembered.overheard(platform.warehouse, landing),
            platform.online,
            as_of=as_of,
            since=since,
            full=full,
            clock=platform.clock,
            progress=progress,
        )
    if form.current:
        remembered.build_seen(platform, described, built, landing)
        if described.header.publish:
            platform.features.publish(described)
    return built


def _ill_named(platform: "Platform", view: str) -> "AbstractContextManager[None]":
    """Where the block fails, name the ill source of a view that has a file."""
    return platform.sources.named(view) if view in platform.project.views else nullcontext()
