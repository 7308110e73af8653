"""Patches of many images with their embeddings: to find the nearest one, or to draw an embedding.

M images, T patches, N = M T, D width, Q queries.
"""

from pathlib import Path

import keras
import numpy as np
from keras import ops

from nepa_keras.presets import backbone_of
from nepa_keras.visualization.figure import INK, MUTED, ORANGE, new_figure, save
from nepa_keras.visualization.patches import (
    cut_patches,
    displayable,
    draw_picture,
    outline,
    patch_grid,
    unit_tokens,
)
from nepa_keras.visualization.principal_components import patch_features

_AT_A_TIME = 1 << 24  # cosines


class PatchBank:
    """Vectors and pixels of the patches of some images.

    Attributes:
        vectors: (N, D).
        pixels: (N, height, width, channels) of a patch, normalised floats.
        grid: rows and columns of patches of an image.

    Args:
        model: a backbone, or a model that has one.
        images: (M, height, width, channels), normalised floats.
        layer: of `patch_features`; "embedding" holds what NEPA predicts.
        batch_size: images at a time.
    """

    def __init__(
        self, model: keras.Model, images: np.ndarray, layer: str = "embedding", batch_size: int = 32
    ):
        self.images = np.asarray(images, "float32")
        if not len(images):
            raise ValueError("A bank of patches needs an image.")
        backbone = backbone_of(model)
        self.grid = patch_grid(backbone, images)
        parts = []
        for start in range(0, len(images), batch_size):
            part = self.images[start : start + batch_size]
            if layer == "embedding":  # needs no block
                parts.append(ops.convert_to_numpy(backbone.embed(part))[:, 1:])
                continue
            features = patch_features(model, part)
            if layer not in features:
                raise ValueError(f"There is no layer {layer!r}; there are {', '.join(features)}.")
            parts.append(features[layer])
        vectors = np.concatenate(parts)
        self.vectors = vectors.reshape(-1, vectors.shape[-1])
        pixels = cut_patches(self.images, self.grid)
        self.pixels = pixels.reshape(-1, *pixels.shape[2:])
        self._unit = unit_tokens(self.vectors)

    @property
    def norm(self) -> float:
        """Mean length of the vectors."""
        return float(np.linalg.norm(self.vectors, axis=-1).mean())

    def nearest(self, vectors: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The patches whose vectors have the largest cosine with each of (Q, D).

        Returns:
            Their numbers (Q, count) and the cosines (Q, count), the largest first.

        Raises:
            ValueError: the bank has fewer patches.
        """
        if count > len(self._unit):
            raise ValueError(f"The bank has {len(self._unit)} patches, fewer than {count}.")
        queries = unit_tokens(vectors)
        step = max(1, _AT_A_TIME // len(self._unit))
        numbers, cosines = [], []
        for start in range(0, len(queries), step):
            found = queries[start : start + step] @ self._unit.T
            best = np.argpartition(-found, count - 1, axis=-1)[:, :count]
            near = np.take_along_axis(found, best, axis=-1)
            order = np.argsort(-near, axis=-1, kind="stable")
            numbers.append(np.take_along_axis(best, order, axis=-1))
            cosines.append(np.take_along_axis(near, order, axis=-1))
        return np.concatenate(numbers), np.concatenate(cosines)


class LinearDecoder:
    """Pixels of a patch as a linear function of its embedding, by regularised least squares over a bank.

        min over A, c of sum_n |A e_n + c - pixels_n |^2 + noise N v |A|^2,   v = mean variance of e_n

    That is the best linear decoder for embeddings with so much error in every direction. Real ones use
    some directions hardly at all, and without this term an error along those would drown the picture of a
    predicted embedding.

    Args:
        bank: with the layer "embedding"; of more patches than the embedding is wide.
        noise: variance of the error as share of v; 0 for plain least squares.
    """

    def __init__(self, bank: PatchBank, noise: float = 0.1):
        self.shape = bank.pixels.shape[1:]
        embeddings = bank.vectors.astype("float64")
        pixels = bank.pixels.reshape(len(embeddings), -1).astype("float64")
        mean, level = embeddings.mean(axis=0), pixels.mean(axis=0)
        centred = embeddings - mean
        products = centred.T @ centred  # N times the covariance
        penalty = noise * np.trace(products) / len(products)
        products += penalty * np.eye(len(products))
        # The pseudo-inverse: without noise, embeddings wider than pixels have directions of no variance.
        self.matrix = np.linalg.pinv(products, hermitian=True) @ (centred.T @ (pixels - level))
        self.constant = level - mean @ self.matrix

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """(..., D) -> (..., height, width, channels), normalised floats."""
        pixels = np.asarray(embeddings, "float64") @ self.matrix + self.constant
        return pixels.reshape(*pixels.shape[:-1], *self.shape).astype("float32")


def plot_nearest_patches(
    model: keras.Model,
    images: np.ndarray,
    bank_images: np.ndarray,
    png_path: str | Path,
    query: int | None = None,
    layer: str = "output",
    count: int = 6,
) -> None:
    """Draws a row for each image: a patch of it, and the patches of other images nearest to that one.

    Args:
        model: a backbone, or a model that has one.
        images: (B, height, width, channels), normalised floats; a few.
        bank_images: others to search.
        png_path: picture to write.
        query: patch of each image, counted row by row from 0; default the one in the middle.
        layer: features that are compared, see `patch_features`.
        count: patches to show.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: a query or a layer that is none, or images that do not fit.
    """
    rows, columns = grid = patch_grid(backbone_of(model), images)
    query = rows // 2 * columns + columns // 2 if query is None else query
    if not 0 <= query < rows * columns:
        raise ValueError(f"query must be a patch from 0 to {rows * columns - 1}, got {query}.")
    bank = PatchBank(model, bank_images, layer)
    count = min(count, len(bank.vectors))
    features = patch_features(model, images)[layer][:, query]
    numbers, cosines = bank.nearest(features, count)
    bank_pictures = displayable(bank.images)
    height = images.shape[1] / images.shape[2]
    figure = new_figure(1.25 * (1 + count), 1.4 * height * len(images) + 0.7)
    lines = figure.subplots(len(images), 1 + count, squeeze=False)
    for line, picture, found, near in zip(
        lines, displayable(images), numbers, cosines, strict=True
    ):
        draw_picture(line[0], picture, grid)
        outline(line[0], query, columns, color=ORANGE)
        for axes, number, cosine in zip(line[1:], found, near, strict=True):
            image, patch = divmod(int(number), rows * columns)
            draw_picture(axes, bank_pictures[image], grid)
            outline(axes, patch, columns, color=ORANGE)
            axes.set_title(f"{cosine:.2f}", fontsize=7, color=MUTED, y=-0.16)
    figure.suptitle(
        f"The patches of {len(bank.images)} other images that are nearest to the framed one "
        f"(features: {layer}; below: cosine)",
        fontsize=9,
        color=INK,
    )
    save(figure, png_path)
