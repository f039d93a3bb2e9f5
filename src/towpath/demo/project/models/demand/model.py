"""Units that an item sells in the next 7 days: trees that correct the recent mean, and that mean as the fallback."""

import lightgbm as lgb
import numpy as np
import pandas as pd


def train(data):
    """Fit the factor by which the next week differs from the recent mean, so that large and small items share what is learnt.

    The objective is Poisson's: sales are counts, and a count's spread grows with its mean.
    """
    features = data.pandas.features
    settings = {"objective": "poisson", "verbose": -1, "seed": data.seed, "deterministic": True, "force_col_wise": True}
    settings["num_threads"] = 1  # two threads that share their cores with others took forty times as long
    settings |= {name: data.parameters[name] for name in ("learning_rate", "num_leaves", "min_data_in_leaf")}
    rows = lgb.Dataset(features, data.pandas.label, init_score=_log_mean(features))
    return lgb.train(settings, rows, num_boost_round=data.parameters["trees"])


def predict(model, rows: pd.DataFrame) -> np.ndarray:
    """Units in the next 7 days."""
    return np.exp(_log_mean(rows) + model.predict(rows, raw_score=True))


def recent_mean(rows: pd.DataFrame) -> np.ndarray:
    """What a person would say: a quarter of the last four weeks; no answer for an item without a past."""
    return rows["sales_windows.units_28d"].to_numpy(dtype=float) / 4


def _log_mean(rows: pd.DataFrame) -> np.ndarray:
    return np.log(recent_mean(rows) + 0.5)  # half a unit, so that an item that sold nothing has a logarithm
