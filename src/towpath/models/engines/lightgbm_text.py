"""A LightGBM text model, read and proved sound before LightGBM sees it.

LightGBM parses trees within OpenMP: a fault there ends the whole process, and a child index out of range makes it read
wherever that points. So lengths, numbers and indices are checked here first (200 trees: about 10 ms).
"""

import json
import re
from typing import Any, NamedTuple

import numpy as np

from towpath.errors import FormatError

__all__ = ["Text", "read_text"]

_INTEGER, _FLOAT = r"-?\d+", r"-?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|inf|nan)"
_INTEGERS = re.compile(rf"{_INTEGER}(?: {_INTEGER})*")
_FLOATS = re.compile(rf"{_FLOAT}(?: {_FLOAT})*")
_WHOLE = frozenset({"split_feature", "decision_type", "left_child", "right_child", "leaf_count", "internal_count", "cat_boundaries", "cat_threshold", "num_leaves", "num_cat", "is_linear"})  # fmt: skip
_PER_SPLIT = frozenset({"split_feature", "split_gain", "threshold", "decision_type", "left_child", "right_child", "internal_value", "internal_weight", "internal_count"})  # fmt: skip
_PER_LEAF = frozenset({"leaf_value", "leaf_weight", "leaf_count"})
_OF_TREE = frozenset({"num_leaves", "num_cat", "is_linear", "shrinkage"})
_OF_CATEGORIES = frozenset({"cat_boundaries", "cat_threshold"})
_MOST_LEAVES = 1_000_000


class Text(NamedTuple):
    """What the head of the file says."""

    names: tuple[str, ...]
    """Features in the order of the model."""
    levels: dict[str, tuple[str, ...]]
    """Category levels that pandas knew."""
    classes: int
    """Outputs per row."""
    objective: str
    """Its first word, such as ``regression``."""


def read_text(text: str, where: str, *, proved: bool = False) -> Text:
    """Read the head and prove the trees.

    Args:
        text: The whole file.
        where: For the error.
        proved: Whether the bytes are known to be what LightGBM wrote (a version's digest), so that the head is enough.

    Raises:
        FormatError: It is cut off, or a tree is not sound.
    """
    head_text, _, rest = text.partition("\nTree=0\n")
    head = _fields(head_text)
    body, end, tail = rest.partition("end of trees")
    if not end or "feature_names" not in head:
        raise _damaged(where, f"{len(text):,} characters without {'a head' if end else 'end of trees'}")
    names = tuple(head["feature_names"].split())
    infos = head.get("feature_infos", "").split()
    try:
        classes = int(head.get("num_class", "1"))
        per_round = int(head.get("num_tree_per_iteration", "1"))
        if int(head.get("max_feature_idx", "-1")) != len(names) - 1 or len(infos) != len(names):
            raise ValueError(f"{len(names)} names, {len(infos)} descriptions of features")
        trees = body.rstrip("\n").split("\nTree=")
        if per_round != max(classes, 1) or len(trees) % per_round:
            raise ValueError(f"{len(trees)} trees for {classes} classes")
        if not proved:
            _prove_places(head.get("tree_sizes", ""), "Tree=0\n" + body + end)
            for number, tree in enumerate(trees):
                _prove(tree, number, len(names))
    except (ValueError, KeyError, IndexError, OverflowError) as fault:
        raise _damaged(where, str(fault)) from None
    return Text(names, _levels(tail, names, infos), classes, head.get("objective", "").split(" ")[0])


def _prove_places(sizes: str, body: str) -> None:
    """LightGBM jumps to where the head says that a tree begins."""
    at = 0
    for number, size in enumerate(sizes.split()):
        if not body.startswith(f"Tree={number}\n", at):
            raise ValueError(f"tree {number} does not begin where the head says")
        at += int(size)
    if sizes and not body.startswith("end of trees", at):
        raise ValueError("the last tree does not end where the head says")


def _prove(tree: str, number: int, features: int) -> None:
    """Raise a ValueError where LightGBM would read outside of the tree, or go round in circles."""
    lines = tree.split("\n")
    if number and lines[0] != str(number):
        raise ValueError(f"tree {number} is headed '{lines[0][:20]}'")
    fields = _fields(tree)
    leaves = int(fields["num_leaves"])
    if not 1 <= leaves <= _MOST_LEAVES:
        raise ValueError(f"tree {number} has {leaves} leaves")
    if int(fields.get("is_linear", "0")):
        raise ValueError(f"tree {number} has linear leaves, which are not read from a bare file yet")
    missing = ({"num_leaves", "num_cat", "leaf_value"} | (_PER_SPLIT if leaves > 1 else set())) - fields.keys()
    if missing:
        raise ValueError(f"tree {number} has no {min(missing)}")
    for name, values in fields.items():
        many = leaves if name in _PER_LEAF else leaves - 1 if name in _PER_SPLIT else 1 if name in _OF_TREE else None
        if many is None and name not in _OF_CATEGORIES:
            raise ValueError(f"tree {number} has an unknown '{name[:20]}'")
        if not values and (leaves == 1 or name in {"leaf_weight", "leaf_count"}):
            continue  # a tree that is one leaf leaves them empty
        if not (_INTEGERS if name in _WHOLE else _FLOATS).fullmatch(values):
            raise ValueError(f"tree {number} has something that is no number in {name}")
        if many is not None and values.count(" ") != many - 1:
            raise ValueError(f"tree {number} has {values.count(' ') + 1} of {many} values in {name}")
    if leaves > 1:
        _in_range(fields, number, leaves, features)
        _prove_categories(fields, number)


def _in_range(fields: dict[str, str], number: int, leaves: int, features: int) -> None:
    splits = np.arange(leaves - 1)
    split = np.array(fields["split_feature"].split(), dtype=np.int64)
    if split.min() < 0 or split.max() >= features:
        raise ValueError(f"tree {number} splits on feature {split.max()} of {features}")
    for side in ("left_child", "right_child"):
        child = np.array(fields[side].split(), dtype=np.int64)
        # A split is numbered after the one that it grew from, so a walk down always ends; leaf k is written as ~k
        if child.max() >= leaves - 1 or child.min() < -leaves or ((child >= 0) & (child <= splits)).any():
            raise ValueError(f"tree {number} has a {side} out of range")


def _prove_categories(fields: dict[str, str], number: int) -> None:
    """A split by category names a range of a bitmap."""
    categories = int(fields.get("num_cat", "0"))
    decisions = np.array(fields["decision_type"].split(), dtype=np.int64)
    thresholds = np.array(fields["threshold"].split(), dtype=np.float64)[(decisions & 1) == 1]
    if not categories:
        if len(thresholds):
            raise ValueError(f"tree {number} splits by category and has none")
        return
    bounds = np.array(fields["cat_boundaries"].split(), dtype=np.int64)
    bits = np.array(fields["cat_threshold"].split(), dtype=np.int64)
    sound = len(bounds) == categories + 1 and bounds[0] == 0 and (np.diff(bounds) > 0).all() and bounds[-1] == len(bits)
    if not sound or bits.min() < 0 or bits.max() >= 2**32:
        raise ValueError(f"tree {number} has damaged categories")
    if len(thresholds) and (thresholds.min() < 0 or thresholds.max() >= categories):
        raise ValueError(f"tree {number} splits by category {thresholds.max():g} of {categories}")


def _fields(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.split("\n") if "=" in line)


def _levels(tail: str, names: tuple[str, ...], infos: list[str]) -> dict[str, tuple[str, ...]]:
    """Category levels from the last line of the file, in the order of the columns that are categorical."""
    _, found, line = tail.rpartition("\npandas_categorical:")
    try:
        lists: Any = json.loads(line) if found else None
    except ValueError:
        return {}
    categorical = [name for name, info in zip(names, infos, strict=True) if not info.startswith("[") and info != "none"]
    if not lists or len(lists) != len(categorical):
        return {}
    return {name: tuple(str(level) for level in levels) for name, levels in zip(categorical, lists, strict=True)}


def _damaged(where: str, found: str) -> FormatError:
    return FormatError(
        f"a LightGBM text model that is damaged or cut off: {found}.",
        where=where,
        mend="write it again with booster.save_model(path)",
    )
