"""Continuation of images from their first patches: `EmbeddingRollout` as pictures and in numbers.

B batch, T patches on a grid of rows x columns, D width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from nepa_keras.presets import backbone_of
from nepa_keras.rollout import EmbeddingRollout
from nepa_keras.visualization.patch_bank import LinearDecoder, PatchBank
from nepa_keras.visualization.patches import (
    cut_patches,
    displayable,
    draw_picture,
    join_patches,
    patch_grid,
    predictions_and_targets,
    unit_tokens,
)
from nepa_keras.visualization.theme import (
    BLUE,
    HIDDEN,
    INK,
    MUTED,
    ORANGE,
    SMALL,
    TEXT,
    check_captions,
    headline,
    new_figure,
    plain_axes,
    save,
    write_caption,
)


class RolloutComparison(NamedTuple):
    """Result of `compare_rollout`.

    Attributes:
        embeddings: (B, T, D): the known ones, then the predictions fed back.
        one_step: (B, T, D), predictions of each patch from all true patches before it.
        cosines: name -> (T,), mean over the images of the cosine to the truth at each patch: "rollout"; "one
            step", from true patches; and what needs no model: "patch before", the true embedding before it,
            as "one step" has it; "last patch", the last known one again; "mean", that of the bank;
            "mean there", that of the bank at the same place. NaN at known patches.

    Example:
        >>> bank = visualization.PatchBank(model, images[4:])
        >>> found = visualization.compare_rollout(model, images[:4], known=28, bank=bank)
        >>> sorted(found.cosines)
        ['last patch', 'mean', 'mean there', 'one step', 'patch before', 'rollout']
    """

    embeddings: np.ndarray
    one_step: np.ndarray
    cosines: dict[str, np.ndarray]


def compare_rollout(
    model: keras.Model, images: np.ndarray, known: int, bank: PatchBank
) -> RolloutComparison:
    """Continue images from their first patches, and compare them with the truth and with simple guesses.

    Args:
        model: a `NepaPretrainer`, or its backbone; it reads causally.
        images: (B, height, width, channels), normalised floats.
        known: patches that are given, row by row, 1 to T - 1.
        bank: of other images, with the layer "embedding"; its mean length is given to what is fed back.

    Raises:
        ValueError: `known` is out of range, or images do not fit.

    Example:
        >>> bank = visualization.PatchBank(model, images[4:])
        >>> found = visualization.compare_rollout(model, images[:4], known=28, bank=bank)
        >>> found.embeddings.shape, found.cosines["rollout"].shape
        ((4, 49, 32), (49,))
    """
    backbone = backbone_of(model)
    rows, columns = patch_grid(backbone, images)
    if not 1 <= known < rows * columns:
        raise ValueError(
            f"known must leave a patch of this {rows}x{columns} grid to predict and give one: 1 to "
            f"{rows * columns - 1}; got {known}."
        )
    images = np.asarray(images, "float32")
    inputs = {"images": images, "known": np.full(len(images), known, "int32")}
    rolled = EmbeddingRollout(backbone, bank.norm).predict(inputs, batch_size=32, verbose=0)
    one_step, truth = predictions_and_targets(backbone, images)
    truth = unit_tokens(truth)
    in_bank = unit_tokens(bank.vectors).reshape(-1, *truth.shape[1:])  # (M, T, D)
    guesses = {
        "rollout": unit_tokens(rolled["embeddings"]),
        "one step": unit_tokens(one_step),
        "patch before": np.concatenate([truth[:, :1], truth[:, :-1]], axis=1),
        "last patch": np.broadcast_to(truth[:, known - 1 : known], truth.shape),
        "mean": np.broadcast_to(unit_tokens(in_bank.mean(axis=(0, 1))), truth.shape),
        "mean there": np.broadcast_to(unit_tokens(in_bank.mean(axis=0)), truth.shape),
    }
    cosines = {}
    for name, guess in guesses.items():
        cosines[name] = np.sum(guess * truth, axis=-1).mean(axis=0)
        cosines[name][:known] = np.nan
    return RolloutComparison(rolled["embeddings"], one_step, cosines)


def plot_rollout(
    model: keras.Model,
    images: np.ndarray,
    bank_images: np.ndarray,
    png_path: str | Path,
    known: int | None = None,
    shown: int = 6,
    captions: Sequence[str] = (),
) -> RolloutComparison:
    """Draw the continuation of images from their first patches, and its cosine to the truth at each step.

    A row for each image: itself; what was given; the rollout through the nearest real patch of the bank, and
    through a linear decoder; and predictions from the true patches before each, through that decoder.

    Args:
        model, images: see `compare_rollout`; the cosines are means over all of them.
        bank_images: others; some hundreds.
        png_path: picture to write.
        known: patches that are given; default the upper half.
        shown: images that are drawn, the first ones.
        captions: text below each of the shown images, such as its class and the name of its file.

    Returns:
        The numbers that are drawn.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: captions of another number than shown images; or see `compare_rollout`.

    Example:
        >>> found = visualization.plot_rollout(model, images[:4], images[4:], "rollout.png", shown=2)
    """
    from matplotlib.colors import to_rgb

    backbone = backbone_of(model)
    rows, columns = grid = patch_grid(backbone, images)
    known = rows // 2 * columns if known is None else known
    captions = check_captions(captions, len(images[:shown]))
    bank = PatchBank(backbone, bank_images)
    found = compare_rollout(backbone, images, known, bank)
    decoder = LinearDecoder(bank)
    images = np.asarray(images[:shown], "float32")
    rolled, one_step = found.embeddings[:shown], bank.norm * unit_tokens(found.one_step[:shown])
    true = cut_patches(images, grid)
    given = true.copy()
    given[:, known:] = 2 * to_rgb(HIDDEN)[0] - 1

    def continued(patches):
        return join_patches(np.concatenate([true[:, :known], patches[:, known:]], axis=1), grid)

    numbers, _ = bank.nearest(rolled.reshape(-1, rolled.shape[-1]))
    nearest = bank.pixels[numbers[:, 0]].reshape(true.shape)
    columns_of_figure = {
        "image": images,
        f"given:\n{known} of {rows * columns} patches": join_patches(given, grid),
        "continued,\nas nearest real patches": continued(nearest),
        "continued,\nby a linear decoder": continued(decoder(rolled)),
        "one patch ahead of the\ntruth, by the decoder": continued(decoder(one_step)),
    }
    height = images.shape[1] / images.shape[2]
    line = 1.4 * height + 0.2
    figure = new_figure(7.4, line * len(images) + 3.4)
    pictures, chart = figure.subfigures(2, 1, height_ratios=[line * len(images) + 0.8, 2.6])
    lines = pictures.subplots(len(images), len(columns_of_figure), squeeze=False)
    for column, (title, drawn) in enumerate(columns_of_figure.items()):
        lines[0, column].set_title(title, fontsize=TEXT, color=INK)
        for axes, picture in zip(lines[:, column], displayable(drawn), strict=True):
            draw_picture(axes, picture)
    for axes, caption in zip(lines[:, 0], captions, strict=True):
        write_caption(axes, caption, inches=1.4)
    headline(pictures, "How the model goes on from the first patches, reading its own predictions")
    _draw_cosines(chart, found, known)
    save(figure, png_path)
    return found


def _draw_cosines(figure, found: RolloutComparison, known: int) -> None:
    axes = figure.subplots()
    dashes = (0, (4, 2))
    styles = {
        "one step": (BLUE, dashes, "one patch ahead of the truth"),
        "rollout": (BLUE, "-", "rollout: reads its own predictions"),
        "mean there": (MUTED, dashes, "baseline: the mean embedding at this place"),
        "mean": (MUTED, "-", "baseline: the mean embedding"),
        "patch before": (ORANGE, dashes, "baseline: the true patch before it"),
        "last patch": (ORANGE, "-", "baseline: the last known patch again"),
    }
    for name, (color, line, label) in styles.items():
        cosines = found.cosines[name][known:]
        steps = np.arange(1, 1 + len(cosines))
        axes.plot(steps, cosines, color=color, linestyle=line, label=label, linewidth=1.4)
    title = f"mean of {len(found.embeddings)} images"
    plain_axes(axes, "patches after the last known one", "cosine to the truth", title)
    axes.legend(frameon=False, fontsize=SMALL, loc="upper left", bbox_to_anchor=(1.0, 1.0))
