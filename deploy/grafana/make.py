"""Writes towpath.json, the Grafana dashboard, from the table below: ``python deploy/grafana/make.py``.

Import the file into Grafana and pick the Prometheus that scrapes ``/metrics``. A test holds every metric and label in it
against the scrape of a real server.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

RATE = "[$__rate_interval]"
MODEL = 'model=~"$model"'
ROWS = f"towpath_rows_total{{{MODEL}}}{RATE}"
SECONDS = f"towpath_answer_seconds_bucket{{{MODEL}}}{RATE}"


class Panel(NamedTuple):
    """One picture: title, what a reader should think of it, unit, and PromQL with its legend."""

    title: str
    says: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 8


PANELS: dict[str, tuple[Panel, ...]] = {
    "Is it well?": (
        Panel("Workers ready", "Fewer than there should be: one hangs or starts anew.", "short", (("sum(towpath_ready)", "ready"),), "stat", 4),
        Panel("Models not ready", "Champion not loaded, not proven, or its circuit open; the fallback answers.", "short", ((f"count(towpath_model_ready{{{MODEL}}} == 0) or vector(0)", "not ready"),), "stat", 4),
        Panel("Answered by fallback", "Share of rows that no model answered. Killed and holdout rows are meant to.", "percentunit", ((f'sum(rate(towpath_rows_total{{{MODEL},source=~"fallback:.*",reason!~"killed|holdout"}}{RATE})) / sum(rate({ROWS}))', "share"),), "stat", 4),
        Panel("Requests refused", "By code: 4xx is the caller's to mend, the rest ours.", "reqps", ((f"sum by (code) (rate(towpath_refused_total{RATE}))", "{{code}}"),), "timeseries", 12),
    ),
    "Who asks, who answers": (
        Panel("Requests by model", "", "reqps", ((f"sum by (model) (rate(towpath_requests_total{{{MODEL}}}{RATE}))", "{{model}}"),)),
        Panel("Requests by consumer", "", "reqps", ((f"sum by (consumer) (rate(towpath_requests_total{{{MODEL}}}{RATE}))", "{{consumer}}"),)),
        Panel("Requests by protocol", "", "reqps", ((f"sum by (protocol) (rate(towpath_requests_total{{{MODEL}}}{RATE}))", "{{protocol}}"),)),
        Panel("Rows by source", "champion, challenger, or fallback:<name>.", "short", ((f"sum by (source) (rate({ROWS}))", "{{source}}"),)),
        Panel("Rows by reason", "Why it was not the model: down, slow, wrong, features, overloaded, killed, holdout.", "short", ((f"sum by (reason) (rate({ROWS}))", "{{reason}}"),)),
        Panel("Rows by version", "A promotion is a crossing of two lines.", "short", ((f"sum by (model, version) (rate({ROWS}))", "{{model}}@{{version}}"),)),
        Panel("Champions", "The number of the version; a step down is a rollback.", "short", ((f"max by (model, team, project, tier) (towpath_champion{{{MODEL}}})", "{{project}}/{{model}} ({{tier}}, {{team}})"),)),
        Panel("Forms", "In which form a version answers, and in how many workers; two forms of one version differ between workers.", "short", ((f"sum by (model, version, form) (towpath_form{{{MODEL}}}) > 0", "{{model}}@{{version}} {{form}}"),)),
        Panel("Outcomes", "What really happened, as it arrives; none means that nothing can be measured.", "short", ((f"sum by (model) (rate(towpath_outcomes_total{{{MODEL}}}{RATE}))", "{{model}}"),)),
        Panel("Rejected by quota and key", "", "reqps", ((f'sum by (consumer, code) (rate(towpath_refused_total{{code=~"quota|denied|forbidden"}}{RATE}))', "{{consumer}} {{code}}"),)),
    ),
    "How fast": (
        Panel("Latency p50, p95, p99", "Inside the server, whole answer.", "s", tuple((f"histogram_quantile({q}, sum by (le) (rate({SECONDS})))", name) for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99")))),
        Panel("p99 by model", "", "s", ((f"histogram_quantile(0.99, sum by (le, model) (rate({SECONDS})))", "{{model}}"),)),
        Panel("p99 by protocol", "", "s", ((f"histogram_quantile(0.99, sum by (le, protocol) (rate({SECONDS})))", "{{protocol}}"),)),
        Panel("Rows that wait", "For a thread; a full queue answers by the fallback.", "short", ((f"sum by (model, version) (towpath_waiting_rows{{{MODEL}}})", "{{model}}@{{version}}"),)),
        Panel("How long they will wait", "Predicted from the last calls.", "s", ((f"max by (model, version) (towpath_waiting_seconds{{{MODEL}}})", "{{model}}@{{version}}"),)),
        Panel("Rows of a joint call", "Requests that came at once and were answered by one call.", "short", ((f"histogram_quantile(0.5, sum by (le, model) (rate(towpath_batch_rows_bucket{{{MODEL}}}{RATE})))", "{{model}}"),)),
    ),
    "What breaks": (
        Panel("Circuits open", "Workers in which a version is left alone after repeated failures.", "short", ((f"sum by (model, version) (towpath_circuit_open{{{MODEL}}})", "{{model}}@{{version}}"),)),
        Panel("Circuit changes", "A version that comes and goes.", "short", ((f"sum by (model, version) (towpath_circuit_changes{{{MODEL}}})", "{{model}}@{{version}}"),)),
        Panel("Processes of models", "Those with isolation = process: how many answer, and how often one ended and was replaced.", "short", ((f"sum by (model, version) (towpath_model_processes{{{MODEL}}})", "{{model}}@{{version}} answer"), (f"sum by (model, version) (towpath_model_process_ends{{{MODEL}}})", "{{model}}@{{version}} ended"))),
        Panel("Calls left behind", "They missed their deadline and still run; eight of them and the worker is replaced.", "short", (("sum(towpath_abandoned_calls)", "calls"),)),
        Panel("Journal records dropped", "The disk budget is spent: answers go on, their record is lost.", "short", (("sum(towpath_journal_dropped)", "records"),)),
        Panel("Online reads failed", "The online store is away or slow.", "short", ((f"sum by (model) (rate(towpath_online_reads_failed_total{{{MODEL}}}{RATE}))", "{{model}}"),)),
        Panel("On-demand features missing", "", "short", ((f"sum by (model, view, why) (rate(towpath_on_demand_missing_total{{{MODEL}}}{RATE}))", "{{model}} {{view}} {{why}}"),)),
        Panel("Feature rows pushed", "", "short", ((f"sum by (view, outcome, consumer) (rate(towpath_pushed_rows_total{RATE}))", "{{view}} {{outcome}} {{consumer}}"),)),
    ),
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The whole of towpath.json."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in PANELS.items():
        panels.append(_panel(len(panels), {"type": "row", "title": title}, 0, y, 24, 1))
        x, y = 0, y + 1
        for one in row:
            if x + one.width > 24:  # noqa: PLR2004 - Grafana's grid
                x, y = 0, y + 8
            panels.append(_panel(len(panels), _drawn(one), x, y, one.width, 8))
            x += one.width
        y += 8
    return {
        "uid": "towpath",
        "title": "Towpath: serving",
        "tags": ["towpath"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_variable("model", "label_values(towpath_requests_total, model)")]},
        "panels": panels,
        "__inputs": [{"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource", "pluginId": "prometheus"}],
    }


def _drawn(one: Panel) -> dict[str, Any]:
    return {
        "type": one.kind,
        "title": one.title,
        "description": one.says,
        "datasource": {"type": "prometheus", "uid": "${DS_PROMETHEUS}"},
        "fieldConfig": {"defaults": {"unit": one.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": "ABCDEFG"[number], "expr": expression, "legendFormat": legend}
            for number, (expression, legend) in enumerate(one.queries)
        ],
    }


def _panel(number: int, panel: dict[str, Any], x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {"id": number + 1, **panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${DS_PROMETHEUS}"},
        "query": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("towpath.json")
    path.write_text(json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n", "utf-8")
