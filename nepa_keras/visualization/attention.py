"""Attention of a patch: in every block and head, and through all blocks (arXiv 2512.16922, figures 5, 8, 9).

B batch, L blocks, H heads, T patches on a grid of rows x columns, N = 1 + T tokens, of which 0 is CLS.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from nepa_keras.presets import backbone_of
from nepa_keras.visualization.patches import (
    displayable,
    draw_overlay,
    draw_picture,
    draw_share_bar,
    outline,
    own_mask,
    patch_grid,
    share_norm,
)
from nepa_keras.visualization.theme import (
    INK,
    SMALL,
    TEXT,
    headline,
    new_figure,
    percent,
    save,
    write_caption,
)


def attention_probabilities(
    model: keras.Model, images: np.ndarray, causal: bool | None = None
) -> np.ndarray:
    """Compute attention probabilities of all blocks, (B, L, H, N, N) float32; token 0 is CLS.

    Args:
        model: a backbone, or a model that has one.
        images: (B, height, width, channels), normalised floats; a few.
        causal: whether a patch sees only those before it; default the model's own choice.

    Example:
        >>> visualization.attention_probabilities(model, images[:2]).shape  # 4 blocks, 2 heads, 1 + 49 tokens
        (2, 4, 2, 50, 50)
    """
    backbone = backbone_of(model)
    causal = own_mask(model) if causal is None else causal
    found = backbone.activations(np.asarray(images, "float32"), causal=causal)["attentions"]
    return np.stack([ops.convert_to_numpy(ops.cast(a, "float32")) for a in found], axis=1)


def attention_rollout(attentions: np.ndarray) -> np.ndarray:
    """Compute attention rollout: the product of (mean over heads + identity) / 2 of each.

    Abnar and Zuidema, "Quantifying Attention Flow in Transformers", 2020; the identity stands for the
    residual stream.

    Args:
        attentions: (B, L, H, N, N), as of `attention_probabilities`.

    Returns:
        (B, L, N, N): up to each block; rows sum to 1.

    Example:
        >>> found = visualization.attention_probabilities(model, images[:2])
        >>> visualization.attention_rollout(found).shape
        (2, 4, 50, 50)
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
    """Compute one map of what a patch attends to: over heads first, then the mean over blocks.

    The authors draw the maximum over heads.

    Args:
        model, images, query, causal: see `attention_maps`.
        heads: "mean" or "max" over the heads of a block.
        blocks: numbers of blocks from 0; default all.

    Returns:
        (B, rows, columns) float32.

    Raises:
        ValueError: another word for heads, a block that the model lacks, or see `attention_maps`.

    Example:
        >>> visualization.attention_map(model, images[:2], query=24, heads="max", blocks=[2, 3]).shape
        (2, 7, 7)
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
    """Compute maps of what one patch attends to, by head, mean of heads and rollout.

    Args:
        model, images, causal: see `attention_probabilities`.
        query: patch, counted row by row from 0.

    Returns:
        {"heads": (B, L, H, rows, columns), "mean": (B, L, rows, columns) over the heads, "rollout": (B, L,
        rows, columns), see `attention_rollout`, "cls": (B, L, H)}: with what goes to CLS each sums to 1.

    Raises:
        ValueError: a query that is no patch, or images that do not fit.

    Example:
        >>> maps = visualization.attention_maps(model, images[:2], query=24)
        >>> maps["heads"].shape, maps["rollout"].shape, maps["cls"].shape
        ((2, 4, 2, 7, 7), (2, 4, 7, 7), (2, 4, 2))
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
    caption: str = "",
) -> None:
    """Draw what a patch of one image attends to: a row for each block, with mean, heads and rollout.

    All maps lie over the image and have one logarithmic scale of shares; below each is the share of CLS.

    Args:
        model, causal: see `attention_probabilities`.
        image: (height, width, channels), normalised floats.
        png_path: picture to write.
        query: patch, counted row by row from 0; default the one in the middle.
        caption: text below the image, such as its class and the name of its file.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: see `attention_maps`.

    Example:
        >>> visualization.plot_attention(model, images[0], "attention.png", query=24, caption="boot")
    """
    backbone = backbone_of(model)
    image = np.asarray(image)[None]
    rows, columns = patch_grid(backbone, image)
    causal = own_mask(model) if causal is None else causal
    if query is None:
        query = rows // 2 * columns + columns // 2
    found = attention_maps(model, image, query, causal)
    rolled = found["rollout"][0]
    maps = np.concatenate([found["mean"][0][:, None], found["heads"][0], rolled[:, None]], axis=1)
    of_cls = np.concatenate(
        [
            found["cls"][0].mean(axis=1, keepdims=True),
            found["cls"][0],
            1.0 - rolled.sum(axis=(1, 2))[:, None],
        ],
        axis=1,
    )
    hidden = np.arange(rows * columns).reshape(rows, columns) > query if causal else None
    # An even share, of CLS and all patches that are seen.
    even = 1.0 / (query + 2 if causal else 1 + rows * columns)
    _draw_blocks(displayable(image)[0], maps, of_cls, query, even, hidden, caption, png_path)


def _draw_blocks(picture, maps, of_cls, query, even, hidden, caption, png_path) -> None:
    """The figure of `plot_attention`; maps are (L, 2 + H, rows, columns), shares of CLS (L, 2 + H)."""
    layers, width, rows, columns = maps.shape
    height = picture.shape[0] / picture.shape[1]
    side = min(1.1, 8.4 / width, 9.6 / (layers * height))  # inches of a map
    line = side * height + (0.22 if side > 0.7 else 0.1)
    figure = new_figure(
        width * side + 3.1, max(layers * line + 0.65, 1.6 * height + 1.6), alike=True
    )
    above = max(1, min(layers, round(1.6 * height / line)))  # rows that the image is as high as
    grid = figure.add_gridspec(
        layers, 1 + width, width_ratios=[1.55, *[side] * width], wspace=0.02, hspace=0.02
    )
    shown_image = figure.add_subplot(grid[:above, 0])
    draw_picture(shown_image, picture, (rows, columns))
    outline(shown_image, query, columns)
    write_caption(shown_image, caption, inches=1.3)
    norm = share_norm(
        maps[:, :-1], even
    )  # without the rollout, which holds mostly the query itself
    names = ["mean of heads", *[f"head {h}" for h in range(width - 2)], "rollout"]
    if side < 0.7:  # names are read upright
        names = ["mean", *[f"{h}" for h in range(width - 2)], "rollout"]
    all_axes = []
    for layer in range(layers):
        for column in range(width):
            axes = figure.add_subplot(grid[layer, 1 + column])
            shown = draw_overlay(axes, picture, maps[layer, column], norm, hidden)
            outline(axes, query, columns, linewidth=0.9 if side > 0.7 else 0.6)
            if layer == 0:
                axes.set_title(names[column], fontsize=TEXT, color=INK, pad=3)
            if column == 0:
                label = f"block {layer}\nCLS {percent(of_cls[layer, 0])}"
                axes.set_ylabel(
                    label, fontsize=SMALL, color=INK, rotation=0, ha="right", va="center"
                )
            elif side > 0.7:
                write_caption(axes, f"CLS {percent(of_cls[layer, column])}", size=SMALL - 1)
            all_axes.append(axes)
    label = "share of the attention"
    draw_share_bar(figure, shown, all_axes, even, label, fraction=0.04, pad=0.01, aspect=30)
    row, column = divmod(query, columns)
    text = (
        f"What the patch in row {row + 1}, column {column + 1} (orange) attends to, block by block"
    )
    if hidden is not None:
        text += "\nPale patches come later, and are hidden from it"
    headline(figure, text)
    save(figure, png_path)
