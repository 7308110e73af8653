"""What the model makes of an image whose end it never saw: `EmbeddingRollout` as pictures and in numbers.

B images, T patches on a grid of rows x columns, D width.
"""

from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from nepa_keras.presets import backbone_of
from nepa_keras.rollout import EmbeddingRollout
from nepa_keras.visualization.figure import BLUE, INK, MUTED, ORANGE, new_figure, save
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


class RolloutComparison(NamedTuple):
    """What `compare_rollout` found.

    Attributes:
        embeddings: (B, T, D), known ones and then the model's own.
        one_step: (B, T, D), what it expects at each patch with all patches before it known.
        cosines: name -> (T,), mean over the images of the cosine to the truth at each patch: "rollout"; "one
            step", from true patches; and what needs no model: "patch before", the true embedding before it,
            as "one step" has it; "last patch", the last known one again; "mean", that of the bank;
            "mean there", that of the bank at the same place. NaN at known patches.
    """

    embeddings: np.ndarray
    one_step: np.ndarray
    cosines: dict[str, np.ndarray]


def compare_rollout(
    model: keras.Model, images: np.ndarray, known: int, bank: PatchBank
) -> RolloutComparison:
    """Continues images from their first patches, and compares with the truth and with simple guesses.

    Args:
        model: a `NepaPretrainer`, or its backbone; it reads causally.
        images: (B, height, width, channels), normalised floats.
        known: patches that are given, row by row, 1 to T - 1.
        bank: of other images, with the layer "embedding"; its mean length is given to what is fed back.

    Raises:
        ValueError: `known` is out of range, or images do not fit.
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
) -> RolloutComparison:
    """Draws what the model expects beyond the first patches, and how near the truth it is at each step.

    A row for each image: itself; what was given; the rollout through the nearest real patch of the bank, and
    through a linear decoder; and what the model expects one patch ahead of the truth, through that decoder.

    Args:
        model, images: see `compare_rollout`; the cosines are means over all of them.
        bank_images: others; some hundreds.
        png_path: picture to write.
        known: patches that are given; default the upper half.
        shown: images that are drawn, the first ones.

    Returns:
        The numbers that are drawn.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: see `compare_rollout`.
    """
    backbone = backbone_of(model)
    rows, columns = grid = patch_grid(backbone, images)
    known = rows // 2 * columns if known is None else known
    bank = PatchBank(backbone, bank_images)
    found = compare_rollout(backbone, images, known, bank)
    decoder = LinearDecoder(bank)
    images = np.asarray(images[:shown], "float32")
    rolled, one_step = found.embeddings[:shown], bank.norm * unit_tokens(found.one_step[:shown])
    true = cut_patches(images, grid)
    given = true.copy()
    given[:, known:] = 0.0  # mid grey

    def continued(patches):
        return join_patches(np.concatenate([true[:, :known], patches[:, known:]], axis=1), grid)

    numbers, _ = bank.nearest(rolled.reshape(-1, rolled.shape[-1]))
    nearest = bank.pixels[numbers[:, 0]].reshape(true.shape)
    columns_of_figure = {
        "image": images,
        f"given: {known} of {rows * columns}": join_patches(given, grid),
        "rollout,\nnearest real patch": continued(nearest),
        "rollout,\nlinear decoder": continued(decoder(rolled)),
        "one patch ahead,\nlinear decoder": continued(decoder(one_step)),
    }
    height = images.shape[1] / images.shape[2]
    figure = new_figure(7.4, 1.4 * height * len(images) + 3.0)
    pictures, chart = figure.subfigures(2, 1, height_ratios=[1.4 * height * len(images) + 0.5, 2.5])
    lines = pictures.subplots(len(images), len(columns_of_figure), squeeze=False)
    for column, (title, drawn) in enumerate(columns_of_figure.items()):
        lines[0, column].set_title(title, fontsize=8, color=INK)
        for axes, picture in zip(lines[:, column], displayable(drawn), strict=True):
            draw_picture(axes, picture)
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
    axes.set_xlabel("patches after the last known one", fontsize=8)
    axes.set_ylabel("cosine to the truth", fontsize=8)
    axes.set_title(f"mean of {len(found.embeddings)} images", fontsize=8, color=INK, loc="left")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
