"""Pickles: what one would import is read without running it, and only an exact list of names is ever imported.

A pickle is a program. Three ways to meet one:

- A version: our own ``pickle`` bytes, whose exact ``module:name`` pairs were learnt when it was written and stand in the signed
  manifest; any other pair is refused, and a dotted name (a way to reach ``os.system`` through a harmless module) never matches.
- A bare file with ``--trust-pickle``: the user says that they trust it. Names that no model needs are refused all the same, also
  in the pickles that joblib hides within arrays. That list can never be whole, so trust is still needed.
- All others: refused, with what they would have imported.
"""

import importlib
import io
import pickle
import pickletools
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from towpath.errors import FormatError, RefusedError

__all__ = ["dump", "imports_in", "imports_of", "load_allowed", "load_trusted", "looks_like", "packed", "refuse_hostile"]

_PROTOCOL = 5
_NEVER_MODULES = frozenset(
    {
        "os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "pty", "platform", "commands", "runpy", "code", "codeop",
        "importlib", "pkgutil", "imp", "ctypes", "cffi", "webbrowser", "pdb", "bdb", "timeit", "trace", "cProfile", "profile",
        "multiprocessing", "threading", "asyncio", "signal", "tempfile", "pathlib", "io", "_io", "urllib", "http",
        "ftplib", "smtplib", "telnetlib", "requests", "httpx", "pip", "setuptools", "distutils", "venv", "ensurepip", "idlelib",
        "test", "unittest", "doctest", "pydoc", "inspect", "gc", "atexit", "site", "zipimport", "marshal", "types",
        "fileinput", "glob", "linecache", "logging", "towpath", "lib2to3", "xmlrpc", "torch.hub", "pickle", "_pickle", "dill",
        "cloudpickle", "shelve", "dbm", "sqlite3", "aiohttp", "uuid", "getpass", "numpy.f2py", "numpy.distutils", "numpy.testing",
        "numpy._core.tests", "numpy.core.tests", "numpy.ctypeslib", "joblib.numpy_pickle_utils", "joblib.memory",
        "joblib.parallel", "joblib.externals", "joblib.compressor", "joblib.func_inspect", "pandas.io", "sklearn.datasets",
        "scipy.io", "IPython", "jupyter_client", "py_compile", "compileall",
    }
)  # fmt: skip
_NEVER_NAMES = frozenset(
    {
        ("builtins", name)
        for name in (
            "eval",
            "exec",
            "compile",
            "__import__",
            "open",
            "input",
            "getattr",
            "setattr",
            "delattr",
            "globals",
            "locals",
            "vars",
            "breakpoint",
            "memoryview",
            "super",
            "help",
            "exit",
            "quit",
            "print",
            "apply",
            "execfile",
            "file",
            "map",
            "filter",
        )
    }
    | {("operator", name) for name in ("attrgetter", "methodcaller", "call")}
    | {("functools", name) for name in ("reduce",)}
    | {("joblib.numpy_pickle", name) for name in ("NDArrayWrapper", "ZNDArrayWrapper", "load", "dump")}
    | {("joblib.numpy_pickle_compat", name) for name in ("NDArrayWrapper", "ZNDArrayWrapper", "load_compatibility")}
    | {("numpy", name) for name in ("load", "fromfile", "memmap", "save", "genfromtxt", "loadtxt", "f2py")}
)
Pair = tuple[str, str]


def looks_like(head: bytes) -> bool:
    r"""Whether bytes begin like a pickle of protocol 2 or later, or like an old one that imports something.

    Example:
        >>> looks_like(b"\x80\x05\x95"), looks_like(b"tree\\n")
        (True, False)
    """
    if head[:1] == b"\x80" and len(head) > 1 and 2 <= head[1] <= _PROTOCOL:  # noqa: PLR2004 - the first binary protocol
        return True
    if head[:1] not in {b"c", b"(", b"]", b"}"}:
        return False
    try:
        for opcode, _, _ in pickletools.genops(head):
            if opcode.name in {"GLOBAL", "INST", "REDUCE"}:
                return True
    except (ValueError, IndexError, UnicodeDecodeError, KeyError):
        return False
    return False


def packed(path: Path) -> bool:
    """Whether a gzip or zlib stream holds a pickle, as joblib writes them; a kilobyte of it is unpacked."""
    with path.open("rb") as file:
        head = file.read(4_096)
    try:
        return looks_like(zlib.decompressobj(wbits=47).decompress(head, 1_024))
    except zlib.error:
        return False


def imports_of(path: Path) -> set[Pair] | None:
    """What a pickle would import, read from its opcodes; none where it is cut off.

    The arrays that joblib puts between opcodes end the reading early; what was seen so far is given then.
    """
    with path.open("rb") as file:
        return imports_in(file)


def imports_in(file: BinaryIO | io.BytesIO) -> set[Pair] | None:
    """The same for a pickle that is open, such as one within a zip."""
    seen: set[Pair] = set()
    texts: list[str] = []
    memo: dict[int, str] = {}
    last = ""
    try:
        for opcode, argument, _ in pickletools.genops(file):
            last = opcode.name
            if last in {"GLOBAL", "INST"}:
                module, _, name = str(argument).partition(" ")
                seen.add((module, name))
            elif last == "STACK_GLOBAL" and len(texts) > 1:
                seen.add((texts[-2], texts[-1]))
            elif last == "MEMOIZE":
                memo[len(memo)] = texts[-1] if texts and isinstance(texts[-1], str) else ""
            elif last in {"BINGET", "LONG_BINGET", "GET"}:
                texts.append(memo.get(int(argument or 0), ""))
            elif last in {"BINPUT", "LONG_BINPUT", "PUT"} and texts:
                memo[int(argument or 0)] = texts[-1]
            elif isinstance(argument, str):
                texts.append(argument)
    except (ValueError, IndexError, UnicodeDecodeError, KeyError, OverflowError):
        return seen if any(module.startswith("joblib") for module, _ in seen) else None
    return seen


def refuse_hostile(where: str, pairs: Collection[Pair]) -> None:
    """Refuse names that no model needs.

    Raises:
        FormatError: Names the first of them.

    Example:
        >>> refuse_hostile("m.pkl", [("numpy", "dtype")])
    """
    for module, name in sorted(pairs):
        if _never(module, name):
            raise FormatError(
                f"'{where}' is a pickle that would run '{module}.{name}'; nothing of it was run.",
                mend="a data-only format (ONNX, LightGBM text, XGBoost JSON, skops), from a source that you trust",
            )


def dump(thing: object) -> tuple[bytes, tuple[str, ...]]:
    """Pickle a trained object and learn exactly what loading it imports.

    Returns:
        The bytes, and the sorted ``module:name`` pairs.

    Raises:
        RefusedError: It cannot be pickled, or imports something that no model needs.

    Example:
        >>> dump({"weekly_mean": 3.5})[1]
        ()
    """
    try:
        data = pickle.dumps(thing, protocol=_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as fault:
        raise RefusedError(
            f"what train() returned ({type(thing).__name__}) cannot be kept: {fault}.",
            where="model.py, train",
            mend="return a model of a known framework, or plain values (dict, numpy arrays, classes of the project)",
        ) from None
    learnt: set[Pair] = set()
    try:
        _Unpickler(io.BytesIO(data), learnt.add).load()
        refuse_hostile("model.pkl", learnt)
    except FormatError as fault:
        raise RefusedError(fault.what, where="model.py, train", mend="return plain values, no functions") from None
    return data, tuple(sorted(f"{module}:{name}" for module, name in learnt))


def load_allowed(data: bytes, allow: Collection[str], where: str) -> Any:
    """Load a pickle of a version through its exact list of names.

    Args:
        data: Bytes whose digest was verified.
        allow: ``module:name`` pairs that were learnt when it was written.
        where: For the error.

    Raises:
        FormatError: It wants another name, or is damaged.
    """

    def check(pair: Pair) -> None:
        if f"{pair[0]}:{pair[1]}" not in allow:
            raise FormatError(
                f"'{where}' is a pickle that would import '{pair[0]}.{pair[1]}', which is not in its list; nothing was run.",
                where="artefact.allow",
                mend="publish the version again from a training run that you trust",
            )
        refuse_hostile(where, [pair])

    return _loaded(lambda: _Unpickler(io.BytesIO(data), check).load(), where)


def load_trusted(path: Path, kind: str) -> Any:
    """Load a bare pickle or joblib file that the user trusts; what no model needs is refused all the same.

    Args:
        path: The file.
        kind: ``pickle`` or ``joblib``.

    Raises:
        FormatError: It would run something that no model needs, or is damaged.
    """

    def check(pair: Pair) -> None:
        refuse_hostile(str(path), [pair])

    if kind == "pickle":
        refuse_hostile(str(path), imports_of(path) or ())
        with path.open("rb") as file:
            return _loaded(lambda: _Unpickler(file, check).load(), str(path))
    return _loaded(lambda: _load_joblib(path, check), str(path))


def _load_joblib(path: Path, check: Callable[[Pair], None]) -> Any:
    """Read joblib's format with the same check, also in the pickles that stand where arrays of objects are."""
    from towpath.models.engines.extra import framework

    numpy_pickle: Any = framework("joblib.numpy_pickle", f"'{path}' is a joblib file")

    class GuardedArray(numpy_pickle.NumpyArrayWrapper):
        def read_array(self, unpickler: Any, *rest: Any) -> Any:
            if self.dtype.hasobject:
                array = _Unpickler(unpickler.file_handle, check).load()
                return array.reshape(self.shape)
            return super().read_array(unpickler, *rest)

    class Guarded(numpy_pickle.NumpyUnpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) == ("joblib.numpy_pickle", "NumpyArrayWrapper"):
                return GuardedArray
            check((module, name))
            return _resolved(module, name, str(path))

    with path.open("rb") as raw, numpy_pickle._validate_fileobject_and_memmap(raw, str(path), None) as (file, _):  # noqa: SLF001
        return Guarded(str(path), file, ensure_native_byte_order=True).load()


class _Unpickler(pickle.Unpickler):
    """Asks before it imports."""

    def __init__(self, file: BinaryIO | io.BytesIO, check: Callable[[Pair], None]) -> None:
        super().__init__(file)
        self._check = check

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        self._check((module_name, global_name))
        return _resolved(module_name, global_name, "the pickle")

    def persistent_load(self, pid: Any, /) -> Any:
        raise FormatError(f"the pickle points outside itself ({pid!r}).", mend="a whole file")


def _resolved(module: str, name: str, where: str) -> Any:
    """Import one name; what it turns out to be is looked at again, so that an alias of ``os.system`` is found."""
    try:
        thing: Any = importlib.import_module(module)
        for part in name.split("."):
            thing = getattr(thing, part)
    except (ImportError, AttributeError) as fault:
        raise FormatError(
            f"'{where}' needs '{module}.{name}', which is not here: {fault}.", mend="install what it was trained with"
        ) from None
    home = getattr(thing, "__module__", None) or ""
    if isinstance(thing, ModuleType) or (isinstance(home, str) and _never(home, getattr(thing, "__qualname__", name))):
        refused = thing.__name__ if isinstance(thing, ModuleType) else f"{home}.{name}"
        raise FormatError(f"'{where}' is a pickle that would reach '{refused}'.", mend="a data-only format")
    return thing


def _never(module: str, name: str) -> bool:
    parts = module.split(".")
    stems = {".".join(parts[: count + 1]) for count in range(len(parts))}
    dotted = {f"{module}.{name}"} | ({f"{module}.{'.'.join(name.split('.')[:1])}"} if "." in name else set())
    return bool(
        stems & _NEVER_MODULES
        or dotted & _NEVER_MODULES
        or (module, name.split(".", maxsplit=1)[0]) in _NEVER_NAMES
        or any(part.startswith("__") for part in name.split("."))
    )


def _loaded(load: Callable[[], Any], where: str) -> Any:
    try:
        return load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, TypeError, AttributeError, ImportError,
            OSError, zlib.error, MemoryError, OverflowError) as fault:  # fmt: skip
        raise FormatError(
            f"'{where}' is a damaged pickle: {type(fault).__name__}: {fault}.", mend="write it again"
        ) from None
