"""One look for all pictures, through matplotlib's object API: no global state, no display."""

from pathlib import Path

from nepa_keras.packages import required_for

INK = "#30343a"
MUTED = "#8a9099"
BLUE = "#2467a8"
ORANGE = "#d9731a"


def new_figure(width: float, height: float):
    """A matplotlib Figure of a size in inches that lays itself out.

    Raises:
        ImportError: matplotlib is missing.
    """
    with required_for("Drawing a picture", "matplotlib"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save(figure, png_path: str | Path) -> None:
    """Writes a PNG at 150 dots per inch; makes the folder."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(png_path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150, format="png")
