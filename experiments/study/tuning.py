"""Pretrained against from scratch, each at its own best settings.

The settings are chosen on a validation part of the training images, with other subsets of labels than those
that are then counted; the test images choose nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from nepa_keras.backbone import NepaBackbone
from nepa_keras.data import ImageArrays, held_out
from nepa_keras.evaluation.few_label import FewLabelTrial
from nepa_keras.skipped_steps import NonFiniteError

STARTS = ("pretrained", "scratch")


def tuned_comparison(
    backbone: NepaBackbone,
    data: ImageArrays,
    settings: Sequence[Mapping[str, Any]],
    *,
    starts: Sequence[str] = STARTS,
    seeds: Iterable[int] = (0, 1, 2),
    tuning_seeds: Iterable[int] = (100,),
    validation_share: float = 0.2,
    run: Callable[[dict, Callable[[], float]], float] = lambda description, trial: trial(),
    **options,
) -> dict[str, dict]:
    """Few-label fine-tuning with equal budgets, tuned for either start.

    Args:
        backbone: the pretrained `NepaBackbone`.
        data: images and labels; those held out of the training images are not fine-tuned on.
        settings: each some arguments of `FewLabelTrial`, all of which are tried for either start.
        starts: "pretrained" and "scratch", or one of them.
        seeds: of the subsets and fresh weights that count.
        tuning_seeds: of those that choose; other ones.
        validation_share: of each class, held out.
        run: gets what a run is and a function that makes it, and returns its accuracy; to keep results and
            not make them twice.
        **options: more arguments of `FewLabelTrial`, the same for all.

    Returns:
        For each start {"validation": accuracies of the settings, "chosen": index of the best, "test":
        accuracies of the seeds}; NaN of a fine-tuning that diverged.

    Raises:
        ValueError: no settings, or a seed that both chooses and counts.
    """
    seeds, tuning_seeds = list(seeds), list(tuning_seeds)
    if not (settings and seeds and tuning_seeds) or set(seeds) & set(tuning_seeds):
        raise ValueError(
            f"There must be settings ({len(settings)}), and seeds {seeds} other than those that choose, "
            f"{tuning_seeds}."
        )
    kept, validation = held_out(data.train_labels, validation_share, seed=0)
    train = data.train_images[kept], data.train_labels[kept]
    chosen_on = data.train_images[validation], data.train_labels[validation]
    counted_on = data.test_images, data.test_labels

    def accuracies(setting: int, on: str, starts, seeds: list[int]) -> dict[str, list[float]]:
        trial = None

        def made(start: str, seed: int) -> float:
            nonlocal trial
            if trial is None:  # it compiles, so only if a run is to be made
                test = counted_on if on == "test" else chosen_on
                trial = FewLabelTrial(backbone, *train, *test, **options, **settings[setting])
            try:
                return trial.run(seed, from_scratch=start == "scratch")
            except NonFiniteError:
                return float("nan")

        return {
            start: [
                run(
                    {"start": start, **settings[setting], "on": on, "seed": seed},
                    partial(made, start, seed),
                )
                for seed in seeds
            ]
            for start in starts
        }

    tried = [accuracies(i, "validation", starts, tuning_seeds) for i in range(len(settings))]
    found = {}
    for start in starts:
        scores = [float(np.mean(accuracies_of[start])) for accuracies_of in tried]
        best = int(np.argmax(np.nan_to_num(scores, nan=-1.0)))
        test = accuracies(best, "test", [start], seeds)[start]
        found[start] = {"validation": scores, "chosen": best, "test": test}
    return found
