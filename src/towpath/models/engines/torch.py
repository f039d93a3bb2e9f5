"""PyTorch on the CPU: ``torch.export`` programs, and TorchScript, whose shapes are found by trying."""

import importlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from towpath.errors import FormatError, InputError
from towpath.models.engines.extra import check_version, framework
from towpath.models.engines.tensors import TensorModel
from towpath.models.engines.torch_files import check_export, check_script
from towpath.models.manifest import Field, Signature
from towpath.types import OutputKind

__all__ = ["TorchExport", "TorchScript", "save"]

_TYPES = {
    "float32": "FP32", "float64": "FP64", "float16": "FP16", "bool": "BOOL", "int8": "INT8", "int16": "INT16", "int32": "INT32",
    "int64": "INT64", "uint8": "UINT8",
}  # fmt: skip


class TorchExport(TensorModel):
    """One exported program."""

    format = "pt2"
    framework = "torch"
    called = "torch.export"
    check = staticmethod(check_export)

    def __init__(
        self, path: Path, *, name: str, signature: Signature | None = None, kind: OutputKind | None = None
    ) -> None:
        program, self._call = _exported(path, name)
        inputs, outputs = _of_graph(program, name, path)
        self._order = [field.name for field in inputs]
        self.describe(name, str(path), inputs, outputs, signature=signature, kind=kind)

    @staticmethod
    def opened(path: Path, name: str) -> Any:
        """The program as a module, for code of the project that calls it."""
        return _exported(path, name)[1]

    def run(self, fed: Mapping[str, NDArray[Any]]) -> Sequence[Any]:
        """Answer n rows."""
        return _ran(self._call, [fed[name] for name in self._order], self._name)


class TorchScript(TensorModel):
    """One TorchScript module. It knows the names of its inputs and nothing of their shapes, so a few are tried."""

    format = "torchscript"
    framework = "torch"
    called = "TorchScript"
    check = staticmethod(check_script)

    def __init__(
        self, path: Path, *, name: str, signature: Signature | None = None, kind: OutputKind | None = None
    ) -> None:
        self._call = self.opened(path, name)
        argument, shape, dtype, outputs = _tried(self._call, path, name)
        field = Field(name=argument, type=dtype, shape=(-1, *shape), nullable=False)
        self.describe(name, str(path), [field], outputs, signature=signature, kind=kind)

    @staticmethod
    def opened(path: Path, name: str) -> Any:
        """The module, for code of the project that calls it.

        Raises:
            ExtraError: PyTorch is not installed.
            FormatError: PyTorch refuses the file, or it calls an operator that reaches files.
        """
        check_script(path)
        torch = _torch(name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.jit.load(str(path), map_location="cpu").eval()
        except Exception as fault:  # noqa: BLE001 - what PyTorch raises of a file has no common root
            raise _refused(path, fault) from None

    def run(self, fed: Mapping[str, NDArray[Any]]) -> Sequence[Any]:
        """Answer n rows."""
        return _ran(self._call, list(fed.values()), self._name)


def save(module: Any, folder: Path, width: int) -> str:
    """Write a module, a program or a script into a folder.

    Args:
        module: A ``torch.nn.Module`` (exported for rows of `width` floats), an ``ExportedProgram`` or a ``ScriptModule``.
        folder: Where the file goes.
        width: Columns that it was trained on.

    Returns:
        The name of the file, which says the format.

    Raises:
        FormatError: It cannot be exported for such rows.
    """
    torch = _torch("what train() returned")
    if isinstance(module, torch.jit.ScriptModule):
        torch.jit.save(module, str(folder / "model.ts"))
        return "model.ts"
    if not isinstance(module, torch.export.ExportedProgram):
        rows = torch.export.Dim("rows", min=1)
        try:
            module = torch.export.export(module.cpu().eval(), (torch.zeros(2, width),), dynamic_shapes=({0: rows},))
        except Exception as fault:  # noqa: BLE001 - the edge to the user's module
            raise FormatError(
                f"what train() returned ({type(module).__name__}) cannot be exported for rows of {width} floats: {fault}.",
                where="model.py, train",
                mend="return torch.export.export(module, (example,), dynamic_shapes=…)",
            ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(module, folder / "model.pt2")
    return "model.pt2"


def _torch(name: str) -> Any:
    torch: Any = framework("torch", f"'{name}' is a PyTorch model")
    if torch.get_num_threads() > 1:  # a row is too little to share out
        torch.set_num_threads(1)
    return torch


def _exported(path: Path, name: str) -> tuple[Any, Any]:
    wrote = check_export(path)
    torch = _torch(name)
    check_version(name, "torch", wrote)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(str(path))
            return program, program.module(check_guards=False)
    except Exception as fault:  # noqa: BLE001 - what PyTorch raises of a file has no common root
        raise _refused(path, fault) from None


def _of_graph(program: Any, name: str, path: Path) -> tuple[list[Field], list[Field]]:
    """Names, types and shapes as the graph has them; a symbolic size is open."""
    held = {node.name: node.meta.get("val") for node in program.graph.nodes}
    wanted = program.graph_signature
    inputs = [_field(one, held[one]) for one in wanted.user_inputs if isinstance(one, str) and _is_tensor(held[one])]
    named = [one for one in wanted.user_outputs if isinstance(one, str)]
    if not inputs or len(inputs) != len(wanted.user_inputs) or not named:
        raise FormatError(
            f"'{name}' takes or gives other things than tensors ({wanted.user_inputs} → {wanted.user_outputs}).",
            where=str(path),
            mend="export a module whose forward takes and gives tensors",
        )
    labels = ["prediction"] if len(named) == 1 else [f"output_{number}" for number in range(len(named))]
    return inputs, [_field(label, held[one]) for label, one in zip(labels, named, strict=True)]


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _field(name: str, value: Any) -> Field:
    shape = tuple(size if type(size) is int else -1 for size in value.shape)
    kind = str(value.dtype).removeprefix("torch.")
    return Field(name=name, type=_TYPES.get(kind, "FP32"), shape=(-1, *shape[1:]), nullable=False)


def _tried(module: Any, path: Path, name: str) -> tuple[str, tuple[int, ...], str, list[Field]]:
    """The input's name, and the first shape that the module answers, from those that its own weights suggest."""
    torch = _torch(name)
    arguments = [one for one in module.forward.schema.arguments[1:] if not one.has_default_value()]
    if len(arguments) == 1:
        for shape, dtype in _likely([tuple(weight.shape) for weight in module.parameters()]):
            try:
                with torch.inference_mode(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    given = module(torch.zeros((1, *shape), dtype=dtype and getattr(torch, dtype)))
                    twice = module(torch.zeros((2, *shape), dtype=dtype and getattr(torch, dtype)))
            except (RuntimeError, IndexError, TypeError, ValueError):
                continue
            parts = list(given) if isinstance(given, tuple | list) else [given]
            pairs = zip(parts, list(twice) if isinstance(twice, tuple | list) else [twice], strict=True)
            if all(_is_tensor(one) and one.shape[:1] == (1,) and two.shape[:1] == (2,) for one, two in pairs):
                labels = ["prediction"] if len(parts) == 1 else [f"output_{number}" for number in range(len(parts))]
                outputs = [_field(label, part) for label, part in zip(labels, parts, strict=True)]
                # a picture may have any size where a second one is answered, too
                return arguments[0].name, shape, _TYPES[dtype], outputs
    raise FormatError(
        f"'{name}' is a TorchScript file that does not say what shapes it reads"
        + ("." if len(arguments) == 1 else f" (its forward takes {len(arguments)} arguments)."),
        where=str(path),
        mend="torch.export.save(torch.export.export(model, (example,)), 'model.pt2'), which keeps names, types and shapes",
    )


def _likely(weights: list[tuple[int, ...]]) -> list[tuple[tuple[int, ...], str]]:
    """Shapes of one row by the weights: a matrix reads its columns, a kernel pictures of its channels, an embedding numbers."""
    found: list[tuple[tuple[int, ...], str]] = []
    for shape in weights[:8]:
        if len(shape) == 2:  # noqa: PLR2004 - a matrix
            found += [((shape[1],), "float32"), ((shape[1],), "float64"), ((8,), "int64")]
        elif len(shape) == 4:  # noqa: PLR2004 - a kernel
            found += [((shape[1], side, side), "float32") for side in (224, 32, 28, 64)]
        elif len(shape) == 1:
            found.append(((shape[0],), "float32"))
    return found


def _ran(call: Any, arrays: Sequence[NDArray[Any]], name: str) -> list[NDArray[Any]]:
    torch: Any = importlib.import_module("torch")

    try:
        with torch.inference_mode():
            # a request's bytes may not be written to, and PyTorch says so of arrays that it only reads
            given = [torch.from_numpy(array if array.flags.writeable else array.copy()) for array in arrays]
            answer = call(*given)
    except (RuntimeError, ValueError, IndexError, TypeError) as fault:
        raise InputError(f"'{name}' cannot read this: {str(fault).splitlines()[0]}.") from None
    parts = answer if isinstance(answer, tuple | list) else (answer,)
    return [np.asarray(part.detach().numpy()) for part in parts]


def _refused(path: Path, fault: BaseException) -> FormatError:
    said = str(fault).strip().splitlines()
    return FormatError(
        f"PyTorch refuses the file: {said[0][:300] if said else type(fault).__name__}.",
        where=str(path),
        mend="write it again",
    )
