"""What a step is given: images and labels that cannot be meant are refused or said, not computed with.

Two nets, as a wrong input must not end in a plausible number:

    examine_images, examine_labels   look at the first batch of a `fit`, `evaluate` or `predict` on the host,
                                     and speak in words
    loss_or_nan                      in each step, on the device, for what comes later: the loss of a batch
                                     that cannot be meant is NaN, so that the step is skipped and counted
"""

import keras
import numpy as np
from keras import ops

from nepa_keras import backends
from nepa_keras.types import Tensor

_LARGEST_PIXEL = (
    1e15  # the squares of larger ones overflow in float32, and norms turn them into zeros
)
_FAR_OUTSIDE = 8.0  # of [-1, 1]; images normalised by the statistics of ImageNet reach 2.7
_CROSSENTROPIES = {
    keras.losses.sparse_categorical_crossentropy: keras.losses.SparseCategoricalCrossentropy,
    keras.losses.categorical_crossentropy: keras.losses.CategoricalCrossentropy,
    keras.losses.categorical_focal_crossentropy: keras.losses.CategoricalFocalCrossentropy,
    keras.losses.binary_crossentropy: keras.losses.BinaryCrossentropy,
    keras.losses.binary_focal_crossentropy: keras.losses.BinaryFocalCrossentropy,
}
_REMEDY = "normalise images to [-1, 1], as nepa_keras.NepaImageConverter and data.normalize do"


def check_dtype(dtype: str, takes_pixels: bool = True) -> None:
    """Refuse images that are no floats, but for uint8 pixels where they are meant.

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
    """Images in [-1, 1]: uint8 pixels with the numbers of `data.normalize` to the bit, floats as they are.

    Args:
        images: of any shape.
        dtype: that uint8 images get.
    """
    if keras.backend.standardize_dtype(images.dtype) != "uint8":
        return images
    return ops.cast(backends.scale_pixels(images), dtype)


def examine_images(images: np.ndarray, takes_pixels: bool = False) -> str | None:
    """A warning of images (B, height, width, C) whose range is not that of pixels or of [-1, 1]; or None.

    Args:
        takes_pixels: uint8 images are meant.

    Raises:
        ValueError: they are integers, or uint8 that are not meant.
    """
    check_dtype(str(images.dtype), takes_pixels)
    if not images.size:
        return None
    low, high = float(np.min(images)), float(np.max(images))
    if images.dtype == np.uint8:
        if low == high or high > 1:
            return None
        return (
            "The first images are uint8, but all 0 or 1, where models expect pixels from 0 to 255."
        )
    if max(-low, high) <= _FAR_OUTSIDE and (low < 0.0 or high <= 0.5):
        return None
    return f"The values of the first images lie in [{low:.4g}, {high:.4g}] and not in [-1, 1]: {_REMEDY}."


def examine_labels(
    labels: np.ndarray, num_classes: int, ignored: int | None = None, pixels: bool = False
) -> None:
    """Refuse class numbers that are not from 0 to num_classes - 1.

    Args:
        labels: (B,) or (B, 1), or of pixels (B, height, width).
        ignored: a label that is allowed, too.

    Raises:
        ValueError: labels are out of range, no whole numbers, or one-hot.
    """
    if not pixels and labels.ndim > 1 and labels.shape[-1] != 1:
        raise ValueError(
            f"The labels have the shape {labels.shape}, but the loss takes one class number for each image; "
            "for one-hot or soft labels use keras.losses.CategoricalCrossentropy(from_logits=True)."
        )
    found = np.unique(labels)
    found = found[found != ignored] if ignored is not None else found
    if not found.size:
        return
    if not np.all(np.isfinite(found)) or np.any(found != np.floor(found)):
        raise ValueError(
            f"Labels are class numbers, but these hold {found[found != np.floor(found)][0]:g}."
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
        f"The labels are {low} to {high}, but the {num_classes} classes of the model have the numbers 0 to "
        f"{num_classes - 1}; {remedy}."
    )


def examine_targets(targets: np.ndarray, num_classes: int) -> None:
    """Refuse targets of several classes an image that are not (B, num_classes) from 0 to 1.

    Raises:
        ValueError: another shape, or values beyond.
    """
    if targets.ndim != 2 or targets.shape[1] != num_classes:
        raise ValueError(
            f"The targets have the shape {targets.shape}, but a classifier with multi_label=True takes "
            f"(images, {num_classes}): 1 for each class that an image shows, 0 for the others."
        )
    if targets.size and not (np.min(targets) >= 0 and np.max(targets) <= 1):
        raise ValueError(
            f"The targets go from {np.min(targets):g} to {np.max(targets):g}, but those of several classes "
            "an image go from 0 to 1."
        )


def is_label(labels: Tensor, num_classes: int, ignored: int | None = None) -> Tensor:
    """Which labels are class numbers from 0 to num_classes - 1, or the one that is ignored."""
    labels = ops.cast(labels, "int32")
    known = (labels >= 0) & (labels < num_classes)
    return known if ignored is None else known | ops.equal(labels, ignored)


def loss_or_nan(loss: Tensor, images: Tensor | None, known: Tensor | None = None) -> Tensor:
    """The loss of a step; NaN where a pixel is so large that it overflows, or a label is no class.

    Args:
        loss: scalar.
        images: (B, height, width, C), or None if the caller has them no more.
        known: of `is_label`, of any shape; None for a loss without labels.
    """
    if images is not None:
        largest = ops.max(ops.abs(ops.cast(images, "float32")))
        loss = ops.where(largest <= _LARGEST_PIXEL, loss, float("nan"))
    return loss if known is None else ops.where(ops.all(known), loss, float("nan"))


def is_sparse(loss: object) -> bool:
    """Whether a loss, as given to `compile`, takes class numbers."""
    return _kind(loss) is keras.losses.SparseCategoricalCrossentropy


def refuse_probabilities(loss: object) -> None:
    """Refuse a loss of Keras that takes probabilities, for a model that gives logits.

    Raises:
        ValueError: the loss was made with from_logits=False, or is named by a string, which means the same.
    """
    kind = _kind(loss)
    if kind is None or (isinstance(loss, kind) and loss.get_config().get("from_logits")):
        return
    raise ValueError(
        f"The model gives logits, but the loss {kind.__name__} takes probabilities unless it is told "
        f"otherwise; use loss=keras.losses.{kind.__name__}(from_logits=True)."
    )


def refuse_exclusive(loss: object) -> None:
    """Refuse a crossentropy of Keras in which the classes of an image exclude each other.

    Raises:
        ValueError: it is one.
    """
    kind = _kind(loss)
    if kind is not None and "Categorical" in kind.__name__:
        raise ValueError(
            f"{kind.__name__} is for one class an image, but the classifier has multi_label=True; use "
            "loss=keras.losses.BinaryCrossentropy(from_logits=True)."
        )


def _kind(loss):
    """The class in `_CROSSENTROPIES` that a loss is of, whichever way it is given; else None."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    for function, kind in _CROSSENTROPIES.items():
        if loss is function or isinstance(loss, kind):
            return kind
    return None
