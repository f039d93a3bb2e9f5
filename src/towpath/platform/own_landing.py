"""The landing table of a form that the file of its view does not have any more: what was pushed, in its own columns."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from towpath.features import recorded, view_of_form
from towpath.journal.landing import FORM, SCHEMA_NAME, laid_out_in
from towpath.project.folder import ViewFile
from towpath.warehouse.landed import renamed

if TYPE_CHECKING:
    from towpath.features import View
    from towpath.features.views import ViewSource
    from towpath.platform.opened import Platform
    from towpath.project.declarations import FeatureHeader
    from towpath.sql import Query

__all__ = ["FOLDER", "laid_out", "on_own_landing", "source", "table_of"]

FOLDER = Path(".towpath", "landing")
"""Of a project's folder: where pushed rows are laid out."""
_DIGITS = 8


def on_own_landing(platform: "Platform", view: "View") -> "View":
    """A recorded form of a view, so that it can be asked today: it reads ``landing.<view>~<form>`` in place of ``landing.<view>``.

    The table ``landing.<view>`` has the columns of the file as it stands. A form that reads no pushed rows, or that the file
    still is, stays as it is; so does one whose landing table is the company's own.

    Args:
        platform: The project at its moment.
        view: From a record or a lock.
    """
    table = f"{SCHEMA_NAME}.{view.name}"
    if view.project != platform.settings.project.name or table not in view.query.tables:
        return view
    if _is_in_file(platform, view) or table in platform.warehouse.tables():
        return view
    name = table_of(view.name, view.fingerprint)
    return msgspec.structs.replace(view, query=renamed(view.query, {table: name}, SCHEMA_NAME))


def table_of(view: str, fingerprint: str) -> str:
    """Name of the landing table of one form of a view, without its schema."""
    return f"{view}{FORM}{fingerprint[:_DIGITS]}"


def laid_out(platform: "Platform") -> dict[str, Path]:
    """What is laid out on this machine: the name of a view, or of a form of one, and its folder."""
    folder = laid_out_in(platform.folder / FOLDER, platform.objects, platform.settings.project.name)
    return {each.name: each for each in sorted(folder.iterdir()) if each.is_dir()} if folder.is_dir() else {}


def source(platform: "Platform", name: str) -> "ViewSource | None":
    """A view's file by its name, or a recorded form of it by ``<view>~<form>``; none where there is none."""
    bare, mark, form = name.partition(FORM)
    if not mark:
        return platform.project.views.get(bare)
    for one in recorded(platform.objects, platform.settings.project.name, bare):
        if one.fingerprint[:_DIGITS] == form:
            view = view_of_form(one)
            query = renamed(view.query, {f"{SCHEMA_NAME}.{bare}": name}, SCHEMA_NAME)
            return ViewFile(name=name, query=query, header=view.header)
    return None


def _is_in_file(platform: "Platform", view: "View") -> bool:
    file = platform.project.views.get(view.name)
    return file is not None and _rows(file.query, file.header) == _rows(view.query, view.header)


def _rows(query: "Query", header: "FeatureHeader") -> tuple[object, ...]:
    """What says which rows a file gives."""
    return query.body.strip(), header.keys, header.event_time, header.created_time
