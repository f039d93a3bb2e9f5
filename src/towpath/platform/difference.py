"""Two forms of a view by the names that people give them: a number, ``working``, or a version of a model."""

from typing import TYPE_CHECKING

import msgspec

from towpath import features as room
from towpath.errors import TowpathError, UnknownError, nearest
from towpath.platform.consumers import readers

if TYPE_CHECKING:
    from towpath.features import Difference, FeatureLock, Form, View
    from towpath.platform.opened import Platform

__all__ = ["WORKING", "diff"]

WORKING = "working"
"""The view's file as it is now."""


def diff(platform: "Platform", name: str, a: str | int, b: str | int) -> "Difference":
    """Compare two forms of a view at the platform's moment.

    Args:
        platform: Whose project has, or had, the view.
        name: Of the view.
        a: The number of a recorded form, ``working``, or ``<model>@<version>``.
        b: Another one.

    Raises:
        UnknownError: There is no such view or form; says which there are.
        ProjectError: The SQL of one of them does not run any more.
    """
    project = platform.settings.project.name
    forms = room.recorded(platform.objects, project, name)
    if not forms and name not in platform.project.views:
        raise UnknownError(
            f"There is no view '{name}'{nearest(name, platform.project.views)}", f"{platform.folder}/features"
        )
    before, after = (_form(platform, name, forms, str(called)) for called in (a, b))
    names = (str(a), str(b))
    return room.difference(before, after, platform.warehouse, as_of=platform.now(), names=names)


def _form(platform: "Platform", name: str, forms: "list[Form]", called: str) -> "View":
    if called == WORKING and name in platform.project.views:
        return platform.features.view(name)
    if called.isdecimal() and 1 <= int(called) <= len(forms):
        return room.view_of_form(forms[int(called) - 1])
    model, _, version = called.rpartition("@")
    kept = _lock(platform, name, model, int(version)) if model and version.isdecimal() else None
    if kept is None:
        raise UnknownError(
            f"'{name}' has no form '{called}'; there are: {'; '.join(_known(platform, name, forms)) or 'none'}.",
            mend=f"tow features diff {name} A B, with two of these",
        )
    return _view(kept, forms)


def _lock(platform: "Platform", name: str, model: str, version: int) -> "FeatureLock | None":
    from towpath.registry import versions

    try:
        kept = versions.manifest(platform.objects, model, version, None).features
    except UnknownError:
        return None
    own = platform.settings.project.name
    return next((lock for lock in kept if (lock.project, lock.view) == (own, name)), None)


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
    known += [WORKING] if name in platform.project.views else []
    try:
        read = readers(platform, name, ())
    except TowpathError:  # without them the list is shorter, and nothing in it is wrong
        read = ()
    return [*known, *(f"{one.model}@{one.version}" for one in read if one.version is not None)]
