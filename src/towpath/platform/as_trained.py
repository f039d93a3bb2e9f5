"""The features of a version as they were known at given moments, in the forms of their views that it was trained on."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from towpath import features as room
from towpath.features.due import BEGINNING
from towpath.features.lock import called as called_by
from towpath.features.lock import names_of
from towpath.platform.own_landing import on_own_landing

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.features import View
    from towpath.models.manifest import FeatureLock
    from towpath.platform.opened import Platform

__all__ = ["AsTrained", "up_to"]


def up_to(moment: datetime) -> dict[str, object]:
    """Parameters of SQL that may see everything known by a moment.

    Examples:
        >>> from datetime import UTC
        >>> {name: str(value)[:10] for name, value in up_to(datetime(2026, 3, 9, tzinfo=UTC)).items()}
        {'as_of': '2026-03-09', 'since': '1900-01-01', 'until': '2026-03-09'}
    """
    return {"as_of": moment, "since": BEGINNING, "until": moment}


class AsTrained:
    """What a version would have been trained on, had it been asked then; the gate, batches and skew ask here.

    Args:
        platform: The project at its moment; nothing that became known later is seen.
        locks: Views as the version's manifest has them.
        own: The project of the version, whose views are called by their bare names.
    """

    def __init__(self, platform: "Platform", locks: "Sequence[FeatureLock]", own: str) -> None:
        self._platform = platform
        self._own = own
        self.locks: Mapping[str, FeatureLock] = {called_by(lock, own): lock for lock in locks}
        """By what the model calls them."""
        self.names = [name for lock in locks for name in names_of(lock, own)]
        """Of all features."""
        self.refusing = {
            f"{called}.{column.name}"
            for called, lock in self.locks.items()
            for column in lock.columns
            if column.missing == "refuse"
        }
        """Of those without which a row has no answer."""

    def joined(self, rows: "pa.Table", *, keys: Sequence[str], time: str) -> "pa.Table":
        """The rows, then a column for each feature as it was known at the row's moment; null where it was not.

        Raises:
            InputError: The rows lack a key, or have one of another type than the view.
            ProjectError: The warehouse refuses the SQL.
        """
        return room.training_set(
            self._platform.warehouse,
            rows,
            keys=keys,
            time=time,
            features=self.names,
            views={called: self.view(called) for called in self.locks},
            parameters=up_to(self._platform.now()),
        )

    def filled(self, table: "pa.Table") -> "pa.Table":
        """A joined table with declared defaults where a value is missing."""
        return room.with_defaults(table, tuple(self.locks.values()), self._own)

    def view(self, called: str) -> "View":
        """One view in the form of the lock, on the landing table of that form."""
        return on_own_landing(self._platform, room.view_of_lock(self.locks[called]))
