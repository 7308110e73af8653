"""Masks as colours over their images."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nepa_keras.data import ImageError, ImageSource, decode_image
from nepa_keras.evaluation import ImageSegmenter
from nepa_keras.files import printable
from nepa_keras.visualization.figure import MUTED, new_figure, save

_GOLDEN = 0.618034  # of the circle of hues, so that neighbours in number are far apart in colour


def class_colors(num_classes: int) -> np.ndarray:
    """A colour for each class, uint8 (K, 3); class 0 is the darkest."""
    import colorsys

    colors = []
    for i in range(num_classes):
        value = 0.45 if i == 0 else (1.0, 0.8, 0.6)[i % 3]
        colors.append(colorsys.hsv_to_rgb(i * _GOLDEN % 1.0, 0.0 if i == 0 else 0.75, value))
    return np.round(255 * np.array(colors)).astype(np.uint8)


def overlay(
    image: np.ndarray, labels: np.ndarray, colors: np.ndarray, strength: float = 0.55
) -> np.ndarray:
    """The image under the colours of its labels, uint8 (H, W, 3); pixels without a class stay as they are.

    Args:
        image: uint8 (H, W, 3 or 1).
        labels: (H, W); values that have no colour are of no class.
        colors: of `class_colors`.
        strength: share of the colour.
    """
    image = np.broadcast_to(image, (*labels.shape, 3)).astype("float32")
    known = labels < len(colors)
    mixed = (1 - strength) * image + strength * colors[np.where(known, labels, 0)]
    return np.round(np.where(known[..., None], mixed, image)).astype(np.uint8)


def plot_segmentation(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray] | None,
    predictions: Sequence[np.ndarray],
    class_names: Sequence[str],
    png_path: str | Path,
) -> None:
    """Draws a row for each image: itself, the truth, what the model says; and the names of the colours.

    Args:
        images: uint8 (H, W, 3 or 1).
        truths: labels (H, W), or None.
        predictions: labels (H, W).
        class_names: of the classes.
        png_path: picture to write.

    Raises:
        ImportError: matplotlib is missing.
    """
    from matplotlib.patches import Patch

    colors = class_colors(len(class_names))
    columns = {"image": images}
    if truths is not None:
        columns["truth"] = [overlay(*pair, colors) for pair in zip(images, truths, strict=True)]
    columns["prediction"] = [overlay(*p, colors) for p in zip(images, predictions, strict=True)]
    figure = new_figure(2.2 * len(columns) + 1.6, 2.2 * len(images) + 0.3)
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for column, (title, pictures) in enumerate(columns.items()):
        grid[0, column].set_title(title, fontsize=9, color=MUTED)
        for axes, picture in zip(grid[:, column], pictures, strict=True):
            axes.imshow(np.broadcast_to(picture, (*picture.shape[:2], 3)))
            axes.set_axis_off()
    labels = [*([] if truths is None else truths), *predictions]
    present = sorted(set(np.concatenate([np.unique(x) for x in labels])) & set(range(len(colors))))
    patches = [Patch(color=colors[i] / 255, label=class_names[i]) for i in present]
    figure.legend(handles=patches, loc="outside right upper", frameon=False, fontsize=7)
    save(figure, png_path)


def write_masks(
    segment: ImageSegmenter, source: ImageSource, images: str | Path, folder: str | Path
) -> list[str]:
    """Segment the images of a folder into masks/NAME.png (class numbers) and overlays/NAME.png (in colours).

    Of a.jpg both are named a.png; where another a.* lies beside it, a.jpg.png.

    Args:
        segment: how images are segmented.
        source: `data.open_source("folder:IMAGES")`.
        images: that folder.
        folder: to write to; created if missing.

    Returns:
        A sentence for each image that cannot be read.
    """
    from PIL import Image

    model, left_out = segment.segmenter, []
    colors, channels = class_colors(model.num_classes), model.backbone.image_shape[-1]
    root = Path(images).expanduser()
    names = [Path(source.name(index)).relative_to(root) for index in range(len(source))]
    same_stem = Counter(name.with_suffix("") for name in names)
    for index, name in enumerate(names):
        try:
            pixels = decode_image(source.read(index), channels)
        except ImageError as error:
            left_out.append(printable(f"{source.name(index)}: {error}"))
            continue
        labels = segment.labels(pixels)
        stem = name if same_stem[name.with_suffix("")] > 1 else name.with_suffix("")
        pictures = {"masks": labels, "overlays": overlay(pixels, labels, colors)}
        for kind, picture in pictures.items():
            path = Path(folder).expanduser() / kind / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    return left_out
