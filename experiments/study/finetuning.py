"""Eight ways to fine-tune a pretrained backbone: all combinations of the paper's Tables 1d, 1e and 8.

The patch embedding is trained or frozen; attention is bidirectional with the mean of the patches, or causal
with the last patch; the layer decay is fixed, or rises linearly to 1.
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
# (layer decay, more arguments of the schedule) of the paper's base model; all blocks share one warm-up.
LAYER_DECAY: dict[str, tuple[float, dict[str, Any]]] = {
    "0.65": (0.65, {"own_warmup": False}),
    "0.35 rising to 1": (
        0.35,
        {"own_warmup": False, "final_layer_decay": 1.0, "layer_decay_course": "linear"},
    ),
}

# Differences in the paper (arXiv 2512.16922 v2) in points: base with LayerScale, full model, base.
_QUESTIONS = (
    ("patch embedding frozen, not trained", 0, "+4.3 (Table 1d)"),
    ("causal, not bidirectional", 1, "-1.2 (Table 1e)"),
    ("layer decay rising, not fixed", 2, "+0.8 (Table 8)"),
)

Choice = tuple[str, str, str]  # keys of PATCH_EMBEDDING, ATTENTION and LAYER_DECAY


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
    """Fine-tune in all eight ways, each at the best of the given learning rates; return two tables.

    Args:
        backbone: pretrained backbone.
        data: images and labels; the rate is chosen on held-out training images.
        results: store of the fine-tunings.
        about: further settings that the results depend on.
        rates: peak learning rates to try.
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
    """Table of the ways of fine-tuning in Markdown, accuracies in per cent.

    A star marks a chosen rate that is the smallest or largest one tried: a rate beyond it may be better.

    Args:
        found: results of `tuned_comparison` by choice.
        rates: learning rates that were tried.
    """
    head = ["patch embedding", "attention, pooling", "layer decay", "accuracy", "chosen rate"]
    rows = [head]
    for choice, of_choice in found.items():
        rate = rates[of_choice["chosen"]]
        star = "*" if rate in (min(rates), max(rates)) else ""
        rows.append([*choice, accuracy_cell(of_choice["test"]), f"{rate:g}{star}"])
    return markdown_table(rows)


def questions_table(found: Mapping[Choice, Mapping]) -> str:
    """Table of the effect of each choice in points, in Markdown: averaged over the other choices, by seed."""
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
