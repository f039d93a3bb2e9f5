"""A BentoML service, as its users write it; run in an environment that has it, with ``MODEL``."""

import os

import bentoml
import lightgbm
import numpy as np


@bentoml.service(workers=1)
class Points:
    """One booster."""

    def __init__(self) -> None:
        self.booster = lightgbm.Booster(model_file=os.environ["MODEL"])

    @bentoml.api
    def predict(self, rows: list[list[float]]) -> list[float]:
        """Lists in, a list out."""
        return np.asarray(self.booster.predict(np.array(rows), num_threads=1)).tolist()
