"""The pepper: a secret beside the store, without which what is stored of a key says nothing about it."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from towpath.errors import ProjectError
from towpath.settings import secret

__all__ = ["FILE", "make_pepper", "read_pepper"]

FILE = "pepper"
"""In the folder of keys, unless ``stores.pepper`` names another place."""
_LEAST_CHARACTERS = 16


def read_pepper(setting: str, keys: Path, folder: Path, variables: Mapping[str, str] | None = None) -> bytes:
    """The pepper of this machine; empty where it has none.

    Args:
        setting: ``stores.pepper``: empty, ``env:NAME`` or ``file:PATH``.
        keys: The folder of keys, where it lies unless the setting says otherwise.
        folder: What a relative path in the setting stands in.
        variables: The process environment unless given.

    Raises:
        ProjectError: The setting leads nowhere, or the pepper is too short to be one.
    """
    path = keys / FILE
    if setting:
        if not setting.startswith(("env:", "file:")):
            raise ProjectError(
                "The pepper itself stands in a setting.", "stores.pepper", "write env:NAME or file:PATH there"
            )
        text = secret(setting, folder, variables)
    elif not path.is_file():
        return b""
    else:
        try:
            text = path.read_text("ascii", errors="replace").strip()
        except OSError as error:
            raise ProjectError(f"The pepper cannot be read: {error.strerror}.", str(path), "check its rights") from None
    if len(text) < _LEAST_CHARACTERS:
        raise ProjectError(
            f"The pepper has {len(text)} characters, which anybody could guess (least {_LEAST_CHARACTERS}).",
            setting or str(path),
            "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one",
        )
    return text.encode()


def make_pepper(keys: Path) -> bytes:
    """The pepper in the folder of keys, made where there is none; readable by its owner alone.

    Raises:
        ProjectError: The folder cannot be written.
    """
    path = keys / FILE
    try:
        keys.mkdir(parents=True, exist_ok=True, mode=0o700)
        # written under another name and linked: of two that make one at once one wins, and no half pepper is ever read
        draft = keys / f".{FILE}.{os.getpid()}.{secrets.token_hex(4)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
            path.hardlink_to(draft)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    except OSError as error:
        raise ProjectError(
            f"The pepper cannot be written: {error.strerror}.", str(path), "check the rights of the folder"
        ) from error
    return read_pepper("", keys, keys)
