"""Fine-tuning from pretrained and from random weights, each at its own best settings.

Settings are chosen on held-out training images, with other subsets of labels than the reported ones. Test
images choose nothing.
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
    """Few-label fine-tuning with equal budgets, tuned separately for pretrained and random weights.

    Args:
        backbone: pretrained `NepaBackbone`.
        data: images and labels; held-out training images are not fine-tuned on.
        settings: settings to try for each start, as arguments of `FewLabelTrial`.
        starts: "pretrained" and "scratch", or one of them.
        seeds: seeds of the reported subsets of labels and random weights.
        tuning_seeds: other seeds, with which the setting is chosen.
        validation_share: fraction of each class to hold out.
        run: function from a description of a fine-tuning and a function that runs it to its accuracy; it may
            return a stored result.
        **options: more arguments of `FewLabelTrial`, the same for all.

    Returns:
        For each start {"validation": accuracies of the settings, "chosen": index of the best, "test":
        accuracies of the seeds}; NaN for a fine-tuning that diverged.

    Raises:
        ValueError: no settings or seeds, or a seed is in both `seeds` and `tuning_seeds`.
    """
    seeds, tuning_seeds = list(seeds), list(tuning_seeds)
    if not (settings and seeds and tuning_seeds) or set(seeds) & set(tuning_seeds):
        raise ValueError(
            f"There must be at least one setting ({len(settings)} given), and seeds {seeds} that are not "
            f"among tuning_seeds {tuning_seeds}."
        )
    kept, validation = held_out(data.train_labels, validation_share, seed=0)
    train = data.train_images[kept], data.train_labels[kept]
    chosen_on = data.train_images[validation], data.train_labels[validation]
    counted_on = data.test_images, data.test_labels

    def accuracies(setting: int, on: str, starts, seeds: list[int]) -> dict[str, list[float]]:
        trial = None

        def made(start: str, seed: int) -> float:
            nonlocal trial
            if trial is None:  # it compiles, so build it only if a result is missing
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
