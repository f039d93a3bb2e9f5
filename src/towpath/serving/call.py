"""A call to a running server over gRPC, for the demo and for people who look: messages stay in the private pool."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from towpath.apart.protocol import messages
from towpath.errors import UnavailableError

__all__ = ["infer_over_grpc"]


def infer_over_grpc(
    address: str, model: str, inputs: Mapping[str, Sequence[float] | Sequence[str]], *, timeout_s: float = 5.0
) -> dict[str, Any]:
    """Ask one model over gRPC (Open Inference Protocol) and give predictions and what Towpath says of them.

    Args:
        address: ``127.0.0.1:8081``.
        model: Its name.
        inputs: Column → one value a row, all numbers or all texts.
        timeout_s: The call's deadline, which the server keeps too.

    Returns:
        ``predictions``, and ``towpath``: source, reason, version … as in ``parameters.towpath``.

    Raises:
        UnavailableError: The server cannot be reached or refuses.
    """
    import grpc

    kinds = messages()
    request = kinds["ModelInferRequest"](model_name=model)
    for name, values in inputs.items():
        tensor = request.inputs.add(name=name, shape=[len(values)])
        if values and isinstance(values[0], str):
            tensor.datatype = "BYTES"
            tensor.contents.bytes_contents.extend(str(value).encode() for value in values)
        else:
            tensor.datatype = "FP64"
            tensor.contents.fp64_contents.extend(float(value) for value in values)
    try:
        with grpc.insecure_channel(address) as channel:
            ask = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=kinds["ModelInferRequest"].SerializeToString,
                response_deserializer=kinds["ModelInferResponse"].FromString,
            )
            answer = ask(request, timeout=timeout_s)
    except grpc.RpcError as error:
        raise UnavailableError(f"gRPC call to '{model}' failed: {error.details()}", address) from error
    said = answer.parameters["towpath"].string_param if "towpath" in answer.parameters else "{}"
    return {
        "predictions": list(answer.outputs[0].contents.fp64_contents) if answer.outputs else [],
        "towpath": msgspec.json.decode(said.encode()),
    }
