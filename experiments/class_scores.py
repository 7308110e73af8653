"""Scores of classifiers with one class or several per image: results, their names, captions, tables."""

import math

import numpy as np
from label_flags import several

from nepa_keras import evaluation

# Scores: key in the log -> heading. The first one selects the best weights.
_ONE = {"accuracy": "top-1", "top5": "top-5"}
_SEVERAL = {"map": "mAP", "f1": "F1"}


def headings() -> dict[str, str]:
    """Heading of each score by its key in the log; the first score selects the best weights."""
    return _SEVERAL if several() else _ONE


def main_result() -> tuple[str, str]:
    """Key in the log of the score that selects the best weights, and its name in a sentence."""
    return ("map", "mAP") if several() else ("accuracy", "accuracy")


def report_of(logits: np.ndarray, labels: np.ndarray, names=None):
    """Report of `evaluation.multi_label_report` for labels (B, C), else of `classification_report`."""
    make = evaluation.multi_label_report if labels.ndim == 2 else evaluation.classification_report
    return make(logits, labels, names)


def results(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores by their keys, and the mean cross-entropy as "loss"; NaN if any logit is not finite."""
    if not np.isfinite(logits).all():
        return dict.fromkeys([*headings(), "loss"], math.nan)
    report, logits = report_of(logits, labels), logits.astype("float64")
    if labels.ndim == 2:
        loss = float(np.mean(np.logaddexp(0.0, logits) - labels * logits))
        return {"map": report.mean_average_precision, "f1": report.f1, "loss": loss}
    of_label = np.take_along_axis(logits, labels[:, None].astype(int), axis=1)[:, 0]
    loss = float(np.mean(np.logaddexp.reduce(logits, axis=1) - of_label))
    return {"accuracy": report.top1, "top5": report.top5, "loss": loss}


def caption(label: np.ndarray, names) -> str:
    """Class names of an image, from a class number (negative if unlabelled) or from zeros and ones (C,)."""
    if np.ndim(label) == 0:
        return names[label] if label >= 0 else ""
    return ", ".join(names[k] for k in np.flatnonzero(label)) or "none"


def score_row(name: str, logs: dict, prefix: str) -> tuple[str, ...]:
    """Row of the table of results: name, each score in %, step.

    Args:
        name: first cell.
        logs: logs of `training.Validation`.
        prefix: prefix of the keys in the logs: "val" or "ema_val".
    """
    scores = (f"{100 * logs[f'{prefix}_{score}']:.2f}" for score in headings())
    return name, *scores, f"{int(logs['step'])}" if "step" in logs else "last"


def comparison(reports: dict) -> list[tuple[str, ...]]:
    """Table that compares several models: a row of headings, and a row of scores in % for each.

    Args:
        reports: results of `report_of` by model name.
    """
    kinds = {"top1": "top-1", "top5": "top-5", "calibration_error": "ECE"}
    if isinstance(next(iter(reports.values())), evaluation.MultiLabelReport):
        kinds = {"mean_average_precision": "mAP", "f1": "F1"}
    rows: list[tuple[str, ...]] = [("model", *kinds.values())]
    for name, report in reports.items():
        rows.append((name, *(f"{100 * getattr(report, kind):.2f}%" for kind in kinds)))
    return rows
