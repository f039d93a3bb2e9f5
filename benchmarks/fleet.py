"""An object store with signed versions, and what serves it: what the benchmarks of serving share."""

from pathlib import Path
from typing import Any

from msgspec.structs import replace

from towpath.clock import SystemClock
from towpath.models import load_file, pack_code
from towpath.models.manifest import Artefact, Manifest, StoredFile
from towpath.registry import claims, history, versions
from towpath.registry.log import Event, TrafficState
from towpath.registry.signing import Signer, make_keys
from towpath.stores.objects import Objects
from towpath.traffic import ConsumerBook, make_pepper


class Fleet:
    """A store of its own with its keys.

    Args:
        folder: Where both are made.
        team: Who publishes.
    """

    def __init__(self, folder: Path, team: str) -> None:
        self.folder = folder
        self.team = team
        self.keys = folder / "keys"
        make_keys(self.keys)
        self.url = str(folder / "objects")
        self.objects = Objects(self.url)

    def publish(self, model: str, path: Path, *, code: str = "", **declared: Any) -> int:
        """A model file as the next version of a model, with `code` as its ``model.py``; gives the number."""
        team = self.team
        claims.claim_model(self.objects, model, project=team, team=team, by=team, clock=SystemClock())
        number = versions.next_version(self.objects, model, run_id=path.name)
        loaded = load_file(path, name=model)
        manifest = Manifest(
            project=team,
            team=team,
            model=model,
            version=number,
            created_at=SystemClock().now(),
            created_by=team,
            owner=team,
            artefact=Artefact(
                file=StoredFile(path=path.name, digest="sha256:" + "0" * 64, size_bytes=0),
                format=loaded.format,
                framework=loaded.framework,
            ),
            signature=loaded.signature,
            **declared,
        )
        files: dict[str, bytes | Path] = {path.name: path}
        if code:
            home = self.folder / "project" / "models" / model
            home.mkdir(parents=True)
            (home / "model.py").write_text(code)
            files["code.zip"] = pack_code(self.folder / "project", home)
        versions.publish(self.objects, manifest, files, Signer(self.keys))
        return number

    def promote(self, model: str, version: int) -> None:
        """Make a version the champion."""
        entry = history.current(self.objects, model)

        def change(state: TrafficState) -> TrafficState:
            return replace(state, champion=version, previous=state.champion)

        event = Event(kind="promoted", at=SystemClock().now(), by=self.team, version=version)
        history.append(self.objects, model, event, change, on=entry.revision if entry else 0)

    def consumer(self, name: str) -> str:
        """Make a consumer, and give its key; from then on nobody is answered without one."""
        book = ConsumerBook(self.objects, make_pepper(self.keys))
        return book.add(name, team=self.team, at=SystemClock().now())
