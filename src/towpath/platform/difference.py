"""Two sides of a view by the names that people give them: a form, a moment, or a form at a moment."""

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from towpath import features as room
from towpath.errors import InputError, TowpathError, UnknownError
from towpath.platform.consumers import readers
from towpath.platform.own_landing import on_own_landing
from towpath.types import utc

if TYPE_CHECKING:
    from towpath.features import Difference, FeatureLock, Form, View
    from towpath.platform.opened import Platform

__all__ = ["WORKING", "diff"]

WORKING = "working"
"""The view's file as it is now; of another project's view the form that it published last."""


def diff(platform: "Platform", name: str, a: str | int | datetime, b: str | int | datetime) -> "Difference":
    """Compare two forms of a view, or one at two moments.

    Args:
        platform: Whose project has, or had, the view; or reads it from another project of the fleet.
        name: Of the view; ``project/view`` for one that another project published.
        a: The number of a recorded form, ``working``, or ``<model>@<version>``, each as of the platform's moment; a moment,
            at which the working form is asked; or both, as in ``1:2011-09-01``.
        b: Another one.

    Raises:
        UnknownError: There is no such view or form; says which there are.
        ProjectError: The SQL of one of them does not run any more.
    """
    project, view = _owner(platform, name)
    forms = room.recorded(platform.objects, project, view)
    if not forms and not _is_known(platform, name):
        platform.features.view(name)  # says what is near
    (called_a, at_a), (called_b, at_b) = (_called(platform, side) for side in (a, b))
    before, after = (_form(platform, name, forms, called) for called in (called_a, called_b))
    settings = platform.settings.warehouse
    return room.difference(
        on_own_landing(platform, before),
        on_own_landing(platform, after),
        platform.warehouse,
        told=room.change(before, after),
        moments=(at_a, at_b),
        names=(_text(a), _text(b)),
        memory_mib=settings.memory_mib,
        threads=settings.threads,
    )


def _owner(platform: "Platform", name: str) -> tuple[str, str]:
    project, slash, view = name.partition("/")
    return (project, view) if slash else (platform.settings.project.name, name)


def _is_known(platform: "Platform", name: str) -> bool:
    """Whether the view has a file here, or was published by another project."""
    if "/" not in name:
        return name in platform.project.views
    return platform.features.view(name).name != ""  # raises with what is published


def _text(side: str | int | datetime) -> str:
    return f"{side:%Y-%m-%dT%H:%M:%S}" if isinstance(side, datetime) else str(side)


def _called(platform: "Platform", side: str | int | datetime) -> tuple[str, datetime]:
    """Which form, and when: ``1``, ``2011-09-01``, ``1:2011-09-01T06:00``."""
    if isinstance(side, datetime):
        return WORKING, utc(side)
    text = str(side)
    if not text.isdecimal():
        with suppress(InputError):
            return WORKING, utc(text)
        form, colon, moment = text.partition(":")
        if colon:
            with suppress(InputError):
                return form, utc(moment)
    return text, platform.now()


def _form(platform: "Platform", name: str, forms: "list[Form]", called: str) -> "View":
    if called == WORKING and ("/" in name or name in platform.project.views):
        return platform.features.view(name)
    if called.isdecimal() and 1 <= int(called) <= len(forms):
        return room.view_of_form(forms[int(called) - 1])
    model, _, version = called.rpartition("@")
    kept = _lock(platform, name, model, int(version)) if model and version.isdecimal() else None
    if kept is None:
        raise UnknownError(
            f"'{name}' has no form '{called}'; there are: {'; '.join(_known(platform, name, forms)) or 'none'}.",
            mend=f"tow features diff {name} A B, with two of these, each also at a moment: working:2011-09-01",
        )
    return _view(kept, forms)


def _lock(platform: "Platform", name: str, model: str, version: int) -> "FeatureLock | None":
    from towpath.registry import versions

    try:
        kept = versions.manifest(platform.objects, model, version, None).features
    except UnknownError:
        return None
    owner = _owner(platform, name)
    return next((lock for lock in kept if (lock.project, lock.view) == owner), None)


def _view(kept: "FeatureLock", forms: "list[Form]") -> "View":
    """The whole view, also where the model reads some of its columns."""
    for form in forms:
        if form.fingerprint == kept.fingerprint:
            return room.view_of_form(form)
    view = room.view_of_lock(kept)
    return msgspec.structs.replace(view, columns=kept.row or view.columns, key_types=kept.key_types)


def _known(platform: "Platform", name: str, forms: "list[Form]") -> list[str]:
    """What can be compared, in words."""
    known = [f"{number} (version {form.version}, {form.recorded_at:%Y-%m-%d})" for number, form in enumerate(forms, 1)]
    known += [WORKING] if "/" in name or name in platform.project.views else []
    try:
        read = readers(platform, name, ())
    except TowpathError:  # without them the list is shorter, and nothing in it is wrong
        read = ()
    return [*known, *(f"{one.model}@{one.version}" for one in read if one.version is not None)]
