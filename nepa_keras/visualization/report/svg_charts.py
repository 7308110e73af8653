"""Line charts as inline SVG: they need no script, and take their colours from the page's style."""

import math
from html import escape

import numpy as np

from nepa_keras.visualization.curves import Panel

_WIDTH, _HEIGHT = 420, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 10, 40  # of what the lines are drawn in, from the edges
_POINTS = 60  # lines of so many rows or fewer have their points marked, with the value as a tooltip


def chart(panel: Panel, unit: str, x: np.ndarray) -> str:
    """A figure of one panel: its title, its lines, their names, and a sentence that says what is seen.

    Args:
        panel: of `read_panels`.
        unit: of x, such as "step".
        x: one for each value of the lines.
    """
    values = np.concatenate(list(panel.lines.values()))
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    if high - low < 1e-12 + 1e-6 * abs(high):  # a constant lies in the middle
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    first, last = float(x[0]), float(x[-1])
    span = (last - first) or 1.0

    def place(step, value):
        across = 0.5 if first == last else (step - first) / span
        up = (value - low) / (high - low)
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
        text = f'x="{place(step, low)[0]}" y="{_HEIGHT - 22}" text-anchor="{anchor}"'
        parts.append(f"<text {text}>{step:,.0f}</text>")
    parts.append(
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(unit)}</text>'
    )
    for number, (name, line) in enumerate(panel.lines.items(), 1):
        points = [
            (step, value, *place(step, value))
            for step, value in zip(x, line, strict=True)
            if math.isfinite(value)
        ]
        path = " ".join(f"{left},{top}" for _, _, left, top in points)
        parts.append(f'<polyline class="line line-{number}" points="{path}"/>')
        if len(points) <= _POINTS:
            parts += [
                f'<circle class="point line-{number}" cx="{left}" cy="{top}" r="2.5"><title>'
                f"{escape(name)}, {escape(unit)} {step:,.0f}: {_number(value)}</title></circle>"
                for step, value, left, top in points
            ]
    names = ""
    if len(panel.lines) > 1:
        keys = (
            f'<span class="key line-{number}">{escape(name)}</span>'
            for number, name in enumerate(panel.lines, 1)
        )
        names = f'<p class="keys">{" ".join(keys)}</p>'
    said = escape(_in_words(panel, unit, x), quote=True)
    return (
        f"<figure><figcaption><strong>{escape(panel.title)}</strong> {escape(panel.label)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{said}">{"".join(parts)}</svg>'
        f"{names}</figure>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers from below `low` to above `high`."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= 4.5)
    return [step * i for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}", 1) if value else "0"


def _in_words(panel: Panel, unit: str, x: np.ndarray) -> str:
    parts = []
    for name, line in panel.lines.items():
        finite = np.flatnonzero(np.isfinite(line))
        if not len(finite):
            parts.append(f"{name} has no finite value")
            continue
        ends = [f"{_number(line[i])} at {unit} {x[i]:,.0f}" for i in (finite[0], finite[-1])]
        parts.append(f"{name} from {' to '.join(ends)}")
    return f"{panel.title}: {'; '.join(parts)}."
