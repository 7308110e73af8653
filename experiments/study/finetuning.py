"""How a pretrained backbone is best fine-tuned: the questions of the paper's Tables 1d, 1e and 8 at once.

The patch embedding trained or frozen; bidirectional attention with the mean of the patches, or causal
attention with the last embedding; a fixed layer decay, or one that rises in a line to 1.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np

from nepa_keras.backbone import NepaBackbone
from nepa_keras.data import ImageArrays
from nepa_keras.tables import markdown_table, mean_and_std
from study.results import Results, accuracy_cell
from study.tuning import tuned_comparison

CAUSAL: Mapping[str, Any] = MappingProxyType({"pooling": "last", "use_causal_mask": True})
BIDIRECTIONAL: Mapping[str, Any] = MappingProxyType({"pooling": "mean", "use_causal_mask": False})

PATCH_EMBEDDING: dict[str, tuple[str, ...]] = {"trained": (), "frozen": ("patch_embedding",)}
ATTENTION = {"bidirectional, mean": BIDIRECTIONAL, "causal, last": CAUSAL}
# (layer decay, more arguments of the schedule), of the paper's base; all blocks warm up together.
LAYER_DECAY: dict[str, tuple[float, dict[str, Any]]] = {
    "0.65": (0.65, {"own_warmup": False}),
    "0.35 rising to 1": (
        0.35,
        {"own_warmup": False, "final_layer_decay": 1.0, "layer_decay_course": "linear"},
    ),
}

# What the paper found (arXiv 2512.16922 v2), in points: base with LayerScale, full model, base.
_QUESTIONS = (
    ("patch embedding frozen, not trained", 0, "+4.3 (Table 1d)"),
    ("causal, not bidirectional", 1, "-1.2 (Table 1e)"),
    ("layer decay rising, not fixed", 2, "+0.8 (Table 8)"),
)

Choice = tuple[str, str, str]  # names of the three


def study_finetuning(
    backbone: NepaBackbone,
    data: ImageArrays,
    results: Results,
    *,
    about: Mapping,
    rates: Sequence[float],
    validation_share: float,
    seeds: Sequence[int],
    tuning_seeds: Sequence[int],
    **few,
) -> str:
    """All eight ways, each at its best rate of those tried; two tables.

    Args:
        backbone: pretrained.
        data: images and labels; the rate is chosen on some that are held out of training.
        results: where each fine-tuning is kept.
        about: what else the results depend on.
        rates: peaks that are tried.
        validation_share, seeds, tuning_seeds: see `tuned_comparison`.
        **few: more arguments of `FewLabelTrial`.
    """
    found: dict[Choice, dict] = {}
    for choice in product(PATCH_EMBEDDING, ATTENTION, LAYER_DECAY):
        patch, attention, decay = choice
        layer_decay, layerwise = LAYER_DECAY[decay]
        options = {**few, "layer_decay": layer_decay, "layerwise": layerwise}
        options["classifier"] = {**ATTENTION[attention], "frozen": PATCH_EMBEDDING[patch]}
        names = dict(zip(("patch", "attention", "decay"), choice, strict=True))
        of_choice = {"part": "finetuning", **names, "setup": {**about, **options}}

        def kept(run, trial, of_choice=of_choice):
            return results.of({**of_choice, **run}, trial)

        found[choice] = tuned_comparison(
            backbone,
            data,
            [{"learning_rate": rate} for rate in rates],
            starts=("pretrained",),
            seeds=seeds,
            tuning_seeds=tuning_seeds,
            validation_share=validation_share,
            run=kept,
            **options,
        )["pretrained"]
    return f"{choices_table(found, rates)}\n\n{questions_table(found)}"


def choices_table(found: Mapping[Choice, Mapping], rates: Sequence[float]) -> str:
    """Each way of fine-tuning in Markdown, accuracies in per cent.

    A chosen rate that is the smallest or largest has a star: one beyond it may be better.

    Args:
        found: of `tuned_comparison`, by names of the three choices.
        rates: that were tried.
    """
    head = ["patch embedding", "attention, pooling", "layer decay", "accuracy", "chosen rate"]
    rows = [head]
    for choice, of_choice in found.items():
        rate = rates[of_choice["chosen"]]
        star = "*" if rate in (min(rates), max(rates)) else ""
        rows.append([*choice, accuracy_cell(of_choice["test"]), f"{rate:g}{star}"])
    return markdown_table(rows)


def questions_table(found: Mapping[Choice, Mapping]) -> str:
    """What each choice is worth, in points, in Markdown: over the seeds, the mean of the other choices."""
    rows = [["", "difference", "the paper"]]
    for title, place, paper in _QUESTIONS:
        names = list(dict.fromkeys(choice[place] for choice in found))
        first, second = (
            np.array([of["test"] for choice, of in found.items() if choice[place] == name])
            for name in names
        )
        of_seeds = 100 * (second - first).mean(axis=0)
        rows.append([title, mean_and_std(of_seeds, sign="+"), paper])
    return markdown_table(rows)
