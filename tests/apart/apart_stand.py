"""A version whose code misbehaves as it is told, and what opens it apart."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from towpath.apart import Apart, open_version
from towpath.models import Matrix, pack_code
from towpath.models.manifest import Artefact, Field, Manifest, Signature, StoredFile
from towpath.models.pickles import dump
from towpath.project.declarations import FallbackDeclaration, ServingDeclaration

CODE = """import ctypes, os, signal, sys, time
import numpy as np

def predict(model, rows):
    rows = np.asarray(rows)
    told = int(rows[0][0])
    if told == -1:
        ctypes.string_at(0)
    if told == -2:
        os._exit(3)
    if told == -3:
        os.kill(os.getpid(), signal.SIGKILL)
    if told == -4:
        ctypes.PyDLL(None).sleep(3600)  # keeps the interpreter's lock
    if told == -5:
        raise ValueError("no such luck")
    if told == -6:
        for number in range(3, 64):
            try:
                os.write(number, b"this is no frame of anybody")
            except OSError:
                pass
        time.sleep(60)
    if told == -7:
        np.ones(1 << 40)
    if told == -8:
        while True:
            print("x" * 200)
    if told == -9:
        time.sleep(float(rows[0][1]))
    if told == -10:
        model["kept"] = np.ones(300 << 17)
        time.sleep(60)
    if told == -11:
        raise SystemExit(1)
    return rows[:, 0] * model["factor"]

def half(rows):
    return np.asarray(rows)[:, 0] / 2
"""
INPUTS = tuple(Field(name=name, type="double") for name in ("a", "b"))
OUTPUTS = (Field(name="prediction", type="double", nullable=False),)


def a_version(folder: Path, *, code: str = CODE, model: Any = None, **changes: Any) -> tuple[Manifest, Path]:
    """A pickled version and its files."""
    version = folder / "version"
    version.mkdir(parents=True)
    data, allow = dump({"factor": 2.0} if model is None else model)
    (version / "model.pkl").write_bytes(data)
    home = folder / "project" / "models" / "demand"
    home.mkdir(parents=True)
    (home / "model.py").write_text(code)
    (version / "code.zip").write_bytes(pack_code(folder / "project", home))
    stored = [StoredFile(path=name, digest="sha256:" + "0" * 64, size_bytes=1) for name in ("model.pkl", "code.zip")]
    given: dict[str, Any] = {
        "signature": Signature(container="numpy", inputs=INPUTS, outputs=OUTPUTS),
        "serving": ServingDeclaration(timeout_ms=500, isolation="process"),
        "fallback": (FallbackDeclaration(name="half", function="half"),),
    }
    manifest = Manifest(
        project="shop",
        team="area",
        model="demand",
        version=1,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        created_by="ana",
        owner="ana",
        artefact=Artefact(file=stored[0], format="pickle", framework="builtins", allow=allow),
        files=(stored[1],),
        **(given | changes),
    )
    return manifest, version


def opened(folder: Path, *, own_s: float | None = 0.5, spare: bool = True, **more: Any) -> Apart:
    manifest, version = a_version(folder, **more)
    model = open_version(manifest, version, environments=folder / "environments", own_s=own_s, spare=spare)
    assert isinstance(model, Apart)
    return model


def asked(model: Apart, a: float, b: float = 0.0) -> list[float]:
    return model.predict(Matrix(("a", "b"), np.array([[a, b]])))["prediction"].tolist()


def eventually(check: Callable[[], Any], seconds: float = 60) -> Any:
    until = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.01)
    return found
