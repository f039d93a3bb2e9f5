"""What tow check learns from an engine that is in the process: types, and columns that no parser can know."""

from pathlib import Path

import pytest

from towpath.cli import main
from towpath.clock import FixedClock
from towpath.project import Answers, init

VIEW = "features/item_sales.sql"
SPINE = "models/demand/training.sql"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    init(tmp_path / "shop", Answers(name="shop", team="area", owner="ana"), clock=FixedClock("2026-03-01"))
    return tmp_path / "shop"


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            VIEW,
            "cast(day as timestamp) + interval 1 day",
            "cast(day as text)",
            f"{VIEW}:3: 'day_end' is string and no time",
        ),
        (
            VIEW,
            "    price_eur\n",
            "    price_euro\n",
            f'{VIEW}:16: The warehouse refuses: Binder Error: Referenced column "price_euro"',
        ),
        (
            VIEW,
            "--- */",
            '[features.price_eur]\nmissing = "default"\ndefault = "dear"\n--- */',
            "the default 'dear' of 'price_eur' is no double; write a default of the feature's type",
        ),
        (
            SPINE,
            "    morning,\n",
            "    morning::text as morning,\n",
            f"{SPINE}:3: time 'morning' is string; cast it to timestamp",
        ),
        (
            VIEW,
            "    item_id,\n",
            "    hash(item_id)::bigint as item_id,\n",
            f"{SPINE}:12: key 'item_id' is string, and int64 in the view 'item_sales'; cast one of them",
        ),
    ],
)
def test_a_type_and_a_column_that_only_the_engine_knows_are_faults_with_their_line(
    shop: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, said: str
) -> None:
    text = (shop / file).read_text()
    assert old in text
    (shop / file).write_text(text.replace(old, new, 1))
    with pytest.raises(SystemExit) as ended:
        main(["check", str(shop)])
    assert ended.value.code == 2
    assert said in capsys.readouterr().out
    # where the table is not here, the file cannot be known to be wrong
    for table in (shop / "warehouse").rglob("*.parquet"):
        table.unlink()
    with pytest.raises(SystemExit) as unknown:
        main(["check", str(shop)])
    assert unknown.value.code == 0
    assert "warning: reads the table 'shop.sales', which the warehouse does not have" in capsys.readouterr().out
