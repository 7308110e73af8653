"""Readers of the reference numbers in golden/, and models built from them."""

import json
from collections.abc import Sequence
from functools import cache

import numpy as np
from safetensors.numpy import load_file

import nepa_keras
from tests.helpers import ROOT

GOLDEN = ROOT / "tests" / "golden"


@cache
def tensors(path: str) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file, as float32 (or their integer type). Do not change them."""
    return {
        name: value.astype("float32") if value.dtype.kind == "f" else value
        for name, value in load_file(GOLDEN / path).items()
    }


@cache
def record(path: str) -> dict:
    """A JSON file."""
    return json.loads((GOLDEN / path).read_text())


def channels_last(images: np.ndarray) -> np.ndarray:
    """(..., C, H, W) -> (..., H, W, C)."""
    return np.ascontiguousarray(np.moveaxis(images, -3, -1))


def images(folder: str) -> np.ndarray:
    """The normalised images of a model folder, (B, height, width, C)."""
    return channels_last(tensors(f"{folder}/io.safetensors")["pixel_values"])


def backbone(folder: str, **overrides) -> nepa_keras.NepaBackbone:
    """The backbone that a folder's config.json describes, with fresh weights."""
    config = record(f"{folder}/config.json")
    size = config["image_size"]
    arguments = dict(
        image_shape=(size, size, config["num_channels"]),
        patch_size=config["patch_size"],
        hidden_dim=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        mlp_dim=config["intermediate_size"],
        gated_mlp=config["use_gated_mlp"],
        activation=config["hidden_act"],
        qkv_bias=config["qkv_bias"],
        qk_norm=config["qk_norm"],
        qk_norm_scale=config["qk_norm_affine"],
        qk_norm_bias=config["qk_norm_bias"],
        layer_scale=config["layerscale_value"],
        drop_path_rate=config["drop_path_prob"],
        dropout_rate=config["hidden_dropout_prob"],
        attention_dropout_rate=config["attention_probs_dropout_prob"],
        use_causal_mask=config["is_causal"],
        rope_theta=config["rope_theta"],
        rope_rescale=config["pos_embed_rescale"],
        rope_shift=config["pos_embed_shift"],
        rope_jitter=config["pos_embed_jitter"],
        layer_norm_epsilon=config["layer_norm_eps"],
    )
    return nepa_keras.NepaBackbone(**(arguments | overrides))


def pretrainer(folder: str, weights: str | None = None, **overrides) -> nepa_keras.NepaPretrainer:
    """The pretraining model of a folder, holding its weights (or those of another file)."""
    model = nepa_keras.NepaPretrainer(backbone(folder, **overrides))
    path = weights or f"{folder}/weights.safetensors"
    nepa_keras.interop.load_official_tensors(model, tensors(path))
    return model


def classifier(
    folder: str = "classify", frozen: Sequence[str] = (), weights: str | None = None, **overrides
) -> nepa_keras.NepaImageClassifier:
    """The classifier of a folder, holding its weights (or those of another file)."""
    config = record(f"{folder}/config.json")
    model = nepa_keras.NepaImageClassifier(
        backbone(folder, **overrides),
        num_classes=len(config["id2label"]),
        pooling="mean" if config["add_pooling_layer"] else "last",
        use_causal_mask=config["is_causal"],
        frozen=frozen,
    )
    path = weights or f"{folder}/weights.safetensors"
    nepa_keras.interop.load_official_tensors(model, tensors(path))
    return model


def optimizer(hyper: dict, learning_rate) -> nepa_keras.training.AdamW:
    """The optimizer that a trajectory's `hyper` describes."""
    return nepa_keras.training.adamw(
        learning_rate,
        weight_decay=hyper["weight_decay"],
        beta_1=hyper["betas"][0],
        beta_2=hyper["betas"][1],
        epsilon=hyper["eps"],
        clip_norm=hyper["max_grad_norm"],
        ema_decay=hyper["ema_decay"],
    )
