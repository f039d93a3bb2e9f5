"""What every online store must do; an engine's tests subclass this and give a ``store`` fixture."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path
from threading import Barrier

import pytest

from towpath.errors import ConflictError
from towpath.features import builds
from towpath.stores.online import WHOLE_ROWS, OnlineStore

__all__ = ["OnlineStoreContract", "value"]


class OnlineStoreContract:
    """The contract of `OnlineStore`; the ``store`` fixture is an empty store for each test.

    What other processes do to it is asked where a fixture ``address`` says by which URL, and from which folder, they open the same.

    Example:
        >>> class TestRedis(OnlineStoreContract):
        ...     pass  # and a fixture named store
    """

    @pytest.fixture
    def address(self) -> tuple[str, Path]:
        """URL and folder by which another process opens the store."""
        pytest.skip("no fixture 'address' says how another process opens the store")

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

    def test_times_are_compared_byte_by_byte(self, store: OnlineStore) -> None:
        """Whatever the locale of the machine: each of the sixteen bytes decides, as a number without sign."""
        lowest, highest = bytes(16), b"\xff" * 16
        rising = [lowest] + [
            bytes(at) + bytes([byte]) + bytes(15 - at) for at in range(15, -1, -1) for byte in (1, 200)
        ]
        for place, times in enumerate([*rising, highest]):
            store.write("prices", [(b"[1]", times + b"%d" % place)])
        assert store.read("prices", [b"[1]"]) == [highest + b"%d" % len(rising)]
        for times in (lowest, *rising):
            store.write("prices", [(b"[1]", times + b"never")])
        assert store.read("prices", [b"[1]"]) == [highest + b"%d" % len(rising)]

    def test_of_equal_times_the_later_row_replaces(self, store: OnlineStore) -> None:
        """So that a correction with the same times, or a rebuild, is seen."""
        store.write("prices", [(b"[1]", value(1, 1, b"first"))])
        store.write("prices", [(b"[1]", value(1, 1, b"second")), (b"[1]", value(1, 1, b"third"))])
        assert store.read("prices", [b"[1]"]) == [value(1, 1, b"third")]
        assert store.count("prices") == 1

    def test_of_one_key_in_one_call_the_newest_wins_and_of_equals_the_later(self, store: OnlineStore) -> None:
        """Also where other rows lie between them, more than a part holds."""
        between = [(f"[{i}]".encode(), value(1, 1, b"other")) for i in range(10, 10 + 2 * WHOLE_ROWS)]
        first, second, old = value(2, 1, b"first"), value(2, 1, b"second"), value(1, 9, b"old")
        store.write(
            "prices", [(b"[1]", first), (b"[2]", first), (b"[2]", second), *between, (b"[1]", second), (b"[2]", old)]
        )
        assert store.read("prices", [b"[1]", b"[2]"]) == [second, second]
        assert store.count("prices") == len(between) + 2

    def test_many_tables_are_read_in_one_call(self, store: OnlineStore) -> None:
        """One list per table asked, in that order; a table may be asked twice, or for nothing."""
        for table in ("a", "b"):
            store.write(table, [(b"[1]", value(1, 1, table.encode()))])
        asked = [("b", [b"[1]", b"[2]"]), ("none", [b"[1]"]), ("a", []), ("a", [b"[1]"]), ("b", [b"[1]"])]
        a, b = value(1, 1, b"a"), value(1, 1, b"b")
        assert store.read_many(asked) == [[b, None], [None], [], [a], [b]]
        assert store.read_many([]) == []

    def test_a_read_of_very_many_keys_is_whole(self, store: OnlineStore) -> None:
        """However an engine cuts it into pieces."""
        rows = [(f"[{i}]".encode(), value(1, 1, str(i).encode())) for i in range(5_000)]
        store.write("prices", iter(rows))
        asked = [key for key, _ in reversed(rows)]
        assert store.read("prices", asked) == [row for _, row in reversed(rows)]

    def test_a_table_that_nothing_was_written_to_is_there_and_empty(self, store: OnlineStore) -> None:
        """So that a build of a view without rows can be told from one that never ran."""
        store.write("prices", [])
        assert store.tables() == ["prices"]
        assert store.count("prices") == 0
        assert store.read("prices", [b"[1]"]) == [None]

    def test_a_write_that_fits_is_seen_as_a_whole_or_not_at_all(self, store: OnlineStore) -> None:
        """Of up to `WHOLE_ROWS` rows, by every reader at every moment, and where the rows end in an error."""
        keys = [f"[{i}]".encode() for i in range(WHOLE_ROWS)]

        def write(time_us: int) -> None:
            store.write("prices", [(key, value(time_us, 0, b"%d" % time_us)) for key in keys])

        def read(_: int) -> int:
            return len(set(store.read("prices", keys)))

        write(0)
        with ThreadPoolExecutor(4) as pool:
            seen = pool.map(read, range(60))
            list(pool.map(write, range(1, 30)))
            assert set(seen) == {1}
        for broken in (_then_fails([(key, value(100, 0, b"")) for key in keys[1:]]), _then_fails([])):
            try:
                store.write("prices", broken)
            except LookupError:
                assert set(store.read("prices", keys)) == {value(29, 0, b"29")}
            else:
                raise AssertionError("the error of the rows was swallowed")

    def test_a_long_write_that_fails_is_made_right_by_the_same_write_again(self, store: OnlineStore) -> None:
        """Each row is the old one or the new one, never a mixture and never gone."""
        rows = [(f"[{i}]".encode(), value(2, 0, b"new")) for i in range(3 * WHOLE_ROWS + 7)]
        keys = [key for key, _ in rows]
        old, new = value(1, 0, b"old"), value(2, 0, b"new")
        store.write("prices", [(key, old) for key in keys])
        try:
            store.write("prices", _then_fails(rows))
        except LookupError:
            assert set(store.read("prices", keys)) <= {old, new}
        store.write("prices", rows)
        assert store.read("prices", keys) == [new] * len(keys)

    def test_writers_that_race_on_one_key_leave_the_newest(self, store: OnlineStore) -> None:
        """Whoever comes last; and of rows with equal times one of them, whole."""

        def write(number: int) -> None:
            for step in range(25):
                store.write(
                    "prices",
                    [(b"[1]", value(step * 8 + number, 0, b"%d" % number)), (b"[2]", value(1, 1, b"%d" % number * 50))],
                )

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(8)))
        assert store.read("prices", [b"[1]"]) == [value(24 * 8 + 7, 0, b"7")]
        assert store.read("prices", [b"[2]"])[0] in {value(1, 1, b"%d" % number * 50) for number in range(8)}

    def test_a_table_may_be_dropped_while_it_is_read_and_written(self, store: OnlineStore) -> None:
        """A reader sees its rows or none, and no error; what is written afterwards stays."""
        keys = [f"[{i}]".encode() for i in range(20)]

        def read(_: int) -> bool:
            return set(store.read("prices", keys)) <= {None, value(1, 1, b"x")}

        with ThreadPoolExecutor(4) as pool:
            fine = pool.map(read, range(100))
            for _ in range(20):
                store.write("prices", [(key, value(1, 1, b"x")) for key in keys])
                store.drop("prices")
            assert all(fine)
        store.write("prices", [(b"[1]", value(0, 0, b"after"))])
        assert store.read("prices", [b"[1]", b"[2]"]) == [value(0, 0, b"after"), None]
        assert store.tables() == ["prices"]

    def test_keys_and_values_are_bytes_of_any_kind(self, store: OnlineStore) -> None:
        """Nulls, line ends and what is no text; a value may be its times and nothing else."""
        keys = [b"\0", b"\r\n", b"\xff\xfe", '["é"]'.encode(), b"$5\r\n"]
        rows = [(key, value(1, 1, key * 3)) for key in keys] + [(b"bare", value(0, 0, b""))]
        store.write("od: d*t[a]b?le", rows)
        assert store.read("od: d*t[a]b?le", [key for key, _ in rows]) == [row for _, row in rows]
        assert store.tables() == ["od: d*t[a]b?le"]

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

    def test_a_value_may_be_megabytes_long(self, store: OnlineStore) -> None:
        """A list of texts can be; a part of a write is then one row."""
        rows = [(f"[{i}]".encode(), value(1, 1, bytes([i]) * (3 << 20))) for i in range(4)]
        store.write("large", rows)
        assert store.read("large", [key for key, _ in rows]) == [row for _, row in rows]

    def test_long_keys_and_long_values_are_kept_whole(self, store: OnlineStore) -> None:
        """Beyond the limits that engines have on keys; also a key of nothing, alone and among others."""
        keys = [b"[" + b"x" * size + b"]" for size in (500, 509, 510, 600, 601, 5_000)]
        store.write("prices", [(key, value(1, 1, key * 50)) for key in keys])
        assert store.read("prices", keys) == [value(1, 1, key * 50) for key in keys]
        assert store.read("prices", keys[-1:]) == [value(1, 1, keys[-1] * 50)]
        assert store.count("prices") == len(keys)
        assert store.read("prices", [b"", keys[0]]) == [None, value(1, 1, keys[0] * 50)]
        store.write("prices", [(b"", value(1, 1, b"empty"))])
        assert store.read("prices", [b""]) == [value(1, 1, b"empty")]

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

    def test_a_writer_that_is_killed_tears_no_row_and_the_same_write_again_is_right(
        self, store: OnlineStore, address: tuple[str, Path]
    ) -> None:
        """Each row is the old or the new one, whole, and no lock is left behind."""
        keys = [f"[{i}]".encode() for i in range(5 * WHOLE_ROWS)]
        store.write("prices", [(key, value(1, 1, b"a" * 64)) for key in keys])
        killed = _elsewhere(
            address,
            f"""
            import os, signal
            def rows():
                for i in range({5 * WHOLE_ROWS}):
                    if i == {3 * WHOLE_ROWS}:
                        os.kill(os.getpid(), signal.SIGKILL)
                    yield f"[{{i}}]".encode(), value(2, 1, b"b" * 64)
            store.write("prices", rows())
            """,
        )
        killed.communicate(timeout=60)
        assert killed.returncode == -signal.SIGKILL
        assert set(store.read("prices", keys)) <= {value(1, 1, b"a" * 64), value(2, 1, b"b" * 64)}
        store.write("prices", [(key, value(2, 1, b"b" * 64)) for key in keys])
        assert set(store.read("prices", keys)) == {value(2, 1, b"b" * 64)}

    def test_a_store_that_grows_is_read_on_by_another_process(
        self, store: OnlineStore, address: tuple[str, Path]
    ) -> None:
        """Whoever opened it when it was small meets neither a gap nor an error."""
        store.write("prices", [(b"[1]", value(1, 1, b"a"))])
        reading = _elsewhere(
            address,
            """
            print("reading", flush=True)
            while store.read("done", [b"[1]"]) == [None]:
                assert store.read("prices", [b"[1]"]) == [value(1, 1, b"a")]
            print(store.count("large"))
            """,
        )
        assert reading.stdout is not None
        assert reading.stdout.readline() == "reading\n"
        for part in range(10):
            store.write("large", [(f"[{part},{i}]".encode(), value(1, 1, bytes(10_000))) for i in range(1_000)])
        store.write("done", [(b"[1]", value(1, 1, b""))])
        assert reading.communicate(timeout=60) == ("10000\n", "")

    def test_of_builders_that_begin_in_one_moment_one_gets_the_table_beside(self, store: OnlineStore) -> None:
        """The others are told so, and leave nothing behind."""
        together = Barrier(3)

        def begin(_: int) -> builds.BuildState | None:
            together.wait()
            try:
                return builds.begin_beside(store, "shop.prices.1")
            except ConflictError:
                return None

        for _ in range(3):
            with ThreadPoolExecutor(3) as pool:
                (won,) = [state for state in pool.map(begin, range(3)) if state is not None]
            assert won.beside is not None
            assert [name for name in store.tables() if "~" in name] == [won.beside.table]
            builds.give_up(store, "shop.prices.1", won)

    def test_a_second_close_does_nothing(self, store: OnlineStore) -> None:
        """Whoever closes last may be anybody."""
        store.close()
        store.close()


def _elsewhere(address: tuple[str, Path], code: str) -> "subprocess.Popen[str]":
    """A process with the store open as ``store``."""
    url, folder = address
    head = f"""
        from pathlib import Path
        from towpath.stores.online import open_online
        from towpath.testing.online_store import value
        store = open_online({url!r}, Path({str(folder)!r}))
    """
    return subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _then_fails(rows: list[tuple[bytes, bytes]]) -> Generator[tuple[bytes, bytes]]:
    yield from rows
    raise LookupError("the rows ended")


def value(event_us: int, landed_us: int, rest: bytes) -> bytes:
    """An online value: times that sort as bytes, then whatever a row holds.

    Example:
        >>> value(-1, 0, b"") < value(0, -1, b"")
        True
    """
    offset = 1 << 63
    return (event_us + offset).to_bytes(8, "big") + (landed_us + offset).to_bytes(8, "big") + rest
