"""Principal components of features: of patches as colours, of images as places on a plane.

B batch, T patches on a grid of rows x columns, D width.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from nepa_keras.packages import required_for
from nepa_keras.presets import backbone_of
from nepa_keras.visualization.patches import displayable, draw_picture, own_mask, patch_grid
from nepa_keras.visualization.segmentation import class_colors
from nepa_keras.visualization.theme import (
    INK,
    MUTED,
    SMALL,
    TEXT,
    bare,
    check_captions,
    headline,
    new_figure,
    save,
    write_caption,
)

_NAMED = 20  # of more classes the names are left out


def principal_components(features: np.ndarray, count: int) -> np.ndarray:
    """Project features (rows, D) on their first components: (rows, count), the largest variance first.

    Signs are those of scikit-learn's PCA, which do not depend on the solver.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: fewer rows or columns than components.

    Example:
        >>> visualization.principal_components(np.eye(4), count=2).shape
        (4, 2)
    """
    with required_for("An analysis of principal components", "scikit-learn"):
        from sklearn.decomposition import PCA
    if min(features.shape) < count:
        raise ValueError(f"{count} components need as many rows and columns, got {features.shape}.")
    return PCA(count, svd_solver="full").fit_transform(np.asarray(features, "float64"))


def patch_colors(features: np.ndarray) -> np.ndarray:
    """The first three components of all patches together as red, green and blue, (B, T, 3) in [0, 1].

    The basis and the scale are shared by the images, so that a colour means the same in all of them; the
    outermost hundredth of the values at either end is cut off.

    Args:
        features: (B, T, D).

    Example:
        >>> features = visualization.patch_features(model, images)["output"]
        >>> visualization.patch_colors(features).shape
        (16, 49, 3)
    """
    batch, patches, width = features.shape
    scores = principal_components(features.reshape(-1, width), 3)
    low, high = np.quantile(scores, [0.01, 0.99], axis=0)
    colors = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
    return colors.reshape(batch, patches, 3).astype("float32")


def patch_features(
    model: keras.Model, images: np.ndarray, causal: bool | None = None
) -> dict[str, np.ndarray]:
    """Compute patch features (B, T, D) float32 of each layer: "embedding", "block 0" and so on, "output".

    Args:
        model: a backbone, or a model that has one.
        images: (B, height, width, channels), normalised floats; a few.
        causal: whether a patch sees only those before it; default the model's own choice.

    Example:
        >>> features = visualization.patch_features(model, images[:2])
        >>> list(features)
        ['embedding', 'block 0', 'block 1', 'block 2', 'block 3', 'output']
        >>> features["block 2"].shape
        (2, 49, 32)
    """
    backbone = backbone_of(model)
    if causal is None:
        causal = own_mask(model)
    images = np.asarray(images, "float32")
    names = ["embedding", *[f"block {i}" for i in range(backbone.num_layers)], "output"]
    states = [backbone.embed(images), *backbone.block_outputs(images, causal=causal)]
    return {
        name: np.asarray(ops.convert_to_numpy(ops.cast(state, "float32")))[:, 1:]
        for name, state in zip(names, states, strict=True)
    }


def plot_patch_components(
    model: keras.Model,
    images: np.ndarray,
    png_path: str | Path,
    layers: Sequence[str] | None = None,
    causal: bool | None = None,
    captions: Sequence[str] = (),
) -> None:
    """Draw a row for each image: the image, and `patch_colors` of every layer.

    Args:
        model, causal: see `patch_features`.
        images: (B, height, width, channels), normalised floats; the more, the better the basis.
        png_path: picture to write.
        layers: names of `patch_features`; default the embedding, at most six blocks, and the output.
        captions: text below each image, such as its class and the name of its file.

    Raises:
        ImportError: matplotlib or scikit-learn is missing.
        ValueError: a layer that the model lacks, images that do not fit, or captions of another number.

    Example:
        >>> visualization.plot_patch_components(model, images[:4], "components.png")
    """
    grid = patch_grid(backbone_of(model), images)
    captions = check_captions(captions, len(images))
    features = patch_features(model, images, causal)
    if layers is None:
        blocks = list(features)[1:-1]
        chosen = np.unique(np.linspace(0, len(blocks) - 1, min(6, len(blocks))).round().astype(int))
        layers = ["embedding", *[blocks[i] for i in chosen], "output"]
    if unknown := set(layers) - set(features):
        raise ValueError(f"There is no {', '.join(unknown)}; there are {', '.join(features)}.")
    colors = {name: patch_colors(features[name]) for name in layers}
    height = images.shape[1] / images.shape[2]
    figure = new_figure(
        1.25 * (1 + len(layers)), (1.25 * height + 0.2) * len(images) + 0.7, alike=True
    )
    lines = figure.subplots(len(images), 1 + len(layers), squeeze=False)
    pictures = zip(lines, displayable(images), captions, strict=True)
    for i, (line, picture, caption) in enumerate(pictures):
        draw_picture(line[0], picture)
        write_caption(line[0], caption, inches=1.2)
        for axes, name in zip(line[1:], layers, strict=True):
            draw_picture(axes, colors[name][i].reshape(*grid, 3))
            axes.set_box_aspect(height)
    for axes, title in zip(lines[0], ["image", *layers], strict=True):
        axes.set_title(title, fontsize=TEXT, color=INK)
    headline(
        figure,
        "Patches that are alike for the model have like colours\n"
        "(the first three principal components of patch features; one basis for all images of a column)",
    )
    save(figure, png_path)


def plot_projection(
    features: np.ndarray,
    images: np.ndarray,
    png_path: str | Path,
    labels: Sequence[int] | None = None,
    class_names: Sequence[str] = (),
    layer: str = "output",
) -> None:
    """Draw each image at the place of its features on the plane of the first two components.

    Args:
        features: (B, D), one row an image.
        images: (B, height, width, channels), normalised floats.
        png_path: picture to write.
        labels: class of each image, a colour for its frame, -1 for none; or None.
        class_names: of the labels; listed where there are no more than 20.
        layer: where the features are from, for the title.

    Raises:
        ImportError: matplotlib or scikit-learn is missing.
        ValueError: fewer than two images.

    Example:
        >>> features = evaluation.extract_features(backbone, images)
        >>> names = arrays.class_names
        >>> visualization.plot_projection(features, images, "projection.png", labels, names)
    """
    figure = new_figure(8.0, 7.0)
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage
    from matplotlib.patches import Patch

    places = principal_components(features, 2)
    axes = figure.subplots()
    # A thumbnail is a 25th of the picture's width.
    zoom = 8.0 * 72 / 25 / images.shape[2]
    classes = np.full(len(images), -1) if labels is None else np.asarray(labels)
    colors = class_colors(2 + classes.max()) / 255
    for i, (place, picture) in enumerate(zip(places, displayable(images), strict=True)):
        thumbnail = OffsetImage(np.broadcast_to(picture, (*picture.shape[:2], 3)), zoom=zoom)
        color = colors[classes[i]] if classes[i] >= 0 else "white"
        frame = {"facecolor": color, "edgecolor": "none"}
        axes.add_artist(AnnotationBbox(thumbnail, place, pad=0.1, bboxprops=frame))
    axes.scatter(*places.T, s=0)
    axes.margins(0.06)
    axes.set_xlabel("first component", fontsize=TEXT, color=MUTED)
    axes.set_ylabel("second component", fontsize=TEXT, color=MUTED)
    bare(axes)
    present = sorted(set(classes[classes >= 0]))
    if len(class_names) and 0 < len(present) <= _NAMED:
        patches = [Patch(color=colors[k], label=class_names[k]) for k in present]
        figure.legend(handles=patches, loc="outside right upper", frameon=False, fontsize=SMALL)
    headline(
        figure, f"Images that are alike for the model lie together (mean patch features: {layer})"
    )
    save(figure, png_path)
