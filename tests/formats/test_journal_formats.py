"""The journal's own files of v1: a worker's segment, and the Parquet tables that readers see.

``python tests/formats/test_journal_formats.py`` writes the golden files that are missing and never changes one that is there.
"""

import io
import shutil
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from towpath.clock import FixedClock
from towpath.journal import day_files, flush, views, write_run
from towpath.journal.days import landing
from towpath.journal.frames import BESIDE, HEADER_BYTES, LANDED, MARK, OUTCOMES, RECORD, close_frame, frames
from towpath.journal.record import Beside, LandedRow, OutcomeRow, Record, Run
from towpath.journal.unfold import COLUMNS
from towpath.stores.objects import Objects
from towpath.types import micros, utc
from towpath.warehouse.engine import Engine

FOLDER = Path(__file__).parent / "v1"
CLOCK = FixedClock("2026-03-09")
OUTCOME = OutcomeRow(
    outcome_id="0123456789abcdef0123456789abcdef",
    project="shop",
    model="demand",
    prediction_id="0195f2a4c1d07e4c8f5b6a3a0d9c1e2f-0",
    entity_key='["10002","UK"]',
    target_at=1_772_928_000_000_000,
    horizon="7d",
    item="a",
    happened_at=micros(utc("2026-03-08")),
    metric="outcome",
    value=13.0,
    label="many",
    weight=2.0,
    consumer="web_shop",
    arrived_at=micros(utc("2026-03-08T06:00")),
)


def flushed(folder: Path, objects: Objects) -> None:
    """What a flusher of today makes of the golden segment and the golden run."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(FOLDER / "journal_segment.bin", folder / "0006.journal")
    flush(folder, objects, clock=CLOCK)
    run = msgspec.json.decode((FOLDER / "run.json").read_bytes(), type=Run)
    write_run(objects, msgspec.structs.replace(run, status="done"), clock=CLOCK)


def stored(objects: Objects, table: str) -> pa.Table:
    if table == "landing":
        table = landing("shop", "prices")
    return pa.concat_tables([pq.read_table(io.BytesIO(objects.get(file))) for file in day_files(objects, table)])


def test_a_segment_of_v1_is_read_up_to_its_torn_tail() -> None:
    found = list(frames((FOLDER / "journal_segment.bin").read_bytes()))
    assert [kind for kind, _ in found] == [RECORD, OUTCOMES, LANDED]
    assert found[0][1] == (FOLDER / "record.msgpack").read_bytes()
    assert msgspec.msgpack.decode(found[1][1], type=list[OutcomeRow]) == [OUTCOME]
    assert msgspec.msgpack.decode(found[2][1], type=list[LandedRow]) == [_landed_row()]


@pytest.mark.parametrize("table", COLUMNS)
def test_todays_flusher_makes_the_rows_that_v1_made(table: str, tmp_path: Path) -> None:
    objects = Objects("memory://")
    flushed(tmp_path, objects)
    golden = pq.read_table(FOLDER / f"{table}.parquet")
    assert stored(objects, table).select(golden.column_names).equals(golden)
    assert {field.name: str(field.type) for field in golden.schema}.items() <= COLUMNS[table].items()
    assert [name for name in golden.column_names if golden[name].null_count == len(golden)] == []


def test_what_a_fallback_said_as_text_and_as_a_list_is_kept(tmp_path: Path) -> None:
    # given a record that came with it, and one that it was found out of afterwards
    segment = bytearray(MARK)
    late = msgspec.msgpack.decode((FOLDER / "record_2.msgpack").read_bytes(), type=Record)
    late = msgspec.msgpack.encode(msgspec.structs.replace(late, prediction_id="later"))
    said = msgspec.msgpack.decode((FOLDER / "beside_2.msgpack").read_bytes(), type=Beside)
    said = msgspec.msgpack.encode(msgspec.structs.replace(said, prediction_id="later"))
    for kind, payload in ((RECORD, (FOLDER / "record_3.msgpack").read_bytes()), (RECORD, late), (BESIDE, said)):
        frame = bytearray(HEADER_BYTES) + payload
        close_frame(frame, kind)
        segment += frame
    (tmp_path / "0006.journal").write_bytes(segment)
    objects = Objects("memory://")
    flush(tmp_path, objects, clock=CLOCK)
    rows = stored(objects, "predictions").to_pylist()
    found = [
        (
            row["prediction_id"].removeprefix("0195f2a4c1d07e4c8f5b6a3a"),
            row["item"],
            row["fallback_label"],
            row["fallback_items"],
        )
        for row in rows
    ]
    # then a ranking's list stands once, on its first item
    assert found == [
        ("0d9c1e2f-0", "a", "few", ["b", "c"]),
        ("0d9c1e2f-0", "b", "few", None),
        ("0d9c1e2f-1", None, None, None),
        ("later-0", "a", None, None),
        ("later-0", "b", None, None),
        ("later-1", None, "few", ["b", "c"]),
    ]


@pytest.mark.parametrize("url", ["memory://", "a folder"])
def test_todays_views_read_the_tables_of_v1(url: str, tmp_path: Path) -> None:
    objects = Objects(url, folder=tmp_path)
    for table, day in {"predictions": "2026-03-01", "outcomes": "2026-03-08", "runs": "2026-03-01"}.items():
        path = f"journal/{table}/{day}/host-1-0001.parquet"
        objects.put_new(path, (FOLDER / f"{table}.parquet").read_bytes())
        manifest = msgspec.json.decode((FOLDER / "day_manifest.json").read_bytes()) | {"day": day, "table": table}
        objects.put_new(
            f"journal/{table}/{day}/manifests/000007.json", msgspec.json.encode(manifest | {"files": [path]})
        )
    engine = Engine(memory_mib=128, threads=1)
    views(engine, objects, as_of=CLOCK.now())
    assert engine.read("select fallback_label, fallback_items from predictions").to_pylist()[0] == {
        "fallback_label": None,
        "fallback_items": None,
    }
    [row] = engine.read("select prediction_id, item, position, prediction, actual, weight from matured").to_pylist()
    assert row == {
        "prediction_id": OUTCOME.prediction_id,
        "item": "a",
        "position": 1,
        "prediction": 12.5,
        "actual": 13.0,
        "weight": 2.0,
    }
    engine.close()


def test_the_golden_record_is_still_the_record() -> None:
    data = (FOLDER / "record_3.msgpack").read_bytes()
    assert msgspec.msgpack.encode(msgspec.msgpack.decode(data, type=Record)) == data


def _landed_row() -> LandedRow:
    return msgspec.msgpack.decode((FOLDER / "landed_row.msgpack").read_bytes(), type=LandedRow)


def _write() -> None:
    import tempfile

    segment = MARK
    for kind, payload in (
        (RECORD, (FOLDER / "record.msgpack").read_bytes()),
        (OUTCOMES, msgspec.msgpack.encode([OUTCOME])),
        (LANDED, msgspec.msgpack.encode([_landed_row()])),
    ):
        frame = bytearray(HEADER_BYTES) + payload
        close_frame(frame, kind)
        segment += bytes(frame)
    if not (FOLDER / "journal_segment.bin").exists():
        (FOLDER / "journal_segment.bin").write_bytes(segment + bytes(frame)[:20])
    objects = Objects("memory://")
    with tempfile.TemporaryDirectory() as folder:
        flushed(Path(folder), objects)
    for table in COLUMNS:
        if not (FOLDER / f"{table}.parquet").exists():
            pq.write_table(stored(objects, table), FOLDER / f"{table}.parquet", compression="zstd")


if __name__ == "__main__":
    _write()
