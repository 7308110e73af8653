"""Ablations of NEPA (rows of the paper's Tables 1a to 1c), their pretraining and their measurements."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import keras
import numpy as np

from nepa_keras.backbone import NepaBackbone
from nepa_keras.clone import relative_path
from nepa_keras.data import AugmentedBatches, ImageArrays, normalize
from nepa_keras.evaluation.diagnostics import diagnostics
from nepa_keras.evaluation.features import FeatureExtractor
from nepa_keras.evaluation.few_label import few_label_comparison
from nepa_keras.evaluation.report import frozen_accuracies
from nepa_keras.nepa import NepaPretrainer
from nepa_keras.skipped_steps import NonFiniteError
from nepa_keras.training import WarmupCosine, adamw, ema_weights, scaled_learning_rate

ROWS = 10  # epochs in the history of a brief pretraining


class Ablation(NamedTuple):
    """Differences from NEPA with the backbone of the preset.

    Attributes:
        objective: changed arguments of `NepaPretrainer`.
        backbone: changed arguments of `NepaBackbone`.
        paper: result in the paper (arXiv 2512.16922 v2): ImageNet-1k top-1 in % after fine-tuning base.
    """

    objective: Mapping = MappingProxyType({})
    backbone: Mapping = MappingProxyType({})
    paper: str = ""


ABLATIONS: dict[str, Ablation] = {
    "NEPA": Ablation(),
    "no shift": Ablation({"shift": False}, {}, "fails in fine-tuning (Table 1a)"),
    "no causal mask": Ablation({}, {"use_causal_mask": False}, "73.6 against 76.8 (Table 1a)"),
    "no stop-gradient": Ablation({"stop_gradient": False}, {}, "collapses to -1 (Table 1a)"),
    "40 % masked": Ablation(
        {"masking_ratio": 0.4}, {"use_mask_token": True}, "76.4 against 78.2, plain ViT (Table 1c)"
    ),
    "no RoPE": Ablation(
        {},
        {"rope_theta": None},
        "not in the paper: RoPE 80.2 against learned positions 77.4 (Table 1b)",
    ),
    "no QK-norm": Ablation(
        {},
        {"qk_norm": False},
        "80.2 against 81.1; with SwiGLU it fails (Table 1b)",
    ),
    "no LayerScale": Ablation(
        {},
        {"layer_scale": None},
        "78.2 against 77.4, plain ViT: it costs accuracy, buys stability (Table 1b)",
    ),
    "gated MLP": Ablation({}, {"gated_mlp": True}, "83.8 against 83.6 with GELU (Table 9)"),
}

_LEARNED = {"rope_theta": None, "position_embedding": "learned"}
_PLAIN = {**_LEARNED, "layer_scale": None, "qk_norm": False}
_NO_QK_NORM = {"qk_norm": False}
_SWIGLU = {"gated_mlp": True}

# Table 1b: each row adds one part; RoPE replaces the learned positions.
PARTS: dict[str, Ablation] = {
    "plain ViT, learned positions": Ablation({}, _PLAIN, "78.2"),
    "+ LayerScale": Ablation({}, {**_LEARNED, **_NO_QK_NORM}, "77.4"),
    "+ LayerScale, RoPE": Ablation({}, _NO_QK_NORM, "80.2"),
    "+ LayerScale, RoPE, SwiGLU": Ablation({}, {**_NO_QK_NORM, **_SWIGLU}, "fails"),
    "+ LayerScale, RoPE, QK-norm": Ablation({}, {}, "81.1"),
    "all four": Ablation({}, _SWIGLU, "81.3"),
}


def _masked(ratio: float, paper: str) -> Ablation:
    return Ablation({"masking_ratio": ratio}, {**_PLAIN, "use_mask_token": True}, paper)


# Table 1c.
MASKING: dict[str, Ablation] = {
    "plain ViT, learned positions": PARTS["plain ViT, learned positions"],
    "40 % masked": _masked(0.4, "76.4"),
    "60 % masked": _masked(0.6, "75.7"),
}


def ablated(ablation: Ablation, backbone: NepaBackbone, seed: int) -> NepaPretrainer:
    """Build a pretrainer with random weights and the changes of an ablation.

    Variables that NEPA has too start at the same values. A gated MLP is narrowed to two thirds of the width,
    rounded to a multiple of 8, so that it has as many weights.

    Args:
        ablation: changes.
        backbone: architecture to change; its weights are not used.
        seed: seed of the weights and masks.
    """
    config = backbone.get_config()
    keras.utils.set_random_seed(seed)
    plain = {relative_path(v): v for v in NepaBackbone.from_config(config).trainable_variables}
    if ablation.backbone.get("gated_mlp"):
        config["mlp_dim"] = max(round(config["mlp_dim"] * 2 / 3 / 8), 1) * 8
    changed = NepaBackbone.from_config({**config, **ablation.backbone})
    for variable in changed.trainable_variables:
        same = plain.get(relative_path(variable))
        if same is not None and tuple(same.shape) == tuple(variable.shape):
            variable.assign(same)
    return NepaPretrainer(changed, **ablation.objective, seed=seed)


def compile_to_pretrain(
    model: NepaPretrainer,
    steps: int,
    batch_size: int,
    base_learning_rate: float,
    ema_decay: float,
) -> None:
    """Compile with the optimizer of recipes/pretrain_embedded.flags; arguments as `pretrain_briefly`."""
    optimizer = adamw(
        WarmupCosine(scaled_learning_rate(base_learning_rate, batch_size), steps, 0.1),
        weight_decay=0.05,
        beta_2=0.95,
        clip_norm=1.0,
        ema_decay=ema_decay,
    )
    model.compile(optimizer=optimizer)


def pretrain_briefly(
    model: NepaPretrainer,
    images: np.ndarray,
    steps: int,
    *,
    seed: int,
    batch_size: int = 128,
    base_learning_rate: float = 8e-3,
    ema_decay: float = 0.99,
) -> float:
    """Pretrain as recipes/pretrain_embedded.flags does, without writing files.

    Args:
        model: model to train; it is compiled, and its optimizer holds the averaged weights afterwards.
        images: (B, height, width, channels) uint8.
        steps: number of updates, a multiple of 10.
        seed: seed of the order of images and of augmentation.
        batch_size: images per update.
        base_learning_rate: peak learning rate for a batch of 256 images.
        ema_decay: decay per update of the averaged weights.

    Returns:
        The mean loss of the last tenth of the steps.

    Raises:
        ValueError: `steps` is no multiple of 10.
        NonFiniteError: the training diverged.
    """
    if steps < 1 or steps % ROWS:
        raise ValueError(f"steps={steps} must be a positive multiple of {ROWS}.")
    compile_to_pretrain(model, steps, batch_size, base_learning_rate, ema_decay)
    stream = AugmentedBatches(images, batch_size, model.backbone.image_shape[:2], seed=seed)
    return model.fit(
        stream.endless(), steps_per_epoch=steps // ROWS, epochs=ROWS, shuffle=False, verbose=0
    ).history["loss"][-1]


def ablation_report(
    model: NepaPretrainer,
    data: ImageArrays,
    steps: int,
    *,
    seed: int,
    subsets: int,
    few: dict,
    **how,
) -> dict[str, float]:
    """Pretrain an ablation, measure its features, and fine-tune it on few labels.

    Args:
        model: result of `ablated`.
        data: images and labels.
        steps, seed, **how: arguments of `pretrain_briefly`.
        subsets: number of subsets of labels; the subsets depend on the seed only.
        few: arguments of `FewLabelTrial`.

    Returns:
        "loss", the values of `features_report`, and mean test accuracies "pretrained" and "scratch" in [0,
        1]; or only {"diverged": 1} if the pretraining diverged.
    """
    try:
        loss = pretrain_briefly(model, data.train_images, steps, seed=seed, **how)
    except NonFiniteError:
        return {"diverged": 1}
    seeds = [seed * 100 + i for i in range(subsets)]
    with ema_weights(model):
        report = features_report(model.backbone, data)
        accuracies = few_label_comparison(model.backbone, data, seeds, **few)
    means = {start: float(np.mean(values)) for start, values in accuracies.items()}
    return {"loss": loss, **report, **means}


def features_report(backbone: NepaBackbone, data: ImageArrays) -> dict[str, float]:
    """Collapse diagnostics and accuracies of frozen features, with the attention mask of pretraining.

    Returns:
        `diagnostics` of the pooled test features, "target_spread" and "target_effective_rank" of the patch
        embeddings of the first 64 test images, and `frozen_accuracies`.
    """
    extractor = FeatureExtractor(backbone)
    found = diagnostics(extractor.extract(data.test_images)) | frozen_accuracies(extractor, data)
    images = normalize(data.test_images[:64], backbone.image_shape[:2])
    targets = keras.ops.convert_to_numpy(backbone.embed(images))[:, 1:]
    of_targets = diagnostics(np.reshape(targets, (-1, targets.shape[-1])))
    return found | {
        "target_spread": of_targets["spread"],
        "target_effective_rank": of_targets["effective_rank"],
    }
