"""Frozen features after pretraining by NEPA and by other objectives, for equal numbers of steps.

Each objective is trained with several seeds at the learning rate of the recipe. NEPA and LeNEPA are also
trained at a tuned learning rate (LeNEPA with a tuned weight of SIGReg), chosen with another seed on held-out
training images. Test images choose neither these settings nor the block of the features.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import NamedTuple

import keras

from nepa_keras import evaluation
from nepa_keras.backbone import NepaBackbone
from nepa_keras.data import ImageArrays
from nepa_keras.nepa import NepaPretrainer
from nepa_keras.objectives import LeNepaPretrainer, PatchNepaPretrainer
from nepa_keras.skipped_steps import NonFiniteError
from nepa_keras.tables import markdown_table, mean_and_std
from nepa_keras.training import ema_weights
from study.ablations import pretrain_briefly
from study.results import Results, diverged

NEIGHBOURS = 20
SLICES = 64  # random projections of SIGReg per step


class Objective(NamedTuple):
    """A training objective with its settings.

    Attributes:
        family: name shared by the objectives among which a setting is tuned.
        pretrainer: class of the pretrainer.
        options: arguments of the pretrainer.
    """

    family: str
    pretrainer: type[NepaPretrainer]
    options: Mapping = MappingProxyType({})


def _lenepa(weight: float) -> Objective:
    return Objective("LeNEPA", LeNepaPretrainer, {"sigreg_weight": weight, "num_slices": SLICES})


OBJECTIVES: dict[str, Objective] = {
    "NEPA": Objective("NEPA", NepaPretrainer),
    "NEPA without CLS": Objective("NEPA without CLS", PatchNepaPretrainer),
    **{f"LeNEPA, weight {weight:g}": _lenepa(weight) for weight in (5.0, 20.0)},
}
TUNED = ("NEPA", "LeNEPA")  # families whose settings are tuned


def pretrained(
    name: str, config: dict, data: ImageArrays, steps: int, *, seed: int, **how
) -> tuple[NepaPretrainer, float] | None:
    """Pretrain from random weights on the training images.

    Args:
        name: key of `OBJECTIVES`.
        config: configuration of the backbone; its initial weights do not depend on the objective.
        data: images and labels.
        steps, seed, **how: arguments of `pretrain_briefly`.

    Returns:
        The pretrainer and its final loss, or None if the training diverged.
    """
    keras.utils.set_random_seed(seed)
    objective = OBJECTIVES[name]
    model = objective.pretrainer(NepaBackbone.from_config(config), seed=seed, **objective.options)
    try:
        return model, pretrain_briefly(model, data.train_images, steps, seed=seed, **how)
    except NonFiniteError:
        return None


def held_out_accuracy(name: str, config: dict, data: ImageArrays, steps: int, **how) -> float:
    """Held-out accuracy of least squares on the best block's features; 0 if the pretraining diverged."""
    if (trained := pretrained(name, config, data, steps, **how)) is None:
        return 0.0
    model, _ = trained
    with ema_weights(model):
        choice = evaluation.choose_block(model.backbone, data.train_images, data.train_labels)
    return choice.accuracies[choice.block]


def frozen_report(
    name: str, config: dict, data: ImageArrays, steps: int, **how
) -> dict[str, float]:
    """Pretrain, then evaluate frozen features of the final norm and of the block chosen on training images.

    Returns:
        "loss"; "rank", the effective rank of the features of the norm; "block", the number of the chosen
        block (-1 for the norm); and accuracies on the test images in [0, 1]: "norm_knn", "norm_linear",
        "block_knn" and "block_linear". Or {"diverged": 1}.
    """
    if (trained := pretrained(name, config, data, steps, **how)) is None:
        return {"diverged": 1}
    model, loss = trained
    with ema_weights(model):
        backbone = model.backbone
        sets = evaluation.FeatureSets(backbone, backbone.use_causal_mask, pools=("mean",))
        train, test = (
            {block: x for (block, _), x in sets.extract(images).items()}
            for images in (data.train_images, data.test_images)
        )
    norm = evaluation.AFTER_NORM
    block = evaluation.choose_features(train, data.train_labels).block
    accuracies = {}
    for each in {norm, block}:
        rows = train[each], data.train_labels, test[each], data.test_labels
        accuracies[each] = {
            "knn": evaluation.knn_accuracy(*rows, k=min(NEIGHBOURS, len(rows[0]))),
            "linear": evaluation.linear_probe_accuracy(*rows),
        }
    return {
        "loss": loss,
        "rank": evaluation.effective_rank(test[norm]),
        "block": block,
        **{f"norm_{probe}": value for probe, value in accuracies[norm].items()},
        **{f"block_{probe}": value for probe, value in accuracies[block].items()},
    }


def study_objectives(
    data: ImageArrays,
    config: dict,
    results: Results,
    *,
    about: Mapping,
    rates: Sequence[float],
    seeds: Sequence[int],
    tuning_seed: int,
    base_learning_rate: float,
    **how,
) -> str:
    """Run every objective with every seed, at the recipe's rate and at a tuned one; return the table.

    A star marks a tuned rate that is the smallest or largest one tried: a rate beyond it may be better.

    Args:
        data: images and labels.
        config: configuration of the backbone.
        results: store of the results.
        about: further settings that the results depend on.
        rates: peak learning rates to try, for a batch of 256 images.
        seeds: seeds of the reported pretrainings.
        tuning_seed: seed of the pretrainings for tuning, not among `seeds`.
        base_learning_rate: learning rate of the recipe, for a batch of 256 images.
        **how: steps, batch_size and ema_decay of `pretrain_briefly`.

    Raises:
        ValueError: `tuning_seed` is one of `seeds`.
    """
    if tuning_seed in seeds:
        raise ValueError(f"tuning_seed={tuning_seed} must not be one of the reported seeds.")

    def made(kind: str, make, name: str, seed: int, rate: float):
        setup = {**about, **how, "options": dict(OBJECTIVES[name].options)}
        of_run = {"part": "objectives", "kind": kind, "name": name, "seed": seed, "rate": rate}
        options = {**how, "seed": seed, "base_learning_rate": rate}
        return results.of({**of_run, "setup": setup}, lambda: make(name, config, data, **options))

    rows = {}
    for name in OBJECTIVES:
        rows[f"{name}, rate {base_learning_rate:g}"] = name, base_learning_rate
    for family in TUNED:
        names = [name for name, objective in OBJECTIVES.items() if objective.family == family]
        tried = {
            (name, rate): made("tried", held_out_accuracy, name, tuning_seed, rate)
            for name, rate in product(names, rates)
        }
        name, rate = best = max(tried, key=lambda setting: tried[setting])
        star = "*" if rate in (min(rates), max(rates)) else ""
        rows[f"{name}, rate {rate:g}{star}, chosen"] = best
    counted = {
        title: [made("counted", frozen_report, name, seed, rate) for seed in seeds]
        for title, (name, rate) in rows.items()
    }
    return objectives_table(counted)


def objectives_table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Table of the results in Markdown: accuracies in per cent, mean ± sample standard deviation.

    Args:
        found: `frozen_report` of each pretraining, by title of the row.
    """
    names = {
        "norm_knn": "k-NN, norm",
        "norm_linear": "linear, norm",
        "block_knn": "k-NN, chosen block",
        "block_linear": "linear, chosen block",
    }
    head = ["", *names.values(), "chosen blocks", "effective rank, norm"]
    rows = [head]
    for title, all_runs in found.items():
        runs = [run for run in all_runs if "diverged" not in run]
        title = diverged(title, len(all_runs) - len(runs), len(all_runs))
        cells = [mean_and_std([100 * run[key] for run in runs]) for key in names]
        blocks = ", ".join(evaluation.block_name(int(run["block"])) for run in runs) or "-"
        rows.append([title, *cells, blocks, mean_and_std([run["rank"] for run in runs])])
    return markdown_table(rows)
