"""KServe's and MLflow's clients against a real server, in an environment of their own: KServe pins pandas below 3."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from serving_stand import PlainModel, Running, a_manifest, deployed

from towpath.serving.served import Served

ROOT = Path(__file__).parents[2]
PEERS = ("kserve==0.21.0", "mlflow-skinny==3.17.2", "pandas<3")


@pytest.mark.nightly
@pytest.mark.parametrize("order", ["towpath first", "towpath last"])
def test_kserve_and_mlflow_work_as_they_are_and_live_in_one_process_with_us(tmp_path: Path, order: str) -> None:
    program = shutil.which("uv")
    if program is None:
        pytest.skip("uv is missing, which makes the environment of KServe and MLflow (pip install uv)")
    running = Running(tmp_path, deployed(Served(a_manifest(), PlainModel())))
    try:
        told = asked(program, running, order)
    finally:
        running.close()
    assert told["kserve"] == {
        "rest live": True,
        "rest ready": True,
        "rest model ready": True,
        "rest json": [4.0, 6.0],
        "rest binary": [4.0, 6.0],
        "rest id": "k1",
        "grpc live": True,
        "grpc ready": True,
        "grpc model ready": True,
        "grpc typed": [4.0, 6.0],
        "grpc raw": [4.0, 6.0],
    }
    assert told["repository"] == {"loaded": ["demand", True]}
    assert told["mlflow"]["frame"] == told["mlflow"]["records"] == told["mlflow"]["matrix"] == [4.0, 6.0]
    assert told["beside"] == "m"


def asked(program: str, running: Running, order: str) -> Any:
    own = [option for peer in PEERS for option in ("--with", peer)]
    command = [program, "run", "--quiet", "--no-project", "--isolated", "--python", sys.executable, *own]
    command += ["--with-editable", str(ROOT), "python", str(Path(__file__).with_name("peer_clients.py"))]
    command += [str(running.ports.http), str(running.ports.grpc), order]
    environment = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    return json.loads(done.stdout.strip().splitlines()[-1])
