"""Begins a project: a small one that runs at once, in plain files that say what they are."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyarrow has no types.

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from towpath.clock import Clock
from towpath.errors import InputError, ProjectError
from towpath.types import Name

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["Answers", "init", "sales", "toml_string"]

_TEMPLATE = Path(__file__).parent / "template"
_SALES = "warehouse/shop/sales.parquet"
_WELCOME = {"README.md", "LICENSE", "pyproject.toml", "uv.lock"}
"""May lie in the folder already, and stay as they are."""
_ITEMS, _DAYS = 24, 112


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What ``tow init`` asks."""

    name: str
    """Of the project, unique in the fleet."""
    team: str = "unknown"
    """Who answers for the project."""
    owner: str = ""
    """Who answers for the model; the team unless given."""
    decision: str = "how many units to order per item and week"
    """What is decided with the answer."""
    process: str = "the nightly ordering run"
    """In which process the decision is made."""
    integrator: str = ""
    """Who builds the caller."""
    analyst: str = ""
    """Who measures whether it works."""
    stop_when: str = "it is no better than last week's sales for 8 weeks"
    """What would make us switch it off."""


def init(folder: Path | str, answers: Answers, *, clock: Clock) -> list[str]:
    """Write a commented project that runs at once: a view, a model, a metric, a monitor, and a made-up table.

    A project that is there already stays as it is; one whose writing was interrupted is completed.

    Args:
        folder: Is made where it does not exist.
        answers: Name, team and charter.
        clock: The made-up sales end yesterday.

    Returns:
        The files written, relative to the folder; none where a project was there already.

    Raises:
        InputError: The name is no name.
        ProjectError: The folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    try:
        msgspec.convert(answers.name, Name)
    except msgspec.ValidationError:
        mend = "lower case letters, digits and underscores, a letter first, at most 63"
        raise InputError(f"'{answers.name}' cannot name a project.", mend=mend) from None
    files = _files(answers)
    try:
        if (folder / "towpath.toml").exists():
            return []
        _refuse_foreign(folder, {*files, _SALES})
        return _written(folder, files, clock)
    except OSError as error:
        where = str(error.filename or folder)
        raise ProjectError(
            f"The project cannot be written: {error.strerror}.", where, "check the path and its rights"
        ) from error


def sales(until: date, rng: "np.random.Generator") -> "pa.Table":
    """Make up what a small shop sold: 24 items over 112 days, quieter at the start of the week.

    Args:
        until: The first day that is not sold any more.
        rng: Chance.

    Returns:
        ``item_id``, ``day``, ``units``, ``price_eur`` and ``landed_at`` (UTC, two hours after the day), a row per item and day.

    Example:
        >>> import numpy as np
        >>> sales(date(2026, 3, 1), np.random.default_rng(7)).num_rows
        2688
    """
    import numpy as np
    import pyarrow as pa

    days = np.arange(np.datetime64(until) - np.timedelta64(_DAYS, "D"), np.datetime64(until))
    weekday = (days.astype(int) + 3) % 7  # 1970-01-01 was a Thursday; 0 is Monday
    week = np.array([0.7, 0.8, 0.9, 1.0, 1.3, 1.5, 0.8])
    rate = np.exp(rng.normal(1.3, 0.6, _ITEMS))
    price = np.round(np.exp(rng.normal(1.1, 0.6, _ITEMS)), 2)
    units = rng.poisson(rate[:, None] * week[weekday][None, :])
    landed = days.astype("datetime64[us]") + np.timedelta64(26, "h")
    return pa.table(
        {
            "item_id": np.repeat([f"item_{i + 1:02}" for i in range(_ITEMS)], _DAYS),
            "day": pa.array(np.tile(days, _ITEMS), pa.date32()),
            "units": units.ravel().astype(np.int64),
            "price_eur": np.repeat(price, _DAYS),
            "landed_at": pa.array(np.tile(landed, _ITEMS), pa.timestamp("us", "UTC")),
        }
    )


def _files(answers: Answers) -> dict[str, bytes]:
    """Path → bytes of the template, with the answers put in; ``towpath.toml`` last, so that it says *whole*."""
    said = msgspec.structs.asdict(answers) | {"owner": answers.owner or answers.team}
    files: dict[str, bytes] = {}
    for path in sorted(path for path in _TEMPLATE.rglob("*") if path.is_file()):
        # A model.py of the template is no module of ours, hence .in.
        name = path.relative_to(_TEMPLATE).as_posix().removesuffix(".in")
        text = path.read_text("utf-8")
        for key, value in said.items():
            text = text.replace(f'"@{key}@"', toml_string(value)).replace(f"@{key}@", value)
        files[".gitignore" if name == "gitignore" else name] = text.encode()
    return {name: files[name] for name in sorted(files, key=lambda name: (name == "towpath.toml", name))}


def toml_string(text: str) -> str:
    r"""Write a text as TOML does; JSON escapes the same, but for DEL.

    Example:
        >>> toml_string('say "no"')
        '"say \\"no\\""'
    """
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


def _refuse_foreign(folder: Path, ours: set[str]) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ProjectError(f"'{folder}' is a file.", str(folder), "name a folder")
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    foreign = sorted(
        path.as_posix()
        for path in files
        if path.as_posix() not in {*ours, *_WELCOME}
        and not any(part.startswith((".", "__pycache__")) for part in path.parts)
    )
    if foreign:
        raise ProjectError(
            f"'{folder}' is not empty and no Towpath project: it holds '{foreign[0]}'.",
            str(folder),
            "name a new folder",
        )


def _written(folder: Path, files: dict[str, bytes], clock: Clock) -> list[str]:
    import numpy as np
    import pyarrow.parquet as pq

    written: list[str] = []
    for name in [_SALES, *files]:
        path = folder / name
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.unfinished")
        if name == _SALES:
            pq.write_table(sales(clock.now().date(), np.random.default_rng(7)), unfinished)
        else:
            unfinished.write_bytes(files[name])
        unfinished.replace(path)
        written.append(name)
    return written
