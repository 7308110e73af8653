"""The table at the end of a run: accuracy with and without pretraining."""

import numpy as np

from nepa_keras.backbone import NepaBackbone
from nepa_keras.data import ImageArrays
from nepa_keras.evaluation.blocks import block_name
from nepa_keras.evaluation.features import AFTER_NORM, FeatureExtractor
from nepa_keras.evaluation.knn import knn_accuracy
from nepa_keras.evaluation.linear_probe import linear_probe_accuracy
from nepa_keras.tables import mean_and_std, text_table


def frozen_accuracies(
    model: NepaBackbone | FeatureExtractor,
    data: ImageArrays,
    k: int = 20,
    temperature: float = 0.07,
    block: int = AFTER_NORM,
) -> dict[str, float]:
    """Test accuracies of k-NN and the linear probe on frozen features.

    Args:
        model: a `NepaBackbone`, or a `FeatureExtractor` when it is to be compiled once for
            several calls.
        data: `ImageArrays` with training and test images and labels.
        k, temperature: of `knn_accuracy`.
        block: of the backbone, see `FeatureExtractor`; an extractor has its own.

    Returns:
        {"knn": ..., "linear_probe": ...}, in [0, 1].
    """
    extractor = model
    if not isinstance(model, FeatureExtractor):
        extractor = FeatureExtractor(model, block=block)
    rows = (
        extractor.extract(data.train_images),
        data.train_labels,
        extractor.extract(data.test_images),
        data.test_labels,
    )
    return {
        "knn": knn_accuracy(*rows, k=min(k, len(rows[0])), temperature=temperature),
        "linear_probe": linear_probe_accuracy(*rows),
    }


def transfer_rows(
    few_label: dict[str, list[float]],
    before: dict[str, float],
    after: dict[str, float],
    *,
    num_labels: int,
    steps: int,
    num_test_images: int,
    blocks: tuple[int, int] = (AFTER_NORM, AFTER_NORM),
) -> list[tuple[str, ...]]:
    """The accuracies as text, the head first, in per cent; gains in points, also where they are losses.

    Args:
        few_label: of `few_label_comparison`.
        before, after: of `frozen_accuracies`, with the initial and the pretrained weights.
        num_labels, steps: the budget of the fine-tuning.
        num_test_images: on which all was measured.
        blocks: whose features `before` and `after` are of.

    Raises:
        ValueError: fine-tuning lists that are empty or of different length.
    """
    pretrained, scratch = (100 * np.array(few_label[key]) for key in ("pretrained", "scratch"))
    if len(pretrained) == 0 or len(pretrained) != len(scratch):
        raise ValueError(
            f"few_label has {len(pretrained)} pretrained and {len(scratch)} scratch runs; "
            "give one of each per seed."
        )
    seeds = f"{len(scratch)} seed{'s' if len(scratch) > 1 else ''}"
    rows: list[tuple[str, ...]] = [
        (
            f"fine-tuning on {num_labels} labels, {steps} steps, {seeds}",
            mean_and_std(scratch),
            mean_and_std(pretrained),
            mean_and_std(pretrained - scratch, sign="+"),
        )
    ]
    names = [block_name(block) for block in blocks]
    where = "" if set(blocks) == {AFTER_NORM} else f", {' and '.join(dict.fromkeys(names))}"
    for key, name in (("knn", "k-NN"), ("linear_probe", "linear probe")):
        if key in before and key in after:
            values = 100 * before[key], 100 * after[key]
            gain = mean_and_std([values[1] - values[0]], sign="+")
            rows.append(
                (
                    f"{name}, frozen backbone{where}",
                    *(mean_and_std([value]) for value in values),
                    gain,
                )
            )
    head = (
        f"accuracy in % on {num_test_images:,} test images",
        "initial weights",
        "pretrained (EMA)",
        "gain",
    )
    return [head, *rows]


def transfer_table(rows: list[tuple[str, ...]]) -> str:
    """The rows of `transfer_rows` as lines of text, their columns aligned."""
    head, *others = text_table(rows).splitlines()
    return "\n".join(["gain from pretraining", head, "-" * len(head), *others])
