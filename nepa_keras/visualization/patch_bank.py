"""Patches of many images with their embeddings: to find the nearest one, or to draw an embedding.

B images of the bank, T patches of an image, D width; "patches" counts all B T of them.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from nepa_keras.presets import backbone_of
from nepa_keras.visualization.patches import (
    cut_patches,
    displayable,
    draw_picture,
    outline,
    patch_grid,
    unit_tokens,
)
from nepa_keras.visualization.principal_components import patch_features
from nepa_keras.visualization.theme import (
    INK,
    ORANGE,
    TEXT,
    check_captions,
    headline,
    new_figure,
    save,
    write_caption,
)

_AT_A_TIME = 1 << 24  # cosines


class PatchBank:
    """Vectors and pixels of the patches of some images.

    Attributes:
        vectors: (patches, D).
        pixels: (patches, height, width, channels) of a patch, normalised floats.
        grid: rows and columns of patches of an image.

    Args:
        model: a backbone, or a model that has one.
        images: (B, height, width, channels), normalised floats.
        layer: of `patch_features`; "embedding" holds what NEPA predicts.
        batch_size: images at a time.

    Example:
        >>> bank = visualization.PatchBank(model, images[1:])
        >>> vectors = visualization.patch_features(model, images[:1])["embedding"][0]
        >>> numbers, cosines = bank.nearest(vectors, count=3)
        >>> numbers.shape, bank.pixels[numbers[:, 0]].shape
        ((49, 3), (49, 4, 4, 1))
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
        """Find the patches whose vectors have the largest cosine with each of (queries, D).

        Returns:
            Their numbers (queries, count) and the cosines (queries, count), the largest first.

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

        min over A, c of sum_p |A e_p + c - pixels_p|^2 + noise B T v |A|^2,   v = mean variance of e_p

    That is the best linear decoder for embeddings with so much error in every direction. Real ones use
    some directions hardly at all, and without this term an error along those would drown the picture of a
    predicted embedding.

    Args:
        bank: with the layer "embedding"; of more patches than the embedding is wide.
        noise: variance of the error as share of v; 0 for plain least squares.

    Example:
        >>> bank = visualization.PatchBank(model, images)
        >>> decoder = visualization.LinearDecoder(bank)
        >>> decoder(bank.vectors[:5]).shape
        (5, 4, 4, 1)
    """

    def __init__(self, bank: PatchBank, noise: float = 0.1):
        self.shape = bank.pixels.shape[1:]
        embeddings = bank.vectors.astype("float64")
        pixels = bank.pixels.reshape(len(embeddings), -1).astype("float64")
        mean, level = embeddings.mean(axis=0), pixels.mean(axis=0)
        centred = embeddings - mean
        products = centred.T @ centred  # B T times the covariance
        penalty = noise * np.trace(products) / len(products)
        products += penalty * np.eye(len(products))
        # The pseudo-inverse: without noise, embeddings wider than pixels have directions of no variance.
        self.matrix = np.linalg.pinv(products, hermitian=True) @ (centred.T @ (pixels - level))
        self.constant = level - mean @ self.matrix

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """Decode embeddings: (..., D) -> (..., height, width, channels), normalised floats."""
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
    captions: Sequence[str] = (),
    bank_captions: Sequence[str] = (),
) -> None:
    """Draw a row for each image: a patch of it, and the patches of other images nearest to that one.

    Of an image of the bank its nearest patch is shown alone, and an image that is the query's own, or one
    already shown, to the last pixel, is passed over.

    Args:
        model: a backbone, or a model that has one.
        images: (B, height, width, channels), normalised floats; a few.
        bank_images: others to search.
        png_path: picture to write.
        query: patch of each image, counted row by row from 0; default the one in the middle.
        layer: features that are compared, see `patch_features`.
        count: images to show.
        captions, bank_captions: text below each image, such as its class and the name of its file.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: a query or a layer that is none, images that do not fit, or captions of another number.

    Example:
        >>> visualization.plot_nearest_patches(model, images[:2], images[2:], "nearest.png", query=24)
    """
    rows, columns = grid = patch_grid(backbone_of(model), images)
    query = rows // 2 * columns + columns // 2 if query is None else query
    if not 0 <= query < rows * columns:
        raise ValueError(f"query must be a patch from 0 to {rows * columns - 1}, got {query}.")
    captions = check_captions(captions, len(images))
    bank_captions = check_captions(bank_captions, len(bank_images))
    bank = PatchBank(model, bank_images, layer)
    features = patch_features(model, images)[layer][:, query]
    bank_pictures = displayable(bank.images)
    found = [
        _nearest_images(bank, np.asarray(image, "float32"), vector, count)
        for image, vector in zip(images, features, strict=True)
    ]
    count = max(map(len, found))
    height = images.shape[1] / images.shape[2]
    figure = new_figure(
        1.3 * (1 + count) + 0.2, (1.3 * height + 0.35) * len(images) + 0.7, alike=True
    )
    lines = figure.subplots(len(images), 1 + count, squeeze=False)
    for line, picture, caption, near in zip(
        lines, displayable(images), captions, found, strict=True
    ):
        draw_picture(line[0], picture, grid)
        outline(line[0], query, columns)
        write_caption(line[0], caption, inches=1.3)
        for axes in line[1 + len(near) :]:
            axes.remove()
        for axes, (patch, cosine) in zip(line[1:], near, strict=False):
            image, place = divmod(patch, rows * columns)
            draw_picture(axes, bank_pictures[image], grid)
            outline(axes, place, columns)
            text = f"cosine {cosine:.3f}\n{bank_captions[image]}".strip()
            write_caption(axes, text, inches=1.3)
    for axes, title in zip(lines[0], ["query", *range(1, 1 + count)], strict=True):
        if axes.figure:
            title = title if title == "query" else f"nearest {title}"
            axes.set_title(title, fontsize=TEXT, color=ORANGE if title == "query" else INK)
    headline(
        figure,
        f"The patches of {len(bank.images)} other images that are nearest to the query's, one of each image "
        f"(features: {layer})",
    )
    save(figure, png_path)


def _nearest_images(
    bank: PatchBank, image: np.ndarray, vector: np.ndarray, count: int
) -> list[tuple[int, float]]:
    """The nearest patch of each of the nearest images, as (number, cosine); no image twice."""
    numbers, cosines = bank.nearest(vector[None], len(bank.vectors))
    of_image = bank.grid[0] * bank.grid[1]
    found: list[tuple[int, float]] = []
    seen, shown = set(), [image]
    for number, cosine in zip(numbers[0], cosines[0], strict=True):
        which = int(number) // of_image
        if which in seen:
            continue
        seen.add(which)
        if any(np.array_equal(bank.images[which], other) for other in shown):
            continue
        shown.append(bank.images[which])
        found.append((int(number), float(cosine)))
        if len(found) == count:
            break
    return found
