"""The ablations of the paper, and what is looked at in each."""

from typing import NamedTuple

import keras
import numpy as np

from nepa_keras.backbone import NepaBackbone
from nepa_keras.data import ImageArrays, normalize
from nepa_keras.evaluation.diagnostics import diagnostics
from nepa_keras.evaluation.features import FeatureExtractor
from nepa_keras.evaluation.knn import knn_accuracy
from nepa_keras.evaluation.linear_probe import linear_probe_accuracy
from nepa_keras.nepa import NepaPretrainer


class Ablation(NamedTuple):
    """What differs from NEPA.

    Attributes:
        objective: arguments of `NepaPretrainer`.
        backbone: arguments of `NepaBackbone`.
        paper: what the paper says of it.
    """

    objective: dict = {}
    backbone: dict = {}
    paper: str = ""


ABLATIONS: dict[str, Ablation] = {
    "NEPA": Ablation(),
    "no shift": Ablation({"shift": False}, {}, "training fails"),
    "no causal mask": Ablation({}, {"use_causal_mask": False}, "several points lost"),
    "no stop-gradient": Ablation({"stop_gradient": False}, {}, "collapses"),
    "40 % masked": Ablation({"masking_ratio": 0.4}, {"use_mask_token": True}, "hurts"),
    "no RoPE": Ablation({}, {"rope_theta": None}, "the part that helps most"),
    "no QK-norm": Ablation({}, {"qk_norm": False}, "stability at scale"),
    "no LayerScale": Ablation({}, {"layer_scale": None}, "a modest part"),
    "gated MLP": Ablation({}, {"gated_mlp": True}, "a modest part"),
}


def ablated(name: str, backbone: NepaBackbone, seed: int) -> NepaPretrainer:
    """A fresh pretrainer of the backbone's architecture with one thing changed.

    The gated MLP is narrowed to two thirds, in steps of 8, so that it has as many weights.

    Args:
        name: of `ABLATIONS`.
        seed: of the weights and masks.
    """
    ablation, config = ABLATIONS[name], backbone.get_config()
    if ablation.backbone.get("gated_mlp"):
        config["mlp_dim"] = max(round(config["mlp_dim"] * 2 / 3 / 8), 1) * 8
    keras.utils.set_random_seed(seed)
    changed = NepaBackbone.from_config({**config, **ablation.backbone})
    return NepaPretrainer(changed, **ablation.objective, seed=seed)


def features_report(backbone: NepaBackbone, data: ImageArrays, k: int = 20) -> dict[str, float]:
    """Collapse diagnostics and frozen accuracies, the mask as in pretraining.

    Returns:
        `diagnostics` of the pooled test features, "target_spread" and "target_effective_rank" of the patch
        embeddings of the first 64 test images, "knn" and "linear_probe" in [0, 1].
    """
    extractor = FeatureExtractor(backbone)
    train, test = extractor.extract(data.train_images), extractor.extract(data.test_images)
    rows = train, data.train_labels, test, data.test_labels
    found = diagnostics(test)
    images = normalize(data.test_images[:64], backbone.image_shape[:2])
    targets = keras.ops.convert_to_numpy(backbone.embed(images))[:, 1:]
    of_targets = diagnostics(np.reshape(targets, (-1, targets.shape[-1])))
    return found | {
        "target_spread": of_targets["spread"],
        "target_effective_rank": of_targets["effective_rank"],
        "knn": knn_accuracy(*rows, k=min(k, len(train))),
        "linear_probe": linear_probe_accuracy(*rows),
    }
