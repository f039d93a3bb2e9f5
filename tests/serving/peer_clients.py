"""What KServe's and MLflow's own clients see of a server; run by `test_peers` in an environment that has them.

``python peer_clients.py HTTP_PORT GRPC_PORT ORDER`` asks the model ``demand``, which adds up ``a`` and ``b``, and prints JSON.
"""

import asyncio
import json
import sys
from typing import Any


async def kserve(http_port: int, grpc_port: int) -> dict[str, Any]:
    """Both of its inference clients."""
    import numpy as np
    from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

    def request(binary: bool) -> Any:
        inputs = []
        for name, values in (("a", [1.0, 2.0]), ("b", [3.0, 4.0])):
            one = InferInput(name=name, shape=[2], datatype="FP64")
            one.set_data_from_numpy(np.array(values), binary_data=binary)
            inputs.append(one)
        return InferRequest(model_name="demand", infer_inputs=inputs, request_id="k1")

    found: dict[str, Any] = {}
    rest = InferenceRESTClient(RESTConfig(protocol="v2", timeout=20))
    url = f"http://127.0.0.1:{http_port}"
    found["rest live"] = await rest.is_server_live(url)
    found["rest ready"] = await rest.is_server_ready(url)
    found["rest model ready"] = await rest.is_model_ready(url, "demand")
    for binary in (False, True):
        answer = await rest.infer(url, request(binary), model_name="demand")
        found[f"rest {'binary' if binary else 'json'}"] = answer.outputs[0].as_numpy().tolist()
        found["rest id"] = answer.id
    async with InferenceGRPCClient(f"127.0.0.1:{grpc_port}") as typed:
        found["grpc live"] = await typed.is_server_live()
        found["grpc ready"] = await typed.is_server_ready()
        found["grpc model ready"] = await typed.is_model_ready("demand")
        for binary in (False, True):
            answer = await typed.infer(request(binary))
            found[f"grpc {'raw' if binary else 'typed'}"] = answer.outputs[0].as_numpy().tolist()
    return found


def repository(grpc_port: int) -> dict[str, Any]:
    """KServe's messages of load and unload have the model's name where Triton's have the repository's."""
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        stub = services.GRPCInferenceServiceStub(channel)
        loaded = stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="demand"))
    return {"loaded": [loaded.model_name, loaded.isLoaded]}


def mlflow(http_port: int) -> dict[str, Any]:
    """Its scoring client."""
    import pandas as pd
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    client = ScoringServerClient("127.0.0.1", http_port)
    client.wait_server_ready(timeout=20)
    client.ping()
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    found = {"version": client.get_version(), "frame": client.invoke(frame).get_predictions().iloc[:, 0].tolist()}
    records = [{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 4.0}]
    found["records"] = client.invoke(records).get_predictions().iloc[:, 0].tolist()
    found["matrix"] = client.invoke([[1.0, 3.0], [2.0, 4.0]]).get_predictions().iloc[:, 0].tolist()
    return found


def beside_each_other() -> str:
    """KServe's messages and ours in this process; KServe's and Triton's refuse each other, whoever else is there."""
    import kserve.protocol.grpc.grpc_predict_v2_pb2

    from towpath.apart import protocol
    from towpath.serving import health, reflection

    made = [
        protocol.classes(one) for one in (protocol.file(), health.file(), *map(reflection.file, reflection.PACKAGES))
    ]
    theirs = kserve.protocol.grpc.grpc_predict_v2_pb2.ModelInferRequest(model_name="m")
    ours = made[0]["ModelInferRequest"].FromString(theirs.SerializeToString())
    return ours.model_name


if __name__ == "__main__":
    http_port, grpc_port, order = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    told: dict[str, Any] = {}
    if order == "towpath first":
        import towpath.apart.protocol

        towpath.apart.protocol.messages()
    told["kserve"] = asyncio.run(kserve(http_port, grpc_port))
    told["repository"] = repository(grpc_port)
    told["mlflow"] = mlflow(http_port)
    told["beside"] = beside_each_other()
    print(json.dumps(told))
