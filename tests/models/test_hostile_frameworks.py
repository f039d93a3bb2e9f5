"""Files and folders of frameworks that are cut off, changed, or would run something: refused by what was found, unrun."""

import io
import json
import pickle
import random
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from framework_files import MAKERS, needs, onnx_external

from towpath.errors import FormatError, TowpathError
from towpath.models import load_file, sniff

pytestmark = pytest.mark.filterwarnings("ignore")
Parts = dict[str, bytes]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    found: dict[str, Path] = {}

    def give(name: str) -> Path:
        if name not in found:
            found[name] = MAKERS[name](tmp_path_factory.mktemp(name))
        return found[name]

    return give


def parts_of(path: Path) -> Parts:
    """Of a zip, without the folder that PyTorch puts them in."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        torch = all("/" in name for name in names)
        return {name.partition("/")[2] if torch else name: archive.read(name) for name in names}


def written(path: Path, parts: Mapping[str, bytes], within: str = "m/") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(within + name, data)
    return path


def _graph(change: Callable[[Any], object]) -> Callable[[Parts, Path], None]:
    def edit(parts: Parts, marker: Path) -> None:
        document = json.loads(parts["models/model.json"].decode().replace("MARKER", str(marker)))
        change(document)
        parts["models/model.json"] = json.dumps(document).replace("MARKER", str(marker)).encode()

    return edit


def _first_node(document: Any) -> Any:
    return document["graph_module"]["graph"]["nodes"][0]


def _spec(document: Any, spec: Any) -> None:
    document["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps(spec)


def _symbol(document: Any, text: str) -> None:
    for value in document["graph_module"]["graph"]["tensor_values"].values():
        for size in value["sizes"]:
            if "as_expr" in size:
                size["as_expr"]["expr_str"] = text


def _pickle_weights(parts: Parts, marker: Path) -> None:
    config = json.loads(parts["data/weights/model_weights_config.json"])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    parts["data/weights/model_weights_config.json"] = json.dumps(config).encode()
    parts["data/weights/" + entry["path_name"]] = _touching(marker)


def _touching(marker: Path) -> bytes:
    command = f"touch {marker}".encode()
    return b"\x80\x04\x8c\x05posix\x8c\x06system\x93(\x8c" + bytes([len(command)]) + command + b"tR."


def _example(parts: Parts, marker: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", _touching(marker))
        archive.writestr("archive/version", "3")
    parts["data/sample_inputs/model.pt"] = buffer.getvalue()


SYSTEM = "__import__('os').system('touch MARKER')"
EXPORTS: dict[str, tuple[Callable[[Parts, Path], object], str]] = {
    "a path of torch as an operator": (
        _graph(lambda d: _first_node(d).update(target="torch.os.system")),
        r"the operator 'torch.os.system'",
    ),
    "an operator that opens files": (
        _graph(lambda d: _first_node(d).update(target="torch.ops.aten.from_file.default")),
        r"the operator 'torch.ops.aten.from_file.default'",
    ),
    "attrgetter": (_graph(lambda d: _first_node(d).update(target="_operator.attrgetter")), "_operator.attrgetter"),
    "an expression that sympy would evaluate": (_graph(lambda d: _symbol(d, SYSTEM)), "the expression '__import__"),
    "an expression of attributes": (_graph(lambda d: _symbol(d, "s1.__class__")), "the expression 's1.__class__'"),
    "a tree that imports": (
        _graph(lambda d: _spec(d, [1, {"type": "os.system", "context": "null", "children_spec": []}])),
        "a tree of 'os.system'",
    ),
    "a tree with an enum": (
        _graph(
            lambda d: _spec(
                d,
                [
                    1,
                    {
                        "type": "builtins.dict",
                        "context": '[{"__enum__": true, "fqn": "os:system"}]',
                        "children_spec": [],
                    },
                ],
            )
        ),
        "a tree with a context",
    ),
    "guards": (_graph(lambda d: d.update(guards_code=[SYSTEM])), "guards, which are Python code"),
    "a name that is code": (
        _graph(lambda d: d["graph_module"]["graph"]["inputs"][0]["as_tensor"].update(name="x); import os; (y")),
        r"the name 'x\); import os",
    ),
    "pickled weights": (_pickle_weights, "the pickle of"),
    "a pickle among the example inputs": (_example, r"'posix.system'"),
    "a compiled program": (lambda p, _m: p.update({"data/aotinductor/model/a.so": b"\x7fELF"}), "the compiled program"),
    "no graph": (lambda p, _m: p.pop("models/model.json"), "without one graph"),
    "a graph that is no JSON": (lambda p, _m: p.update({"models/model.json": b"{"}), "damaged PyTorch file"),
}


@pytest.mark.parametrize("name", list(EXPORTS))
def test_an_exported_program_that_would_run_something_is_refused(
    name: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    change, said = EXPORTS[name]
    parts, marker = parts_of(whole("pt2")), tmp_path / "ran"
    change(parts, marker)
    with pytest.raises(FormatError, match=said):
        load_file(written(tmp_path / "model", parts), name="points")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("    torch.save(input, 'MARKER')\n", r"the operator 'torch.save'"),
        ("    x = torch.from_file('/etc/passwd')\n", r"the operator 'torch.from_file'"),
        ("    x = ops.mylib.shell(input)\n", r"the operator 'ops.mylib.shell'"),
        ("    x = __torch__.torch.classes.rpc.Thing()\n", r"the class '__torch__.torch.classes.rpc"),
        ("    ((\n", "does not parse"),
    ],
)
def test_torchscript_that_reaches_files_or_strangers_is_refused(
    code: str, said: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    parts = parts_of(whole("torchscript"))
    name = next(name for name in parts if name.startswith("code/") and name.endswith(".py"))
    marker = tmp_path / "ran"
    parts[name] += b"\n  def more(self, input: Tensor) -> Tensor:\n" + code.replace("MARKER", str(marker)).encode()
    with pytest.raises(FormatError, match=said):
        load_file(written(tmp_path / "model", parts), name="points")
    assert not marker.exists()


def test_what_torch_save_wrote_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = written(tmp_path / "model", {"data.pkl": _touching(tmp_path / "ran"), "version": b"3"})
    with pytest.raises(FormatError, match=r"torch\.save.*can run anything") as fault:
        load_file(path, name="points", trust_pickle=True)
    assert "torch.export.save" in fault.value.mend
    assert not (tmp_path / "ran").exists()


LAYER = {"module": "keras.layers", "class_name": "Dense", "config": {}, "registered_name": None}


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({**LAYER, "class_name": "Lambda"}, "'Lambda', which carries code"),
        ({"class_name": "__lambda__", "config": {"value": "x"}}, "'__lambda__', which carries code"),
        ({**LAYER, "module": "os", "class_name": "system"}, r"'os.system', which is not of Keras"),
        ({**LAYER, "module": "builtins", "class_name": "eval"}, r"'builtins.eval', which is not of Keras"),
        ({**LAYER, "module": "keras.utils", "class_name": "get_file"}, "'get_file', which carries code"),
        ({**LAYER, "registered_name": "mine>Layer"}, "'mine>Layer', a class of its own"),
        ({**LAYER, "class_name": "TFSMLayer"}, "'TFSMLayer', which carries code"),
        (
            {**LAYER, "class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
            "a read of the file '/etc/passwd'",
        ),
    ],
)
def test_a_keras_file_with_code_of_its_own_is_refused(layer: Any, said: str, tmp_path: Path) -> None:
    config = {"module": "keras", "class_name": "Sequential", "config": {"layers": [layer]}, "registered_name": None}
    parts = {"metadata.json": b'{"keras_version": "3.0.0"}', "config.json": json.dumps(config).encode()}
    path = written(tmp_path / "model", {**parts, "model.weights.h5": b""}, within="")
    assert sniff(path).format == "keras"
    with pytest.raises(FormatError, match=said):
        load_file(path, name="points")


def test_weights_of_keras_that_point_to_another_file_are_refused(whole: Callable[[str], Path], tmp_path: Path) -> None:
    needs("keras", "h5py")
    import h5py

    for change, said in (
        (
            lambda file: file.update({}) or file.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/")),
            "a link to another",
        ),
        (lambda file: file.create_dataset("x", (4,), "f4", external=[("/etc/passwd", 0, 16)]), "lie in another file"),
        (lambda file: file.create_dataset("x", (2**40,), "f4", chunks=(1024,)), "declares 4,398,046,511,104 bytes"),
    ):
        parts = parts_of(whole("keras"))
        data = io.BytesIO(parts["model.weights.h5"])
        with h5py.File(data, "a") as file:
            _put(file, change)
        path = written(tmp_path / "model", {**parts, "model.weights.h5": data.getvalue()}, within="")
        with pytest.raises(FormatError, match=said):
            load_file(path, name="points")


def _put(file: Any, change: Callable[[Any], object]) -> None:
    if "x" not in file:
        change(file)


def field(number: int, value: bytes) -> bytes:
    """One field of a protobuf message."""
    size = len(value)
    length = bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + value


def saved(*nodes: bytes, functions: Mapping[str, bytes] | None = None, objects: bytes = b"") -> bytes:
    """A SavedModel by hand: nodes of the main graph, functions by name, and what the loader would take hold of."""
    library = b"".join(field(1, field(1, field(1, name.encode())) + body) for name, body in (functions or {}).items())
    graph = b"".join(field(1, node) for node in nodes) + field(2, library)
    return b"\x08\x01" + field(2, field(2, graph) + field(7, objects))


def node(operator: str, calls: str = "") -> bytes:
    attribute = field(5, field(1, b"f") + field(2, field(10, field(1, calls.encode())))) if calls else b""
    return field(1, b"n") + field(2, operator.encode()) + attribute


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (saved(node("WriteFile")), "the operator 'WriteFile'"),
        (saved(functions={"f": field(3, node("EagerPyFunc"))}), r"the operator 'EagerPyFunc' \(function 'f'\)"),
        (saved(functions={"f": field(3, node("SaveV2"))}, objects=b"..f.."), "'SaveV2' in a function that is loaded"),
        (
            saved(functions={"f": field(3, node("Call", "g")), "g": field(3, node("SaveV2"))}, objects=b"..f.."),
            "in a function that is loaded",
        ),
        (saved(node("Const"))[:-3], "damaged SavedModel"),
        (b"\x08\x01", "damaged SavedModel: no graph"),
    ],
)
def test_a_savedmodel_that_reaches_files_or_python_is_refused(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "saved_model.pb").write_bytes(data)
    with pytest.raises(FormatError, match=said):
        load_file(path, name="points")


def test_weights_of_onnx_outside_of_its_folder_are_never_read(tmp_path: Path) -> None:
    import onnx

    path = onnx_external(tmp_path)
    for place in ("/etc/passwd", "../../etc/passwd", "gone.bin"):
        model = onnx.load(path / "m.onnx", load_external_data=False)
        del model.graph.initializer[0].external_data[:]
        model.graph.initializer[0].external_data.add(key="location", value=place)
        (path / "m.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(FormatError, match=f"weights are in '{place}', which is not in the folder"):
            load_file(path, name="points")


def _linked(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("m/link")
    entry.external_attr = 0o120777 << 16
    archive.writestr(entry, "/etc/passwd")


@pytest.mark.parametrize(
    ("fill", "said"),
    [
        (lambda z: z.writestr("m/archive_format", b" " * 200 * 2**20), "unpacks to 209,715,200: a zip bomb"),
        (lambda z: [z.writestr(f"m/{n}", b"") for n in range(20_001)], "20,001 entries .*: a zip bomb"),
        (lambda z: z.writestr("m/../../etc/cron.d/x", b""), "leads out of it"),
        (lambda z: z.writestr("/etc/cron.d/x", b""), "leads out of it"),
        (_linked, "leads out of it"),
    ],
)
def test_an_archive_that_is_a_trap_is_refused_unread(
    fill: Callable[[zipfile.ZipFile], object], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        fill(archive)
    with pytest.raises(FormatError, match=said):
        load_file(path, name="points")


@pytest.mark.parametrize("name", ["pt2", "torchscript", "keras"])
def test_an_archive_that_is_cut_off_is_refused(name: str, whole: Callable[[str], Path], tmp_path: Path) -> None:
    data = whole(name).read_bytes()
    path = tmp_path / "model"
    for share in (0.02, 0.3, 0.6, 0.97):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(FormatError):
            load_file(path, name="points")


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_few_changed_bytes_end_no_process_of_ours(name: str, whole: Callable[[str], Path], tmp_path: Path) -> None:
    """It is refused, or it answers something: it never ends the process, and never raises what is not ours."""
    draw = random.Random(7)
    refused = 0
    for number in range(12):
        path = tmp_path / f"{number}"
        source = whole(name)
        if source.is_dir():
            import shutil

            shutil.copytree(source, path)
            files = [file for file in path.rglob("*") if file.is_file()]
            target = max(files, key=lambda file: (file.suffix == ".pb", file.stat().st_size))
        else:
            path.write_bytes(source.read_bytes())
            target = path
        data = bytearray(target.read_bytes())
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        target.write_bytes(data)
        try:
            model = load_file(path, name="points")
            model.predict({f.name: np.ones((1, *map(abs, f.shape[1:]))) for f in model.signature.inputs})
        except TowpathError:
            refused += 1
    assert refused


def test_a_hostile_pickle_within_torchscript_is_not_run(whole: Callable[[str], Path], tmp_path: Path) -> None:
    parts, marker = parts_of(whole("torchscript")), tmp_path / "ran"
    parts["data.pkl"] = pickle.dumps(None, protocol=2)[:2] + _touching(marker)[2:]
    with pytest.raises(FormatError):
        load_file(written(tmp_path / "model", parts), name="points")
    assert not marker.exists()
