"""Masks of classes: their colours, pictures and files.

C classes.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nepa_keras.data import ImageError, ImageSource, decode_image
from nepa_keras.evaluation import ImageSegmenter
from nepa_keras.files import printable
from nepa_keras.visualization.theme import (
    INK,
    SMALL,
    TEXT,
    bare,
    check_captions,
    new_figure,
    save,
    shortened,
    write_caption,
)

_LISTED = 30  # classes in a column of a legend
_GOLDEN = 0.618034  # of the circle of hues, so that neighbours in number are far apart in colour


def class_colors(num_classes: int) -> np.ndarray:
    """A colour for each class, uint8 (C, 3); class 0 is the darkest.

    Example:
        >>> visualization.class_colors(3).shape
        (3, 3)
    """
    import colorsys

    colors = []
    for i in range(num_classes):
        value = 0.45 if i == 0 else (1.0, 0.8, 0.6)[i % 3]
        colors.append(colorsys.hsv_to_rgb(i * _GOLDEN % 1.0, 0.0 if i == 0 else 0.75, value))
    return np.round(255 * np.array(colors)).astype(np.uint8)


def overlay(
    image: np.ndarray, labels: np.ndarray, colors: np.ndarray, strength: float = 0.55
) -> np.ndarray:
    """Lay the colours of labels over an image, uint8 (height, width, 3); pixels without a class keep theirs.

    Args:
        image: uint8 (height, width, 3 or 1).
        labels: (height, width); values that have no colour are of no class.
        colors: of `class_colors`.
        strength: share of the colour.

    Example:
        >>> image, mask = np.zeros((8, 8, 3), "uint8"), np.arange(64).reshape(8, 8) % 3
        >>> visualization.overlay(image, mask, visualization.class_colors(3)).shape
        (8, 8, 3)
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
    captions: Sequence[str] = (),
) -> None:
    """Draw a row for each image: the image, the truth, the prediction; and a legend of the classes in them.

    Pixels whose label is not scored keep the image's own colours. The legend begins with the classes that
    cover most, and gives the share of pixels in truth and prediction together.

    Args:
        images: uint8 (height, width, 3 or 1).
        truths: labels (height, width), or None.
        predictions: labels (height, width).
        class_names: of the classes.
        png_path: picture to write.
        captions: text below each image, such as the name of its file; below predictions with a truth the
            share of pixels that are right.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: captions of another number than images.

    Example:
        >>> image, mask = np.zeros((8, 8, 3), "uint8"), np.arange(64).reshape(8, 8) % 3
        >>> names = ["sky", "sea", "sand"]
        >>> visualization.plot_segmentation([image], [mask], [mask], names, "examples.png", ["a.jpg"])
    """
    from matplotlib.patches import Patch

    colors = class_colors(len(class_names))
    captions = check_captions(captions, len(images))
    columns = {"image": images}
    if truths is not None:
        columns["truth"] = [overlay(*pair, colors) for pair in zip(images, truths, strict=True)]
    columns["prediction"] = [overlay(*p, colors) for p in zip(images, predictions, strict=True)]
    heights = [image.shape[0] / image.shape[1] for image in images]
    total = sum(2.2 * height + 0.25 for height in heights)
    figure = new_figure(2.2 * len(columns) + 1.9, total + 0.3)
    grid = figure.subplots(len(images), len(columns), squeeze=False, height_ratios=heights)
    for column, (title, pictures) in enumerate(columns.items()):
        grid[0, column].set_title(title, fontsize=TEXT, color=INK)
        for axes, picture in zip(grid[:, column], pictures, strict=True):
            axes.imshow(np.broadcast_to(picture, (*picture.shape[:2], 3)))
            bare(axes)
    for axes, text in zip(grid[:, 0], captions, strict=True):
        write_caption(axes, text, inches=2.2)
    for axes, truth, prediction in zip(grid[:, -1], truths or (), predictions, strict=False):
        scored = truth < len(colors)
        if scored.any():
            right = (truth == prediction)[scored].mean()
            write_caption(axes, f"{100 * right:.1f} % of pixels right")
    labels = np.concatenate([np.ravel(x) for x in [*(truths or ()), *predictions]])
    counts = np.bincount(labels[labels < len(colors)], minlength=len(colors))
    present = [i for i in np.argsort(-counts, kind="stable") if counts[i]]
    names = [f"{class_names[i]}, {100 * counts[i] / counts.sum():.1f} %" for i in present]
    patches = [
        Patch(facecolor=colors[i] / 255, label=name)
        for i, name in zip(present[:_LISTED], names, strict=False)
    ]
    if len(present) > _LISTED:
        patches.append(Patch(alpha=0, label=f"and {len(present) - _LISTED} more"))
    figure.legend(
        handles=patches, loc="outside right upper", frameon=False, fontsize=SMALL, title="class",
        title_fontsize=SMALL, alignment="left", labelcolor=INK,
    )  # fmt: skip
    save(figure, png_path)


def plot_class_legend(class_names: Sequence[str], png_path: str | Path) -> None:
    """Draw the number, the colour and the name of each class.

    Args:
        class_names: C names.
        png_path: picture to write.

    Raises:
        ImportError: matplotlib is missing.

    Example:
        >>> visualization.plot_class_legend(["sky", "sea", "sand"], "legend.png")
    """
    from matplotlib.patches import Rectangle

    colors = class_colors(len(class_names)) / 255
    columns = -(-len(class_names) // _LISTED)
    rows = -(-len(class_names) // columns)
    figure = new_figure(2.2 * columns, 0.2 * rows + 0.2)
    axes = figure.subplots()
    for i, (color, name) in enumerate(zip(colors, class_names, strict=True)):
        column, row = divmod(i, rows)
        axes.add_patch(Rectangle((column, row + 0.1), 0.12, 0.8, facecolor=color))
        text = shortened(f"{i}  {name}", 1.9)
        axes.text(column + 0.15, row + 0.5, text, va="center", fontsize=SMALL, color=INK)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    bare(axes)
    save(figure, png_path)


def write_masks(
    segment: ImageSegmenter, source: ImageSource, images: str | Path, folder: str | Path
) -> list[str]:
    """Segment the images of a folder into masks/NAME.png (class numbers) and overlays/NAME.png (in colours).

    Of a.jpg both are named a.png; where another a.* lies beside it, a.jpg.png. A mask holds numbers, and a
    palette of `class_colors` by which programs show it in colours; legend.png names the classes. Of more
    than 256 classes masks are 32-bit, without a palette.

    Args:
        segment: how images are segmented.
        source: `data.open_source("folder:IMAGES")`.
        images: that folder.
        folder: to write to; created if missing.

    Returns:
        A sentence for each image that cannot be read.

    Raises:
        ImportError: matplotlib is missing.

    Example:
        >>> segment = evaluation.ImageSegmenter(segmenter)
        >>> source = data.open_source("folder:pictures")
        >>> visualization.write_masks(segment, source, "pictures", "out")  # the images left out, with reasons
        []
    """
    from PIL import Image

    model, left_out = segment.segmenter, []
    names_of_classes = model.class_names or [f"class {i}" for i in range(model.num_classes)]
    plot_class_legend(names_of_classes, Path(folder).expanduser() / "legend.png")
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
            written = Image.fromarray(picture)
            if kind == "masks" and picture.dtype == np.uint8:
                written = written.convert("L")
                written.putpalette(colors.tobytes())
            written.save(path)
    return left_out
