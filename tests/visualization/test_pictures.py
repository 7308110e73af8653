"""Pictures that people understand: scales, captions, frames, cells and lines, by what is in the figures."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from nepa_keras.visualization import charts, curves, patches, segmentation, theme
from nepa_keras.visualization.report.svg_charts import Line, chart

pytestmark = pytest.mark.once


@pytest.fixture
def figures(monkeypatch):
    """The figures that would be saved."""
    kept = []
    for module in (charts, curves, segmentation):
        monkeypatch.setattr(module, "save", lambda figure, path: kept.append(figure))
    return kept


def test_an_ignorant_model_does_not_look_certain():
    """Noise about an even share stays in the lower half of the scale; one sharp map has all of it."""
    even = 1 / 196
    noise = even * np.random.default_rng(0).uniform(0.5, 1.5, (4 * 196,))
    assert patches.share_norm(noise, even)(noise).max() < 0.5
    sharp = np.where(np.arange(196) == 3, 0.5, 0.5 / 195)
    scale = patches.share_norm(sharp, even)
    assert scale(sharp[3]) == 1.0 and scale(sharp[4]) < 0.2


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255), theme.QUERY, "#c05a1e"])
def test_a_frame_shows_on_any_ground(ground):
    """The frame is seen on black, on white, on its own colour, and on a warm photograph."""
    from matplotlib.colors import to_rgb

    color = np.array(to_rgb(ground) if isinstance(ground, str) else ground, float)
    color = color * 255 if isinstance(ground, str) else color
    figure = theme.new_figure(1, 1)
    axes = figure.subplots()
    picture = np.broadcast_to(color / 255, (28, 28, 3))
    patches.draw_picture(axes, picture, (4, 4))
    patches.outline(axes, 5, 4)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    height, width = drawn.shape[:2]
    inside = drawn[height // 4 : -height // 4, width // 4 : -width // 4]
    far = np.abs(inside - np.round(color)).sum(axis=-1) > 150
    assert far.sum() > 40


def test_captions_lie_below_their_pictures(figures):
    """Wide, high and square images, also where the text is longer than the image is wide."""
    shapes = [(20, 60, 3), (60, 20, 3), (30, 30, 1)] * 3
    images = [np.full(shape, 99, "uint8") for shape in shapes]
    charts.plot_contact_sheet(images, ["sandal\n" + "long_name" * 9] * 9, "a.png", columns=4)
    (figure,) = figures
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = []
    for axes in figure.axes:
        text, picture = axes.xaxis.label.get_window_extent(), axes.get_window_extent()
        assert text.y1 <= picture.y0 + 1 and "…" in axes.get_xlabel()
        boxes.append((text, picture))
    for i, (text, _) in enumerate(boxes):
        assert not any(text.overlaps(picture) for j, (_, picture) in enumerate(boxes) if i != j)


def test_confusion_has_numbers_where_they_fit(figures):
    """Shares of a row in %; in a hundred classes none, and fewer names than classes."""
    few = np.array([[8, 2, 0], [0, 0, 0], [1, 998, 1]])
    charts.plot_confusion(few, ("a", "b", "c"), "a.png")
    many = np.eye(300, dtype=int)
    charts.plot_confusion(many, tuple(f"class {i}" for i in range(300)), "b.png")
    small, large = (figure.axes[0] for figure in figures)
    assert [text.get_text() for text in small.texts] == ["80", "20", "100"]
    assert [label.get_text() for label in small.get_yticklabels()] == [
        "a (10)",
        "b (0)",
        "c (1,000)",
    ]
    assert not large.texts and 20 < len(large.get_xticklabels()) < 150
    assert max(figures[1].get_size_inches()) < 14


def write_log(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_sparse_validation_and_gradient_norms_over_decades_are_drawn(tmp_path, figures):
    log = write_log(
        tmp_path / "log.csv",
        "step,loss,val_loss,gradient_norm",
        *(f"{i},{-i},{-i if i % 6 == 0 else 'NA'},{10.0 ** -(i % 5)}" for i in range(1, 25)),
    )
    curves.plot_curves(log, "a.png")
    loss, norm = figures[0].axes
    (validation,) = [line for line in loss.lines if line.get_label() == "validation"]
    np.testing.assert_array_equal(validation.get_xdata(), [6, 12, 18, 24])
    assert norm.get_yscale() == "log" and loss.get_yscale() == "linear"
    html = chart(
        "Norm", "L2", "step", [Line("mean", np.arange(3), 10.0 ** -np.arange(3), "a")], log=True
    )
    heights = [
        float(point.split(",")[1]) for point in html.split('points="')[1].split('"')[0].split()
    ]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)


def test_segmentation_has_a_legend_by_size(figures):
    truth = np.zeros((4, 4), "uint8")
    truth[0] = 255  # not scored
    prediction = np.where(np.arange(16).reshape(4, 4) < 6, 2, 0)
    segmentation.plot_segmentation(
        [np.zeros((4, 4, 3), "uint8")],
        [truth],
        [prediction],
        ["sky", "sea", "sand"],
        "a.png",
        ["a.jpg"],
    )
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["sky, 78.6 %", "sand, 21.4 %"]
    first, _, last = figures[0].axes
    assert (first.get_xlabel(), last.get_xlabel()) == ("a.jpg", "83.3 % of pixels right")


def test_one_theme_for_pictures_and_pages():
    """No colour is written anywhere else in the package."""
    import re

    from tests.helpers import ROOT

    folder = ROOT / "nepa_keras" / "visualization"
    for path in [*folder.rglob("*.py"), *folder.rglob("*.css"), *folder.rglob("*.js")]:
        if path.name != "theme.py":
            found = re.findall(r"#[0-9a-fA-F]{6}\b", path.read_text())
            assert not found, f"{path.name} has colours of its own: {found}"
    css = theme.css_variables()
    assert css.count("--accent") == 3 and "--run-8" in css and "--depth-7" in css


def test_pictures_are_written_as_their_names_say(tmp_path):
    figure = theme.new_figure(1, 1)
    figure.subplots()
    for name, kind in (("new/a.png", "PNG"), ("a.jpg", "JPEG")):
        theme.save(figure, tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            assert picture.format == kind and 100 < min(picture.size) <= max(picture.size) < 180
