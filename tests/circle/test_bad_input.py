"""What a careless or hostile person sends and types: told by name, with a code, and never a traceback."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from circle_stand import TOW, Finished, Server, begin, copied, environment, eventually, inside, read_only, tow
from tritonclient.utils import InferenceServerException

ROW = {"item_sales.units_7d": 70.0, "item_sales.units_a_week_28d": 70.0, "item_sales.price_eur": 2.5}
PREDICT, INFER = "/predict/demand", "/v2/models/demand/infer"


@pytest.fixture(scope="module")
def server(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bad")
    with Server("--project", copied(prepared, folder / "shop"), log=folder / "log") as running:
        yield running


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ROW.items() if key != name}


def tensor(**changes: Any) -> dict[str, Any]:
    given = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [70.0, 70.0, 2.5]}
    return {"inputs": [given | changes]}


BAD: list[tuple[str, Any, int, tuple[str, ...]]] = [
    ("/predict/demnd", ROW, 404, ("demnd", "did you mean 'demand'")),
    ("/v2/models/demnd/infer", tensor(), 404, ("demnd", "demand")),
    ("/v2/models/demand/versions/9/infer", tensor(), 404, ("9",)),
    ("/predictt/demand", ROW, 404, ("/predictt/demand",)),
    ("/outcomes/demnd", {"prediction_id": "x", "value": 1}, 404, ("demnd", "demand")),
    (PREDICT, without("item_sales.price_eur"), 400, ("item_sales.price_eur",)),
    (PREDICT, ROW | {"item_sales.price_eur": "dear"}, 400, ("item_sales.price_eur", "dear")),
    (PREDICT, ROW | {"item_sales.price_eur": True}, 400, ("item_sales.price_eur",)),
    (PREDICT, ROW | {"item_sales.price_eur": [1.0]}, 400, ("item_sales.price_eur",)),
    (PREDICT, ROW | {"item_sales.price_eur": {}}, 400, ("item_sales.price_eur",)),
    (PREDICT, ROW | {"item_sales.pricy": 1.0}, 400, ("item_sales.pricy", "item_sales.price_eur")),
    (PREDICT, {"item_id": ["item_01"]}, 400, ("item_id",)),
    (PREDICT, {"item_id": {"a": 1}}, 400, ("item_id",)),
    (PREDICT, {"rows": [ROW, without("item_sales.price_eur")]}, 400, ("row 1", "item_sales.price_eur")),
    (PREDICT, {"rows": [ROW, 7]}, 400, ("1",)),
    (PREDICT, {"rows": []}, 400, ("rows",)),
    (PREDICT, {"rows": "many"}, 400, ("rows",)),
    (PREDICT, {}, 400, ()),
    (PREDICT, [], 400, ("rows",)),
    (PREDICT, 7, 400, ("rows",)),
    (PREDICT, None, 400, ("rows",)),
    (PREDICT, b"{not json", 400, ("JSON",)),
    (PREDICT, b"", 400, ("JSON",)),
    (PREDICT, b"\xff\xfe\x00", 400, ("JSON",)),
    (PREDICT, b'{"rows": [{"item_sales.price_eur": NaN}]}', 400, ("JSON",)),
    (PREDICT, b"[" * 100_000, 400, ("JSON",)),
    (PREDICT, b'{"item_id": "\\ud800"}', 400, ()),
    (PREDICT, b'{"item_id": 1e999}', 400, ()),
    (INFER, tensor(shape=[1, 4]), 400, ("x",)),
    (INFER, tensor(shape=[2, 3]), 400, ("x",)),
    (INFER, tensor(shape=[-1, 3]), 400, ("x",)),
    (INFER, tensor(shape=[1 << 62, 1 << 62]), 400, ("x",)),
    (INFER, tensor(shape=[0, 3], data=[]), 400, ()),
    (INFER, tensor(shape="wide"), 400, ("shape",)),
    (INFER, tensor(datatype="FP63"), 400, ("FP63",)),
    (INFER, tensor(data=["a", "b", "c"]), 400, ("x",)),
    (INFER, tensor(data=[[70.0], [70.0, 2.5]]), 400, ("x",)),
    (INFER, {"inputs": []}, 400, ("inputs",)),
    (INFER, {}, 400, ("inputs",)),
    (INFER, b"null", 400, ()),
    ("/outcomes/demand", {"value": 1}, 400, ("prediction_id",)),
    ("/outcomes/demand", {"prediction_id": "x"}, 400, ("value",)),
    ("/outcomes/demand", {"prediction_id": "x", "value": "much"}, 400, ("value",)),
    ("/outcomes/demand", {"prediction_id": "x", "value": 1, "happened_at": "soon"}, 400, ("happened_at",)),
    ("/outcomes/demand", b"{", 400, ("JSON",)),
]


@pytest.mark.parametrize(("path", "body", "status", "names"), BAD, ids=lambda value: str(value)[:50])
def test_bad_input_is_told_by_name(server: Server, path: str, body: Any, status: int, names: tuple[str, ...]) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    got = httpx.post(f"{server.url}{path}", content=raw, timeout=30)
    assert got.status_code == status, got.text
    told = got.json()
    assert told["code"]
    for name in names:
        assert name in f"{told['error']} {told['mend']}", told
    # and the next caller is served
    assert server.ask(ROW)[0]["source"] == "champion"


@pytest.mark.parametrize(
    ("model", "version", "name", "array", "code", "names"),
    [
        ("demnd", "", "x", np.ones((1, 3)), "NOT_FOUND", ("demnd", "demand")),
        ("demand", "9", "x", np.ones((1, 3)), "NOT_FOUND", ("9",)),
        ("demand", "", "x", np.ones((1, 4)), "INVALID_ARGUMENT", ("4",)),
        ("demand", "", "item_sales.price_eur", np.ones((2, 2)), "INVALID_ARGUMENT", ("columns",)),
        ("demand", "", "price", np.ones(2), "INVALID_ARGUMENT", ("price",)),
        ("demand", "", "x", np.array([["a", "b", "c"]], dtype=object), "INVALID_ARGUMENT", ("x",)),
    ],
)
def test_grpc_tells_the_same_truth(  # one column each
    server: Server, model: str, version: str, name: str, array: Any, code: str, names: tuple[str, ...]
) -> None:
    kind = "BYTES" if array.dtype == object else "FP64"
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        asked = triton_grpc.InferInput(name, list(array.shape), kind)
        asked.set_data_from_numpy(array)
        with pytest.raises(InferenceServerException) as refused:
            client.infer(model, [asked], model_version=version)
        assert code in str(refused.value.status()), refused.value
        assert all(name in str(refused.value) for name in names), refused.value
        assert client.is_server_ready()


def test_a_key_that_nobody_knows_is_answered_and_flagged(server: Server) -> None:
    for key in ("nobody", "", "x" * 10_000, "é\n\u2028", None, 7, 1.5, True):
        (row,) = server.ask({"item_id": key})
        assert row["missing"] == list(ROW), key
        assert row["prediction"] is not None
    (row,) = server.ask({"item_id": "nobody", **without("item_sales.price_eur")})
    assert row["missing"] == ["item_sales.price_eur"]


def test_null_is_a_missing_feature(server: Server) -> None:
    (row,) = server.ask(ROW | {"item_sales.price_eur": None})
    assert (row["source"], row["reason"]) == ("champion", "ok")


def test_a_body_of_100_mb_is_refused(server: Server) -> None:
    def body() -> Iterator[bytes]:
        yield b"["
        for _ in range(100):
            yield b" " * 1_000_000

    for content in (b" " * 100_000_000, body()):
        try:
            got = httpx.post(f"{server.url}{PREDICT}", content=content, timeout=60)
        except httpx.TransportError:  # it stopped listening while we were still sending
            continue
        assert got.status_code == 413, got.text
    assert server.ask(ROW)[0]["source"] == "champion"


def test_too_many_rows_are_refused(server: Server) -> None:
    got = httpx.post(f"{server.url}{PREDICT}", json=[{"item_id": "a"}] * 10_001, timeout=60)
    assert got.status_code == 413, got.text
    assert "10000" in got.json()["error"]


def test_bytes_that_are_no_http_cost_only_their_own_connection(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for raw in (b"\x00\xff\r\n\r\n", b"POST /predict/demand HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"G" * 200_000):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            try:
                connection.sendall(raw)
                connection.recv(1_000)
            except OSError:
                continue
    headers = {"Content-Type": "application/json"}
    raw = b"POST /predict/demand HTTP/1.1\r\nHost: x\r\nContent-Length: 5x\r\n\r\n{}"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(raw)
        assert b" 500" not in connection.recv(1_000)[:20]
    for name, value in {
        "Towpath-Timeout-Ms": "soon",
        "Inference-Header-Content-Length": "-3",
        "X-Request-Id": "x" * 5_000,
    }.items():
        got = httpx.post(f"{server.url}{INFER}", json=tensor(), headers=headers | {name: value}, timeout=20)
        assert got.status_code in {200, 400}, got.text
    assert server.ask(ROW)[0]["source"] == "champion"


def refused(done: Finished, *names: str, code: int = 2) -> None:
    assert done.code == code, done
    assert "Traceback" not in done.err, done.err
    for name in names:
        assert name in done.err, done.err


def test_what_is_no_model_is_refused_at_start_with_what_was_found(tmp_path: Path) -> None:
    import lightgbm

    trained = lightgbm.train(
        {"objective": "l2", "verbose": -1, "min_data_in_leaf": 1},
        lightgbm.Dataset(np.arange(100.0).reshape(50, 2), np.arange(50.0)),
        num_boost_round=3,
    )
    whole = trained.model_to_string().encode()
    free = ("--port", "0", "--grpc-port", "0")
    for name, data, names in (
        ("empty.onnx", b"", ("empty",)),
        ("text.onnx", b"this is no model", ("this is no model",)),
        ("zip.skops", b"PK\x03\x04rest", ("zip archive",)),
        ("half.txt", whole[: len(whole) // 2], ("half.txt",)),
        ("array.json", b"[1, 2, 3]", ("array.json",)),
        ("page.html", b"<!doctype html><p>404", ("doctype",)),
        ("rows.parquet", b"PAR1" + bytes(50), ("Parquet table",)),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        refused(inside("serve", path, *free, expect=2), *names)
        assert sorted(p.name for p in tmp_path.iterdir()) == [name], "something was made beside it"
        path.unlink()
    pickled = tmp_path / "model.pkl"
    pickled.write_bytes(b"\x80\x04K\x01.")
    refused(inside("serve", pickled, *free, expect=1), "--trust-pickle", code=1)
    refused(inside("serve", pickled, "--trust-pickle", "--host", "0.0.0.0", *free, expect=1), "loopback", code=1)
    refused(inside("serve", tmp_path / "nothing.onnx", *free, expect=2), "nothing.onnx")
    refused(inside("serve", tmp_path, *free, expect=2), str(tmp_path))


def test_a_taken_port_is_told_and_a_second_server_does_not_share_it(
    server: Server, prepared: Path, tmp_path: Path
) -> None:
    folder = copied(prepared, tmp_path / "shop")
    port = server.url.rsplit(":", 1)[1]
    for taken in (("--port", port, "--grpc-port", "0"), ("--port", "0", "--grpc-port", server.grpc.rsplit(":", 1)[1])):
        done = tow("serve", "--project", folder, *taken)
        refused(done, "is taken", taken[1] if taken[1] != "0" else taken[3], code=1)
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = tow("serve", "--project", folder, "--port", other.getsockname()[1], "--grpc-port", "0")
        refused(done, "is taken", "--port 0", code=1)
    assert server.ask(ROW)[0]["source"] == "champion"


def test_beyond_loopback_nobody_is_served_without_keys(prepared: Path) -> None:
    done = tow("serve", "--project", prepared, "--host", "0.0.0.0", "--port", "0", "--grpc-port", "0")
    refused(done, "beyond loopback", "--insecure-open", code=1)


def test_with_a_foreign_key_nothing_is_served_and_it_is_said(project: Path, tmp_path: Path) -> None:
    begin(tmp_path / "other")
    stores = project / ".towpath"
    arguments = ("--store", stores / "objects", "--online", f"lmdb://{stores / 'online'}")
    with Server(*arguments, "--keys", tmp_path / "other" / ".towpath" / "keys", log=tmp_path / "log") as server:
        assert httpx.get(f"{server.url}/v2/health/ready", timeout=20).status_code == 503
        got = httpx.post(f"{server.url}{PREDICT}", json=ROW, timeout=20)
        assert got.status_code == 503
        assert "not trusted" in server.err
    missing = tow("serve", *arguments, "--keys", tmp_path / "nowhere", "--port", "0", "--grpc-port", "0")
    refused(missing, "nowhere")


def test_an_empty_store_is_served_and_not_ready(tmp_path: Path) -> None:
    begin(tmp_path / "shop")
    with Server("--project", tmp_path / "shop", log=tmp_path / "log") as server:
        assert httpx.get(f"{server.url}/v2/health/live", timeout=20).status_code == 200
        got = httpx.post(f"{server.url}{PREDICT}", json=ROW, timeout=20)
        assert got.status_code == 404, got.text


MOUNTED = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


def test_a_project_that_cannot_be_written_is_read_and_told(project: Path) -> None:
    inside("monitor", "run", "--project", project, expect=None)
    # root passes by every permission, so that the command sees the folder through a mount of its own that is read only
    prefix = ["unshare", "--mount", "sh", "-c", MOUNTED, str(project)] if os.geteuid() == 0 else []
    if prefix and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("root may write anywhere, and may not mount here")

    def asked(*command: str) -> Finished:
        done = subprocess.run(
            [*prefix, *TOW, *command, "--project", str(project)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=environment(),
            cwd="/",
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    with read_only(project):
        for command in (
            ("train", "demand"),
            ("gate", "demand"),
            ("features", "build"),
            ("predict", "demand"),
            ("monitor", "run"),
            ("kill", "demand", "--because", "x"),
            ("serve", "--port", "0", "--grpc-port", "0"),
        ):
            refused(asked(*command))
        # what only reads goes on
        for command in (
            ("models",),
            ("show", "demand"),
            ("history", "demand"),
            ("fleet",),
            ("features",),
            ("features", "get", "item_sales", "--key", "item_01"),
            ("runs",),
            ("monitor", "incidents"),
            ("try", "demand", '{"item_id": "item_01"}'),
        ):
            done = asked(*command)
            assert (done.code, done.err) == (0, ""), (command, done)
        assert asked("runs", "--json").json[0]["version"] == 1
        assert asked("sql", "select count(*) as n from predictions", "--json").json == [{"n": 0}]


def test_commands_that_cannot_be_done_say_why(project: Path, tmp_path: Path) -> None:
    at = ("--project", project)
    refused(inside("predict", "demand", "--as-of", "2001-01-01", *at, expect=1), "no row", "training.sql", code=1)
    refused(inside("predict", "demnd", *at, expect=2), "demnd", "demand")
    refused(inside("predict", "demand", "--to", tmp_path / "a.xls", *at, expect=2), "a.xls", ".parquet")
    refused(inside("train", "demand", "--as-of", "2001-01-01", *at, expect=2))
    refused(inside("train", "demand", "--sample", "200%", *at, expect=2), "200%")
    refused(inside("gate", "demand@9", *at, expect=2), "demand@9")
    refused(inside("promote", "demand@9", *at, expect=2), "demand@9")
    refused(inside("promote", "demand", "--override", *at, expect=2), "--because")
    refused(inside("rollback", "demand", "--because", "x", *at, expect=1), code=1)
    refused(inside("kill", "demand@9", "--because", "x", *at, expect=2), "demand@9")
    refused(inside("kill", "demand", "--because", "x", "--segment", "low", *at, expect=2), "low")
    refused(inside("try", "demand", "[1]", *at, expect=2), "JSON object")
    refused(inside("try", "demand", '{"itm_id": 1}', *at, expect=2), "itm_id", "item_id")
    refused(inside("try", "demand@9", '{"item_id": 1}', *at, expect=2), "demand@9")
    unpromoted = inside("train", "demand", "--json", *at).json["version"]
    tried = inside("try", f"demand@{unpromoted}", '{"item_id": "item_01"}', "--json", *at).json
    assert (tried["source"], tried["version"]) == ("challenger", unpromoted)
    refused(inside("sql", "select * from predictons", *at, expect=2), "predictons")
    refused(inside("sql", "drop table predictions", *at, expect=2))
    refused(inside("sql", "select now()", *at, expect=2), "now")
    refused(inside("sql", "", *at, expect=2))
    refused(inside("sql", "select * from predictions", "--as-of", "soon", *at, expect=2), "soon")
    refused(inside("features", "build", "sals", *at, expect=2), "sals")
    refused(inside("features", "get", "item_sales", "--key", "a", "--key", "b", *at, expect=2), "item_id")
    refused(inside("fleet", "--project", tmp_path, expect=2), "tow init")
    refused(inside("monitor", "run", "--model", "demnd", *at, expect=2), "demnd", "demand")
    refused(inside("show", "demand@7", *at, expect=2), "demand@7")
    refused(inside("runs", "show", "nothing", *at, expect=2), "nothing")


def test_settings_that_are_wrong_are_told_with_their_file(project: Path) -> None:
    settings = project / "towpath.toml"
    kept = settings.read_text()
    for text, names in (
        (kept.replace("poll_ms = 100", "pol_ms = 100"), ("pol_ms",)),
        (kept.replace("poll_ms = 100", "poll_ms = -1"), ("poll_ms",)),
        (kept.replace("[serving]", "[servin]"), ("servin",)),
        ("[project\n", ("towpath.toml",)),
        ("", ("project",)),
    ):
        settings.write_text(text)
        for command in ("check", "fleet", "serve"):
            where = (project,) if command == "check" else ("--project", project)
            done = inside(command, *where, expect=2)
            assert all(name in done.err + done.out for name in names), done
    settings.write_text(kept)
    foreign = tow("fleet", "--project", project, variables={"TOWPATH__SERVING__PROT": "1"})
    refused(foreign, "TOWPATH__SERVING__PROT", "port")
    assert eventually(lambda: tow("check", project).code == 0)
