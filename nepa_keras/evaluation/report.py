"""Table at the end of a pretraining run: accuracy with and without pretraining."""

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
        model: a `NepaBackbone`, or a `FeatureExtractor`, which compiles once for several calls.
        data: `ImageArrays` with training and test images and labels.
        k, temperature: see `knn_accuracy`.
        block: block of the backbone, see `FeatureExtractor`; an extractor has its own block.

    Returns:
        {"knn": accuracy, "linear_probe": accuracy}, each in [0, 1].
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
    """Rows of text with the accuracies in percent and the gains in percentage points, positive or negative.

    Args:
        few_label: result of `few_label_comparison`.
        before, after: results of `frozen_accuracies` with the initial and with the pretrained weights.
        num_labels, steps: labels and steps of the fine-tuning.
        num_test_images: number of images on which the accuracies were measured.
        blocks: blocks whose features gave `before` and `after`.

    Returns:
        The header and one row per accuracy.

    Raises:
        ValueError: the lists of fine-tuning accuracies are empty or differ in length.
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
    """Rows of `transfer_rows` as text with aligned columns."""
    head, *others = text_table(rows).splitlines()
    return "\n".join(["gain from pretraining", head, "-" * len(head), *others])
