"""The forms of a view: what it was when it was built, and whether the next form adds to it or is another version.

A form that adds columns and changes nothing else keeps the online table: rows carry the number of their form, and what an
old row does not have is null. Anything else is a new version of the view with a table of its own, and both live until no
model needs the older one.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from towpath.clock import Clock
from towpath.errors import ConflictError, FormatError
from towpath.features.views import View
from towpath.project.declarations import FeatureHeader
from towpath.sql import Query
from towpath.stores.objects import Objects
from towpath.types import type_names

if TYPE_CHECKING:
    from sqlglot import exp

__all__ = ["Change", "Form", "change", "placed", "record", "recorded", "view_of_form"]


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """``features/<project>/<view>/forms/000003.json``, create-only: one form of a view, in the order in which they came."""

    schema: int = 1
    project: str
    view: str
    version: int
    """Of the view: the next begins where a form is more than the one before it with columns added."""
    number: int
    """Of the form within its version; stands in every online row."""
    fingerprint: str
    base: str
    """Fingerprint of the version's first form, which names the online table."""
    key_types: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    """Features and their Arrow types."""
    sql: str
    """The view's file, whole."""
    recorded_at: datetime
    by: str


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a form of a view is beside an earlier one."""

    kind: Literal["same", "added", "version"]
    """``added`` keeps the version and its online table; ``version`` begins a new one."""
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    retyped: tuple[str, ...] = ()
    """As ``price: double → int64``."""
    computation: str = ""
    """What else changed, in words; empty where nothing did."""

    def told(self) -> str:
        """In one line.

        Example:
            >>> Change(kind="version", added=("b",), dropped=("a",)).told()
            "dropped 'a'; added 'b'"
        """
        parts = [("dropped", self.dropped), ("retyped", self.retyped), ("added", self.added)]
        said = [f"{verb} {', '.join(_named(name) for name in names)}" for verb, names in parts if names]
        return "; ".join([*said, *([self.computation] if self.computation else [])]) or "nothing changed"


def recorded(objects: Objects, project: str, view: str) -> list[Form]:
    """All forms of a view, oldest first; none where it was never built.

    Args:
        objects: The fleet's store.
        project: Whose view.
        view: Its name.

    Raises:
        FormatError: One of them is damaged.
    """
    found: list[Form] = []
    for path in sorted(objects.paths(f"{_folder(project, view)}/")):
        try:
            found.append(msgspec.json.decode(objects.get(path), type=Form))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"'{path}' is no Form: {error}.", path, "restore the object from a backup") from error
    return found


def view_of_form(form: Form) -> View:
    """The view as it was.

    Raises:
        ProjectError: The kept SQL cannot be read.
    """
    query = Query.parse(form.sql, f"{form.project}/{form.view}.sql, version {form.version}")
    return View(
        project=form.project,
        name=form.view,
        query=query,
        header=msgspec.convert(query.header, FeatureHeader),
        columns=form.columns,
        key_types=form.key_types,
        fingerprint=form.fingerprint,
        base=form.base,
        number=form.number,
        version=form.version,
    )


def placed(view: View, forms: Sequence[Form]) -> View:
    """A view with the version, number and table that it has among the forms, or would have; nothing is written.

    Args:
        view: As the engine described it.
        forms: What `recorded` gave.
    """
    for form in forms:
        if form.fingerprint == view.fingerprint:
            return _at(view, form)
    newest: dict[int, Form] = {form.version: form for form in forms}  # of each version the last form
    for version in sorted(newest, reverse=True):
        form = newest[version]
        kind = change(view_of_form(form), view).kind
        if kind == "same":
            return _at(view, form)
        if kind == "added":
            return msgspec.structs.replace(_at(view, form), number=form.number + 1)
    return msgspec.structs.replace(view, base=view.fingerprint, number=1, version=max(newest, default=0) + 1)


def record(objects: Objects, view: View, *, by: str, clock: Clock) -> View:
    """Write a view's form down where it is new, and give the view its version, number and table.

    Args:
        objects: The fleet's store.
        view: As the engine described it.
        by: The person or job that builds.
        clock: Says when.

    Raises:
        UnavailableError: The store cannot be written.
    """
    while True:
        forms = recorded(objects, view.project, view.name)
        found = placed(view, forms)
        if any((form.version, form.number) == (found.version, found.number) for form in forms):
            return found
        form = Form(
            project=view.project,
            view=view.name,
            version=found.version,
            number=found.number,
            fingerprint=view.fingerprint,
            base=found.base,
            key_types=view.key_types,
            columns=view.columns,
            sql=view.query.text,
            recorded_at=clock.now(),
            by=by,
        )
        try:
            objects.put_new(f"{_folder(view.project, view.name)}/{len(forms) + 1:06d}.json", msgspec.json.encode(form))
        except ConflictError:
            continue  # another build recorded one: look again what this one is beside it
        return found


def change(old: View, new: View) -> Change:
    """Say what a form is beside an earlier one; SQL is compared by its parse tree, so layout and comments do not count.

    A computation that cannot be told to be the same counts as another one.

    Args:
        old: The earlier form.
        new: The later one.
    """
    before, after = dict(old.columns), dict(new.columns)
    added = tuple(name for name in after if name not in before)
    dropped = tuple(name for name in before if name not in after)
    other = [name for name in before if name in after and before[name] != after[name]]
    retyped = tuple(f"{name}: {' → '.join(type_names(before[name], after[name]))}" for name in other)
    computation = _rekeyed(old, new)
    if not computation and not dropped and not retyped and not _same_rows(old, new):
        computation = "the computation changed"
    if computation or dropped or retyped:
        return Change(kind="version", added=added, dropped=dropped, retyped=retyped, computation=computation)
    return Change(kind="added" if added else "same", added=added)


def _rekeyed(old: View, new: View) -> str:
    if old.header.keys != new.header.keys:
        return f"keyed by {', '.join(new.header.keys)} and no longer by {', '.join(old.header.keys)}"
    if old.key_types and new.key_types and old.key_types != new.key_types:
        kinds = [type_names(*pair) for pair in zip(new.key_types, old.key_types, strict=True)]
        return f"keys are {', '.join(now for now, _ in kinds)} and no longer {', '.join(was for _, was in kinds)}"
    for name in ("event_time", "created_time", "start"):
        if getattr(old.header, name) != getattr(new.header, name):
            return f"{name} is {getattr(new.header, name)} and no longer {getattr(old.header, name)}"
    return ""


def _same_rows(old: View, new: View) -> bool:
    """Whether the new SELECT gives for the old columns what the old one gave."""
    wanted = [*old.header.keys, *_times(old), *old.features]
    if old.query.tree == new.query.tree:
        return True
    if old.query.tree.is_star and new.query.tree.is_star:
        plain, reduced = _with_the_stars_of(old.query, old.query), _with_the_stars_of(new.query, old.query)
        return plain is not None and plain == reduced
    plain, reduced = _without(old.query, wanted), _without(new.query, wanted)
    if plain is not None and plain == reduced:
        return True
    plain, reduced = _pushed_down(old.query, wanted), _pushed_down(new.query, wanted)
    return plain is not None and plain == reduced


def _times(view: View) -> list[str]:
    return [view.header.event_time, *([view.header.created_time] if view.header.created_time else [])]


def _without(query: Query, wanted: Sequence[str]) -> "exp.Expr | None":
    """The SELECT with the wanted projections alone, by name; none where one more projection means other rows."""
    from sqlglot import exp

    tree = query.tree.copy()
    by_name = any(each.args.get("by_name") for each in tree.find_all(exp.Union))
    legs = _legs(tree)
    if legs is None or any(leg.is_star or _projections_decide(leg) for leg in legs):
        return None
    names = [each.alias_or_name for each in legs[0].selects]
    if any(name not in names for name in wanted) or any(len(leg.selects) != len(names) for leg in legs):
        return None
    places = [names.index(name) for name in sorted(wanted)]
    for leg in legs:
        if by_name and [each.alias_or_name for each in leg.selects] != names:
            return None
        leg.set("expressions", [leg.selects[place] for place in places])
    return tree


def _legs(tree: "exp.Expr") -> "list[exp.Select] | None":
    """The SELECT, or those of a ``union all`` from left to right: of a union that drops rows, a column decides which."""
    from sqlglot import exp

    if isinstance(tree, exp.Select):
        return [tree]
    if not isinstance(tree, exp.Union) or tree.args.get("distinct"):
        return None
    left, right = _legs(tree.this), _legs(tree.expression)
    return None if left is None or right is None else [*left, *right]


def _with_the_stars_of(query: Query, old: Query) -> "exp.Expr | None":
    """The SELECT with the projections alone that the old one has too, word for word."""
    from sqlglot import exp

    tree = query.tree.copy()
    if not isinstance(tree, exp.Select) or _projections_decide(tree):
        return None
    tree.set("expressions", [each for each in tree.expressions if each in old.tree.expressions])
    return tree


def _projections_decide(select: "exp.Select") -> bool:
    """Whether one more column means other rows: ``distinct``, ``group by all``, ``group by 1``."""
    group = select.args.get("group")
    by_place = group is not None and (group.args.get("all") or any(each.is_int for each in group.expressions))
    return bool(select.args.get("distinct") or by_place)


def _pushed_down(query: Query, wanted: Sequence[str]) -> "exp.Expr | None":
    """The same, and columns of inner SELECTs that nothing reads any more taken out too; none where that cannot be told."""
    from sqlglot import exp
    from sqlglot.errors import SqlglotError
    from sqlglot.optimizer.pushdown_projections import pushdown_projections
    from sqlglot.optimizer.qualify import qualify

    tree = _without(query, wanted)
    if tree is None or any(_projections_decide(each) for each in tree.find_all(exp.Select)):
        return None
    try:
        tree = qualify(tree, dialect="duckdb", validate_qualify_columns=False, quote_identifiers=False)
        return pushdown_projections(tree)
    except (SqlglotError, KeyError, ValueError):
        return None


def _at(view: View, form: Form) -> View:
    return msgspec.structs.replace(view, base=form.base, number=form.number, version=form.version)


def _folder(project: str, view: str) -> str:
    return f"features/{project}/{view}/forms"


def _named(text: str) -> str:
    return text if ": " in text else f"'{text}'"
