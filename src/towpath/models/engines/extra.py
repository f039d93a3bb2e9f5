"""What to say where a framework is not installed, or not in the version that wrote the model."""

import importlib
import importlib.metadata
import importlib.util
import re
from types import ModuleType

from towpath.errors import ExtraError, RefusedError

__all__ = ["EXTRAS", "check_version", "framework", "installed_version"]

EXTRAS = {
    "lightgbm": "lightgbm",
    "xgboost": "xgboost",
    "catboost": "catboost",
    "onnxruntime": "onnx",
    "skops": "sklearn",
    "sklearn": "sklearn",
    "joblib": "sklearn",
    "pandas": "pandas",
    "polars": "polars",
    "torch": "torch",
    "transformers": "huggingface",
    "tokenizers": "huggingface",
    "safetensors": "huggingface",
    "tensorflow": "tensorflow",
    "keras": "keras",
    "h5py": "keras",
    "mlflow": "mlflow",
    "yaml": "mlflow",
    "skl2onnx": "compile",
    "onnxmltools": "compile",
}
"""Module → the extra of ours that installs it."""

_DISTRIBUTIONS = {
    "xgboost": ("xgboost", "xgboost-cpu"),
    "sklearn": ("scikit-learn",),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "mlflow": ("mlflow", "mlflow-skinny"),
}


def framework(module: str, what: str) -> ModuleType:
    """Import a framework.

    Args:
        module: Its import name.
        what: What needs it, such as ``'demand.txt' is a LightGBM model``.

    Raises:
        ExtraError: It is not installed; names the install line.
    """
    root = module.split(".", maxsplit=1)[0]
    if importlib.util.find_spec(root) is None:
        extra = EXTRAS.get(root, root)
        raise ExtraError(f"{what}, and {root} is not installed.", mend=f"uv add 'towpath[{extra}]'")
    return importlib.import_module(module)


def installed_version(module: str) -> str:
    """The version of an installed framework; empty where it is not installed.

    Example:
        >>> installed_version("no_such_framework")
        ''
    """
    for name in _DISTRIBUTIONS.get(module, (module,)):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def check_version(what: str, module: str, wrote: str) -> None:
    """Refuse a model that another major version of its framework wrote.

    Args:
        what: The model, such as ``demand@3``.
        module: The framework's import name.
        wrote: The version that wrote the model; nothing is checked where it is not known.

    Raises:
        RefusedError: The major versions differ; says what to install.
    """
    here = installed_version(module)
    if not wrote or not here or _major(wrote) == _major(here):
        return
    distribution = _DISTRIBUTIONS.get(module, (module,))[-1]
    major = _major(wrote)
    raise RefusedError(
        f"{what} was written by {distribution} {wrote}; this machine has {here}, another major version.",
        where="artefact.framework_version",
        mend=f"uv add '{distribution}>={major},<{major + 1}', or train again with {here}",
    )


def _major(version: str) -> int:
    match = re.match(r"\d+", version)
    return int(match[0]) if match else 0
