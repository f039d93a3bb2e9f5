"""What was predicted and what happened: appended in the path, flushed to Parquet, read as SQL views."""

from towpath.journal.append import Journal
from towpath.journal.days import day_files, write_rows, write_run
from towpath.journal.flush import Flushed, flush
from towpath.journal.outcomes import outcome_rows, outcomes_from_table
from towpath.journal.views import views

__all__ = [
    "Flushed",
    "Journal",
    "day_files",
    "flush",
    "outcome_rows",
    "outcomes_from_table",
    "views",
    "write_rows",
    "write_run",
]
