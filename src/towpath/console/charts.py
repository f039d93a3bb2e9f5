"""Lines over time and bars as SVG, drawn on the server: no script, no build step, printable."""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from html import escape
from itertools import pairwise
from statistics import median

__all__ = ["bar", "lines"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 20, 10, 28
_STEPS = (1, 2, 2.5, 5, 10)
_LABEL_WIDTH = 72
"""What a date under the axis takes, with air."""
_DOTTED_DAYS = 45
"""Up to so many days each value has a dot, so that a day without one is seen."""


def lines(
    days: Sequence[date],
    series: Mapping[str, Sequence[float | None]],
    *,
    title: str,
    unit: str = "",
    narrow: bool = False,
) -> str:
    """Draw one line a series over days, each day where it belongs in time.

    A missing value breaks the line, and so does a gap of more than twice the usual one.

    Args:
        days: In order, one for each value.
        series: Name → values, each as long as `days`.
        title: Read aloud by screen readers.
        unit: Stands beside the numbers.
        narrow: For a phone: text keeps its size where the drawing does not. The page shows one of the two by its style.

    Returns:
        An ``<svg>`` element whose colours are the page's own (classes ``line-0``, ``line-1`` …); empty without any value.

    Example:
        >>> lines([date(2026, 2, 2), date(2026, 2, 3)], {"model": [0.2, 0.3]}, title="WAPE")[:4]
        '<svg'
    """
    known = [value for values in series.values() for value in values if value is not None and math.isfinite(value)]
    if not known:
        return ""
    width, height = (340, 220) if narrow else (960, 260)
    low, high, step = _scale(min(0.0, *known), max(0.0, *known))
    span_days = max(1, (days[-1] - days[0]).days)
    place = [_LEFT + (width - _LEFT - _RIGHT) * (day - days[0]).days / span_days for day in days]

    def y(value: float) -> float:
        return _TOP + (height - _TOP - _BOTTOM) * (1 - (value - low) / (high - low))

    name = "chart narrow" if narrow else "chart wide"
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" class="{name}"><title>{escape(title)}</title>']
    for number in range(round((high - low) / step) + 1):
        tick = low + number * step
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(_text(_LEFT - 8, y(tick) + 4, f"{tick:.4g}{unit}", "end"))
    parts += [_text(place[i], height - 8, f"{days[i].day} {days[i]:%b}", "middle") for i in _labelled(place)]
    for number, (name, values) in enumerate(series.items()):
        for run in _runs(days, values):
            points = " ".join(f"{place[i]:.1f},{y(values[i] or 0.0):.1f}" for i in run)
            parts.append(
                f'<polyline class="line line-{number}" points="{points}"><title>{escape(name)}</title></polyline>'
            )
            if len(run) == 1 or len(days) <= _DOTTED_DAYS:
                parts += [_dot(number, place[i], y(values[i] or 0.0), f"{days[i]}: {values[i]:.4g}{unit}") for i in run]
    return "".join(parts) + "</svg>"


def bar(share: float, *, kind: str = "") -> str:
    """A horizontal bar that is filled up to a share; the number itself stands beside it.

    Args:
        share: 0 to 1; what is beyond is cut.
        kind: A class of the element.

    Example:
        >>> bar(0.25)
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><rect width="25.0" height="8"/></svg>'
    """
    name = f"bar {kind}".strip()
    filled = f'<rect width="{min(1.0, max(0.0, share)) * 100:.1f}" height="8"/>'
    return (
        f'<svg class="{escape(name)}" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">{filled}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _dot(number: int, x: float, y: float, text: str) -> str:
    return f'<circle class="dot line-{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(text)}</title></circle>'


def _labelled(place: Sequence[float]) -> list[int]:
    """The days whose dates fit beside each other, the first always."""
    found: list[int] = []
    for i, x in enumerate(place):
        if not found or x - place[found[-1]] >= _LABEL_WIDTH:
            found.append(i)
    return found


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Round bounds and a round step, three to six of them."""
    span = (high - low) or abs(high) or 1.0
    size = 10 ** math.floor(math.log10(span / 4))
    step = next(size * s for s in _STEPS if size * s >= span / 4 * (1 - 1e-9))
    return math.floor(low / step) * step, math.ceil(high / step) * step or step, step


def _runs(days: Sequence[date], values: Sequence[float | None]) -> list[list[int]]:
    """Stretches of neighbouring values that are there."""
    usual = median((b - a).days for a, b in pairwise(days)) if len(days) > 1 else 1
    runs: list[list[int]] = [[]]
    for i, value in enumerate(values):
        if value is None or not math.isfinite(value):
            runs.append([])
            continue
        if runs[-1] and (days[i] - days[runs[-1][-1]]).days > 2 * usual:
            runs.append([])
        runs[-1].append(i)
    return [run for run in runs if run]
