"""What a PyTorch file would do when it is loaded, read before it is: both of its formats can hold programs.

- ``torch.export`` (.pt2) is a graph in JSON beside raw weights. PyTorch's own reader unpickles freely where the file asks it to,
  evaluates the text of shape expressions, imports modules that a tree names and calls whatever ``torch.…`` path stands as an
  operator. So operators are of ATen (or a handful of Python's and PyTorch's own), expressions are of a closed grammar, trees hold
  tuples, lists and dicts, and the one pickle (example inputs) may build tensors and nothing else.
- TorchScript is a program in a small language that cannot import. What it can do to the machine it does through operators, so
  those that touch files or other processes are refused, as is every operator that is not PyTorch's own.
"""

import ast
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from towpath.errors import FormatError
from towpath.models import pickles

__all__ = ["check_export", "check_script"]

_OPERATORS = frozenset(
    f"_operator.{name}"
    for name in "add sub mul floordiv truediv mod neg pow eq ne lt le gt ge and_ or_ not_ getitem pos index".split()  # noqa: SIM905 - read as a sentence
) | frozenset(f"math.{name}" for name in ("ceil", "floor", "trunc", "sqrt"))
_TORCH = re.compile(
    r"torch\.(sym_(int|float|max|min|not|ite|sum|fresh_size)|ops\.(aten|prims|quantized_decomposed)\.\w+\.\w+"
    r"|ops\.higher_order\.(cond|while_loop|scan|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|_C\._set_grad_enabled|utils\._sympy\.functions\.\w+)"
)
_FILES = re.compile(r"(^|[._])(save|load|from_file|_from_file|file|fopen|read|write|unpickle|pickle|open)([._]|$)")
_EXPRESSION = re.compile(r"\s+|[A-Za-z_]\w*|\d+(\.\d+)?(e[+-]?\d+)?|'[A-Za-z_]\w*'|[-+*/%(),=<>&|~!]")
_WORDS = frozenset(
    [
        "Symbol",
        "Integer",
        "Float",
        "Rational",
        "Mul",
        "Add",
        "Pow",
        "Mod",
        "PythonMod",
        "FloorDiv",
        "CleanDiv",
        "CeilDiv",
        "CeilToInt",
        "FloorToInt",
        "TruncToInt",
        "TruncToFloat",
        "RoundToInt",
        "RoundDecimal",
        "ToFloat",
        "IntTrueDiv",
        "FloatTrueDiv",
        "PowByNatural",
        "FloatPow",
        "ModularIndexing",
        "Where",
        "Max",
        "Min",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "And",
        "Or",
        "Not",
        "Piecewise",
        "StrictLessThan",
        "LessThan",
        "StrictGreaterThan",
        "GreaterThan",
        "Equality",
        "Unequality",
        "Identity",
        "floor",
        "ceiling",
        "Abs",
        "True",
        "False",
        "None",
        "positive",
        "nonnegative",
        "negative",
        "zero",
        "integer",
        "real",
        "finite",
        "int_oo",
        "oo",
    ]
)
_SYMBOL = re.compile(r"[a-z]{1,3}\d+")
_TREES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})
_PLAIN = re.compile(r"[\w.\[\]$@<>:; ,+-]*")
_TENSORS = frozenset(
    {("torch._utils", name) for name in ("_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter")}
    | {("collections", "OrderedDict"), ("torch", "device"), ("torch", "Size"), ("torch.serialization", "_get_layout")}
    | {("torch", f"{kind}Storage") for kind in "Float Double Half BFloat16 Long Int Short Char Byte Bool".split()}  # noqa: SIM905
    | {("torch", kind) for kind in "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()}  # noqa: SIM905
)
_JSON_BYTES = 256 * 2**20
_DEPTH = 200


def check_export(path: Path) -> str:
    """Refuse a ``torch.export`` file that would do more than compute.

    Args:
        path: A zip that `sniff` took for one.

    Returns:
        The version of PyTorch that wrote it; empty where it does not say.

    Raises:
        FormatError: It is damaged, or would run something; says what.
    """
    with _opened(path) as archive:
        names = archive.namelist()
        inside = {name.partition("/")[2]: name for name in names}
        if "models/model.json" not in inside or "archive_format" not in inside:
            raise FormatError(
                f"'{path}' is a torch.export file without one graph called 'model' (PyTorch before 2.8 wrote those).",
                mend="torch.export.save(program, 'model.pt2') with PyTorch 2.8 or later",
            )
        for inner, name in inside.items():
            if inner.startswith(("data/aotinductor", "data/xl_model")) or inner.endswith((".so", ".dylib", ".cpp")):
                raise _would(path, f"the compiled program '{inner}'", "torch.export.save, without AOTInductor")
            if inner.startswith("data/") and inner.endswith(".json"):
                _check_weights(path, _json(archive, path, name), inner)
        for inner, name in inside.items():
            if inner.startswith("data/sample_inputs/"):
                _check_tensors(path, _read(archive, path, name), inner)
        document = _json(archive, path, inside["models/model.json"])
    try:
        for why in _faults(document):
            raise _would(path, why, "a model of PyTorch's own operators, exported with torch.export; or ONNX")
        return str(document.get("torch_version") or "")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as fault:
        raise _damaged(path, f"{type(fault).__name__} in its graph: {fault}") from None


def check_script(path: Path) -> None:
    """Refuse a TorchScript file whose code calls operators that reach files or are not PyTorch's own.

    Raises:
        FormatError: It is damaged, or calls one; names it.
    """
    with _opened(path) as archive:
        for name in archive.namelist():
            inner = name.partition("/")[2]
            if not inner.startswith("code/") or not inner.endswith(".py"):
                continue
            if archive.getinfo(name).file_size > _JSON_BYTES:
                raise _damaged(path, f"code of more than {_JSON_BYTES:,} bytes")
            try:
                tree = ast.parse(_read(archive, path, name))
            except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
                raise _damaged(path, f"'{inner}' does not parse: {type(fault).__name__}") from None
            for called in _called(tree):
                space = called.split(".")
                own = space[0] == "torch" or (space[0] == "ops" and space[1:2] in (["prim"], ["aten"], ["quantized"]))
                if space[:3] == ["__torch__", "torch", "classes"]:
                    raise _would(path, f"the class '{called}' ('{inner}')", "torch.export, or a model without it")
                if space[0] in {"torch", "ops"} and (not own or _FILES.search(called)):
                    raise _would(path, f"the operator '{called}' ('{inner}')", "torch.export, or a model without it")


def _faults(document: Any) -> Iterator[str]:
    """What in the graph would do more than compute."""
    if document.get("guards_code"):
        yield "guards, which are Python code"
    waiting: list[tuple[Any, str, int]] = [(document, "", 0)]
    while waiting:
        value, key, depth = waiting.pop()
        if depth > _DEPTH:
            yield f"a graph nested more than {_DEPTH} deep"
        if isinstance(value, dict):
            for name, inner in value.items():
                # notes for people, which PyTorch keeps and does not run
                if name not in {"metadata", "torch_version"}:
                    waiting.append((inner, name, depth + 1))
        elif isinstance(value, list):
            waiting += [(inner, key, depth + 1) for inner in value]
        elif isinstance(value, str) and (why := _fault(key, value)):
            yield why


def _fault(key: str, text: str) -> str:
    if key == "target":
        known = text in _OPERATORS or (_TORCH.fullmatch(text) and not _FILES.search(text))
        return "" if known else f"the operator '{text[:80]}'"
    if key == "expr_str":
        return "" if _is_expression(text) else f"the expression '{text[:80]}'"
    if key in {"in_spec", "out_spec"}:
        return _tree_fault(json.loads(text)) if text else ""
    if key == "as_string":  # a constant, which is written as a literal
        return ""
    return "" if _PLAIN.fullmatch(text) else f"the name '{text[:80]}'"


def _is_expression(text: str) -> bool:
    place = 0
    while place < len(text):
        match = _EXPRESSION.match(text, place)
        if match is None:
            return False
        word = match[0]
        if (word[0].isalpha() or word[0] == "_") and word not in _WORDS and not _SYMBOL.fullmatch(word):
            return False
        place = match.end()
    return True


def _tree_fault(tree: Any) -> str:
    waiting: list[Any] = [tree[1]]
    while waiting:
        node = waiting.pop()
        if node["type"] not in _TREES:
            return f"a tree of '{node['type']}'"
        context = json.loads(node["context"]) if isinstance(node["context"], str) else node["context"]
        if not (context is None or (isinstance(context, list) and all(isinstance(name, str) for name in context))):
            return "a tree with a context of its own"
        waiting += node["children_spec"]
    return ""


def _check_weights(path: Path, config: Any, inner: str) -> None:
    if not isinstance(config, dict) or not isinstance(config.get("config", {}), dict):
        raise _damaged(path, f"'{inner}' is no table of weights")
    for name, entry in config.get("config", {}).items():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False or entry.get("tensor_meta") is None:
            raise _would(path, f"the pickle of '{name}'", "a model whose weights and constants are plain tensors")


def _check_tensors(path: Path, data: bytes, inner: str) -> None:
    """Example inputs: a zip of PyTorch with one pickle, which may build tensors and nothing else."""
    if not data:
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                if not name.endswith(".pkl"):
                    continue
                seen = pickles.imports_in(io.BytesIO(_read(archive, path, name)))
                if seen is None:
                    raise _damaged(path, f"'{inner}' ends within a pickle")
                for module, what in sorted(seen - _TENSORS):
                    raise _would(path, f"'{module}.{what}' ('{inner}')", "export it with tensors as example inputs")
    except (zipfile.BadZipFile, ValueError, OSError) as fault:
        raise _damaged(path, f"'{inner}' is no zip: {fault}") from None


def _called(tree: ast.AST) -> Iterator[str]:
    """Dotted names of what the code calls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts: list[str] = []
            part: ast.AST = node
            while isinstance(part, ast.Attribute):
                parts.append(part.attr)
                part = part.value
            if isinstance(part, ast.Name):
                yield ".".join([part.id, *reversed(parts)])


def _json(archive: zipfile.ZipFile, path: Path, name: str) -> Any:
    if archive.getinfo(name).file_size > _JSON_BYTES:
        raise _damaged(path, f"'{name}' has more than {_JSON_BYTES:,} bytes")
    try:
        return json.loads(_read(archive, path, name))
    except (ValueError, RecursionError) as fault:
        raise _damaged(path, f"'{name}': {fault}") from None


def _read(archive: zipfile.ZipFile, path: Path, name: str) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as fault:
        raise _damaged(path, f"'{name}': {fault}") from None


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as fault:
        raise _damaged(path, str(fault)) from None


def _damaged(path: Path, found: str) -> FormatError:
    return FormatError(f"'{path}' is a damaged PyTorch file: {found}.", mend="write it again")


def _would(path: Path, what: str, mend: str) -> FormatError:
    return FormatError(f"'{path}' is a PyTorch file that would run {what}; nothing of it was run.", mend=mend)
