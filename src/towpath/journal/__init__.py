"""What was predicted and what happened: appended in the path, flushed to Parquet, read as SQL views."""

from towpath.journal.append import Journal
from towpath.journal.damage import Suspect, examine, leave_out, take_back
from towpath.journal.days import day_files, write_rows, write_run
from towpath.journal.flush import Flushed, flush
from towpath.journal.outcomes import outcome_rows, outcomes_from_table
from towpath.journal.views import views

__all__ = [
    "Flushed",
    "Journal",
    "Suspect",
    "day_files",
    "examine",
    "flush",
    "leave_out",
    "outcome_rows",
    "outcomes_from_table",
    "take_back",
    "views",
    "write_rows",
    "write_run",
]
