"""Settings: the file, the environment's table over it, variables over both; nothing unknown passes."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.errors import ProjectError
from towpath.settings import load, masked, secret

TOML = """
[project]
name = "shop"
[serving]
port = 1000
workers = 2
[environments.production.serving]
port = 2000
[environments.production.alerts]
urls = ["env:PAGER"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "towpath.toml").write_text(TOML)
    return tmp_path


def test_variables_lie_over_the_environment_over_the_file(folder: Path) -> None:
    production = {"TOWPATH_ENV": "production"}
    assert load(folder, {}).serving.port == 1000
    assert load(folder, production).serving.port == 2000
    assert load(folder, production | {"TOWPATH__SERVING__PORT": "3000"}).serving.port == 3000


def test_what_is_not_overridden_stays(folder: Path) -> None:
    settings = load(folder, {"TOWPATH_ENV": "production"})
    assert (settings.serving.workers, settings.alerts.urls, settings.environment) == (2, ("env:PAGER",), "production")


def test_what_the_cluster_puts_beside_a_service_of_our_name_is_ignored(folder: Path) -> None:
    assert load(folder, {"TOWPATH_PORT": "tcp://10.0.0.1:80", "TOWPATH_SERVICE_HOST": "10.0.0.1"}).serving.port == 1000


def test_lists_and_tables_are_given_as_json(folder: Path) -> None:
    settings = load(folder, {"TOWPATH__ALERTS__URLS": '["a://b"]', "TOWPATH__WAREHOUSE__TABLES": '{"a.b": "c"}'})
    assert (settings.alerts.urls, settings.warehouse.tables) == (("a://b",), {"a.b": "c"})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TOWPATH__SERVING__PROT", "1", "unknown key 'prot'; did you mean 'port'?"),
        ("TOWPATH__SERVNG__PORT", "1", "unknown section 'servng'; did you mean 'serving'?"),
        ("TOWPATH__SERVING", "1", "unknown key ''"),
        ("TOWPATH__ENVIRONMENT__X", "1", "unknown section 'environment'"),
        ("TOWPATH__SERVING__PORT", "many", "Expected `int`"),
        ("TOWPATH__SERVING__PORT", "70000", "<= 65535"),
        ("TOWPATH__ALERTS__URLS", "[a", "is written as JSON"),
        ("TOWPATH__SERVING__PORT", "", "Expected `int`"),
    ],
)
def test_a_wrong_variable_is_refused_with_its_reason(folder: Path, name: str, value: str, said: str) -> None:
    with pytest.raises(ProjectError) as caught:
        load(folder, {name: value})
    assert said in str(caught.value)


def test_all_wrong_variables_are_named_at_once(folder: Path) -> None:
    with pytest.raises(ProjectError) as caught:
        load(folder, {"TOWPATH__A__B": "1", "TOWPATH__SERVING__C": "1"})
    assert len(caught.value.problems) == 2


def test_an_unknown_environment_is_refused_with_the_nearest(folder: Path) -> None:
    with pytest.raises(ProjectError, match="did you mean 'production'"):
        load(folder, {"TOWPATH_ENV": "prodction"})


@pytest.mark.parametrize(
    "text", ["", "[serving]\nport = 1\n", "[project]\nname = 'A B'\n", "[project]\nname = 'a'\n[srving]\n", "a ="]
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "towpath.toml").write_text(text)
    with pytest.raises(ProjectError):
        load(tmp_path, {})


def test_a_folder_without_the_file_says_tow_init(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="tow init"):
        load(tmp_path, {})


def test_a_folder_of_that_name_is_an_error_of_ours_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "towpath.toml").mkdir()
    with pytest.raises(ProjectError, match="cannot be read"):
        load(tmp_path, {})


def test_the_process_environment_is_the_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TOWPATH__SERVING__PORT", "4000")
    assert load(folder).serving.port == 4000


words = st.from_regex(r"[A-Za-z0-9._~%-]{1,12}", fullmatch=True)


@given(scheme=st.sampled_from(["redis", "postgresql", "s3"]), user=words, rest=words)
def test_a_password_is_never_printed_and_the_rest_stays(scheme: str, user: str, rest: str) -> None:
    shown = masked(f"{scheme}://{user}:SECRET+word@db:6379/{rest}?x=1")
    assert shown == f"{scheme}://{user}:***@db:6379/{rest}?x=1"


@pytest.mark.parametrize("url", ["redis://db:6379", ".towpath/objects", "s3://bucket/prefix", "", "sqlite:///a.db"])
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert masked(url) == url


def test_a_secret_comes_from_a_variable_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "pager").write_text("hunter2\n")
    assert secret("env:PAGER", tmp_path, {"PAGER": "x"}) == "x"
    assert secret("file:pager", tmp_path, {}) == "hunter2"
    assert secret("redis://db", tmp_path, {}) == "redis://db"
    assert secret("file:///etc/x", tmp_path, {}) == "file:///etc/x"


def test_a_missing_secret_says_which_and_not_what(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="'PAGER' is not set"):
        secret("env:PAGER", tmp_path, {})
    with pytest.raises(ProjectError, match="'nowhere' cannot be read"):
        secret("file:nowhere", tmp_path, {})
