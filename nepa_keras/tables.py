"""Tables as text; a table is a list of rows, the header first."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

Rows = Sequence[Sequence[str]]


def text_table(rows: Rows) -> str:
    """Format rows as lines with aligned columns: the first left-aligned, the others right-aligned.

    Args:
        rows: rows of cells; a row may have fewer cells than others.
    """
    columns = max(map(len, rows))
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(columns)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=False)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence]) -> str:
    """Format rows as a Markdown table."""
    head, *body = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def read_table(path: Path) -> list[list[str]]:
    """Read the rows of the Markdown table in a file; an empty list if it has none."""
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip().strip("|") for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    return [*rows[:1], *rows[2:]]  # the second line is the rule below the header


def mean_and_std(values: Sequence[float] | np.ndarray, sign: str = "", digits: int = 1) -> str:
    """Format values as "71.2 ± 0.5" (sample standard deviation), a single one as "71.2", none as "-".

    Args:
        values: values in the unit to be shown, such as per cent.
        sign: "+" also marks positive means.
        digits: decimal places.
    """
    given = np.asarray(values, "float64")
    if not given.size:
        return "-"
    mean = f"{given.mean():{sign}.{digits}f}"
    return mean if given.size == 1 else f"{mean} ± {given.std(ddof=1):.{digits}f}"
