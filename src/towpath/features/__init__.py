"""Feature views: what was known at the time for training, what is newest for serving, and both agree."""

from towpath.features.appended import appended_by, with_computed
from towpath.features.build import Built, build
from towpath.features.builds import rows_table, write_rows
from towpath.features.difference import Difference, FeatureDifference, Pair, difference
from towpath.features.due import Due, counted, due, snapshot_digest
from towpath.features.forms import Change, Form, change, placed, record, recorded, view_of_form
from towpath.features.keys import entity_key, key_bytes, key_part
from towpath.features.lock import FeatureColumn, FeatureLock, OnDemandInputLock, OnDemandLock
from towpath.features.on_demand import Computed, OnDemand, Split, compute, lock_on_demand, split
from towpath.features.online import OnlineReader, OnlineRows
from towpath.features.push import PushedRow, RefusedRow, RowForm
from towpath.features.training_manifest import FunctionRead, TrainingSetManifest, ViewRead, manifest_of, with_manifest
from towpath.features.training_set import training_set, with_defaults, write_training_set
from towpath.features.views import View, describe, features_by_view, lock, view_of_lock

__all__ = [
    "appended_by",
    "with_computed",
    "split",
    "lock_on_demand",
    "compute",
    "Split",
    "OnDemandLock",
    "OnDemandInputLock",
    "OnDemand",
    "Computed",
    "Built",
    "Change",
    "Difference",
    "Due",
    "FeatureColumn",
    "FeatureDifference",
    "FeatureLock",
    "Form",
    "OnlineReader",
    "OnlineRows",
    "Pair",
    "PushedRow",
    "RefusedRow",
    "RowForm",
    "FunctionRead",
    "TrainingSetManifest",
    "View",
    "ViewRead",
    "build",
    "change",
    "counted",
    "describe",
    "difference",
    "due",
    "entity_key",
    "features_by_view",
    "key_bytes",
    "key_part",
    "lock",
    "manifest_of",
    "placed",
    "record",
    "recorded",
    "rows_table",
    "snapshot_digest",
    "training_set",
    "view_of_form",
    "view_of_lock",
    "with_defaults",
    "with_manifest",
    "write_rows",
    "write_training_set",
]
