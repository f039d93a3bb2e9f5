"""The reference: the route that an engineer writes by hand in an afternoon, as `def` and as `async def`.

Run by the benchmarks with ``MODEL`` naming the file: ``uvicorn routes:app --app-dir benchmarks``.
"""

import os
import pickle
from pathlib import Path

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

MODEL = Path(os.environ["MODEL"])

if MODEL.suffix == ".txt":
    import lightgbm

    booster = lightgbm.Booster(model_file=str(MODEL))

    def predict(rows: np.ndarray) -> np.ndarray:
        return booster.predict(rows, num_threads=1)

elif MODEL.suffix == ".onnx":
    import onnxruntime

    session = onnxruntime.InferenceSession(str(MODEL))
    name = session.get_inputs()[0].name

    def predict(rows: np.ndarray) -> np.ndarray:
        return session.run(None, {name: rows.astype(np.float32)})[0]

else:
    forest = pickle.loads(MODEL.read_bytes())

    def predict(rows: np.ndarray) -> np.ndarray:
        return forest.predict(rows)


app = FastAPI()


class Rows(BaseModel):
    """One list of floats a row."""

    instances: list[list[float]]


@app.post("/predict")
def predict_in_a_thread(body: Rows) -> dict[str, list[float]]:
    """How most people write it."""
    return {"predictions": np.asarray(predict(np.array(body.instances))).ravel().tolist()}


@app.post("/predict_async")
async def predict_in_the_loop(body: Rows) -> dict[str, list[float]]:
    """How it is written for speed; a slow model then blocks everything."""
    return {"predictions": np.asarray(predict(np.array(body.instances))).ravel().tolist()}
