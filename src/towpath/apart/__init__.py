"""Models in processes of their own: without our variables, in their own environment, ended where they hang or crash."""

from towpath.apart.due import due
from towpath.apart.environments import find_uv
from towpath.apart.loading import PICKLES, is_apart, open_file, open_version
from towpath.apart.model import Apart, DiedError, LateError
from towpath.apart.remote import Remote

__all__ = [
    "PICKLES",
    "Apart",
    "DiedError",
    "LateError",
    "Remote",
    "due",
    "find_uv",
    "is_apart",
    "open_file",
    "open_version",
]
