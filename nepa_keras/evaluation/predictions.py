"""Predictions of a classifier as a CSV file, a row an image."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nepa_keras.files import replacing
from nepa_keras.probabilities import probabilities

_BEST = 5  # classes in a row


def write_predictions(
    path: str | Path,
    names: Sequence[str],
    logits: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    multi_label: bool = False,
    separator: str = "|",
) -> None:
    """Write name, label, predicted class, its probability, and the five most likely classes of each image.

    The columns are name, label, predicted, probability, and class_1, probability_1 to class_5, probability_5
    (fewer of fewer classes), best first. With `multi_label` the probabilities are of each class by itself
    (sigmoid, else softmax); label has all classes that the image shows, predicted all from probability 0.5
    on, and probability those of the latter, between separators.

    Args:
        path: the file; it is whole or absent.
        names: N names of images.
        logits: (N, K).
        labels: (N,) class numbers, negative for none, or with `multi_label` (N, K) zeros and ones; None
            leaves the column empty.
        class_names: K names; default the numbers.
        multi_label: several classes an image.
        separator: between the classes of an image with `multi_label`.

    Raises:
        ValueError: numbers of names, logits and labels that do not fit.
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
        # Names of files need not be UTF-8; they come out as the bytes that they are.
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
