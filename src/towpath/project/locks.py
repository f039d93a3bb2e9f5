"""A lock beside a model: the file that says, with hashes, on which packages it is trained and served."""

import re
from pathlib import Path

__all__ = ["LOCKS", "MEND", "lacking", "lock_beside"]

LOCKS = ("pylock.toml", "requirements.lock")
"""Names of a lock beside ``model.py``; the first that is there counts."""
MEND = "uv pip compile --generate-hashes requirements.in -o requirements.lock, with msgspec, numpy and pyarrow in it"
"""How one is written."""
_NEEDED = {
    "msgspec": "the process is asked through it",
    "numpy": "the process is asked through it",
    "pyarrow": "training reads its rows through it",
}
"""What our own code needs of an environment, and why; Towpath itself it gets from us."""


def lacking(name: str, lock: bytes, *, training: bool = False) -> str:
    """What is wrong with a lock, in one sentence; empty where nothing is.

    Args:
        name: Of the file.
        lock: Its bytes.
        training: Whether a model shall be trained in it, too.

    Example:
        >>> lacking("requirements.lock", b"numpy==2.1.0 --hash=sha256:00")
        'it does not hold msgspec (the process is asked through it)'
    """
    text = lock.decode("utf-8", "replace")
    if name.endswith(".toml"):
        held = set(re.findall(r'^name\s*=\s*"([^"]+)"', text, re.MULTILINE))
    else:
        joined = re.sub(r"\\\s*\n", " ", text)
        lines = [
            line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith(("#", "-"))
        ]
        bare = [line.split()[0] for line in lines if "--hash=" not in line]
        if bare:
            return f"'{bare[0]}' has no hash"
        held = {re.split(r"[=<>!~;\[ @]", line, maxsplit=1)[0].lower().replace("_", "-") for line in lines}
    wanted = [package for package in _NEEDED if training or package != "pyarrow"]
    missing = [package for package in wanted if package not in held]
    return f"it does not hold {missing[0]} ({_NEEDED[missing[0]]})" if missing else ""


def lock_beside(folder: Path) -> Path | None:
    """The lock that lies in a model's folder; None where it has none."""
    return next((folder / name for name in LOCKS if (folder / name).is_file()), None)
