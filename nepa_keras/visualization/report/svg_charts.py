"""Line charts as inline SVG: they need no script, and take their colours from the page's style."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

_WIDTH, _HEIGHT = 420, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 10, 40  # of what the lines are drawn in, from the edges
_POINTS = 60  # lines of so many rows or fewer have their points marked, with the value as a tooltip


class Line(NamedTuple):
    """One line of a chart.

    Attributes:
        name: in words and tooltips.
        x: steps or epochs, rising.
        values: one for each of them.
        style: class, or classes, of the style sheet.
    """

    name: str
    x: np.ndarray
    values: np.ndarray
    style: str


def chart(
    title: str,
    label: str,
    unit: str,
    lines: Sequence[Line],
    keys: Iterable[tuple[str, str]] = (),
    log: bool = False,
) -> str:
    """A figure: its title, its lines, their names, and a sentence that says what is seen.

    Args:
        title: of the figure.
        label: what the y axis is.
        unit: of x, such as "step".
        lines: one or more.
        keys: name and style of each mark below the chart.
        log: a logarithmic y axis, on which values that are not positive are left out.
    """
    values = np.concatenate([line.values for line in lines])
    values = values[np.isfinite(values)]
    log = bool(log and len(values) and (values > 0).any())
    scale = math.log10 if log else float
    if log:
        values = np.log10(values[values > 0])
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    if high - low < 1e-12 + 1e-6 * abs(high):  # a constant lies in the middle
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    ticks = _log_ticks(low, high) if log else _ticks(low, high)
    low, high = min(low, scale(ticks[0])), max(high, scale(ticks[-1]))
    first, last = min(float(line.x[0]) for line in lines), max(float(line.x[-1]) for line in lines)
    span = (last - first) or 1.0

    def place(step, value):
        across = 0.5 if first == last else (step - first) / span
        up = (scale(value) - low) / (high - low)
        return (
            f"{_LEFT + across * (_WIDTH - _LEFT - _RIGHT):.1f}",
            f"{_HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM):.1f}",
        )

    parts = []
    for tick in ticks:
        _, y = place(first, tick)
        parts.append(f'<path class="rule" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="of-y" x="{_LEFT - 6}" y="{y}" dy="5">{_number(tick)}</text>')
    for step in sorted({first, first + span // 2, last}):
        anchor = {first: "start", last: "end"}.get(step, "middle") if first != last else "middle"
        text = f'x="{place(step, ticks[0])[0]}" y="{_HEIGHT - 22}" text-anchor="{anchor}"'
        parts.append(f"<text {text}>{step:,.0f}</text>")
    parts.append(
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(unit)}</text>'
    )
    for line in lines:
        points = [
            (step, value, *place(step, value))
            for step, value in zip(line.x, line.values, strict=True)
            if math.isfinite(value) and (value > 0 or not log)
        ]
        path = " ".join(f"{left},{top}" for _, _, left, top in points)
        parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
        if len(points) <= _POINTS:
            parts += [
                f'<circle class="point {line.style}" cx="{left}" cy="{top}" r="2.5"><title>'
                f"{escape(line.name)}, {escape(unit)} {step:,.0f}: {_number(value)}</title></circle>"
                for step, value, left, top in points
            ]
    marks = " ".join(f'<span class="key {style}">{escape(name)}</span>' for name, style in keys)
    names = f'<p class="keys">{marks}</p>' if marks else ""
    said = escape(_in_words(title, unit, lines), quote=True)
    return (
        f"<figure><figcaption><strong>{escape(title)}</strong> {escape(label)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{said}">{"".join(parts)}</svg>'
        f"{names}</figure>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers from below `low` to above `high`."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= 4.5)
    return [step * i for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from below 10 ** `low` to above 10 ** `high`: of each decade 1, 2, 5, or 1 alone."""
    for factors in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        numbers = [
            factor * 10.0**decade
            for decade in range(math.floor(low), math.ceil(high) + 1)
            for factor in factors
        ]
        first = max(i for i, number in enumerate(numbers) if number <= 10**low * (1 + 1e-9))
        last = min(i for i, number in enumerate(numbers) if number >= 10**high * (1 - 1e-9))
        if last - first < 6:
            break
    return numbers[first : last + 1 : max(1, (last - first) // 5)]


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}", 1) if value else "0"


def _in_words(title: str, unit: str, lines: Sequence[Line]) -> str:
    parts = []
    for line in lines:
        finite = np.flatnonzero(np.isfinite(line.values))
        if not len(finite):
            parts.append(f"{line.name} has no finite value")
            continue
        ends = [
            f"{_number(line.values[i])} at {unit} {line.x[i]:,.0f}" for i in (finite[0], finite[-1])
        ]
        parts.append(f"{line.name} from {' to '.join(ends)}")
    return f"{title}: {'; '.join(parts)}."
