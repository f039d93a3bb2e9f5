"""``tow consumers``: each command in order on one store, what it refuses, and a kit whose calls run against a real server."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from test_server import QUICK, Store

from towpath.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with one champion, and the project folder of those who keep its consumers."""
    folder = tmp_path_factory.mktemp("fleet")
    made = Store(folder)
    made.promote(made.publish(5.0, golden=5.0))
    (folder / "towpath.toml").write_text(
        '[project]\nname = "shop"\nteam = "area"\n[stores]\nobjects = "objects"\nkeys = "keys"\n'
    )
    return made


class Told:
    """What a command said."""

    def __init__(self, code: Any, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def tow(store: Store, capsys: Capture, words: str) -> Told:
    with pytest.raises(SystemExit) as ended:
        main(["consumers", *words.split(), "--project", str(store.folder)])
    said = capsys.readouterr()
    return Told(ended.value.code, said.out, said.err)


LIFE = [
    ("list", 0, "No consumers yet", ""),
    ("add brand-a --models demand --quota 100/s,5000rows/s --sla p99=20ms,availability=99.9% --expires 90d --team web", 0, "tow_", "answer nobody without a key"),
    ("add brand-a", 1, "", "brand-a"),
    ("add Brand!", 2, "", "Brand!"),
    ("add other", 2, "", "not local, other"),
    ("add brand-c", 0, "tow_", "shown again"),
    ("add strange --scope dance", 2, "", "dance"),
    ("add strange --quota lots", 2, "", "lots"),
    ("add strange --sla soon", 2, "", "soon"),
    ("add strange --expires tomorrow", 2, "", "tomorrow"),
    ("list", 0, "100/s, 5000 rows/s", ""),
    ("list", 0, "p99 20 ms and 99.9%: not called yet", ""),
    ("show brand-a", 0, "added", ""),
    ("show brandc", 2, "", "did you mean 'brand-c'"),
    ("change brand-a", 2, "", "Nothing to change"),
    ("change brand-a --quota none --sla none --models all --scope predict", 0, "revision 2", ""),
    ("change nobody --quota none", 2, "", "nobody"),
    ("rotate brand-a --overlap 1d", 0, "tow_", "The key before it ends in 1d"),
    ("rotate brand-a --overlap 0s", 0, "tow_", "The keys before it are ended"),
    ("revoke brand-a --key nokey", 2, "", "nokey"),
    ("revoke brand-c", 0, "All keys of 'brand-c' are revoked", ""),
    ("list", 0, "revoked", ""),
    ("kit nobody --to /nowhere", 2, "", "nobody"),
]  # fmt: skip


def test_the_life_of_consumers_on_one_store(store: Store, capsys: Capture) -> None:
    keys: list[str] = []
    for words, code, out, err in LIFE:
        told = tow(store, capsys, words)
        assert told.code == code, (words, told.code, told.out, told.err)
        assert out in told.out, (words, told.out)
        assert err in told.err, (words, told.err)
        assert "Traceback" not in told.err, words
        keys += re.findall(r"tow_[\w-]+", told.out)
        # a key is said once, to whoever asked for it, and never where it could be logged
        assert not any(key in told.err for key in keys), words
    assert len(keys) == len(set(keys)) == 4
    # and no key stands in the store
    stored = b"".join(path.read_bytes() for path in (store.folder / "objects").rglob("*") if path.is_file())
    assert not [key for key in keys if key.split("_", 2)[2].encode() in stored]


@pytest.mark.parametrize(
    ("words", "has"),
    [
        ("add json-a --json", {"name": "json-a"}),
        ("list --json", None),
        ("show json-a --json", {"name": "json-a", "state": "waiting"}),
        ("change json-a --team web --json", {"team": "web", "revision": 2}),
        ("rotate json-a --json", {"name": "json-a", "revision": 3}),
        ("revoke json-a --json", {"name": "json-a"}),
    ],
)
def test_each_command_has_a_form_for_programs(
    store: Store, capsys: Capture, words: str, has: dict[str, Any] | None
) -> None:
    told = tow(store, capsys, words)
    assert told.code == 0, told.err
    found = json.loads(told.out)
    if has is None:
        assert "json-a" in {row["name"] for row in found}
    else:
        assert {name: found[name] for name in has} == has


def test_every_call_of_a_kit_runs_as_it_is(store: Store, capsys: Capture, tmp_path: Path) -> None:
    running = store.server(replace(QUICK))
    running.start()
    try:
        to = tmp_path / "kit"
        assert tow(store, capsys, "add kit-a --models demand --quota 100/s --sla p99=50ms").code == 0
        addresses = f"--endpoint http://127.0.0.1:{running.ports.http} --grpc-endpoint 127.0.0.1:{running.ports.grpc}"
        told = tow(store, capsys, f"kit kit-a --to {to} --new-key {addresses}")
        assert told.code == 0
        assert "hand it over as a secret" in told.out
        assert stat.S_IMODE((to / "key").stat().st_mode) == 0o600
        readme = (to / "README.md").read_text()
        assert "100 requests a second" in readme
        assert "within 50 ms" in readme
        assert not re.findall(r"@[A-Z]+@", "".join(p.read_text() for p in to.rglob("*") if p.is_file()))
        # the rotation is followed within the poll
        for call in ("call_client.py", "call.py", "call_grpc.py", "call.sh"):
            shell = ["sh"] if call.endswith(".sh") else [sys.executable]
            environment = {name: value for name, value in os.environ.items() if name != "TOWPATH_KEY"}
            done = subprocess.run(
                [*shell, str(to / "demand" / call)], capture_output=True, text=True, env=environment, check=False
            )
            assert done.returncode == 0, (call, done.stdout, done.stderr)
            assert "5.0" in done.stdout or "[5.0]" in done.stdout, (call, done.stdout)
            assert "champion" in done.stdout, call
        # a key that is refused, as there are two by now, leaves nothing of another kit
        refused = tow(store, capsys, f"kit kit-a --to {tmp_path / 'second'} --new-key {addresses}")
        assert refused.code != 0
        assert "two" in refused.err
        assert not (tmp_path / "second").exists()
        # a later kit replaces the calls and leaves the key
        key = (to / "key").read_text()
        assert tow(store, capsys, f"kit kit-a --to {to} {addresses}").code == 0
        assert (to / "key").read_text() == key
    finally:
        running.stop()
    # and who called is waiting no more
    assert json.loads(tow(store, capsys, "show kit-a --json").out)["state"] != "waiting"
