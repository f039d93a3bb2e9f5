"""What a SavedModel would run, read from its bytes: a graph is a program, and some operators reach files."""

from collections.abc import Iterator
from pathlib import Path

from towpath.errors import FormatError
from towpath.models import protobuf

__all__ = ["check"]

_META_GRAPH, _INFO, _GRAPH, _OBJECTS, _VERSION = 2, 1, 2, 7, 5
_NODE, _LIBRARY, _FUNCTION, _SIGNATURE, _FUNCTION_NODE = 1, 2, 1, 1, 3
_NAME, _OPERATOR, _ATTRIBUTE, _VALUE, _CALLED, _LIST, _LIST_CALLED = 1, 2, 5, 2, 10, 1, 9
_NEVER = frozenset(
    {
        "ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc", "LoadAndRemapMatrix",
        "GenerateVocabRemapping", "PrintV2", "DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "SqlDataset", "TextLineDataset",
        "TFRecordDataset", "TFRecordDatasetV2", "FixedLengthRecordDataset", "FixedLengthRecordDatasetV2", "TextLineReader",
        "TextLineReaderV2", "WholeFileReader", "WholeFileReaderV2", "TFRecordReader", "TFRecordReaderV2", "FixedLengthRecordReader",
        "FixedLengthRecordReaderV2", "LMDBReader", "LMDBDataset", "LoadDataset", "SaveDataset", "SaveDatasetV2", "SnapshotDataset",
        "SnapshotDatasetV2", "CSVDataset", "CSVDatasetV2", "CacheDataset", "CacheDatasetV2", "ImmutableConst", "RpcCall", "RpcClient",
        "RpcServer", "DistributedSave", "RegisterDataset", "DataServiceDataset", "DataServiceDatasetV2", "CreateSummaryFileWriter",
        "CreateSummaryDbWriter", "WriteSummary", "WriteGraphSummary", "ExperimentalLMDBDataset", "IO>BigQueryClient",
        "InitializeTableFromTextFile", "OutfeedEnqueue", "CollectiveGather", "GrpcCall",
    }
)  # fmt: skip
_SAVERS = frozenset(
    {"Save", "SaveSlices", "SaveV2", "MergeV2Checkpoints", "Restore", "RestoreSlice", "RestoreV2", "ShardedFilename"}
)
"""Each SavedModel has functions with these, for training it further; they may not be reached by what is loaded."""


def check(folder: Path) -> str:
    """Refuse a SavedModel whose graph reaches files, other processes or Python.

    Args:
        folder: Holds ``saved_model.pb``.

    Returns:
        The version of TensorFlow that wrote it; empty where it does not say.

    Raises:
        FormatError: It is damaged, or has such an operator; names it.
    """
    path = folder / "saved_model.pb"
    data = memoryview(path.read_bytes())
    version = ""
    try:
        graphs = list(_messages(data, _META_GRAPH))
        if not graphs:
            raise ValueError("no graph")
        for meta in graphs:
            for info in _messages(meta, _INFO):
                version = next((_text(said) for said in _messages(info, _VERSION)), version)
            objects = b"".join(bytes(part) for part in _messages(meta, _OBJECTS))
            for graph in _messages(meta, _GRAPH):
                _check_graph(folder, graph, objects)
    except (ValueError, UnicodeDecodeError) as fault:
        raise FormatError(f"'{path}' is a damaged SavedModel: {fault}.", mend="write it again") from None
    return version


def _check_graph(folder: Path, graph: memoryview, objects: bytes) -> None:
    operators: dict[str, set[str]] = {"": set()}
    calls: dict[str, set[str]] = {}
    for node in _messages(graph, _NODE):
        operators[""].add(_operator(node))
    for library in _messages(graph, _LIBRARY):
        for function in _messages(library, _FUNCTION):
            name = next((_text(each) for own in _messages(function, _SIGNATURE) for each in _messages(own, _NAME)), "")
            nodes = list(_messages(function, _FUNCTION_NODE))
            operators[name] = {_operator(node) for node in nodes}
            calls[name] = {called for node in nodes for called in _called(node)} | operators[name]
    for name, held in operators.items():
        if bad := held & _NEVER:
            where = f" (function '{name}')" if name else ""
            raise _would(folder, f"the operator '{min(bad)}'{where}")
    savers = {name for name, held in operators.items() if name and held & _SAVERS}
    grown = True
    while grown:  # whoever calls one is one
        more = {name for name, called in calls.items() if name not in savers and called & savers}
        savers |= more
        grown = bool(more)
    for name in sorted(savers):
        if name.encode() in objects:
            raise _would(
                folder, f"'{min((operators[name] & _SAVERS) or {name})}' in a function that is loaded ('{name}')"
            )


def _called(node: memoryview) -> Iterator[str]:
    """Functions that a node names in its attributes."""
    for attribute in _messages(node, _ATTRIBUTE):
        for value in _messages(attribute, _VALUE):
            for called in _messages(value, _CALLED):
                yield from (_text(name) for name in _messages(called, _NAME))
            for several in _messages(value, _LIST):
                for called in _messages(several, _LIST_CALLED):
                    yield from (_text(name) for name in _messages(called, _NAME))


def _operator(node: memoryview) -> str:
    return next((_text(said) for said in _messages(node, _OPERATOR)), "")


def _messages(data: memoryview, number: int) -> Iterator[memoryview]:
    for found, value in protobuf.fields(data):
        if found == number and isinstance(value, memoryview):
            yield value


def _text(data: memoryview) -> str:
    return bytes(data).decode()


def _would(folder: Path, what: str) -> FormatError:
    return FormatError(
        f"'{folder}' is a SavedModel that would run {what}; nothing of it was run.",
        mend="export it without; or as ONNX",
    )
