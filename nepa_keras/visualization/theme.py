"""The theme of all pictures and pages: colours, text sizes, colour maps, and figures without global state.

Pages take the same colours as style-sheet variables, see `css_variables`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nepa_keras.packages import required_for

# Colours by role, on light and on dark ground. Pictures are on light ground.
_ROLES = {
    "page": ("#fbfaf8", "#15171a"),
    "card": ("#ffffff", "#1e2125"),
    "ink": ("#23262b", "#e8eaed"),
    "muted": ("#5b626c", "#a3abb6"),
    "rule": ("#dfe1e5", "#363b42"),
    "hatch": ("#d3d6da", "#3d434b"),
    "focus": ("#0b57d0", "#a8c7fa"),
}
# Lines and runs; neighbours differ in lightness, too.
_SERIES = (
    ("#1f5f9e", "#7fb5ec"),
    ("#b4540a", "#f0a05a"),
    ("#2e7d32", "#7cc47f"),
    ("#8e3b9e", "#cf9be0"),
    ("#c2185b", "#f48fb1"),
    ("#00838f", "#5cc8d4"),
    ("#6d4c41", "#c8a898"),
    ("#5b626c", "#a3abb6"),
)
PAPER, INK, MUTED, RULE = (_ROLES[role][0] for role in ("card", "ink", "muted", "rule"))
BLUE, ORANGE = (light for light, _ in _SERIES[:2])
QUERY = "#ff8a2b"  # the patch that is asked about
HIDDEN = "#e6e8eb"  # patches that a causal mask hides
TITLE, TEXT, SMALL = 9.5, 8, 7  # sizes of text in points

# Viridis at even steps, the one sequential colour map: its order is seen without colours, too.
RAMP = (
    (68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140),
    (40, 174, 128), (94, 201, 98), (173, 220, 48), (253, 231, 37),
)  # fmt: skip
DEPTHS = 8  # colours of the lines of layers, from the input to the head
_GREY = 0.5  # of the picture under the colours of a scale
_DIMMED = 0.7  # of its light is left where a map has nothing


def ramp(shares: np.ndarray) -> np.ndarray:
    """Colours of values in [0, 1], float (..., 3) in [0, 1]."""
    places = np.clip(shares, 0.0, 1.0) * (len(RAMP) - 1)
    stops = np.array(RAMP) / 255
    channels = [np.interp(places, np.arange(len(RAMP)), stops[:, i]) for i in range(3)]
    return np.stack(channels, axis=-1)


def depth_color(depth: int, dark: bool = False) -> str:
    """Hex colour of the lines of a layer, by its depth from 0 to `DEPTHS` - 1."""
    low, high = (0.3, 1.0) if dark else (0.0, 0.85)
    return _hex(ramp(np.array(low + (high - low) * depth / (DEPTHS - 1))))


def layer_depth(layer: int, layers: int) -> int:
    """Depth of a layer among others, for `depth_color`."""
    return round((DEPTHS - 1) * layer / max(layers - 1, 1))


def tinted(grey: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """A grey picture (...) in [0, 1] under the colours of values in [0, 1]; the larger, the brighter.

    Returns:
        Float (..., 3) in [0, 1].
    """
    shares = np.clip(shares, 0.0, 1.0)
    strength = 0.9 * shares[..., None] ** 0.6
    return (1 - strength) * _DIMMED * grey[..., None] + strength * ramp(0.2 + 0.8 * shares)


def tint_map():
    """The colours of `tinted` over mid grey as a matplotlib colour map, for a colour bar."""
    from matplotlib.colors import ListedColormap

    shares = np.linspace(0.0, 1.0, 256)
    return ListedColormap(tinted(np.full(256, _GREY), shares), name="tinted")


def css_variables() -> str:
    """The theme's colours as a style sheet: light by default, dark where the system or the page says so."""
    light, dark = (_variables(which) for which in (0, 1))
    return (
        f":root {{ color-scheme: light; {light} }}\n"
        "@media (prefers-color-scheme: dark) {\n"
        f'  :root:not([data-theme="light"]) {{ color-scheme: dark; {dark} }}\n}}\n'
        f':root[data-theme="dark"] {{ color-scheme: dark; {dark} }}\n'
    )


def _variables(which: int) -> str:
    colors = {role: pair[which] for role, pair in _ROLES.items()}
    colors |= {"accent": _SERIES[0][which], "second": _SERIES[1][which], "query": QUERY}
    colors |= {f"run-{i}": pair[which] for i, pair in enumerate(_SERIES, 1)}
    colors |= {f"depth-{i}": depth_color(i, dark=bool(which)) for i in range(DEPTHS)}
    return " ".join(f"--{name}: {color};" for name, color in colors.items())


def _hex(color: np.ndarray) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in color)


def new_figure(width: float, height: float, alike: bool = False, gap: float = 0.01):
    """A matplotlib Figure of a size in inches that lays itself out.

    Args:
        width, height: in inches; `save` cuts off margins that stay empty.
        alike: whether all axes are pictures of one shape, which then lie close to each other.
        gap: between axes, as share of their size.

    Raises:
        ImportError: matplotlib is missing.
    """
    with required_for("Drawing a picture", "matplotlib"):
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    layout = ConstrainedLayoutEngine(
        w_pad=0.03, h_pad=0.03, wspace=gap, hspace=0.01, compress=alike
    )
    return Figure(figsize=(width, height), layout=layout, facecolor=PAPER)


def save(figure, path: str | Path) -> None:
    """Write a figure at 150 dots per inch, as JPEG to .jpg and .jpeg, else as PNG; makes the folder."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    style = {"dpi": 150, "bbox_inches": "tight", "pad_inches": 0.04}
    if path.suffix.lower() in (".jpg", ".jpeg"):
        options = {"quality": 75, "optimize": True, "progressive": True}
        figure.savefig(path, format="jpeg", pil_kwargs=options, **style)
    else:
        figure.savefig(path, format="png", **style)


def headline(figure, text: str) -> None:
    """The title of a figure."""
    figure.suptitle(text, fontsize=TITLE, color=INK)


def bare(axes) -> None:
    """Take ticks and frame from axes, so that their labels stay as captions."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def write_caption(axes, text: str, inches: float | None = None, size: float = SMALL) -> None:
    """Write a text under bare axes, below the picture and never across it.

    Args:
        axes: of a picture.
        text: one line or more.
        inches: width that each line may have; longer ones lose their middle.
        size: in points.
    """
    if inches is not None:
        text = "\n".join(shortened(line, inches, size) for line in text.splitlines())
    axes.set_xlabel(text, fontsize=size, color=MUTED, labelpad=2.5)


def shortened(text: str, inches: float, size: float = SMALL) -> str:
    """A text whose middle is left out where it would be wider than some inches."""
    most = max(int(inches * 72 / (0.66 * size)), 5)  # a letter of DejaVu Sans is about so wide
    if len(text) <= most:
        return text
    tail = (most - 1) * 2 // 3  # what tells names of files apart is at their end
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def plain_axes(axes, x: str = "", y: str = "", title: str = "") -> None:
    """The look of a diagram: no box, a light rule for each tick of y, small text."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=TEXT)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(x, fontsize=TEXT, color=INK)
    axes.set_ylabel(y, fontsize=TEXT, color=INK)
    if title:
        axes.set_title(title, loc="left", fontsize=TITLE, color=INK)


def plain_bar(bar, label: str) -> None:
    """The look of a colour bar."""
    bar.ax.tick_params(labelsize=SMALL, colors=MUTED, labelcolor=INK)
    bar.set_label(label, fontsize=SMALL, color=INK)
    bar.outline.set_visible(False)


def percent(share: float) -> str:
    """A share as "0.5 %" or "12 %"."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.2g} %"


def check_captions(captions: Sequence[str], count: int) -> Sequence[str]:
    """Captions of images, empty ones where there are none.

    Raises:
        ValueError: another number of them.
    """
    if len(captions) not in (0, count):
        raise ValueError(f"{len(captions)} captions for {count} images; give one for each.")
    return captions or [""] * count
