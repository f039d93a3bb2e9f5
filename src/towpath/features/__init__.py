"""Feature views: what was known at the time for training, what is newest for serving, and both agree."""

from towpath.features.build import Built, build
from towpath.features.keys import entity_key, key_bytes, key_part
from towpath.features.lock import FeatureColumn, FeatureLock
from towpath.features.online import OnlineReader, OnlineRows
from towpath.features.push import PushedRow, RefusedRow, RowForm
from towpath.features.training_set import training_set, with_defaults
from towpath.features.views import View, describe, features_by_view, lock, view_of_lock

__all__ = [
    "Built",
    "FeatureColumn",
    "FeatureLock",
    "OnlineReader",
    "OnlineRows",
    "PushedRow",
    "RefusedRow",
    "RowForm",
    "View",
    "build",
    "describe",
    "entity_key",
    "features_by_view",
    "key_bytes",
    "key_part",
    "lock",
    "training_set",
    "view_of_lock",
    "with_defaults",
]
