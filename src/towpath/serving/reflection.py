"""Server reflection: what this server speaks, so that grpcurl and its like need no .proto file.

Source:
    gRPC, "GRPC Server Reflection Protocol"; ``v1`` and the older ``v1alpha`` differ in their names only.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from towpath.apart.protocol import Method, classes, described
from towpath.errors import InputError

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

__all__ = ["PACKAGES", "ReflectionService", "file"]

PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
_NOT_FOUND = 5
_ASKED = "|message_request"
_TOLD = "|message_response"


@cache
def file(package: str) -> "FileDescriptorProto":
    """The protocol in one of its two packages, with its service."""
    return described(
        f"towpath/{package.rpartition('.')[2]}/reflection.proto",
        package,
        {
            "ExtensionRequest": [("containing_type", 1, "string"), ("extension_number", 2, "int32")],
            "ServerReflectionRequest": [
                ("host", 1, "string"),
                ("file_by_filename", 3, f"string{_ASKED}"),
                ("file_containing_symbol", 4, f"string{_ASKED}"),
                ("file_containing_extension", 5, f"ExtensionRequest{_ASKED}"),
                ("all_extension_numbers_of_type", 6, f"string{_ASKED}"),
                ("list_services", 7, f"string{_ASKED}"),
            ],
            "FileDescriptorResponse": [("file_descriptor_proto", 1, "bytes*")],
            "ExtensionNumberResponse": [("base_type_name", 1, "string"), ("extension_number", 2, "int32*")],
            "ServiceResponse": [("name", 1, "string")],
            "ListServiceResponse": [("service", 1, "ServiceResponse*")],
            "ErrorResponse": [("error_code", 1, "int32"), ("error_message", 2, "string")],
            "ServerReflectionResponse": [
                ("valid_host", 1, "string"),
                ("original_request", 2, "ServerReflectionRequest"),
                ("file_descriptor_response", 4, f"FileDescriptorResponse{_TOLD}"),
                ("all_extension_numbers_response", 5, f"ExtensionNumberResponse{_TOLD}"),
                ("list_services_response", 6, f"ListServiceResponse{_TOLD}"),
                ("error_response", 7, f"ErrorResponse{_TOLD}"),
            ],
        },
        {
            "ServerReflection": {
                "ServerReflectionInfo": Method(
                    "ServerReflectionRequest", "ServerReflectionResponse", asks_often=True, answers_often=True
                )
            }
        },
    )


class ReflectionService:
    """Answers in one of the two packages.

    Args:
        package: Of `PACKAGES`.
        files: What the server speaks.
    """

    def __init__(self, package: str, files: Sequence["FileDescriptorProto"]) -> None:
        self._response: Any = classes(file(package))["ServerReflectionResponse"]
        self._services = sorted(f"{one.package}.{service.name}" for one in files for service in one.service)
        self._files: Mapping[str, bytes] = {one.name: one.SerializeToString() for one in files}
        self._symbols = {name: one.name for one in files for name in _names(one)}

    async def info(self, requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
        """One answer for each question."""
        async for request in requests:
            yield self.answer(request)

    def answer(self, request: Any) -> Any:
        """One answer.

        Raises:
            InputError: It asks nothing.
        """
        response = self._response(valid_host=request.host)
        response.original_request.ParseFromString(request.SerializeToString())
        asked = request.WhichOneof("message_request")
        if asked is None:
            raise InputError("The request of reflection asks nothing.", mend="set list_services or another field")
        value: Any = getattr(request, asked)
        if asked == "list_services":
            for name in self._services:
                response.list_services_response.service.add(name=name)
            return response
        if asked == "all_extension_numbers_of_type" and value in self._symbols:
            response.all_extension_numbers_response.base_type_name = value
            return response
        name = self._symbols.get(value, "") if asked == "file_containing_symbol" else value
        found = self._files.get(name) if isinstance(name, str) else None
        if found is None:
            response.error_response.error_code = _NOT_FOUND
            response.error_response.error_message = f"There is nothing called '{value}' here.".replace("\n", " ")
        else:
            response.file_descriptor_response.file_descriptor_proto.append(found)
        return response


def _names(one: "FileDescriptorProto") -> Iterator[str]:
    """What can be asked for by name: services, methods, messages and enums, nested ones too."""
    for service in one.service:
        yield f"{one.package}.{service.name}"
        for method in service.method:
            yield f"{one.package}.{service.name}.{method.name}"
    yield from (f"{one.package}.{enum.name}" for enum in one.enum_type)
    yield from _nested(one.package, one.message_type)


def _nested(outer: str, messages: Iterable[Any]) -> Iterator[str]:
    for message in messages:
        path = f"{outer}.{message.name}"
        yield path
        yield from (f"{path}.{enum.name}" for enum in message.enum_type)
        yield from _nested(path, message.nested_type)
