"""What every online store must do; an engine's tests subclass this and give a ``store`` fixture."""

from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

from towpath.stores.online import OnlineStore

__all__ = ["OnlineStoreContract", "value"]


class OnlineStoreContract:
    """The contract of `OnlineStore`; the ``store`` fixture is an empty store for each test.

    Example:
        >>> class TestRedis(OnlineStoreContract):
        ...     pass  # and a fixture named store
    """

    def test_what_was_never_written_is_none(self, store: OnlineStore) -> None:
        """An unknown table and an unknown key are no errors."""
        assert store.read("prices", [b"[1]", b"[2]"]) == [None, None]
        assert store.count("prices") == 0
        store.write("prices", [(b"[1]", value(1, 1, b"a"))])
        assert store.read("prices", [b"[2]"]) == [None]

    def test_answers_come_in_the_order_asked_duplicates_and_all(self, store: OnlineStore) -> None:
        """One answer per key asked."""
        rows = [(f"[{i}]".encode(), value(1, 1, str(i).encode())) for i in range(100)]
        store.write("prices", rows)
        asked = [b"[7]", b"[200]", b"[3]", b"[7]"]
        assert store.read("prices", asked) == [rows[7][1], None, rows[3][1], rows[7][1]]
        assert store.read("prices", []) == []

    def test_the_newest_wins_in_whatever_order_rows_land(self, store: OnlineStore) -> None:
        """Event time decides, then landing time; both may lie before 1970."""
        versions = [value(-5, 9, b"a"), value(3, -2, b"b"), value(3, 4, b"c")]
        for number, order in enumerate(permutations(versions)):
            for row in order:
                store.write("prices", [(f"[{number}]".encode(), row)])
            store.write("together", [(f"[{number}]".encode(), row) for row in order])
        keys = [f"[{number}]".encode() for number in range(6)]
        assert store.read("prices", keys) == store.read("together", keys) == [versions[2]] * 6

    def test_of_equal_times_the_later_row_replaces(self, store: OnlineStore) -> None:
        """So that a correction with the same times, or a rebuild, is seen."""
        store.write("prices", [(b"[1]", value(1, 1, b"first"))])
        store.write("prices", [(b"[1]", value(1, 1, b"second")), (b"[1]", value(1, 1, b"third"))])
        assert store.read("prices", [b"[1]"]) == [value(1, 1, b"third")]
        assert store.count("prices") == 1

    def test_tables_are_apart_and_can_be_dropped(self, store: OnlineStore) -> None:
        """A dropped table is as if it had never been, and may come back."""
        for table in ("b", "a.view.0123", "c"):
            store.write(table, [(b"[1]", value(1, 1, table.encode()))])
        assert store.tables() == ["a.view.0123", "b", "c"]
        store.drop("b")
        store.drop("never was")
        assert store.tables() == ["a.view.0123", "c"]
        assert store.read("b", [b"[1]"]) == [None]
        store.write("b", [(b"[2]", value(0, 0, b"again"))])
        assert store.read("b", [b"[1]", b"[2]"]) == [None, value(0, 0, b"again")]

    def test_long_keys_and_long_values_are_kept_whole(self, store: OnlineStore) -> None:
        """Beyond the limits that engines have on keys."""
        keys = [b"[" + b"x" * size + b"]" for size in (500, 509, 510, 600, 601, 5_000)]
        store.write("prices", [(key, value(1, 1, key * 50)) for key in keys])
        assert store.read("prices", keys) == [value(1, 1, key * 50) for key in keys]
        assert store.count("prices") == len(keys)

    def test_a_store_grows_as_it_must(self, store: OnlineStore) -> None:
        """A hundred mebibytes need no setting."""
        for part in range(10):
            store.write("large", [(f"[{part},{i}]".encode(), value(1, 1, bytes(10_000))) for i in range(1_000)])
        assert store.count("large") == 10_000  # noqa: PLR2004 - ten parts of a thousand

    def test_many_threads_may_read_and_write_at_once(self, store: OnlineStore) -> None:
        """No lost row, no torn row."""
        keys = [f"[{i}]".encode() for i in range(50)]

        def write(time_us: int) -> None:
            store.write("prices", [(key, value(time_us, 0, bytes([time_us]) * 64)) for key in keys])

        def read(_: int) -> bool:
            return all(row is None or len(set(row[16:])) == 1 for row in store.read("prices", keys))

        with ThreadPoolExecutor(8) as pool:
            whole = pool.map(read, range(40))
            list(pool.map(write, range(20)))
            assert all(whole)
        assert store.read("prices", keys) == [value(19, 0, bytes([19]) * 64)] * len(keys)

    def test_a_second_close_does_nothing(self, store: OnlineStore) -> None:
        """Whoever closes last may be anybody."""
        store.close()
        store.close()


def value(event_us: int, landed_us: int, rest: bytes) -> bytes:
    """An online value: times that sort as bytes, then whatever a row holds.

    Example:
        >>> value(-1, 0, b"") < value(0, -1, b"")
        True
    """
    offset = 1 << 63
    return (event_us + offset).to_bytes(8, "big") + (landed_us + offset).to_bytes(8, "big") + rest
