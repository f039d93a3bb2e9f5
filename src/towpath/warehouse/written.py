"""What a warehouse may do beside the port: take a table of ours, such as the answers of a batch."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TakesTables"]


@runtime_checkable
class TakesTables(Protocol):
    """A warehouse that can be written to."""

    def write_table(self, name: str, rows: "pa.Table") -> None:
        """Put rows in the place of all that a table holds, made where there is none; readers see the old ones or the new.

        Args:
            name: ``schema.table``; the schema must be there.
            rows: All of them.

        Raises:
            ProjectError: There is no such schema, the user may not write there, or the table is another one: its columns differ.
        """
        ...
