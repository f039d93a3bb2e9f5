"""What was predicted and what happened: appended in the path, flushed to Parquet, read as SQL views."""

from towpath.journal.append import Journal

__all__ = ["Journal"]
