"""One process of a race: says that it is ready, waits for the start, prints what it got as JSON."""

import json
import sys
from pathlib import Path

import msgspec

from towpath.clock import SystemClock
from towpath.errors import RefusedError
from towpath.models.manifest import Manifest
from towpath.registry import history, versions
from towpath.registry.signing import Signer, Trusted
from towpath.stores.objects import Objects


def main(role: str, url: str, keys: Path, name: str, argument: str) -> object:
    objects, clock = Objects(url), SystemClock()
    signer, trusted = Signer(keys), Trusted(keys)
    objects.folders("models/")  # connected before the start
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    if role == "train":
        template = msgspec.json.decode(argument, type=Manifest)
        numbers: list[int] = []
        for round_ in range(5):
            number = versions.next_version(objects, "demand", run_id=f"{name}-{round_}")
            made = msgspec.structs.replace(template, version=number, created_by=name)
            versions.publish(objects, made, {"model.txt": name.encode()}, signer)
            numbers.append(number)
        return numbers
    if role == "promote":
        said: list[str] = []
        for _ in range(5):
            try:
                history.promote(objects, "demand", int(argument), trusted=trusted, by=name, clock=clock)
            except RefusedError as error:
                said.append(error.what)
            else:
                said.append("won")
        return said
    if role == "rollback":
        try:
            history.rollback(objects, "demand", by=name, because="race", clock=clock, leaving=int(argument))
        except RefusedError as error:
            return error.what
        return "won"
    for round_ in range(4):
        history.kill(objects, "demand", by=name, because="race", clock=clock, consumer=f"{name}-{round_}")
        if round_ % 2:
            history.revive(objects, "demand", by=name, clock=clock, consumer=f"{name}-{round_}")
    return None


if __name__ == "__main__":
    result = main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], sys.argv[5])
    sys.stdout.write(json.dumps(result) + "\n")
