"""How likely a booking is to be cancelled: boosted trees, and the segment's own share where they cannot answer."""

import lightgbm as lgb
import numpy as np
import pandas as pd


def train(data) -> lgb.Booster:
    """Fit the log loss; the gate asks for the Brier score, which a certainty that was wrong does not rule alone."""
    settings = {
        "objective": "binary",
        "learning_rate": data.parameters["learning_rate"],
        "num_leaves": data.parameters["num_leaves"],
        "min_data_in_leaf": data.parameters["least_rows"],
        "seed": data.seed,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": 1,
        "verbose": -1,
    }
    rows = lgb.Dataset(data.pandas.features, data.pandas.label)
    return lgb.train(settings, rows, num_boost_round=int(data.parameters["trees"]))


def predict(model: lgb.Booster, rows: pd.DataFrame) -> np.ndarray:
    """The probability of a cancellation."""
    return model.predict(rows)


def segment_share(rows: pd.DataFrame) -> np.ndarray:
    """What a person would say: the share that this segment of this hotel had in the last year."""
    return rows["segment_history.cancelled_share_365d"].to_numpy(dtype=float)
