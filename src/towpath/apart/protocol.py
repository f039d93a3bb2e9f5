"""The gRPC messages of the Open Inference Protocol, in a descriptor pool of our own.

A generated module registers itself in the process-wide pool, where the same names of tritonclient or kserve collide with it.
So the messages are described here in a few lines, and two libraries may speak the protocol in one notebook.

Source:
    KServe, ``grpc_predict_v2.proto``, and Triton, ``grpc_service.proto`` and ``model_config.proto``, for what KServe leaves out;
    field numbers are part of the protocol. Of the configuration only what we fill in is here.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

__all__ = ["SERVICE", "Fields", "Method", "classes", "described", "file", "messages"]

SERVICE = "inference.GRPCInferenceService"
Fields = Sequence[tuple[str, int, str]]
"""(field, number, type); ``*`` repeats, ``|`` is one of a choice and may name it, ``map:`` maps text to something, ``enum:`` names an enum."""


class Method(NamedTuple):
    """What a method takes and gives."""

    request: str
    response: str
    asks_often: bool = False
    """Whether the caller sends a stream."""
    answers_often: bool = False
    """Whether the server does."""


_METHODS = {
    name: Method(f"{name}Request", f"{name}Response")
    for name in (
        "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelConfig", "ModelStatistics",
        "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload",
    )
} | {"ModelStreamInfer": Method("ModelInferRequest", "ModelStreamInferResponse", asks_often=True, answers_often=True)}  # fmt: skip
_DATA_TYPES = (
    "INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "STRING", "BF16",
)  # fmt: skip
_ENUMS = {"DataType": tuple(f"TYPE_{name}" for name in _DATA_TYPES)}

_PARAMETERS = "map:InferParameter"
_TIMED = "StatisticDuration"
_CHANGE = [
    ("repository_name", 1, "string"),
    ("model_name", 2, "string"),
    ("parameters", 3, "map:ModelRepositoryParameter"),
]
"""Triton's; KServe's have the model's name in field 1, and its answers name the model, which Triton's clients do not read."""
_MESSAGES: dict[str, Fields] = {
    "ServerLiveRequest": [],
    "ServerLiveResponse": [("live", 1, "bool")],
    "ServerReadyRequest": [],
    "ServerReadyResponse": [("ready", 1, "bool")],
    "ModelReadyRequest": [("name", 1, "string"), ("version", 2, "string")],
    "ModelReadyResponse": [("ready", 1, "bool")],
    "ServerMetadataRequest": [],
    "ServerMetadataResponse": [("name", 1, "string"), ("version", 2, "string"), ("extensions", 3, "string*")],
    "ModelMetadataRequest": [("name", 1, "string"), ("version", 2, "string")],
    "ModelMetadataResponse": [
        ("name", 1, "string"),
        ("versions", 2, "string*"),
        ("platform", 3, "string"),
        ("inputs", 4, "ModelMetadataResponse.TensorMetadata*"),
        ("outputs", 5, "ModelMetadataResponse.TensorMetadata*"),
    ],
    "ModelMetadataResponse.TensorMetadata": [("name", 1, "string"), ("datatype", 2, "string"), ("shape", 3, "int64*")],
    "InferParameter": [
        ("bool_param", 1, "bool|"),
        ("int64_param", 2, "int64|"),
        ("string_param", 3, "string|"),
        ("double_param", 4, "double|"),
        ("uint64_param", 5, "uint64|"),
    ],
    "InferTensorContents": [
        ("bool_contents", 1, "bool*"),
        ("int_contents", 2, "int32*"),
        ("int64_contents", 3, "int64*"),
        ("uint_contents", 4, "uint32*"),
        ("uint64_contents", 5, "uint64*"),
        ("fp32_contents", 6, "float*"),
        ("fp64_contents", 7, "double*"),
        ("bytes_contents", 8, "bytes*"),
    ],
    "ModelInferRequest": [
        ("model_name", 1, "string"),
        ("model_version", 2, "string"),
        ("id", 3, "string"),
        ("parameters", 4, _PARAMETERS),
        ("inputs", 5, "ModelInferRequest.InferInputTensor*"),
        ("outputs", 6, "ModelInferRequest.InferRequestedOutputTensor*"),
        ("raw_input_contents", 7, "bytes*"),
    ],
    "ModelInferRequest.InferInputTensor": [
        ("name", 1, "string"),
        ("datatype", 2, "string"),
        ("shape", 3, "int64*"),
        ("parameters", 4, _PARAMETERS),
        ("contents", 5, "InferTensorContents"),
    ],
    "ModelInferRequest.InferRequestedOutputTensor": [("name", 1, "string"), ("parameters", 2, _PARAMETERS)],
    "ModelInferResponse": [
        ("model_name", 1, "string"),
        ("model_version", 2, "string"),
        ("id", 3, "string"),
        ("parameters", 4, _PARAMETERS),
        ("outputs", 5, "ModelInferResponse.InferOutputTensor*"),
        ("raw_output_contents", 6, "bytes*"),
    ],
    "ModelInferResponse.InferOutputTensor": [
        ("name", 1, "string"),
        ("datatype", 2, "string"),
        ("shape", 3, "int64*"),
        ("parameters", 4, _PARAMETERS),
        ("contents", 5, "InferTensorContents"),
    ],
    "ModelStreamInferResponse": [("error_message", 1, "string"), ("infer_response", 2, "ModelInferResponse")],
    "ModelParameter": [("string_value", 1, "string")],
    "ModelInput": [("name", 1, "string"), ("data_type", 2, "enum:DataType"), ("dims", 4, "int64*")],
    "ModelOutput": [("name", 1, "string"), ("data_type", 2, "enum:DataType"), ("dims", 3, "int64*")],
    "ModelConfig": [
        ("name", 1, "string"),
        ("platform", 2, "string"),
        ("max_batch_size", 4, "int32"),
        ("input", 5, "ModelInput*"),
        ("output", 6, "ModelOutput*"),
        ("parameters", 14, "map:ModelParameter"),
        ("backend", 17, "string"),
    ],
    "ModelConfigRequest": [("name", 1, "string"), ("version", 2, "string")],
    "ModelConfigResponse": [("config", 1, "ModelConfig")],
    "StatisticDuration": [("count", 1, "uint64"), ("ns", 2, "uint64")],
    "InferStatistics": [
        ("success", 1, _TIMED),
        ("fail", 2, _TIMED),
        ("queue", 3, _TIMED),
        ("compute_input", 4, _TIMED),
        ("compute_infer", 5, _TIMED),
        ("compute_output", 6, _TIMED),
        ("cache_hit", 7, _TIMED),
        ("cache_miss", 8, _TIMED),
    ],
    "InferBatchStatistics": [
        ("batch_size", 1, "uint64"),
        ("compute_input", 2, _TIMED),
        ("compute_infer", 3, _TIMED),
        ("compute_output", 4, _TIMED),
    ],
    "ModelStatistics": [
        ("name", 1, "string"),
        ("version", 2, "string"),
        ("last_inference", 3, "uint64"),
        ("inference_count", 4, "uint64"),
        ("execution_count", 5, "uint64"),
        ("inference_stats", 6, "InferStatistics"),
        ("batch_stats", 7, "InferBatchStatistics*"),
    ],
    "ModelStatisticsRequest": [("name", 1, "string"), ("version", 2, "string")],
    "ModelStatisticsResponse": [("model_stats", 1, "ModelStatistics*")],
    "ModelRepositoryParameter": [
        ("bool_param", 1, "bool|"),
        ("int64_param", 2, "int64|"),
        ("string_param", 3, "string|"),
        ("bytes_param", 4, "bytes|"),
    ],
    "RepositoryIndexRequest": [("repository_name", 1, "string"), ("ready", 2, "bool")],
    "RepositoryIndexResponse": [("models", 1, "RepositoryIndexResponse.ModelIndex*")],
    "RepositoryIndexResponse.ModelIndex": [
        ("name", 1, "string"),
        ("version", 2, "string"),
        ("state", 3, "string"),
        ("reason", 4, "string"),
    ],
    "RepositoryModelLoadRequest": _CHANGE,
    "RepositoryModelLoadResponse": [("model_name", 1, "string"), ("isLoaded", 2, "bool")],
    "RepositoryModelUnloadRequest": _CHANGE,
    "RepositoryModelUnloadResponse": [("model_name", 1, "string"), ("isUnloaded", 2, "bool")],
}
"""Message → fields."""


@cache
def file() -> "FileDescriptorProto":
    """The protocol as a ``.proto`` file would say it, with its service; reflection hands it out."""
    methods = {SERVICE.rpartition(".")[2]: _METHODS}
    return described("towpath/open_inference.proto", "inference", _MESSAGES, methods, _ENUMS)


@cache
def messages() -> dict[str, Any]:
    """Message name → class, such as ``messages()["ModelInferRequest"]``."""
    return classes(file())


def classes(found: "FileDescriptorProto") -> dict[str, Any]:
    """The messages of a file, outermost ones only, by their names without the package; from a pool of their own."""
    from google.protobuf import descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    pool.Add(found)
    return {
        one.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{found.package}.{one.name}"))
        for one in found.message_type
    }


def described(
    name: str,
    package: str,
    messages: Mapping[str, Fields],
    services: Mapping[str, Mapping[str, Method]],
    enums: Mapping[str, Sequence[str]] = {},
) -> "FileDescriptorProto":
    """A file of messages, enums and services.

    Args:
        name: Of the file.
        package: What stands before each name.
        messages: Path (``Outer.Inner``) → fields; the outer one first.
        services: Service → method → what it takes and gives.
        enums: Path → names of the values, from 0.
    """
    from google.protobuf import descriptor_pb2

    made_file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
    made: dict[str, Any] = {}
    for path, fields in messages.items():
        outer, _, own = path.rpartition(".")
        message = made[outer].nested_type.add(name=own) if outer else made_file.message_type.add(name=own)
        made[path] = message
        for field, number, kind in fields:
            _add_field(message, (package, path), field, number, kind)
    for path, values in enums.items():
        outer, _, own = path.rpartition(".")
        enum = (made[outer] if outer else made_file).enum_type.add(name=own)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for service, methods in services.items():
        described_service = made_file.service.add(name=service)
        for method, one in methods.items():
            described_service.method.add(
                name=method,
                input_type=f".{package}.{one.request}",
                output_type=f".{package}.{one.response}",
                client_streaming=one.asks_often,
                server_streaming=one.answers_often,
            )
    return made_file


def _add_field(message: Any, place: tuple[str, str], name: str, number: int, kind: str) -> None:
    package, path = place
    kind, chosen, choice = kind.partition("|")
    if kind.startswith("map:"):
        entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        own = (package, f"{path}.{entry.name}")
        _add_field(entry, own, "key", 1, "string")
        _add_field(entry, own, "value", 2, kind[4:])
        kind = f"{own[1]}*"
    field = message.field.add(name=name, number=number)
    bare = kind.rstrip("*").removeprefix("enum:")
    field.label = field.LABEL_REPEATED if kind.endswith("*") else field.LABEL_OPTIONAL
    if bare[0].isupper():
        field.type = field.TYPE_ENUM if kind.startswith("enum:") else field.TYPE_MESSAGE
        field.type_name = f".{package}.{bare}"
    else:
        field.type = getattr(field, f"TYPE_{bare.upper()}")
    if chosen:
        if not message.oneof_decl:
            message.oneof_decl.add(name=choice or "parameter_choice")
        field.oneof_index = 0
