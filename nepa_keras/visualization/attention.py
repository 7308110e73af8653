"""What a patch attends to: every block, every head, and through all blocks (SPEC section 7, a).

B images, L blocks, H heads, T patches on a grid of rows x columns.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from nepa_keras.presets import backbone_of
from nepa_keras.visualization.figure import INK, ORANGE, new_figure, save
from nepa_keras.visualization.patches import (
    displayable,
    draw_map,
    draw_picture,
    outline,
    own_mask,
    patch_grid,
)


def attention_probabilities(
    model: keras.Model, images: np.ndarray, causal: bool | None = None
) -> np.ndarray:
    """Attention probabilities of all blocks, (B, L, H, 1 + T, 1 + T) float32; token 0 is CLS.

    Args:
        model: a backbone, or a model that has one.
        images: (B, height, width, channels), normalised floats; a few.
        causal: whether a patch sees only those before it; default the model's own choice.
    """
    backbone = backbone_of(model)
    causal = own_mask(model) if causal is None else causal
    found = backbone.activations(np.asarray(images, "float32"), causal=causal)["attentions"]
    return np.stack([ops.convert_to_numpy(ops.cast(a, "float32")) for a in found], axis=1)


def attention_rollout(attentions: np.ndarray) -> np.ndarray:
    """Attention through all blocks: the product of (mean over heads + identity) / 2 of each.

    Abnar and Zuidema, "Quantifying Attention Flow in Transformers", 2020; the identity stands for the
    residual stream.

    Args:
        attentions: (B, L, H, 1 + T, 1 + T), as of `attention_probabilities`.

    Returns:
        (B, L, 1 + T, 1 + T): up to each block; rows sum to 1.
    """
    mixed = 0.5 * attentions.mean(axis=2) + 0.5 * np.eye(attentions.shape[-1], dtype="float32")
    steps = [mixed[:, 0]]
    for block in range(1, mixed.shape[1]):
        steps.append(mixed[:, block] @ steps[-1])
    return np.stack(steps, axis=1)


def attention_map(
    model: keras.Model,
    images: np.ndarray,
    query: int,
    heads: str = "mean",
    blocks: Sequence[int] | None = None,
    causal: bool | None = None,
) -> np.ndarray:
    """Where one patch looks, as one map: over heads first, then the mean over blocks.

    The maximum over heads is what the authors draw.

    Args:
        model, images, query, causal: see `attention_maps`.
        heads: "mean" or "max" over the heads of a block.
        blocks: numbers of blocks from 0; default all.

    Returns:
        (B, rows, columns) float32.

    Raises:
        ValueError: another word for heads, a block that the model lacks, or see `attention_maps`.
    """
    if heads not in ("mean", "max"):
        raise ValueError(f'heads must be "mean" or "max", got {heads!r}.')
    maps = attention_maps(model, images, query, causal)["heads"]
    count = maps.shape[1]
    chosen = list(range(count) if blocks is None else blocks)
    if not chosen or min(chosen) < 0 or max(chosen) >= count:
        raise ValueError(f"blocks must be of 0 to {count - 1}, got {chosen}.")
    over_heads = maps.max(axis=2) if heads == "max" else maps.mean(axis=2)
    return over_heads[:, chosen].mean(axis=1)


def attention_maps(
    model: keras.Model, images: np.ndarray, query: int, causal: bool | None = None
) -> dict:
    """Where one patch looks.

    Args:
        model, images, causal: see `attention_probabilities`.
        query: patch, counted row by row from 0.

    Returns:
        {"heads": (B, L, H, rows, columns), "mean": (B, L, rows, columns) over the heads, "rollout": (B, L,
        rows, columns), see `attention_rollout`, "cls": (B, L, H)}: with what goes to CLS each sums to 1.

    Raises:
        ValueError: a query that is no patch, or images that do not fit.
    """
    grid = patch_grid(backbone_of(model), images)
    if not 0 <= query < grid[0] * grid[1]:
        raise ValueError(
            f"query must be a patch, 0 to {grid[0] * grid[1] - 1} of this {grid[0]}x{grid[1]} grid; got "
            f"{query}."
        )
    found = attention_probabilities(model, images, causal)
    heads = found[..., 1 + query, :]  # (B, L, H, 1 + T)
    rolled = attention_rollout(found)[..., 1 + query, :]

    def to_patches(weights):
        return weights[..., 1:].reshape(*weights.shape[:-1], *grid)

    return {
        "heads": to_patches(heads),
        "mean": to_patches(heads.mean(axis=2)),
        "rollout": to_patches(rolled),
        "cls": heads[..., 0],
    }


def plot_attention(
    model: keras.Model,
    image: np.ndarray,
    png_path: str | Path,
    query: int | None = None,
    causal: bool | None = None,
) -> None:
    """Draws where a patch of one image looks: a row for each block, with mean, heads and rollout.

    Args:
        model, causal: see `attention_probabilities`.
        image: (height, width, channels), normalised floats.
        png_path: picture to write.
        query: patch, counted row by row from 0; default the one in the middle.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: see `attention_maps`.
    """
    backbone = backbone_of(model)
    image = np.asarray(image)[None]
    rows, columns = patch_grid(backbone, image)
    causal = own_mask(model) if causal is None else causal
    if query is None:
        query = rows // 2 * columns + columns // 2
    maps = attention_maps(model, image, query, causal)
    layers, heads = maps["heads"].shape[1:3]
    picture = displayable(image)[0]
    titles = ["image", "mean of heads", *[f"head {h}" for h in range(heads)], "rollout"]
    figure = new_figure(1.15 * len(titles) + 0.4, 1.25 * layers * rows / columns + 0.7)
    lines = figure.subplots(layers, len(titles), squeeze=False)
    for layer, line in enumerate(lines):
        draw_picture(line[0], picture, (rows, columns))
        shown = [maps["mean"][0, layer], *maps["heads"][0, layer], maps["rollout"][0, layer]]
        for axes, weights in zip(line[1:], shown, strict=True):
            if causal:  # what is not seen is another thing than what is not looked at
                unseen = np.arange(weights.size).reshape(weights.shape) > query
                weights = np.ma.masked_where(unseen, weights)
            draw_map(axes, weights, vmin=0)
        for axes in line:
            outline(axes, query, columns, color=ORANGE)
        line[0].text(
            -0.12, 0.5, f"block {layer}", fontsize=8, color=INK, rotation=90, va="center",
            ha="center", transform=line[0].transAxes,
        )  # fmt: skip
    for axes, title in zip(lines[0], titles, strict=True):
        axes.set_title(title, fontsize=8, color=INK)
    row, column = divmod(query, columns)
    figure.suptitle(
        f"Where the patch in row {row + 1}, column {column + 1} (orange) looks"
        + (": it sees what comes before it" if causal else "")
        + "; each map from 0 to its largest",
        fontsize=9,
        color=INK,
    )
    save(figure, png_path)
