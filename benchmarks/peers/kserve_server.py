"""The KServe SDK's custom predictor, as its users write it; run in an environment that has it, with ``MODEL``, ``PORT`` and ``GRPC_PORT``."""

import os

import lightgbm
import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Points(Model):
    """One booster."""

    def __init__(self) -> None:
        super().__init__("points")
        self.booster = lightgbm.Booster(model_file=os.environ["MODEL"])
        self.ready = True

    def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
        """Tensors in, tensors out."""
        del headers
        rows = payload.inputs[0].as_numpy()
        found = np.asarray(self.booster.predict(rows, num_threads=1))
        output = InferOutput(name="predict", shape=list(found.shape), datatype="FP64", data=found.tolist())
        return InferResponse(response_id=payload.id or "1", model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    port, grpc = int(os.environ["PORT"]), int(os.environ["GRPC_PORT"])
    ModelServer(http_port=port, grpc_port=grpc, workers=1, access_log_format=None).start([Points()])
