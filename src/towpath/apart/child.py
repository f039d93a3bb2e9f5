"""The process of one model: reads questions from the socket that it was born with, answers them one after the other.

It is started with the number of the socket, its parent's process number and a limit of private data in bytes (0 for none). The limit, the
end together with its parent, and no core dumps are the first things that it sees to.
"""

import contextlib
import ctypes
import gc
import importlib
import logging
import os
import resource
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from towpath.apart.wire import Channel, Fault, Loaded, Message, Opening, columns_of, parts_of
from towpath.errors import ModelError, TowpathError
from towpath.models.containers import container
from towpath.models.loading import load_file, load_functions, load_version
from towpath.models.model import Model
from towpath.models.pickles import imports_of, refuse_hostile

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_LINUX = sys.platform == "linux"


class _Warnings(logging.Handler):
    """Keeps what our own rooms warn of, for the log of whoever started us: what is printed here may not be shown there."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def __enter__(self) -> Self:
        logging.getLogger("towpath").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("towpath").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


class _Process:
    """One model, or what is needed until it is loaded."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._model: Model | None = None
        self._told: Counter[str] = Counter()
        manifest = opening.manifest
        if manifest is not None:
            self._functions = load_functions(manifest, Path(opening.path), "it was not loaded yet")
            self._names = tuple(field.name for field in manifest.signature.inputs)
        else:
            self._functions = None
        for module in _needed(opening):
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
        if manifest is not None:
            with contextlib.suppress(Exception):  # what it cannot hand over it says when it is asked
                container({field.name: np.empty(0) for field in manifest.signature.inputs}, manifest.signature)

    def load(self) -> Loaded:
        opening = self._opening
        with _Warnings() as warnings:
            if opening.manifest is not None:
                model = load_version(opening.manifest, Path(opening.path))
            else:
                model = load_file(Path(opening.path), name=opening.name, trust_pickle=True)
        self._model = model
        self._names = tuple(field.name for field in model.signature.inputs)
        return Loaded(
            signature=model.signature,
            kind=model.kind,
            row_by_row=model.row_by_row,
            format=model.format,
            framework=model.framework,
            warnings=tuple(warnings.said),
        )

    def answer(self, asked: Message, body: bytearray) -> tuple[Message, list[Any]]:
        model = self._model or self._functions
        if model is None:
            raise ModelError("The model is not loaded.")
        columns = columns_of(asked, body, self._names)
        outputs = model.predict(columns) if asked.kind == "predict" else {"": model.fallback(asked.name, columns)}
        parts, raw = parts_of(outputs)
        return Message("ok", asked.number, parts=parts, unseen=self._news(model)), raw

    def _news(self, model: Model) -> dict[str, int]:
        if not model.unseen:
            return {}
        news = Counter(model.unseen) - self._told
        self._told += news
        return dict(news)


def _needed(opening: Opening) -> set[str]:
    """Modules that loading will import; a process that waits for its turn has them already."""
    if opening.manifest is None and Path(opening.path).is_dir():
        return set()
    if opening.manifest is None:
        pairs = imports_of(Path(opening.path)) or set()
        refuse_hostile(opening.path, pairs)
        return {module for module, _ in pairs}
    artefact = opening.manifest.artefact
    return {artefact.framework} - {""} | {pair.partition(":")[0] for pair in artefact.allow}


def _serve(channel: Channel) -> None:
    channel.send(Message("hello"))
    process: _Process | None = None
    while True:
        asked, body = channel.receive()
        raw: list[Any] = []
        try:
            if asked.kind == "open":
                process = _Process(msgspec.msgpack.decode(asked.said, type=Opening))
                answer = Message("ok", asked.number)
            elif process is None:
                raise ModelError("Nothing was opened.")
            elif asked.kind == "load":
                said = msgspec.Raw(msgspec.msgpack.encode(process.load()))
                gc.freeze()  # what was imported for it stays, and the collector need not look through it at each hundredth answer
                answer = Message("ok", asked.number, said=said)
            else:
                answer, raw = process.answer(asked, body)
            channel.send(answer, raw)
        except TowpathError as fault:
            channel.send(_faulty(asked, type(fault).__name__, fault.what, fault.where, fault.mend))
        except MemoryError as fault:
            channel.send(_faulty(asked, "ModelError", f"It asked for more memory than it may have ({fault})."))
        except (Exception, SystemExit) as fault:  # noqa: BLE001 - the edge to a model, which may raise anything
            channel.send(_faulty(asked, "ModelError", f"It raised {type(fault).__name__}: {fault}."))


def _faulty(asked: Message, kind: str, what: str, where: str = "", mend: str = "") -> Message:
    return Message("fault", asked.number, fault=Fault(kind, what, where, mend))


def _bind(parent: int, memory_bytes: int) -> None:
    """Limits, before anything of the model is here."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes and _LINUX:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    if _LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it went before we asked to go with it
        os._exit(0)


def main(end: int, parent: int, memory_bytes: int) -> None:
    """Answer until the other end of the socket closes."""
    _bind(parent, memory_bytes)
    os.set_inheritable(end, False)  # a process that the model starts must not hold it
    channel = Channel(socket.socket(fileno=end), blocking=True)
    with contextlib.suppress(EOFError, ConnectionError):
        _serve(channel)
    os._exit(0)  # threads of the model do not hold us up
