"""Units that an item sells in the next 7 days: trees on the log of demand, and the recent mean where they cannot answer."""

import lightgbm as lgb
import numpy as np
import pandas as pd


def train(data):
    """Fit Poisson trees; sales are counts, and a count's spread grows with its mean."""
    features = data.pandas.features
    settings = {"objective": "poisson", "verbose": -1, "seed": data.seed, "force_col_wise": True, "deterministic": True, "num_threads": 1}
    settings |= {name: data.parameters[name] for name in ("learning_rate", "num_leaves", "min_data_in_leaf")}
    return lgb.train(settings, lgb.Dataset(features, data.pandas.label), num_boost_round=data.parameters["trees"])


def predict(model, rows: pd.DataFrame) -> np.ndarray:
    """Units in the next 7 days, never below 0."""
    return np.maximum(model.predict(rows), 0.0)


def recent_mean(rows: pd.DataFrame) -> np.ndarray:
    """What a person would say: a quarter of the last four weeks; no answer for an item without a past."""
    return rows["sales_windows.units_28d"].to_numpy(dtype=float) / 4
