"""What `tow doctor` says of the online store."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from towpath.clock import SystemClock
from towpath.platform import Platform
from towpath.platform.doctor import Finding, findings
from towpath.project import Answers, init, problems
from towpath.stores.online import open_online

if TYPE_CHECKING:
    from tests.conftest import RedisServer


def online(folder: Path, **variables: str) -> list[Finding]:
    """What is said of the online store, with settings as variables."""
    given = {f"TOWPATH__STORES__{name.upper()}": value for name, value in variables.items()}
    with Platform.open(folder, variables=given) as platform:
        return [found for found in findings(platform) if found.what in {"online", "second machine"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    init(tmp_path, Answers(name="shop", team="forecasting"), clock=SystemClock())
    return tmp_path


def test_a_file_on_this_machine_is_fine_until_versions_lie_in_a_bucket(folder: Path) -> None:
    (alone,) = online(folder)
    assert (alone.state, "0 tables" in alone.detail) == ("ok", True)
    found, second = online(folder, objects="s3://bucket/shop")
    assert (found.state, second.state) == ("ok", "missing")
    assert "second machine" in second.detail
    assert "redis://" in second.mend


def test_a_lock_of_a_model_wants_uv_and_is_read_by_check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = folder / "models" / "demand" / "requirements.lock"
    lock.write_text("numpy==2.1.0\n")
    (problem,) = problems(folder)
    assert str(problem).startswith("models/demand/requirements.lock:1: 'numpy==2.1.0' has no hash")
    lock.write_text("".join(f"{name}==1 --hash=sha256:00\n" for name in ("numpy", "msgspec", "pyarrow")))
    assert problems(folder) == []
    monkeypatch.setenv("PATH", str(folder))
    with Platform.open(folder, variables={}) as platform:
        (found,) = [one for one in findings(platform) if one.what == "uv"]
    assert (found.state, found.mend) == ("ill", "pip install uv")
    assert "demand" in found.detail


def test_redis_is_told_with_its_version_and_distance(folder: Path, own_redis: "RedisServer") -> None:
    (found,) = online(folder, objects="s3://bucket/shop", online=own_redis.url(), online_timeout_ms="1000")
    assert found.state == "ok"
    assert "Redis" in found.detail
    assert "ms away" in found.detail


def test_redis_that_may_throw_features_away_or_is_gone_is_ill(folder: Path, own_redis: "RedisServer") -> None:
    admin = open_online(own_redis.url(), folder)
    for name, value in ((b"maxmemory", b"100mb"), (b"maxmemory-policy", b"allkeys-lfu")):
        admin._ask(b"CONFIG", b"SET", name, value)  # pyright: ignore[reportAttributeAccessIssue]
    admin.close()
    (evicting,) = online(folder, online=own_redis.url(), online_timeout_ms="1000")
    assert (evicting.state, evicting.mend) == ("ill", "set maxmemory-policy to noeviction")
    assert "allkeys-lfu" in evicting.detail
    own_redis.kill()
    (gone,) = online(folder, online=own_redis.url())
    assert gone.state == "ill"
    assert "refused" in gone.detail
