"""Predictions of a classifier as a CSV file, one row per image."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nepa_keras.files import replacing
from nepa_keras.probabilities import probabilities

_BEST = 5  # most likely classes in a row


def write_predictions(
    path: str | Path,
    names: Sequence[str],
    logits: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    multi_label: bool = False,
    separator: str = "|",
) -> None:
    """Write the predicted classes of each image and their probabilities to a CSV file.

    Columns: name, label, predicted, probability, then class_1, probability_1 to class_5, probability_5: the
    five most likely classes, best first (fewer if the classifier has fewer).

    With `multi_label` each probability is a sigmoid, otherwise a softmax over all classes. `label` then lists
    all classes of the image, `predicted` all classes of probability 0.5 or more, and `probability` the
    probabilities of the latter, joined by `separator`.

    Args:
        path: file to write. A failed write leaves no partial file.
        names: names of the images.
        logits: (B, C).
        labels: (B,) class numbers, negative for none; with `multi_label` (B, C) zeros and ones. None leaves
            the column empty.
        class_names: C names; by default the numbers.
        multi_label: whether an image may show several classes.
        separator: text between the classes of an image with `multi_label`.

    Raises:
        ValueError: names, logits and labels are not equally many.
    """
    logits = np.asarray(logits, "float64")
    if len(names) != len(logits) or (labels is not None and len(labels) != len(logits)):
        held = "none" if labels is None else len(labels)
        raise ValueError(
            f"There are {len(names)} names and {held} labels for {len(logits)} logits."
        )
    classes = list(class_names or map(str, range(logits.shape[1])))
    best = min(_BEST, len(classes))
    header = ["name", "label", "predicted", "probability"]
    header += [f"{column}_{n}" for n in range(1, best + 1) for column in ("class", "probability")]

    def joined(chosen: np.ndarray) -> str:
        return separator.join(classes[k] for k in chosen)

    with (
        replacing(Path(path).expanduser()) as unfinished,
        # File names need not be valid UTF-8; surrogateescape writes their original bytes.
        open(unfinished, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        for i, row in enumerate(probabilities(logits, multi_label)):
            order = np.argsort(-logits[i], kind="stable")[:best]
            label = ""
            if labels is not None and multi_label:
                label = joined(np.flatnonzero(labels[i]))
            elif labels is not None and labels[i] >= 0:
                label = classes[labels[i]]
            chosen = np.flatnonzero(row >= 0.5) if multi_label else order[:1]
            shares = separator.join(_text(row[k]) for k in chosen)
            ranked = [cell for k in order for cell in (classes[k], _text(row[k]))]
            writer.writerow([names[i], label, joined(chosen), shares, *ranked])


def _text(probability: float) -> str:
    return f"{probability:.6g}"
