"""``tow check`` names every fault with its file, its line and how to mend it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from towpath.errors import ProjectError
from towpath.project import Problem, problems, read
from towpath.sql import Query

Faults = Callable[[Path], list[str]]
TOML = "models/demand/model.toml"
SPINE = "models/demand/training.sql"
VIEW = "features/item_sales.sql"
CODE = "models/demand/model.py"


def _change(folder: Path, file: str, old: str, new: str) -> int:
    """Replace a piece of a file and give the line on which it stood."""
    path = folder / file
    text = path.read_text("utf-8")
    assert old in text, f"{old!r} is not in {file}"
    path.write_text(text.replace(old, new, 1), "utf-8")
    return text[: text.index(old)].count("\n") + 1


def test_a_project_as_tow_init_writes_it_has_no_problem(shop: Path, faults: Faults) -> None:
    assert faults(shop) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("towpath.toml", "team =", "tema =", "unknown key 'tema' in [project]; did you mean 'team'?"),
        ("towpath.toml", 'name = "shop"', 'name = "My Shop"', "project.name: 'My Shop' is no name; lower case"),
        (TOML, 'tier = "standard"', 'tier = "criticl"', "'criticl' is none of critical, standard, experimental; did you mean 'critical'?"),
        (TOML, 'holdout = "14d"', 'holdout = "14 days"', "train.holdout: '14 days' is no duration; one number and one unit"),
        (TOML, 'holdout = "14d"', 'holdout = "99999w"', "train.holdout: '99999w' is longer than 100 years"),
        (TOML, 'holdout = "14d"', "holdout = 14", "train.holdout = 14; expected text"),
        (TOML, 'metric = "wape"', 'metric = "wappe"', "unknown metric 'wappe'; did you mean 'wape'?"),
        (TOML, 'beside = ["bias", "short_units"]', 'beside = ["bias", "short_unit"]', "unknown metric 'short_unit'; did you mean 'short_units'?"),
        (TOML, "item_sales.*", "item_sale.*", "unknown view 'item_sale' in 'item_sale.*'; did you mean 'item_sales'?"),
        (TOML, "item_sales.*", "item_sales.units_7", "view 'item_sales' has no feature 'units_7'; did you mean 'units_7d'?"),
        (TOML, "item_sales.*", "item_sales.day_end", "view 'item_sales' has no feature 'day_end'"),
        (TOML, "item_sales.*", "shop/item_sales.units_7", "view 'item_sales' has no feature 'units_7'; did you mean 'units_7d'?"),
        (TOML, '["item_sales.*"]', '["item_sales.*", "item_sales.*"]', "'item_sales.*' is named twice; remove one"),
        (TOML, "low = 0", 'low = "zero"', "output.low = 'zero'; expected a number"),
        (TOML, 'function = "same_as_last_week"', 'function = "same_as_last_weak"', "model.py has no function 'same_as_last_weak'; did you mean 'same_as_last_week'?"),
        (TOML, "constant = 0", "budget_ms = 0", "fallback[1].budget_ms = 0; expected a whole number >= 1"),
        (TOML, 'name = "nothing"', 'name = "same_as_last_week"', "two fallbacks are named 'same_as_last_week'; rename one"),
        (VIEW, "ttl =", 'start = "soon"\nttl =', "start: 'soon' is no time; a day or a time, such as 2011-09-01"),
        (VIEW, "ttl =", 'start = "2011-13-01"\nttl =', "start: '2011-13-01' is no time"),
        (VIEW, "ttl =", 'dialect = "postgres"\nttl =', "is written for 'postgres', and 'duckdb' is asked to run it; take"),
        (VIEW, "ttl =", 'dialect = "postgresql"\nttl =', "'postgresql' is none of duckdb, postgres, snowflake, bigquery; did you mean 'postgres'?"),
        (VIEW, "ttl =", 'schedule = "daily"\nttl =', "'daily' is no cron line"),
        (VIEW, "ttl =", 'landing_keep = "1h"\nttl =', "pushed rows would go after 1h, before the ttl of"),
        (TOML, 'train = "0 4 * * mon"', 'train = "0 24 * * mon"', "'0 24 * * mon' is no cron line: hour 24 is not within 0 to 23"),
        (TOML, 'memory = "1GiB"', 'memory = "1 gig"', "resources.memory = '1 gig'; expected"),
        (TOML, "[gate]", "[gate", "the file is no TOML"),
        (VIEW, "select\n", "selct\n", "the SQL does not parse near"),
        (VIEW, "    landed_at,", "    now() as landed_at,", "'now()' is not replayable; use :as_of, :since or :until"),
        (VIEW, "    price_eur\n", "    price_eur * random() as price_eur\n", "'random()' is not replayable"),
        (VIEW, "    price_eur\n", "    current_date as price_eur\n", "'current_date' is not replayable"),
        (VIEW, "    price_eur\n", "    :asof as price_eur\n", "unknown parameter ':asof'; did you mean 'as_of'?"),
        (VIEW, 'ttl = "3d"', 'ttl = "3 days"', "ttl: '3 days' is no duration"),
        (VIEW, 'entity = "item_id"', 'entity = "item"', "entity 'item' is no column of the SELECT; did you mean 'item_id'?"),
        (VIEW, 'entity = "item_id"', "", "missing key 'entity'"),
        (VIEW, 'entity = "item_id"', 'entity = ["item_id", "item_id"]', "entity names 'item_id' twice; each key column once"),
        (VIEW, "--- */", '[features.price_eur]\nmissing = "default"\n--- */', "'price_eur' is missing = \"default\" and has no default"),
        (VIEW, "--- */", "[features.price_eur]\ndefault = 1.5\n--- */", "the default of 'price_eur' is never used; missing = \"default\""),
        (VIEW, 'event_time = "day_end"', "", "missing key 'event_time'"),
        (VIEW, 'event_time = "day_end"', 'event_time = "day_and"', "event_time 'day_and' is no column of the SELECT; did you mean 'day_end'?"),
        (SPINE, 'segments = ["price_band"]', 'segments = ["price_bend"]', "segments 'price_bend' is no column of the SELECT; did you mean 'price_band'?"),
        (SPINE, 'label = "units_next_7d"', 'label = "units_next_7"', "label 'units_next_7' is no column of the SELECT"),
        (SPINE, "with days as (", "delete from x; with days as (", "2 statements where one SELECT is needed"),
        (CODE, "def train(data)", "def train(data, more)", "train takes 2 arguments where it gets 1; def train(data): …"),
        (CODE, "def train(data)", "def train_it(data)", "there is no function train(data)"),
        (CODE, "def train(data):", "def train(data)", "the file does not compile"),
        ("models/demand/golden.jsonl", '"tolerance"', '"tolerence"', "unknown field 'tolerence'; did you mean 'tolerance'?"),
        ("models/demand/golden.jsonl", '"answer"', '"anser"', "unknown field 'anser'; did you mean 'answer'?"),
        ("models/demand/golden.jsonl", '"request"', '"row"', "'request' is missing"),
        ("models/demand/golden.jsonl", '{"request"', '"request"', "the line is no JSON"),
        ("metrics/short_units.sql", "as numerator", "as nominator", "the SELECT gives no 'numerator'; … as numerator"),
        ("metrics/short_units.sql", "from scored", "from scores", "a metric reads 'scores'; read 'scored' alone"),
        ("metrics/short_units.sql", "from scored", "from scored where weight > 0", "a metric gives one row for each row of 'scored'"),
        ("monitors/demand/too_low.sql", 'model = "demand"', 'model = "demnad"', "unknown model 'demnad'; did you mean 'demand'?"),
        ("monitors/demand/too_low.sql", ":most_share", ":most_shares", "unknown parameter ':most_shares'; did you mean 'most_share'?"),
    ],
)  # fmt: skip
def test_a_fault_is_named_on_its_line_with_its_mend(
    shop: Path, faults: Faults, file: str, old: str, new: str, said: str
) -> None:
    line = _change(shop, file, old, new)
    found = [text for text in faults(shop) if said in text]
    assert found, faults(shop)
    if (
        "no TOML" not in said
        and "no function train" not in said
        and "SELECT gives no" not in said
        and "a metric" not in said
    ):
        assert line - 1 <= int(found[0].split(":")[1]) <= line + 1
    assert found[0].startswith(f"{file}:")


def test_the_line_is_exact_where_a_key_is_wrong(shop: Path, faults: Faults) -> None:
    line = _change(shop, TOML, 'memory = "1GiB"', "memory = 1\ncpus = 2")
    assert [text.split(" ")[0] for text in faults(shop)] == [f"{TOML}:{line}:", f"{TOML}:{line + 1}:"]


def test_many_faults_of_many_files_are_reported_at_once_and_sorted(shop: Path, faults: Faults) -> None:
    _change(shop, "towpath.toml", "team =", "tema =")
    _change(shop, TOML, 'owner = "forecasting"\n', "")
    _change(shop, TOML, 'metric = "wape"', 'metric = "wappe"\nmargin = -1\nconfidence = 2')
    _change(shop, TOML, 'name = "nothing"\nconstant = 0', 'nme = "nothing"\nconstant = 0\nversion = 3')
    _change(shop, VIEW, "select\n", "selct\n")
    found = faults(shop)
    assert found == sorted(found, key=lambda text: (text.split(":")[0], int(text.split(":")[1])))
    for said in ("tema", "'owner'", "wappe", "margin = -1", "confidence = 2", "'nme'", "constant and version", "parse"):
        assert [text for text in found if said in text], said
    with pytest.raises(ProjectError) as caught:
        read(shop, {})
    assert list(caught.value.problems) == found


def test_a_faulty_file_does_not_make_the_names_in_it_unknown(shop: Path, faults: Faults) -> None:
    _change(shop, VIEW, 'ttl = "3d"', 'ttl = "-3d"')
    assert [text for text in faults(shop) if "unknown view" in text] == []


def test_a_critical_model_needs_a_fallback(shop: Path, faults: Faults) -> None:
    text = (shop / TOML).read_text().replace('tier = "standard"', 'tier = "critical"')
    before, _, after = text.partition("# Who answers")
    (shop / TOML).write_text(before + after[after.index("[schedule]") :])
    line = text[: text.index("tier =")].count("\n") + 1
    assert faults(shop)[0].startswith(f"{TOML}:{line}: a critical model must have a fallback; ")


@pytest.mark.parametrize("name", ["model.toml", "training.sql", "model.py"])
def test_a_missing_file_of_a_model_is_named(shop: Path, faults: Faults, name: str) -> None:
    (shop / "models" / "demand" / name).unlink()
    assert [text for text in faults(shop) if text.startswith(f"models/demand/{name}:1: the file is missing")]


def test_an_empty_model_folder_lacks_all_three_files(shop: Path, faults: Faults) -> None:
    (shop / "models" / "search").mkdir()
    assert len([text for text in faults(shop) if text.startswith("models/search/")]) == 3


def test_two_models_of_one_name_are_refused_wherever_they_lie(shop: Path, faults: Faults) -> None:
    for folder in ("a/demand", "Demand"):
        (shop / "models" / folder).mkdir(parents=True)
        for file in (TOML, SPINE, CODE):
            (shop / "models" / folder / Path(file).name).write_text((shop / file).read_text())
    found = " ".join(faults(shop))
    assert "two models have one name: " in found
    assert "'models/a/demand'" in found
    assert "differ only in case" in found


def test_two_views_of_one_name_are_refused(shop: Path, faults: Faults) -> None:
    (shop / "features" / "old").mkdir()
    (shop / "features" / "old" / "item_sales.sql").write_text((shop / VIEW).read_text())
    assert [text for text in faults(shop) if "two views have one name" in text]


@pytest.mark.parametrize("file", ["towpath.toml", TOML, SPINE, CODE, VIEW, "models/demand/golden.jsonl"])
def test_a_file_that_is_no_utf8_is_named_with_its_line(shop: Path, faults: Faults, file: str) -> None:
    raw = (shop / file).read_bytes()
    (shop / file).write_bytes(raw + b"\n# caf\xe9\n")
    line = raw.count(b"\n") + 2
    assert f"{file}:{line}: byte 0xe9 is no UTF-8; save the file as UTF-8" in faults(shop)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(shop: Path, faults: Faults) -> None:
    for file in ("towpath.toml", TOML, SPINE, VIEW):
        (shop / file).write_bytes(b"\xef\xbb\xbf" + (shop / file).read_bytes().replace(b"\n", b"\r\n"))
    assert faults(shop) == []


def test_a_circle_of_symbolic_links_is_named_and_ends(shop: Path, faults: Faults) -> None:
    (shop / "models" / "round").symlink_to(shop / "models")
    (shop / "features" / "self.sql").symlink_to("self.sql")
    found = faults(shop)
    assert [text for text in found if "leads back to a folder above it" in text]
    assert "features/self.sql:1: the symbolic link leads nowhere; remove the link" in found


def test_a_model_folder_may_be_a_symbolic_link(shop: Path, tmp_path: Path, faults: Faults) -> None:
    (shop / "models" / "demand").rename(tmp_path / "elsewhere")
    (shop / "models" / "demand").symlink_to(tmp_path / "elsewhere")
    assert faults(shop) == []


def test_an_empty_folder_is_no_project(tmp_path: Path) -> None:
    assert problems(tmp_path, {}) == [
        Problem("towpath.toml", 1, "the file is missing", "tow init, or cd into a project folder")
    ]
    with pytest.raises(ProjectError, match="There is no project"):
        read(tmp_path, {})


def test_a_password_in_a_file_is_a_problem_and_is_not_repeated(shop: Path, faults: Faults) -> None:
    (shop / "towpath.toml").write_text('[project]\nname = "shop"\n[stores]\nonline = "redis://app:hunter2@db"\n')
    assert faults(shop) == ["towpath.toml:4: 'online' holds a password; write env:NAME and set the variable NAME"]


def test_an_unknown_variable_of_the_environment_is_a_problem(shop: Path) -> None:
    found = problems(shop, {"TOWPATH__SERVING__PROT": "1"})
    assert [problem.what for problem in found] == ["unknown key 'prot'"]
    assert found[0].mend == "did you mean 'port'?"


def test_a_key_of_an_environment_is_checked_like_any_other(shop: Path, faults: Faults) -> None:
    with (shop / "towpath.toml").open("a") as file:
        file.write("\n[environments.production.serving]\nprot = 1\nport = 99999\n[environments.test]\nservng = {}\n")
    found = faults(shop)
    assert [text.split(": ", 1)[1] for text in found] == [
        "unknown key 'prot' in [environments.production.serving]; did you mean 'port'?",
        "environments.production.serving.port = 99999; expected a whole number <= 65535",
        "unknown key 'servng' in [environments.test]; did you mean 'serving'?",
    ]


def test_the_code_of_a_model_is_never_run(shop: Path, tmp_path: Path, faults: Faults) -> None:
    with (shop / CODE).open("a") as file:
        file.write(f"\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    assert faults(shop) == []
    assert not (tmp_path / "ran").exists()


def test_a_star_hides_columns_and_is_believed(shop: Path, faults: Faults) -> None:
    (shop / VIEW).write_text('/* ---\nentity = "item_id"\nevent_time = "day_end"\n--- */\nselect * from shop.sales\n')
    assert faults(shop) == []


def test_a_view_whose_key_the_spine_lacks_is_named_at_the_feature(shop: Path, faults: Faults) -> None:
    (shop / "features" / "weather.sql").write_text(
        '/* ---\nentity = "city"\nevent_time = "day"\n--- */\nselect city, day, rain_mm from w.days\n'
    )
    _change(shop, TOML, '["item_sales.*"]', '["item_sales.*",\n  "weather.rain_mm"]')
    assert "view 'weather' is keyed by 'city', which training.sql does not select" in faults(shop)[0]
    assert faults(shop)[0].startswith(f"{TOML}:6:")


def test_a_view_that_is_never_online_is_for_models_that_only_batches_ask(shop: Path, faults: Faults) -> None:
    _change(shop, VIEW, "ttl =", "online = false\nttl =")
    assert faults(shop) == []
    line = _change(shop, TOML, 'predict = "0 6 * * *"\n', "")
    assert line
    assert any("'item_sales.*' is of a view with online = false" in text for text in faults(shop))


CHAIN = '[[fallback]]\nname = "nothing"'


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ('model = "demnad"', "unknown model 'demnad'"),
        ('model = "demand"', "the chains of demand ask each other; break the circle"),
        ('sql = "item_sale.units"', "unknown view 'item_sale' in 'item_sale.units'; did you mean 'item_sales'?"),
        ('sql = "item_sales.*"', "names no feature; view.feature or project/view.feature"),
        ('last = "1 moon"', "is no duration"),
        ('last = "1d"\nsql = "item_sales.units_7d"', "has sql and last; exactly one of function, constant, version"),
        ("constant = 1", "always has an answer, so 'nothing' is never asked; the constant last"),
    ],
)
def test_a_link_that_can_never_answer_is_named(shop: Path, faults: Faults, link: str, said: str) -> None:
    _change(shop, TOML, CHAIN, f'[[fallback]]\nname = "odd"\n{link}\n\n{CHAIN}')
    found = faults(shop)
    assert any(said in text for text in found), found


def test_chains_that_ask_each_other_are_named_in_both_files(shop: Path, faults: Faults) -> None:
    (shop / "models" / "other").mkdir()
    for file in (TOML, SPINE, CODE):
        text = (shop / file).read_text()
        (shop / "models" / "other" / Path(file).name).write_text(text)
    for model, asked in (("demand", "other"), ("other", "demand")):
        file = f"models/{model}/model.toml"
        _change(shop, file, CHAIN, f'[[fallback]]\nname = "odd"\nmodel = "{asked}"\n\n{CHAIN}')
    found = [text for text in faults(shop) if "ask each other" in text]
    assert [text.split(":")[0] for text in found] == ["models/demand/model.toml", "models/other/model.toml"]


def test_the_chain_of_a_critical_model_ends_with_somebody_who_has_an_answer(shop: Path, faults: Faults) -> None:
    _change(shop, TOML, 'tier = "standard"', 'tier = "critical"')
    assert faults(shop) == []
    _change(shop, TOML, "constant = 0", 'last = "1d"')
    assert any("which may have no answer; end with a constant" in text for text in faults(shop))


def test_a_view_in_the_words_of_its_warehouse_has_no_problem_and_its_faults_their_lines(
    shop: Path, faults: Faults
) -> None:
    with (shop / "towpath.toml").open("a", encoding="utf-8") as file:
        file.write('\n[warehouse]\nurl = "postgresql://app@db/shop"\n')
    (shop / "features" / "tagged.sql").write_text(
        "/* ---\nentity = 'id'\nevent_time = 'at'\ndialect = 'postgres'\n--- */\n"
        "select distinct on (id) id, at, doc ->> 'a' as a, doc ?| array['b'] as b\n"
        "from shop.tags where at <= :as_of and doc ? 'k'\norder by id, at desc\n",
        "utf-8",
    )
    assert faults(shop) == []
    at = _change(shop, "features/tagged.sql", "array['b'] as b", "array['b'] as b, now() as c")
    (said,) = faults(shop)
    assert said.startswith(f"features/tagged.sql:{at}: 'now()' is not replayable")


def test_a_project_may_say_once_whose_sql_it_is_and_a_file_may_say_otherwise(shop: Path) -> None:
    # given a view without a word of its own, on a server whose URL a variable holds
    view, toml = shop / "features/item_sales.sql", shop / "towpath.toml"
    lines = view.read_text().split("\n")
    said = '\n[warehouse]\nurl = "env:SHOP_WAREHOUSE"\ndialect = "{}"\n'
    toml.write_text(toml.read_text() + said.format("postgres"))
    # when the variable is not there, that is said and is no fault
    (unknown,) = problems(shop, {})
    assert unknown.warning
    assert "towpath.toml:" in str(unknown)
    assert "in the SQL of 'postgres' runs is not known: The variable 'SHOP_WAREHOUSE' is not set" in str(unknown)
    # when it is, the project's word is held against it
    assert problems(shop, {"SHOP_WAREHOUSE": "postgresql://ml@db/shop"}) == []
    (foreign,) = problems(shop, {"SHOP_WAREHOUSE": "duckdb://warehouse"})
    assert str(foreign).startswith("towpath.toml:")
    assert "written for 'postgres', and its warehouse runs 'duckdb'" in foreign.what
    # and the word travels with the text of the file, whose lines stay where they were
    project = read(shop, {"SHOP_WAREHOUSE": "postgresql://ml@db/shop"})
    query = project.views["item_sales"].query
    assert (query.dialect, query.select_line) == ("postgres", 1 + lines.index("select"))
    assert Query.parse(query.text).dialect == "postgres"
    assert project.models["demand"].training.query.dialect == "postgres"
    # but for a file that says otherwise
    view.write_text("\n".join(lines).replace("ttl =", 'dialect = "duckdb"\nttl =', 1))
    assert read(shop, {"SHOP_WAREHOUSE": "postgresql://ml@db/shop"}).views["item_sales"].query.dialect == "duckdb"
