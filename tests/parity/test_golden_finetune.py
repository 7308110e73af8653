"""Fine-tuning against the official trainer: rates and groups of every table, eight steps of training."""

from collections import Counter

import keras
import numpy as np
import pytest

import nepa_keras
from nepa_keras.data import MixupCutmix
from nepa_keras.presets.official import official_names
from nepa_keras.training import LayerwiseWarmupCosine, adamw, ema_weights
from nepa_keras.training.groups import LayerGroup
from tests.helpers import golden_files
from tests.helpers.tolerances import assert_close, assert_same_tensors

pytestmark = pytest.mark.xla

SCHEDULES = golden_files.record("schedules.json")
TABLES = {name: table for name, table in SCHEDULES.items() if name.startswith("finetune_")}
STEPS = golden_files.record("trajectory_finetune/steps.json")
CONVOLUTION = ("patch_embedding/kernel", "patch_embedding/bias")


def schedule_of(table: dict) -> LayerwiseWarmupCosine:
    return LayerwiseWarmupCosine(
        table["base_lr"],
        table["total_steps"],
        num_layers=max(group["llrd_scale"] for group in table["groups"]),
        layer_decay=table["llrd"],
        head_learning_rate=table["head_lr"],
        warmup_steps=table["warmup_steps"],
        own_warmup=table["scheduler"] == "llrd_cosine_warmup",
        final_layer_decay=table["scheduler_kwargs"].get("llrd_end"),
    )


@pytest.mark.parametrize("name", TABLES)
def test_rates_of_each_group(name):
    """The formula in double precision, and what the device computes in float32."""
    table = TABLES[name]
    schedule = schedule_of(table)
    assert schedule.warmup_steps == table["warmup_steps"]
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    groups = [
        LayerGroup("", group["llrd_scale"], head=group["lr_base"] == table["head_lr"])
        for group in table["groups"]
    ]
    for layers, group in zip(groups, table["groups"], strict=True):
        assert schedule.base(layers) == group["lr_base"]
        if "warmup_steps_of_group" in group:
            assert schedule.warmup_of(layers) == group["warmup_steps_of_group"]
    for i, step in enumerate(table["steps"]):
        on_device = keras.ops.convert_to_numpy(
            schedule.rates(keras.ops.convert_to_tensor(step, dtype="int32"), groups)
        )
        for layers, group, device in zip(groups, table["groups"], on_device, strict=True):
            expected, scale = group["lr"][i], max(group["lr"])
            exact = schedule.rate_at(step, layers)
            assert again.rate_at(step, layers) == exact
            # A rate near 0 is a difference of close numbers: its error is relative to the largest.
            assert_close(scale + (exact - expected), scale, "learning_rate", f"{name} {step}")
            assert_close(
                scale + (device - expected), scale, "learning_rate_in_step", f"{name} {step}"
            )
            if expected > 1e-3 * scale:
                assert exact == pytest.approx(expected, rel=1e-9)


def official_group_of(model, optimizer) -> dict:
    """official name -> (base rate, exponent, decay), each trained variable exactly once."""
    optimizer.build(model.trainable_variables)
    indices = [i for group in optimizer.groups for i in group.indices]
    assert sorted(indices) == list(range(len(model.trainable_variables)))
    return {
        name: (
            optimizer.layerwise.base(group.layer_group),
            group.layer_group.exponent,
            group.weight_decay,
        )
        for group in optimizer.groups
        for i in group.indices
        for name in official_names(model.trainable_variables[i].path)
    }


def test_groups_are_the_official_ones():
    for table in (
        TABLES["finetune_groups_tiny"],
        {**STEPS["hyper"], "groups": STEPS["param_groups"]},
    ):
        expected = {
            name: (group["lr_base"], group["llrd_scale"], group["weight_decay"])
            for group in table["groups"]
            for name in group["names"]
        }
        schedule = LayerwiseWarmupCosine(table["base_lr"], 8, 3, 0.65, table["head_lr"])
        model = golden_files.classifier("classify", frozen=CONVOLUTION)
        assert official_group_of(model, adamw(schedule)) == expected


def test_with_nothing_frozen_the_convolution_has_the_embedding_s_rate():
    table = TABLES["finetune_groups_tiny_nothing_frozen"]
    schedule = LayerwiseWarmupCosine(table["base_lr"], 8, 3, 0.65, table["head_lr"])
    found = official_group_of(golden_files.classifier(), adamw(schedule))
    for group in table["groups"][:2]:
        for name in group["embedding_names"]:
            assert found[name] == (group["lr_base"], group["llrd_scale"], group["weight_decay"])
    counts = [group["tensors"] for group in table["groups"]]
    assert len(found) == sum(counts)


@pytest.mark.parametrize("name", ["finetune_base", "finetune_large"])
def test_the_released_sizes_have_the_official_groups(name):
    """All their blocks, made narrow: the groups do not depend on the width."""
    table = TABLES[name]
    size = name.removeprefix("finetune_")
    preset = f"nepa_{size}_patch14_224_sft"
    model = nepa_keras.NepaImageClassifier.from_preset(
        preset,
        load_weights=False,
        num_classes=1000,
        frozen=CONVOLUTION,
        hidden_dim=32,
        num_heads=2,
        mlp_dim=32,
    )
    schedule = schedule_of(table)
    assert schedule.num_layers == model.backbone.num_layers
    optimizer = adamw(schedule)
    optimizer.build(model.trainable_variables)
    found, expected = Counter(), Counter()
    for group in optimizer.groups:
        paths = [model.trainable_variables[i].path for i in group.indices]
        key = schedule.base(group.layer_group), group.layer_group.exponent, group.weight_decay
        found[key] += sum(len(official_names(path)) for path in paths)
    for group in table["groups"]:
        for decay, tensors in group["tensors_by_weight_decay"].items():
            expected[group["lr_base"], group["llrd_scale"], float(decay)] += tensors
    assert found == expected
    table_text = optimizer.table(model)
    assert "frozen" in table_text and f"{model.count_params():,}" in table_text.splitlines()[-1]


def compiled_model(jit_compile="auto"):
    hyper = STEPS["hyper"]
    model = golden_files.classifier("trajectory_finetune", CONVOLUTION, STEPS["initial_weights"])
    schedule = LayerwiseWarmupCosine(
        hyper["base_lr"],
        STEPS["steps"],
        model.backbone.num_layers,
        hyper["llrd"],
        hyper["head_lr"],
        warmup_ratio=hyper["warmup_ratio"],
    )
    optimizer = golden_files.optimizer(hyper, schedule)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile)
    return model


def test_eight_steps_of_the_official_trainer():
    """Loss and norm of each step; weights and averages at the end, the frozen ones untouched."""
    model = compiled_model()
    inputs = golden_files.tensors("trajectory_finetune/inputs.safetensors")
    images = golden_files.channels_last(inputs["pixel_values"])
    for k, expected in enumerate(STEPS["per_step"]):
        logs = model.train_on_batch(images[k], inputs["targets"][k], return_dict=True)
        assert_close(logs["loss"], expected["loss"], "finetune_loss", f"loss of step {k}")
        assert_close(
            logs["gradient_norm"], expected["grad_norm"], "trajectory_norm", f"norm of step {k}"
        )
    final = golden_files.tensors("trajectory_finetune/final.safetensors")
    average = golden_files.tensors("trajectory_finetune/ema.safetensors")
    tensors = nepa_keras.interop.official_tensors
    assert_same_tensors(tensors(model), final, "trajectory_weights")
    with ema_weights(model):
        assert_same_tensors(tensors(model), average, "trajectory_weights")
    initial = golden_files.tensors("classify/weights.safetensors")
    for name in ("projection.weight", "projection.bias"):
        name = f"vit_nepa.embeddings.patch_embeddings.{name}"
        np.testing.assert_array_equal(tensors(model)[name], initial[name])


def test_a_saved_model_goes_on_with_its_frozen_variables(tmp_path):
    """Optimizer and averages of the trained variables only, restored with the model."""
    # Without XLA where the step is a graph or eager anyway; an eager step of JAX compiles each operation.
    model = compiled_model(jit_compile=keras.backend.backend() == "jax")
    inputs = golden_files.tensors("trajectory_finetune/inputs.safetensors")
    images = golden_files.channels_last(inputs["pixel_values"])
    for k in range(4):
        model.train_on_batch(images[k], inputs["targets"][k])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.frozen == CONVOLUTION
    assert len(again.trainable_variables) == len(model.trainable_variables)
    for k in range(4, 8):
        for m in (model, again):
            m.train_on_batch(images[k], inputs["targets"][k])
    tensors = nepa_keras.interop.official_tensors
    assert_same_tensors(tensors(again), tensors(model), "same_numbers")
    assert_same_tensors(
        tensors(model),
        golden_files.tensors("trajectory_finetune/final.safetensors"),
        "trajectory_weights",
    )


def test_the_recipe_s_soft_targets_give_the_official_loss():
    """Mixup with label smoothing by the library, loss by Keras, as the trainer's own function."""
    io = golden_files.tensors("classify/io.safetensors")
    mix = MixupCutmix(io["targets"].shape[1])
    share = float(io["mixup_lam"].ravel()[0])
    smooth = mix.smooth(io["labels"])
    targets = share * smooth + (1 - share) * smooth[::-1]
    model = golden_files.classifier()
    logits = model.predict_on_batch(golden_files.images("classify"))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)(targets, logits)
    assert_close(float(loss), float(io["loss"].ravel()[0]), "classify_loss")


WRONG = {
    "decay": (lambda: LayerwiseWarmupCosine(1e-3, 10, 2, 0.0), "layer_decay=0.0"),
    "both": (
        lambda: LayerwiseWarmupCosine(1e-3, 10, 2, 0.5, final_layer_decay=0.9),
        "own_warmup=False",
    ),
    "embedding": (
        lambda: adamw(LayerwiseWarmupCosine(1e-3, 10, 2, 0.5), embedding_learning_rate_factor=0.5),
        "already has a rate for the embedding",
    ),
    "frozen": (lambda: golden_files.classifier(frozen=["block"]), "no variable 'block' to freeze"),
}


@pytest.mark.parametrize("problem", WRONG)
def test_wrong_arguments_are_refused(problem):
    call, words = WRONG[problem]
    with pytest.raises(ValueError, match=words):
        call()
