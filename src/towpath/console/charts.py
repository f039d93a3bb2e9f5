"""Lines over time as SVG, drawn on the server: no script, no build step, printable."""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from html import escape

__all__ = ["lines"]

_WIDTH, _HEIGHT = 720, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 26
_STEPS = (1, 2, 2.5, 5, 10)


def lines(days: Sequence[date], series: Mapping[str, Sequence[float | None]], *, title: str, unit: str = "") -> str:
    """Draw one line a series over days; a missing value breaks the line.

    Args:
        days: In order, one for each value.
        series: Name → values, each as long as `days`.
        title: Read aloud by screen readers.
        unit: Stands beside the numbers.

    Returns:
        An ``<svg>`` element whose colours are the page's own (classes ``line-0``, ``line-1`` …); empty without any value.

    Example:
        >>> lines([date(2026, 2, 2), date(2026, 2, 3)], {"model": [0.2, 0.3]}, title="WAPE")[:4]
        '<svg'
    """
    known = [value for values in series.values() for value in values if value is not None and math.isfinite(value)]
    if not known:
        return ""
    low, high, step = _scale(min(0.0, *known), max(known))
    x = [_LEFT + (_WIDTH - _LEFT - _RIGHT) * (i / max(1, len(days) - 1)) for i in range(len(days))]

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (value - low) / (high - low))

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" class="chart"><title>{escape(title)}</title>']
    tick = low
    while tick <= high + step / 2:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        label = f"{tick:.4g}{unit}"
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{escape(label)}</text>'
        )
        tick += step
    every = max(1, math.ceil(len(days) / 8))
    for i in range(0, len(days), every):
        label = f"{days[i].day} {days[i]:%b}"
        parts.append(f'<text class="tick" x="{x[i]:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{label}</text>')
    for number, (name, values) in enumerate(series.items()):
        for run in _runs(values):
            points = " ".join(f"{x[i]:.1f},{y(values[i] or 0.0):.1f}" for i in run)
            parts.append(
                f'<polyline class="line line-{number}" points="{points}"><title>{escape(name)}</title></polyline>'
            )
            if len(run) == 1:
                parts.append(
                    f'<circle class="dot line-{number}" cx="{x[run[0]]:.1f}" cy="{y(values[run[0]] or 0.0):.1f}" r="3"/>'
                )
    return "".join(parts) + "</svg>"


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Round bounds and a round step, three to six of them."""
    span = (high - low) or abs(high) or 1.0
    size = 10 ** math.floor(math.log10(span / 4))
    step = next(size * s for s in _STEPS if size * s >= span / 4)
    return math.floor(low / step) * step, math.ceil(high / step) * step or step, step


def _runs(values: Sequence[float | None]) -> list[list[int]]:
    """Stretches of neighbouring values that are there."""
    runs: list[list[int]] = [[]]
    for i, value in enumerate(values):
        if value is None or not math.isfinite(value):
            runs.append([])
        else:
            runs[-1].append(i)
    return [run for run in runs if run]
