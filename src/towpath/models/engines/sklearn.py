"""scikit-learn: skops files under our own list of types, and what a fitted estimator says of its inputs."""

import json
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from towpath.errors import FormatError
from towpath.models.engines.extra import check_version, framework, installed_version
from towpath.models.manifest import Field, Signature
from towpath.models.model import output_fields
from towpath.types import OutputKind

__all__ = ["describe", "is_estimator", "load_skops", "prove_trees", "save_skops", "settle", "written_by"]

_SCHEMA_BYTES = 256 * 2**20
_PREFIXES = (
    "sklearn.",
    "lightgbm.sklearn.",
    "lightgbm.basic.Booster",
    "xgboost.sklearn.",
    "xgboost.core.Booster",
    "catboost.core.",
)
_NEVER_PREFIXES = ("sklearn.datasets", "sklearn.externals", "sklearn.utils._testing", "sklearn.__check_build")
_EXACT = frozenset(
    {f"builtins.{name}" for name in ("bool", "bytes", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "set", "slice", "str", "tuple", "type", "NoneType", "range")}
    | {f"numpy.{name}" for name in ("ndarray", "generic", "dtype", "matrix", "bool", "bool_", "str_", "bytes_", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "log", "log1p", "log2", "log10", "exp", "expm1", "sqrt", "square", "abs", "absolute", "sign", "clip", "isnan", "datetime64")}
    | {f"numpy.ma.{name}" for name in ("MaskedArray", "core.MaskedArray")}
    | {f"numpy.random.{name}" for name in ("mtrand.RandomState", "RandomState", "Generator", "_generator.Generator", "_pcg64.PCG64", "_mt19937.MT19937", "PCG64", "MT19937")}
    | {f"scipy.sparse.{name}" for name in ("csr_matrix", "csc_matrix", "coo_matrix", "csr_array", "csc_array", "_csr.csr_matrix", "_csc.csc_matrix", "_csr.csr_array")}
    | {"collections.OrderedDict", "collections.defaultdict", "scipy.special.expit", "scipy.special.logit", "scipy.interpolate._interpolate.interp1d"}
)  # fmt: skip
Types = set[str]


def is_estimator(thing: object) -> bool:
    """Whether it is a scikit-learn estimator, told without importing scikit-learn.

    Example:
        >>> is_estimator({"not": "one"})
        False
    """
    return any(kind.__module__ == "sklearn.base" and kind.__name__ == "BaseEstimator" for kind in type(thing).__mro__)


def load_skops(path: Path, name: str, wrote: str = "") -> Any:
    """Load a skops file whose every type is on our list; skops' own list is wider.

    Args:
        path: The file, which `sniff` took for a whole zip.
        name: For errors.
        wrote: The version of scikit-learn that wrote it, where it is known.

    Raises:
        ExtraError: skops is not installed.
        FormatError: A type is not on the list, or the file is damaged.
        RefusedError: Another major version wrote it.
    """
    refused = sorted(kind for kind in _types(path) if not _allowed(kind))
    if refused:
        raise FormatError(
            f"'{path}' is a skops file with '{refused[0]}', which is not on our list; nothing of it was run.",
            mend="a model of scikit-learn's own types, or train it as a model of a project",
        )
    skops = framework("skops.io", f"'{name}' is a skops model")
    check_version(name, "sklearn", wrote)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trained = skops.load(path, trusted=sorted(skops.get_untrusted_types(file=path)))
    except (
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        ImportError,
        OSError,
        zipfile.BadZipFile,
        EOFError,
    ) as fault:
        raise FormatError(
            f"'{path}' is a damaged skops file: {type(fault).__name__}: {fault}.", mend="write it again"
        ) from None
    prove_trees(trained, str(path))
    return trained


def save_skops(trained: object, path: Path) -> bool:
    """Write a skops file where all of its types are on our list; whether that was so."""
    skops = framework("skops.io", "format = 'skops'")
    try:
        skops.dump(trained, path)
    except (TypeError, ValueError, AttributeError, NotImplementedError):
        path.unlink(missing_ok=True)
        return False
    if all(_allowed(kind) for kind in _types(path)):
        return True
    path.unlink()
    return False


def settle(estimator: Any) -> Any:
    """Set every ``n_jobs`` of a fitted estimator to 1: a row is too little to share out, and joblib's pool costs milliseconds."""
    if hasattr(estimator, "get_params") and is_estimator(estimator):
        found = estimator.get_params(deep=True)
        busy = {key: 1 for key, value in found.items() if key.split("__")[-1] == "n_jobs" and value not in (None, 1)}
        if busy:
            estimator.set_params(**busy)
    return estimator


def prove_trees(trained: object, where: str) -> None:
    """Refuse trees whose node numbers point outside of them: scikit-learn follows those without looking.

    A skops file is data only, and so can be loaded from strangers; this is the one way in which its data could still read
    wherever it likes (skops itself therefore asks for ``sklearn.tree._tree.Tree`` to be trusted).

    Raises:
        FormatError: A node is out of range, or a walk would not end.
    """
    seen: set[int] = set()
    todo: list[Any] = [trained]
    while todo:
        thing: Any = todo.pop()
        if id(thing) in seen or isinstance(thing, str | bytes | int | float | bool | None):
            continue
        seen.add(id(thing))
        kind = type(thing)
        if kind.__name__ == "Tree" and kind.__module__ == "sklearn.tree._tree":
            nodes = thing.__getstate__()["nodes"]
            _prove_nodes(nodes["left_child"], nodes["right_child"], nodes["feature"], thing.n_features, where)
        elif kind.__name__ == "TreePredictor" and kind.__module__.startswith("sklearn.ensemble"):
            places = np.flatnonzero(thing.nodes["is_leaf"] == 0)
            for side in ("left", "right"):
                child = thing.nodes[side][places]
                if (child <= places).any() or (child >= len(thing.nodes)).any():
                    raise _unsound(where)
        elif isinstance(thing, dict):
            todo += thing.values()
        elif isinstance(thing, list | tuple | set):
            todo += thing
        elif isinstance(thing, np.ndarray):
            todo += thing.ravel().tolist() if thing.dtype.hasobject and thing.dtype.fields is None else []
        else:
            todo += vars(thing).values() if hasattr(thing, "__dict__") and not isinstance(thing, type) else []


def _prove_nodes(left: Any, right: Any, feature: Any, features: int, where: str) -> None:
    inner = left != -1
    numbers = np.arange(len(left))
    for child in (left, right):
        if (child[inner] <= numbers[inner]).any() or (child[inner] >= len(left)).any():
            raise _unsound(where)
    if (
        len(left) == 0
        or (right[~inner] != -1).any()
        or (feature[inner] < 0).any()
        or (feature[inner] >= features).any()
    ):
        raise _unsound(where)


def _unsound(where: str) -> FormatError:
    return FormatError(
        f"'{where}' holds a decision tree whose nodes point outside of it; nothing was predicted with it.",
        mend="write it again, or a model from a source that you trust",
    )


def written_by(estimator: object) -> str:
    """The version of scikit-learn that runs here; estimators loaded from a pickle carry the one that wrote them."""
    state: Any = getattr(estimator, "__dict__", {})
    return str(state.get("_sklearn_version") or installed_version("sklearn"))


def describe(estimator: Any, kind: OutputKind | None = None) -> tuple[Signature, OutputKind]:
    """What a fitted estimator says of its inputs and outputs.

    Raises:
        FormatError: It is not fitted, or is no model of rows.
    """
    names = getattr(estimator, "feature_names_in_", None)
    count = getattr(estimator, "n_features_in_", None) if names is None else len(names)
    if count is None or not hasattr(estimator, "predict"):
        raise FormatError(
            f"the file holds a {type(estimator).__module__}.{type(estimator).__qualname__}, which does not say its inputs "
            "(n_features_in_) or has no predict.",
            mend="a fitted scikit-learn estimator, or a model of a project with def predict(model, rows)",
        )
    texts = _text_columns(estimator)
    inputs = tuple(
        Field(name=name, type="string" if name in texts else "double", nullable=_reads_null(estimator) or name in texts)
        for name in ([str(name) for name in names] if names is not None else [f"f{n}" for n in range(int(count))])
    )
    classes = getattr(estimator, "classes_", None) if hasattr(estimator, "predict_proba") else None
    found: OutputKind = kind or ("class" if classes is not None else "number")
    levels = None if classes is None else tuple(str(label) for label in np.asarray(classes).tolist())
    container = "numpy" if names is None else "pandas"
    return Signature(container=container, inputs=inputs, outputs=output_fields(found, levels)), found


def _types(path: Path) -> Types:
    """Every type and function that a skops file names."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("schema.json").file_size > _SCHEMA_BYTES:
                raise FormatError(
                    f"'{path}' has a schema of more than {_SCHEMA_BYTES:,} bytes.", mend="a smaller model"
                )
            schema: Any = json.loads(archive.read("schema.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError, EOFError, OSError, NotImplementedError) as fault:
        raise FormatError(f"'{path}' is a damaged skops file: {fault}.", mend="write it again") from None
    return set(_named(schema))


def _named(schema: Any) -> Iterator[str]:
    """Walk the schema without recursion, so that a deep one is no way to stop us."""
    todo = [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if "__module__" in node or "__class__" in node:
                yield f"{node.get('__module__')}.{node.get('__class__')}"
            content: Any = node.get("content")
            if isinstance(content, dict) and "module_path" in content:
                yield f"{content.get('module_path')}.{content.get('function')}"
            todo += node.values()
        elif isinstance(node, list):
            todo += node


def _allowed(kind: str) -> bool:
    if kind in _EXACT:
        return True
    return kind.startswith(_PREFIXES) and not kind.startswith(_NEVER_PREFIXES)


def _reads_null(estimator: Any) -> bool:
    try:
        from sklearn.utils import get_tags

        return bool(get_tags(estimator).input_tags.allow_nan)
    except (ImportError, AttributeError, TypeError, ValueError):
        return False


def _text_columns(estimator: Any) -> set[str]:
    """Columns that an encoder within a ColumnTransformer learnt text levels of."""
    texts: set[str] = set()
    for step in [estimator, *(part for _, part in getattr(estimator, "steps", []))]:
        for _, part, columns in getattr(step, "transformers_", []):
            last = part.steps[-1][1] if hasattr(part, "steps") else part
            known = getattr(last, "categories_", [])
            texts |= {
                str(column)
                for column, levels in zip(columns, known, strict=False)
                if np.asarray(levels).dtype.kind in "OSU"
            }
    return texts
