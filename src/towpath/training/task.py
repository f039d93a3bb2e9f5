"""What runs inside the training job: the user's ``train``, and its result saved, loaded again and measured."""

import os
import random
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from towpath.apart import open_version, remote
from towpath.errors import ModelError, TowpathError
from towpath.features import OnDemand, appended_by, with_defaults
from towpath.models import (
    Model,
    as_answered,
    columns_of,
    container,
    load_file,
    load_version,
    on_demand_of,
    project_module,
    save,
    signature_of,
)
from towpath.models.manifest import Artefact, Manifest, Signature
from towpath.training.data import TrainingSet
from towpath.training.handover import CODE, HOLDOUT, MEASURE, RESULT, TASK, TRAIN, Result, Task

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["work"]

_BATCH_ROWS = 65_536
_FEW_ROWS = 8


def work(folder: Path) -> Result:
    """Train, save, load, measure; a fault becomes a result that says it.

    Args:
        folder: Holds the task, the rows and the code; gets the model, ``holdout.parquet`` and ``result.json``.
    """
    task = msgspec.json.decode((folder / TASK).read_bytes(), type=Task)
    # Frameworks draw from these where nobody hands them a generator
    random.seed(task.seed)
    np.random.seed(task.seed % 2**32)  # noqa: NPY002 - see above
    try:
        result = _trained(task, folder)
    except TowpathError as fault:
        said = _own_traceback(fault.__cause__, task) if isinstance(fault, ModelError) and fault.__cause__ else ""
        result = _failed(type(fault).__name__, f"{fault.what}{said}", fault.where, fault.mend)
    except (Exception, SystemExit) as fault:  # noqa: BLE001 - the edge to the user's code
        what = f"train() of '{task.model}' failed: {type(fault).__name__}: {fault}".rstrip(": ")
        kind, mend = "ModelError", ""
        if isinstance(fault, MemoryError):
            kind, mend = "ResourceError", "ask for more in model.toml, resources.memory"
            what += f" (it was held to {task.declaration.resources.memory or 'what the machine has'})"
        result = _failed(kind, what + _own_traceback(fault, task), _place(fault, task), mend)
    (folder / RESULT).write_bytes(msgspec.json.encode(result))
    return result


def _trained(task: Task, folder: Path) -> Result:
    declaration, code = task.declaration, (folder / CODE).read_bytes()
    module = project_module(code, task.model, root=Path(task.project_folder))
    functions: tuple[OnDemand, ...] = ()
    if task.computed is not None:
        functions = on_demand_of(code, task.computed.functions, root=Path(task.project_folder))
    data = TrainingSet(
        _rows(task, folder / TRAIN, functions),
        task.header,
        task.features,
        parameters=declaration.train.parameters,
        seed=task.seed,
    )
    if declaration.artefact.remote is not None:
        return _remote(task, folder, data, functions)
    own_predict: Any = getattr(module, "predict", None)
    trained = module.train(data)
    artefact = save(
        trained, folder, declaration.train.format, own_predict=own_predict is not None, width=len(data.fields)
    )
    tried = None
    if own_predict is not None:
        few = columns_of(data.table.select(list(task.features)).slice(0, _FEW_ROWS))
        wanted = Signature(container=data.container, inputs=data.fields, outputs=())
        tried = own_predict(trained, container(few, wanted))
    if isinstance(trained, Path) and tried is None:
        signature = _given_signature(task, data, folder / (artefact.folder or artefact.file.path))
    else:
        signature = signature_of(data.fields, data.container, declaration.output.kind, trained, tried)
    model = load_version(_provisional(task, artefact, signature), folder)
    unseen, answered = _measure(task, model, folder, functions)
    if answered and tried is None and not isinstance(trained, Path):  # whose file says it
        signature = as_answered(signature, answered)
    return Result(artefact=artefact, signature=signature, unseen=unseen)


def _given_signature(task: Task, data: TrainingSet, path: Path) -> Signature:
    """Of a model that something else wrote: our columns, in its order where its file names them, and the answers that it names."""
    own = load_file(path, name=task.model)  # which tries it as any strange file
    own.close()
    theirs = [field.name for field in own.signature.inputs]
    inputs = data.fields
    for names in ([field.name for field in inputs], [field.name.rpartition(".")[2] for field in inputs]):
        if sorted(names) == sorted(theirs):
            inputs = tuple(inputs[names.index(name)] for name in theirs)
            break
    return Signature(container=data.container, inputs=inputs, outputs=own.signature.outputs)


def _remote(task: Task, folder: Path, data: TrainingSet, functions: Sequence[OnDemand]) -> Result:
    """A model of another server: nothing is trained, and it is measured as any other."""
    declared = task.declaration.artefact
    artefact = remote.write(folder, declared.remote or "", declared.token or "")
    outputs = remote.Remote(folder / artefact.file.path, name=task.model).signature.outputs
    signature = Signature(container=data.container, inputs=data.fields, outputs=outputs)
    model = open_version(_provisional(task, artefact, signature), folder, environments=folder)
    unseen, _ = _measure(task, model, folder, functions)
    model.close()
    return Result(artefact=artefact, signature=signature, unseen=unseen)


def _rows(task: Task, path: Path, functions: Sequence[OnDemand]) -> "pa.Table":
    """The rows that were handed over, with their on-demand features and without what only these read."""
    import pyarrow.parquet as pq

    table, computed = pq.read_table(path), task.computed
    if computed is None:
        return table
    try:
        table = appended_by(functions, table, computed.views, project=task.project, time=task.header.time)
    except ModelError as fault:
        raise fault from None  # it shows the user's own lines already
    unread = {*computed.hidden, *(set(computed.gives) - set(task.features))}
    return with_defaults(table.drop_columns(sorted(unread)), computed.functions, task.project)


def _measure(
    task: Task, model: Model, folder: Path, computing: Sequence[OnDemand]
) -> tuple[dict[str, int], "dict[str, NDArray[Any]]"]:
    """Answer the holdout with the model and with each of its fallback functions, by the code that will serve it.

    Returns:
        Labels that were never seen in training, by column, and the model's answers to the first rows; nothing where there are none.
    """
    import pyarrow.parquet as pq

    table = _rows(task, folder / MEASURE, computing)
    functions = [link for link in task.declaration.fallback if link.function is not None]
    answers: dict[str, list[NDArray[Any]]] = {"prediction": [], **{f"fallback:{link.name}": [] for link in functions}}
    first: dict[str, NDArray[Any]] = {}
    for start in range(0, table.num_rows, _BATCH_ROWS):
        columns = columns_of(table.select(list(task.features)).slice(start, _BATCH_ROWS))
        outputs = model.predict(columns)
        first = first or outputs
        answers["prediction"].append(next(iter(outputs.values())))
        for link in functions:
            answers[f"fallback:{link.name}"].append(model.fallback(link.function or "", columns))
    for name, parts in answers.items():
        table = table.append_column(name, _column(np.concatenate(parts)))
    pq.write_table(table, folder / HOLDOUT, compression="zstd")
    return dict(model.unseen), first


def _column(values: NDArray[Any]) -> Any:
    import pyarrow as pa

    if values.ndim == 1 and values.dtype.kind in "fiub":
        return pa.array(values.astype(np.float64))
    return pa.array(values.tolist())


def _provisional(task: Task, artefact: Artefact, signature: Signature) -> Manifest:
    """The version as it will be loaded, before it has a number."""
    from datetime import UTC, datetime

    return Manifest(
        project=task.project,
        team="",
        model=task.model,
        version=0,
        created_at=datetime(1970, 1, 1, tzinfo=UTC),
        created_by="",
        owner=task.declaration.owner,
        artefact=artefact,
        signature=signature,
        entity=task.header.keys,
        output=task.declaration.output,
        fallback=task.declaration.fallback,
        files=(task.code,),
    )


def _own_traceback(fault: BaseException, task: Task) -> str:
    """The traceback with the lines of the user's own files alone; ours and the libraries' say nothing to them."""
    told = traceback.TracebackException.from_exception(fault)
    waiting = [told]
    while waiting:
        part = waiting.pop()
        own = [frame for frame in part.stack if _is_own(frame.filename, task)]
        part.stack = traceback.StackSummary.from_list(own)
        waiting += [other for other in (part.__cause__, part.__context__) if other is not None]
    return "\n\n" + "".join(told.format()).rstrip()


def _place(fault: BaseException, task: Task) -> str:
    own = [frame for frame in traceback.extract_tb(fault.__traceback__) if _is_own(frame.filename, task)]
    return f"{os.path.relpath(own[-1].filename, task.project_folder)}:{own[-1].lineno}" if own else ""


def _is_own(file: str, task: Task) -> bool:
    inside = file.startswith(task.project_folder + os.sep)
    return inside and "site-packages" not in file and f"{os.sep}.venv{os.sep}" not in file


def _failed(error: str, what: str, where: str, mend: str) -> Result:
    return Result(error=error, what=what, where=where, mend=mend)


if __name__ == "__main__":
    raise SystemExit(1 if work(Path(sys.argv[1])).error else 0)
