"""Checks of images and labels: wrong input must raise or warn, never give a plausible number.

There are two levels:

    examine_images, examine_labels   check the first batch of `fit`, `evaluate` or `predict` on the host and
                                     explain what is wrong
    loss_or_nan                      in each step, on the device: set the loss of an invalid later batch to
                                     NaN, so that the step is skipped and counted
"""

import keras
import numpy as np
from keras import ops

from nepa_keras import backends
from nepa_keras.types import Tensor

_LARGEST_PIXEL = (
    1e15  # squares of larger values overflow in float32, and norms turn them into zeros
)
_FAR_OUTSIDE = 8.0  # well outside [-1, 1]; images normalised by ImageNet statistics reach 2.7
_CROSSENTROPIES = {
    keras.losses.sparse_categorical_crossentropy: keras.losses.SparseCategoricalCrossentropy,
    keras.losses.categorical_crossentropy: keras.losses.CategoricalCrossentropy,
    keras.losses.categorical_focal_crossentropy: keras.losses.CategoricalFocalCrossentropy,
    keras.losses.binary_crossentropy: keras.losses.BinaryCrossentropy,
    keras.losses.binary_focal_crossentropy: keras.losses.BinaryFocalCrossentropy,
}
_REMEDY = "normalise images to [-1, 1], as nepa_keras.NepaImageConverter and data.normalize do"


def check_dtype(dtype: str, takes_pixels: bool = True) -> None:
    """Refuse images that are not floats; accept uint8 pixels if `takes_pixels`.

    Raises:
        ValueError: the type is another.
    """
    if keras.backend.is_float_dtype(dtype) or (dtype == "uint8" and takes_pixels):
        return
    remedy = _REMEDY
    if dtype == "uint8":
        remedy += "; or set model.takes_pixels = True, and the model scales them on its device"
    raise ValueError(f"The images are {dtype}, but models take floats in [-1, 1]: {remedy}.")


def as_floats(images: Tensor, dtype: str) -> Tensor:
    """Scale uint8 pixels to [-1, 1], bit-identical to `data.normalize`; return floats unchanged.

    Args:
        images: any shape.
        dtype: type of the scaled images.
    """
    if keras.backend.standardize_dtype(images.dtype) != "uint8":
        return images
    return ops.cast(backends.scale_pixels(images), dtype)


def examine_images(images: np.ndarray, takes_pixels: bool = False) -> str | None:
    """Return a warning if the range of images fits neither pixels nor [-1, 1]; else None.

    Args:
        images: (B, height, width, C).
        takes_pixels: accept uint8 pixels.

    Raises:
        ValueError: the images are integers, or uint8 without `takes_pixels`.
    """
    check_dtype(str(images.dtype), takes_pixels)
    if not images.size:
        return None
    low, high = float(np.min(images)), float(np.max(images))
    if images.dtype == np.uint8:
        if low == high or high > 1:
            return None
        return "The first images are uint8 with values 0 and 1 only, but models expect pixels from 0 to 255."
    if max(-low, high) <= _FAR_OUTSIDE and (low < 0.0 or high <= 0.5):
        return None
    return (
        f"The values of the first images lie in [{low:.4g}, {high:.4g}], not in [-1, 1]: {_REMEDY}."
    )


def examine_labels(
    labels: np.ndarray, num_classes: int, ignored: int | None = None, pixels: bool = False
) -> None:
    """Refuse labels that are not class numbers from 0 to num_classes - 1.

    Args:
        labels: (B,) or (B, 1); with `pixels`, (B, height, width).
        ignored: a label outside the range that is allowed.
        pixels: labels are given per pixel.

    Raises:
        ValueError: labels are out of range, not whole numbers, or one-hot.
    """
    if not pixels and labels.ndim > 1 and labels.shape[-1] != 1:
        raise ValueError(
            f"The labels have the shape {labels.shape}, but the loss takes one class number per image; "
            "for one-hot or soft labels use keras.losses.CategoricalCrossentropy(from_logits=True)."
        )
    found = np.unique(labels)
    found = found[found != ignored] if ignored is not None else found
    if not found.size:
        return
    if not np.all(np.isfinite(found)) or np.any(found != np.floor(found)):
        raise ValueError(
            f"Labels must be whole class numbers, but there is {found[found != np.floor(found)][0]:g}; "
            "pass integers from 0."
        )
    low, high = int(found[0]), int(found[-1])
    if low >= 0 and high < num_classes:
        return
    remedy = f"number the classes from 0, or build the model with num_classes={high + 1}"
    if low == 1 and high == num_classes:
        remedy = "subtract 1 from the labels"
    elif low < 0 or high > 2**31:
        remedy = "number the classes from 0 and leave out images without a label"
    raise ValueError(
        f"The labels are {low} to {high}, but the {num_classes} classes of the model are numbered 0 to "
        f"{num_classes - 1}; {remedy}."
    )


def examine_targets(targets: np.ndarray, num_classes: int) -> None:
    """Refuse multi-label targets that are not (B, num_classes) with values from 0 to 1.

    Raises:
        ValueError: the shape or a value is another.
    """
    if targets.ndim != 2 or targets.shape[1] != num_classes:
        raise ValueError(
            f"The targets have the shape {targets.shape}, but a classifier with multi_label=True takes "
            f"(images, {num_classes}): 1 for each class in an image, 0 for the others."
        )
    if targets.size and not (np.min(targets) >= 0 and np.max(targets) <= 1):
        raise ValueError(
            f"The targets range from {np.min(targets):g} to {np.max(targets):g}, but multi-label targets "
            "must lie between 0 and 1."
        )


def is_label(labels: Tensor, num_classes: int, ignored: int | None = None) -> Tensor:
    """Mask of labels that are class numbers from 0 to num_classes - 1, or the ignored label."""
    labels = ops.cast(labels, "int32")
    known = (labels >= 0) & (labels < num_classes)
    return known if ignored is None else known | ops.equal(labels, ignored)


def loss_or_nan(loss: Tensor, images: Tensor | None, known: Tensor | None = None) -> Tensor:
    """Return the loss, or NaN if a pixel is so large that it overflows or a label is no class.

    Args:
        loss: scalar.
        images: (B, height, width, C), or None to skip the check of pixels.
        known: result of `is_label`, any shape; None for a loss without labels.
    """
    if images is not None:
        largest = ops.max(ops.abs(ops.cast(images, "float32")))
        loss = ops.where(largest <= _LARGEST_PIXEL, loss, float("nan"))
    return loss if known is None else ops.where(ops.all(known), loss, float("nan"))


def is_sparse(loss: object) -> bool:
    """Tell whether a loss, as given to `compile`, takes class numbers."""
    return _kind(loss) is keras.losses.SparseCategoricalCrossentropy


def refuse_probabilities(loss: object) -> None:
    """Refuse a Keras loss on probabilities, as the models return logits.

    Raises:
        ValueError: the loss has from_logits=False, or is given by its name, which means the same.
    """
    kind = _kind(loss)
    if kind is None or (isinstance(loss, kind) and loss.get_config().get("from_logits")):
        return
    raise ValueError(
        f"The model returns logits, but the loss {kind.__name__} takes probabilities by default; use "
        f"loss=keras.losses.{kind.__name__}(from_logits=True)."
    )


def refuse_exclusive(loss: object) -> None:
    """Refuse a Keras cross-entropy that assumes one class per image, for a multi-label model.

    Raises:
        ValueError: the loss is one.
    """
    kind = _kind(loss)
    if kind is not None and "Categorical" in kind.__name__:
        raise ValueError(
            f"{kind.__name__} is for one class per image, but the classifier has multi_label=True; use "
            "loss=keras.losses.BinaryCrossentropy(from_logits=True)."
        )


def _kind(loss):
    """Return the class in `_CROSSENTROPIES` that a loss belongs to, however it is given, or None."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    for function, kind in _CROSSENTROPIES.items():
        if loss is function or isinstance(loss, kind):
            return kind
    return None
