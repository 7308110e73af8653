"""Accuracy by length of pretraining, from checkpoints along the run (the paper's Figure 4)."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nepa_keras.data import ImageArrays
from nepa_keras.evaluation import frozen_accuracies
from nepa_keras.tables import markdown_table
from study.finetuning import CAUSAL
from study.kept_runs import KeptRun
from study.results import Results, accuracy_cell
from study.tuning import tuned_comparison

MEASURES = {"fine-tuned": "fine-tuned, causal", "knn": "k-NN", "linear_probe": "linear probe"}


def study_length(
    runs: Sequence[KeptRun],
    data: ImageArrays,
    results: Results,
    *,
    rates: Sequence[float],
    validation_share: float,
    subsets: int,
    draw: Callable[[dict], None],
    **few,
) -> str:
    """Fine-tune from each checkpoint of each run, evaluate its frozen features, and return the table.

    Args:
        runs: runs of NEPA with several seeds.
        data: images and labels.
        results: store of the accuracies.
        rates: peak learning rates tried at each checkpoint, on held-out training images.
        validation_share: see `tuned_comparison`.
        subsets: number of subsets of labels to report, for each run.
        draw: function called at the end with {step: {measure: accuracies of the runs}}.
        **few: more arguments of `FewLabelTrial`.
    """
    found: dict[int, dict[str, list[float]]] = {}
    for run in runs:
        if run.diverged:
            continue
        for step in run.steps():
            about = {"part": "length", "step": step, "seed": run.seed}
            setup = {**run.setup, "few": few, "subsets": subsets, "rates": list(rates)}

            def measure(run=run, step=step) -> dict[str, float]:
                backbone = run.backbone(step)
                tuned = tuned_comparison(
                    backbone,
                    data,
                    [{"learning_rate": rate} for rate in rates],
                    starts=("pretrained",),
                    seeds=[run.seed * 100 + i for i in range(subsets)],
                    tuning_seeds=[run.seed * 100 + 99],
                    validation_share=validation_share,
                    classifier=CAUSAL,
                    **few,
                )["pretrained"]["test"]
                frozen = frozen_accuracies(backbone, data)
                return {"fine-tuned": float(np.mean(tuned)), **frozen}

            of_step = results.of({**about, "setup": setup}, measure)
            for name, value in of_step.items():
                found.setdefault(step, {}).setdefault(name, []).append(value)
    draw(found)
    return length_table(found)


def length_table(found: Mapping[int, Mapping[str, Sequence[float]]]) -> str:
    """Table of accuracies in per cent by steps of pretraining, in Markdown."""
    rows = [["steps", *MEASURES.values()]]
    for step, of_step in found.items():
        rows.append([f"{step:,}", *(accuracy_cell(of_step[name]) for name in MEASURES)])
    return markdown_table(rows)
