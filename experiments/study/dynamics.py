"""Training dynamics of pretraining, with and without the parts that stabilise it (the paper's Figs. 3, 7)."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nepa_keras.data import ImageArrays, normalize
from nepa_keras.evaluation import extract_features, knn_accuracy
from nepa_keras.tables import markdown_table, mean_and_std
from nepa_keras.visualization import attention_map
from nepa_keras.visualization.patches import patch_grid
from study.ablations import ABLATIONS, PARTS, Ablation
from study.kept_runs import KeptRun
from study.results import Results, accuracy_cell, diverged

VARIANTS: dict[str, Ablation] = {
    "NEPA": ABLATIONS["NEPA"],
    **{name: ABLATIONS[name] for name in ("no shift", "no stop-gradient", "no LayerScale")},
    "SwiGLU": PARTS["all four"],
    "SwiGLU, no QK-norm": PARTS["+ LayerScale, RoPE, SwiGLU"],
}
NEIGHBOURS = 20
_ACCURACY = "k-NN of the averaged weights in %"


class Comparison(NamedTuple):
    """One diagram: a column of the log, drawn for two variants."""

    title: str
    column: str
    variants: tuple[str, str]


COMPARISONS = (
    Comparison(_ACCURACY, "knn", ("NEPA", "no shift")),
    Comparison("Loss", "loss", ("NEPA", "no stop-gradient")),
    Comparison("Loss", "loss", ("NEPA", "no LayerScale")),
    Comparison("Gradient norm", "gradient_norm", ("SwiGLU", "SwiGLU, no QK-norm")),
)

Curves = dict[str, list[tuple[np.ndarray, np.ndarray]]]  # variant -> (steps, values) for each seed


def study_dynamics(
    runs: Mapping[str, Sequence[KeptRun]],
    data: ImageArrays,
    results: Results,
    draw: Callable[[list[tuple[Comparison, Curves]]], None],
) -> str:
    """Measure and draw the curves of all variants, and return the table.

    Args:
        runs: runs of each of `VARIANTS`, one per seed.
        data: images and labels.
        results: store of the accuracies.
        draw: function called with the curves of each comparison.
    """

    def accuracies(name: str, run: KeptRun) -> tuple[np.ndarray, np.ndarray]:
        found = []
        for step in run.steps():
            about = {"part": "dynamics", "name": name, "step": step, "seed": run.seed}

            def measure(step=step) -> float:
                backbone = run.backbone(step)
                train, test = (
                    extract_features(backbone, images)
                    for images in (data.train_images, data.test_images)
                )
                neighbours = min(NEIGHBOURS, len(train))
                return knn_accuracy(train, data.train_labels, test, data.test_labels, k=neighbours)

            found.append(results.of({**about, "setup": run.setup}, measure))
        return np.array(run.steps()), 100 * np.array(found)

    def curves(comparison: Comparison) -> Curves:
        found: Curves = {}
        for name in comparison.variants:
            whole = [run for run in runs[name] if not run.diverged]
            if comparison.column == "knn":
                found[name] = [accuracies(name, run) for run in whole]
            else:
                found[name] = [(run.curve("step"), run.curve(comparison.column)) for run in whole]
        return found

    drawn = [(comparison, curves(comparison)) for comparison in COMPARISONS]
    draw(drawn)
    last = {name: [y[-1] / 100 for _, y in of_name] for name, of_name in drawn[0][1].items()}
    return dynamics_table(runs, last)


def dynamics_table(
    runs: Mapping[str, Sequence[KeptRun]], accuracies: Mapping[str, Sequence[float]]
) -> str:
    """Table of the loss and gradient norm of each variant, in Markdown.

    Args:
        runs: runs of each variant.
        accuracies: k-NN accuracies at the end in [0, 1], of the variants for which they were measured.
    """
    rows = [
        [
            "",
            "final loss",
            "gradient norm, median interval",
            "gradient norm, largest step",
            "skipped steps",
        ]
    ]
    rows[0].append(_ACCURACY)
    for name, of_name in runs.items():
        whole = [run for run in of_name if not run.diverged]
        title = diverged(name, len(of_name) - len(whole), len(of_name))
        median = [float(np.median(run.curve("gradient_norm"))) for run in whole]
        largest = [float(np.nanmax(run.curve("gradient_norm_max"))) for run in whole]
        skipped = [float(np.nanmax(run.curve("skipped_steps"))) for run in whole]
        losses = mean_and_std([float(run.curve("loss")[-1]) for run in whole], digits=3)
        cells = [losses, *(mean_and_std(x, digits=2) for x in (median, largest))]
        accuracy = accuracy_cell(accuracies[name]) if name in accuracies else ""
        rows.append([title, *cells, mean_and_std(skipped, digits=0), accuracy])
    return markdown_table(rows)


def attention_over_steps(
    run: KeptRun, images: np.ndarray
) -> tuple[np.ndarray, int, dict[int, np.ndarray]]:
    """Attention of the patch below and right of the centre at each checkpoint of a run.

    Args:
        run: run whose averaged weights are used; step 0 stands for its initial weights.
        images: (B, height, width, channels) uint8.

    Returns:
        The preprocessed images (B, height, width, channels); the number of the patch in row-major order from
        0; and by step the attention maps (B, h, w), the mean over heads and blocks.
    """
    maps = {}
    for step in run.steps():
        backbone = run.backbone(step)
        shown = np.asarray(normalize(images, backbone.image_shape[:2]))
        rows, columns = patch_grid(backbone, shown)
        query = rows // 2 * columns + columns // 2
        maps[step] = attention_map(backbone, shown, query)
    return shown, query, maps
