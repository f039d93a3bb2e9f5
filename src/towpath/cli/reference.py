"""Reference pages of commands, errors, the wire, metrics, monitors and journal tables, made from what the code says.

``python -m towpath.cli.reference docs/reference`` writes the pages; `towpath.project.reference` makes those of the files.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import click
import msgspec

from towpath.cli.wire import EXAMPLES, METHODS, TENSORS
from towpath.errors import CallerError, OwnerError, RetryError, TowpathError, by_code
from towpath.project.reference import fields_said, type_said
from towpath.types import REASONS, Reason

__all__ = ["REASONS_SAID", "commands", "error_classes", "pages"]

REASONS_SAID: dict[Reason, str] = {
    "ok": "nothing is wrong: the champion or a challenger answered",
    "down": "no version could be loaded, or its process is gone",
    "slow": "the deadline passed",
    "wrong": "an exception, NaN, a value outside `[output]`, or a wrong shape",
    "features": 'a feature that is declared `missing = "refuse"` has no value',
    "overloaded": "the queue is full",
    "killed": "somebody said `tow kill`, and why",
    "holdout": "the unit belongs to the share that measures what the model is worth",
}
"""Reason → what happened."""

_WHO: dict[type[TowpathError], str] = {
    CallerError: "the caller",
    OwnerError: "the owner of the model, the project or the platform",
    RetryError: "nobody: wait and try again",
}
_DOORS = (
    ("POST /predict/<model>", 'rows: `{"rows": [{…}]}`, a list of rows, or one row; keys, raw features, or both', "`Answer`"),
    ("POST /outcomes/<model>", 'what happened: `{"outcomes": [{…}]}`, a list, or one `Outcome`', '202 `{"accepted": n}`, once it is on disk'),
    ("POST /features/<view>", 'feature rows: `{"rows": [{…}]}`, a list, or one row of key, event time and features; `<project>/<view>` where two projects have the name', "`PushAnswer`, once they are on disk and online"),
    ("POST /kill/<model>", 'a `Switch`: `{"because": "…"}`, narrowed by version, consumer or segment; scope `manage`', "`Switched`; as `tow kill`"),
    ("POST /revive/<model>", "a `Switch`, or nothing; scope `manage`", "`Switched`; as `tow revive`"),
    ("GET /v2", "", "name, version, extensions, models; `insecure_open` where the server takes anybody"),
    ("GET /v2/health/live", "", "200 while the process answers"),
    ("GET /v2/health/ready", "", "200 when every model answered its golden cases, else 503"),
    ("GET /v2/models/<model>", "", "inputs and outputs with names, types and shapes; loaded versions; the traffic unit"),
    ("GET /v2/models/<model>/ready", "", "200 or 503; also `/v2/models/<model>/versions/<n>/ready`"),
    ("POST /v2/models/<model>/infer", "an Open Inference Protocol request, JSON or binary tensors; also under `versions/<n>`", "tensors, and `parameters.towpath`"),
    ("GET /openapi.json", "", "this server in OpenAPI 3.1, typed by model, with golden cases as examples; `/openapi/<model>.json` for one model"),
    ("GET /docs", "", "the same as a page for people"),
    ("GET /v2/models/<model>/config", "", "the metadata in the words of Triton's model configuration; also under `versions/<n>`"),
    ("GET /v2/models/<model>/stats", "", "counts and times of each loaded version, all workers added up; also under `versions/<n>`, and `/v2/models/stats` for all models"),
    ("POST /v2/repository/index", '`{"ready": true}` for those that answer, or nothing', "each loaded version with `state` and `reason`"),
    ("POST /v2/repository/models/<model>/load", "nothing; scope `manage`", "200 `{}`: takes an `unload` back, and tries again what could not be loaded"),
    ("POST /v2/repository/models/<model>/unload", "nothing; scope `manage`", "200 `{}`: rows go to the fallback on every server, until somebody loads it"),
    ("POST /invocations/<model>", "what MLflow's clients send: `dataframe_split`, `dataframe_records`, `instances`, `inputs`, or CSV; a `NaN` in it is a missing number; `/invocations` where exactly one model is served", '`{"predictions": […]}`, and who answered under `towpath`'),
    ("GET /ping", "", "200 when ready, else 503; as MLflow's servers"),
    ("GET /version", "", "of Towpath"),
    ("GET /metrics", "", "counts and latencies in Prometheus' text format, all workers added up"),
    ("GET /health", "", "state of the worker and of each model; also `/health/ready`"),
)  # fmt: skip
"""Method and path, what goes in, what comes out."""
_SCOPES = (
    ("predict", "`/predict`, `/v2/…/infer`, `/invocations`, `ModelInfer`, `ModelStreamInfer`"),
    ("outcomes", "`/outcomes`"),
    ("features", "`/features`"),
    (
        "manage",
        "`/kill`, `/revive`, `/v2/repository/models/…/load` and `unload`, over gRPC, too; without keys anybody on this machine, and nobody else",
    ),
)
_TURNED_AWAY = (
    (
        "path and headers over `serving.max_header_bytes`, or more than `serving.max_headers`",
        "431 `too_large`",
        "`RESOURCE_EXHAUSTED`",
    ),
    ("a head that takes longer than `serving.header_timeout_s`", "408 `input`", "the connection is closed"),
    ("a body slower than `serving.min_body_bytes_per_s`", "408 `input`", ""),
    ("a body over `serving.max_body_bytes`", "413 `too_large`", "`RESOURCE_EXHAUSTED`"),
    ("more than `serving.max_connections`", "503 `overloaded`", ""),
    ("more calls on one connection than `serving.max_streams`", "", "wait at the caller"),
    ("pings more often than every 10 s", "", "the connection is closed with `ENHANCE_YOUR_CALM`"),
    ("no request for `serving.idle_timeout_s` (gRPC: 30 minutes)", "closed", "closed"),
    ("no HTTP at all", "400 `input`", ""),
)
"""What a connection did, what HTTP says, what gRPC does."""
_HEADERS = (
    (
        "Authorization",
        "`Bearer <key>`: who calls; gRPC takes the same as metadata. Where no consumer was ever added every caller is `local`.",
    ),
    ("Towpath-Timeout-Ms", "The caller's own deadline; the model's `serving.timeout_ms` is the most."),
    ("X-Request-Id", "Goes into the answer, the log and the journal; made where it is missing."),
    (
        "traceparent",
        "Goes back as it came; with `serving.traces` as the span of this server in that trace. The same goes along to a model of another server, with `tracestate` as it came.",
    ),
    (
        "Inference-Header-Content-Length",
        "Of binary tensors: how many bytes of the body are JSON, once it is unpacked; also in answers.",
    ),
    (
        "Content-Encoding",
        "`gzip`, `deflate` or `identity`: how the body is packed. It may unpack to `serving.max_body_bytes`; what is more is 413.",
    ),
    (
        "Accept-Encoding",
        "Answers of 4 KiB or more are packed with gzip or deflate for whoever names it.",
    ),
    (
        "towpath-compression",
        "Metadata of gRPC, `gzip`, `deflate` or `identity`: how answers are packed; as the caller packs its own messages unless given.",
    ),
)


def pages() -> dict[str, str]:
    """Name of the page → Markdown."""
    return {
        "cli.md": _commands(),
        "errors.md": _errors(),
        "journal.md": _journal(),
        "metrics.md": _metrics(),
        "monitors.md": _monitors(),
        "wire.md": _wire(),
    }


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its whole name, groups before what they hold: ``tow``, ``tow train``, ``tow monitor run``."""
    from towpath.cli import tow

    def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield name, command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for inner in command.list_commands(context):
                found = command.get_command(context, inner)
                if found is not None:
                    yield from walk(f"{name} {inner}", found)

    return walk("tow", tow)


def error_classes() -> list[type[TowpathError]]:
    """Every kind of error, in the order in which they are declared."""
    return [kind for kind in by_code().values() if kind is not TowpathError]


def _page(title: str, lead: str, *parts: str) -> str:
    made = "<!-- made by python -m towpath.cli.reference docs/reference -->"
    return "\n\n".join([f"# {title}", made, lead, *(part.strip("\n") for part in parts if part)]) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _prose(text: str | None) -> str:
    """A docstring as Markdown, without the sections for programmers."""
    whole = inspect.cleandoc(text or "")
    return (
        re.split(r"\n(?:Args|Raises|Returns|Example|Source):\n", whole)[0]
        .strip()
        .replace("``", "`")
        .replace("\b\n", "")
    )


def _commands() -> str:
    parts: list[str] = []
    for name, command in commands():
        if name == "tow":
            continue
        context = click.Context(command, info_name=name)
        usage = " ".join([name, *command.collect_usage_pieces(context)])
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        table = _table(
            ("option", "value", "default", "what"),
            [(_spelt(option), _value(option), _default(option), option.help or "") for option in options],
        )
        parts += [f"## {name}", f"```text\n{usage}\n```", _prose(command.help), table if options else ""]
    return _page(
        "Commands",
        "`tow` (also installed as `towpath`) prints tables for people, and JSON with `--json` or `TOWPATH_OUTPUT=json`. A pipe changes "
        "colour, width and progress only. Each command takes `--help`.\n\n"
        "Exit codes: 0 fine; 1 the answer is no (a gate refused, a monitor fails); 2 usage or a project error; 3 a fault of Towpath "
        "itself; 130 interrupted.",
        *parts,
    )


def _spelt(option: click.Option) -> str:
    return ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])


def _value(option: click.Option) -> str:
    if option.is_flag:
        return ""
    if isinstance(option.type, click.Choice):
        return ", ".join(f"`{choice}`" for choice in option.type.choices)
    kind = option.metavar or option.type.name.upper()
    bounds = option.type
    if isinstance(bounds, click.IntRange | click.FloatRange):
        low, high = (f"{bound:,}" if bound is not None else "" for bound in (bounds.min, bounds.max))
        kind = f"{'whole number' if isinstance(bounds, click.IntRange) else 'number'} {low} to {high}".removesuffix(
            " to "
        )
    return f"`{kind}`" if kind.isupper() else kind


def _default(option: click.Option) -> str:
    if option.required:
        return "required"
    return (
        f"`{option.default}`"
        if isinstance(option.default, str | int | float) and not option.is_flag and option.default != ""
        else ""
    )


def _errors() -> str:
    rows: list[tuple[str, ...]] = []
    for kind in error_classes():
        if kind in _WHO:
            continue
        who = next(said for family, said in _WHO.items() if issubclass(kind, family))
        rows.append(
            (f"`{kind.code}`", f"`{kind.__name__}`", _prose(kind.__doc__).split("\n\n")[0].replace("\n", " "), who)
        )
    families = [f"- `{kind.__name__}`: mended by {who}." for kind, who in _WHO.items()]
    return _page(
        "Errors",
        "Each error says what is wrong, where, and how to mend it. Its class says who acts next; its code is what programs look at. "
        "What goes over the wire is on the page [wire](wire.md#errors).",
        "All of them are `towpath.TowpathError`. The families:",
        "\n".join(families),
        "## Codes",
        _table(("code", "class", "what happened", "who mends it"), rows),
    )


def _wire() -> str:
    from towpath.features import RefusedRow
    from towpath.journal.record import Outcome
    from towpath.serving.answer import Answer, AnswerRow, WireError
    from towpath.serving.manage import Switch, Switched
    from towpath.serving.push import PushAnswer

    return _page(
        "The wire",
        "HTTP and gRPC say the same. `/v2` is the Open Inference Protocol, so clients of Triton and KServe work as they are; gRPC is its "
        "service `inference.GRPCInferenceService`. Answers, routing and fallbacks are per row.",
        "## Doors",
        _table(("door", "takes", "gives"), [(f"`{door}`", takes, gives) for door, takes, gives in _DOORS]),
        "A `GET` answers to `HEAD` too.",
        "## Headers",
        _table(("header", "what"), [(f"`{name}`", said) for name, said in _HEADERS]),
        "## gRPC",
        _table(
            ("method", "over HTTP", "to know"),
            [(f"`{name.replace(', ', '`, `')}`", http, said) for name, http, said in METHODS],
        ),
        "## Tensors, statistics, repository",
        TENSORS,
        "## Examples",
        "Of a model `demand` that adds up `a` and `b`; `…` differs from call to call.",
        *(
            f"### {title}\n\n```http\n{asked}\n```\n\n```json\n{json.dumps(json.loads(told), indent=1, ensure_ascii=False)}\n```"
            for title, asked, told in EXAMPLES
        ),
        "## Messages",
        *(_struct(kind) for kind in (Answer, AnswerRow, Outcome, PushAnswer, RefusedRow, Switch, Switched)),
        "Over `/v2` the fields of a row stand in `parameters.towpath`: one value where it is the same for all rows, else a list.",
        "## Reasons",
        "`source` says who answered: `champion`, `challenger` or `fallback:<name>`. `reason` says why:",
        _table(("reason", "what happened"), [(f"`{name}`", REASONS_SAID[name]) for name in REASONS]),
        "## Errors",
        "A request that cannot be answered at all gets this, with a status of the caller's (4xx) or of ours (503 with `Retry-After`). There "
        "is no 500 and no traceback. Over gRPC the code stands in the trailing metadata `towpath-code`. `Retry-After` (gRPC: `retry-after`) is from 1 to "
        "30 s: the predicted wait of the queue, the refill of the quota, the rest of an open circuit's pause; 1 where nothing is known. A 405 names in "
        "`Allow` what its route takes.",
        _struct(WireError),
        _table(("code", "HTTP", "gRPC", "what happened"), _wire_errors()),
        "## Scopes",
        "A key opens these doors; health, metadata and metrics need none. A key can be bound to models, and has a quota of requests and rows "
        "(429 with `Retry-After`; gRPC `RESOURCE_EXHAUSTED` with `grpc-retry-pushback-ms`): [serving](../guides/serving.md).",
        _table(("scope", "opens"), [(f"`{name}`", said) for name, said in _SCOPES]),
        "## Limits of a connection",
        _table(("what came", "HTTP", "gRPC"), _TURNED_AWAY),
        "## Metrics",
        "What `GET /metrics` shows:",
        _table(("name", "kind", "labels", "what"), _meters()),
    )


def _wire_errors() -> Iterator[tuple[str, ...]]:
    from towpath.serving.grpc import CODES
    from towpath.serving.schemas import status_of

    for kind in error_classes():
        if kind in _WHO:
            continue
        told = status_of(kind)
        code = CODES.get(kind.code, "INVALID_ARGUMENT" if issubclass(kind, CallerError) else "UNAVAILABLE")
        yield f"`{kind.code}`", str(told), f"`{code}`", _prose(kind.__doc__).split("\n\n")[0].replace("\n", " ")


def _meters() -> Iterator[tuple[str, ...]]:
    from towpath.serving.metrics import Meter

    meter = Meter()
    for family in meter.registry.collect():
        labels = sorted(meter.labels[family.name])
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield f"`{name}`", family.type, ", ".join(f"`{label}`" for label in labels), family.documentation


def _struct(kind: type[Any]) -> str:
    said = fields_said(kind)
    rows = [
        (f"`{field.name}`", type_said(field.type), "required" if field.required else "", said.get(field.name, ""))
        for field in msgspec.structs.fields(kind)
    ]
    return f"### {kind.__name__}\n\n{_prose(kind.__doc__)}\n\n" + _table(("field", "type", "", "what"), rows)


def _journal() -> str:
    from towpath.journal.record import OUTCOME_COLUMNS, PREDICTION_COLUMNS, RUN_COLUMNS
    from towpath.journal.views import VIEWS

    columns = {"predictions": PREDICTION_COLUMNS, "outcomes": OUTCOME_COLUMNS, "runs": RUN_COLUMNS}
    parts: list[str] = []
    for view in sorted(VIEWS, key=[*columns, "matured", "previous"].index):
        text = (resources.files("towpath.journal") / "sql" / f"{view}.sql").read_text("utf-8")
        parts += [f"## {view}", _head(text)]
        if view in columns:
            parts.append(_table(("column", "type"), [(f"`{name}`", kind) for name, kind in columns[view].items()]))
    return _page(
        "The journal",
        '`tow sql "select …"` asks these views, as of now or `--as-of` a moment. Times are UTC. `entity_key` is the JSON array of the key '
        "parts in declared order; `segment`, `output` and `features` hold JSON text.",
        *parts,
    )


def _metrics() -> str:
    from towpath.project.declarations import MetricHeader
    from towpath.sql import Query

    parts: list[str] = []
    folder = resources.files("towpath.project") / "metrics"
    for name in sorted(file.name.removesuffix(".sql") for file in folder.iterdir() if file.name.endswith(".sql")):
        text = (folder / f"{name}.sql").read_text("utf-8")
        header = msgspec.convert(Query.parse(text, f"{name}.sql").header, MetricHeader)
        aim = "nearer 0" if header.better == "zero" else header.better
        parts += [
            f"## {name}",
            f"{header.description}. Better: {aim}. Unit: {header.unit}.",
            f"```sql\n{text.strip()}\n```",
        ]
    return _page(
        "Metrics",
        "Every project has these; a file `metrics/<name>.sql` adds one or takes the place of one. A metric is the sum of its column "
        "`numerator` over the sum of its column `denominator`, so that gate, monitors and fleet page add the same rows "
        "([why](../concepts/metrics.md)). It reads the table `scored`: `prediction`, `actual`, `label`, `predicted_label`, `weight`, and the "
        "columns of the spine.",
        *parts,
    )


def _monitors() -> str:
    from towpath.monitors import BUILT_IN
    from towpath.project.declarations import MonitorHeader
    from towpath.sql import Query

    parts: list[str] = []
    for name in BUILT_IN:
        text = (resources.files("towpath.monitors") / "builtin" / f"{name}.sql").read_text("utf-8")
        header = msgspec.convert(Query.parse(text, f"{name}.sql").header, MonitorHeader)
        values = {"severity": header.severity, "every": header.every, "window": header.window, **header.parameters}
        parts += [
            f"## {name}",
            header.description,
            _head(text),
            _table(("default", "value"), [(f"`{key}`", f"`{value}`") for key, value in values.items()]),
        ]
    return _page(
        "Monitors",
        "A monitor is a SELECT of failing rows: no row, no trouble. Every model has these three without a file; a file under `monitors/` "
        "adds one (its header: [sql-headers](sql-headers.md)). What each is for, when it cries wolf and how to mend: [monitors](../concepts/monitors.md).",
        *parts,
    )


_LEAD = re.compile(r"(takes|reads|gives) {2,}(.*)")
_PART = re.compile(r"(Why it matters|When it cries wolf|How to mend): ")


def _head(text: str) -> str:
    """The leading comment of a .sql file: its contract as a list, then its prose."""
    comment = re.split(r"^--- \*/\n", text, maxsplit=1, flags=re.MULTILINE)[-1]
    lines: list[str] = []
    for line in comment.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").removeprefix(" "))
    found: list[str] = []
    prose: list[str] = []
    for line in lines[1:]:
        lead = _LEAD.fullmatch(line)
        if lead is not None:
            found.append(f"- **{lead[1].capitalize()}** {lead[2].strip()}")
        elif line.startswith("  ") and found and not prose:
            found[-1] += f" {line.strip()}"
        else:
            prose.append(line)
    body = re.sub(r" +\n", "\n", _PART.sub(r"\n- **\1:** ", " ".join(part for part in prose if part))).strip()
    return "\n\n".join(part for part in ("\n".join(found), body) if part)


if __name__ == "__main__":
    for _name, _text in pages().items():
        (Path(sys.argv[1]) / _name).write_text(_text, "utf-8")
