"""What an integrator is handed: where to call, a typed example that is known to be good, and calls that run as they are."""

import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from towpath.errors import RefusedError, TowpathError
from towpath.gate.golden import read_golden
from towpath.registry import claims, history, versions
from towpath.serving.infer import described
from towpath.traffic import Consumer

if TYPE_CHECKING:
    from towpath.models.manifest import Manifest
    from towpath.platform.opened import Platform

__all__ = ["write_kit"]

_TEMPLATES = ("call.sh", "call.py", "call_client.py", "call_grpc.py")
_EMPTY = {"BYTES": "text", "BOOL": False}


def write_kit(
    platform: "Platform",
    consumer: Consumer,
    to: Path,
    *,
    endpoint: str = "",
    grpc_endpoint: str = "",
    make_key: Callable[[], str] | None = None,
) -> list[Path]:
    """Write a folder for the engineers of a consumer.

    Args:
        platform: Whose store it is.
        consumer: For whom.
        to: The folder; files of an earlier kit are replaced, a key is not.
        endpoint: Address of HTTP; the settings' own host and port unless given.
        grpc_endpoint: ``host:port`` of gRPC; the same.
        make_key: Gives a key to put in; without it they put in the one that they were told.

    Returns:
        The files, in the order to read them.

    Raises:
        RefusedError: None of the consumer's models has a champion.
    """
    serving = platform.settings.serving
    scheme = "https" if serving.tls_cert else "http"
    endpoint = (endpoint or f"{scheme}://{serving.host}:{serving.port}").rstrip("/")
    grpc_endpoint = grpc_endpoint or f"{serving.host}:{serving.grpc_port}"
    named = consumer.models or claims.models(platform.objects)
    found = {name: manifest for name in named if (manifest := _champion(platform, name)) is not None}
    if not found:
        raise RefusedError(
            f"None of the models of '{consumer.name}' has a champion yet, so there is nothing to call.",
            mend="tow promote MODEL, then make the kit",
        )
    key = _key_put(to, make_key)
    files: dict[str, str] = {}
    told: list[str] = []
    for name, manifest in found.items():
        row, answer = _example(platform, manifest)
        files[f"{name}/request.json"] = msgspec.json.format(msgspec.json.encode({"rows": [row]})).decode() + "\n"
        files[f"{name}/tensors.json"] = (
            msgspec.json.format(msgspec.json.encode(_tensors(manifest, row))).decode() + "\n"
        )
        secure = str(endpoint.startswith("https"))
        values = {"MODEL": name, "ENDPOINT": endpoint, "GRPC": grpc_endpoint, "SECURE": secure}
        files |= {f"{name}/{template}": _filled(template, values) for template in _TEMPLATES}
        told.append(_about(manifest, answer))
    files["README.md"] = _filled(
        "README.md",
        {
            "CONSUMER": consumer.name,
            "ENDPOINT": endpoint,
            "GRPC": grpc_endpoint,
            "FIRST": next(iter(found)),
            "MODELS": "\n".join(told),
            "LIMITS": _limits(consumer),
        },
    )
    return [_put(to / path, text) for path, text in sorted(files.items())] + key


def _key_put(to: Path, make_key: Callable[[], str] | None) -> list[Path]:
    """Make the folder and put a new key in, before anything else: where none is given out, there is no half of a kit."""
    there = to.exists()
    to.mkdir(parents=True, exist_ok=True)
    if make_key is None:
        return []
    try:
        return [_put(to / "key", make_key() + "\n", mode=0o600)]
    except TowpathError:
        if not there:
            to.rmdir()
        raise


def _champion(platform: "Platform", model: str) -> "Manifest | None":
    entry = history.current(platform.objects, model)
    if entry is None or entry.state.champion is None:
        return None
    return versions.manifest(platform.objects, model, entry.state.champion, None)


def _example(platform: "Platform", manifest: "Manifest") -> tuple[dict[str, Any], Any]:
    """The first golden case and its answer; without one a row of the right types."""
    path = f"{versions.version_folder(manifest.model, manifest.version)}/golden.jsonl"
    try:
        cases = read_golden(platform.objects.get(path), path)
    except TowpathError:
        cases = ()
    if cases:
        return cases[0].request, None if cases[0].answer is msgspec.UNSET else cases[0].answer
    keys = dict.fromkeys(manifest.entity, "text")
    if manifest.features:
        return keys, None
    return keys | {field.name: _EMPTY.get(described(field)["datatype"], 0) for field in manifest.signature.inputs}, None


def _tensors(manifest: "Manifest", row: dict[str, Any]) -> list[dict[str, Any]]:
    """The same row for the Open Inference Protocol: one tensor a column, of the type that the model itself names."""
    kinds = {field.name: described(field)["datatype"] for field in manifest.signature.inputs}
    return [
        {"name": name, "datatype": kinds.get(name, "BYTES"), "data": [value if name in kinds else str(value)]}
        for name, value in row.items()
    ]


def _about(manifest: "Manifest", answer: Any) -> str:
    known = "" if answer is None else f"; the example is answered with about `{msgspec.json.encode(answer).decode()}`"
    timeout = f"{manifest.serving.timeout_ms:,} ms"
    return f"- `{manifest.model}` of {manifest.owner}: {manifest.output.kind}, answered within {timeout}{known}. {manifest.description}".rstrip()


def _limits(consumer: Consumer) -> str:
    quota, sla = consumer.quota, consumer.sla
    lines = [f"- The key may: {', '.join(consumer.scopes)}."]
    if quota.requests_per_s or quota.rows_per_s:
        rates = [(quota.requests_per_s, "requests"), (quota.rows_per_s, "rows")]
        said = " and ".join(f"{rate:g} {what} a second" for rate, what in rates if rate)
        lines.append(f"- Quota: {said}; beyond it 429 with `Retry-After` (gRPC: `RESOURCE_EXHAUSTED`).")
    if sla.p99_ms:
        lines.append(f"- Promised: 99 of 100 requests within {sla.p99_ms:g} ms.")
    if sla.availability_share:
        lines.append(f"- Promised: {sla.availability_share * 100:g}% of the rows are answered by the model in time.")
    return "\n".join(lines)


def _filled(template: str, values: dict[str, str]) -> str:
    text = (resources.files("towpath.platform") / "kit_files" / f"{template}.txt").read_text("utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _put(path: Path, text: str, *, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return path
