"""Run by test_backends_agree.py, once per backend: the same weights and inputs in, numbers out.

KERAS_BACKEND=jax python -m tests.helpers.backend_trace jax.npz
"""

import sys

import keras
import numpy as np
from keras import ops

import nepa_keras
from nepa_keras.training import WarmupCosine, adamw
from tests.helpers import golden_files, tiny
from tests.helpers.gradients import loss_and_gradients

CURVE_STEPS = 50


def pass_and_step(folder: str) -> dict[str, np.ndarray]:
    """States, gradients, and weights and averages after a step, from the reference weights."""
    model = golden_files.pretrainer(folder, rope_rescale=None)
    images = ops.convert_to_tensor(golden_files.images(folder))
    numbers = {}
    found = model.backbone.activations(images)
    for i, state in enumerate(found["hidden_states"]):
        numbers[f"states/hidden.{i}"] = state
    for i, probabilities in enumerate(found["attentions"]):
        numbers[f"states/attn.{i}"] = probabilities
    for name, value in model(images).items():
        numbers[f"states/{name}"] = value
    _, gradients = loss_and_gradients(
        model, lambda: model.compute_loss(x=images, y_pred=model(images))
    )
    for name, value in nepa_keras.interop.official_gradients(model, gradients).items():
        numbers[f"gradient/{name}"] = value
    # Rate 0 first, as in the recipe: Adam's very first step is the sign of the gradient, which is
    # arbitrary where the gradient is within its noise of 0.
    model.compile(optimizer=adamw(WarmupCosine(1e-3, 10, warmup_steps=1), ema_decay=0.9))
    model.train_on_batch(images)
    model.train_on_batch(images)
    for name, value in nepa_keras.interop.official_tensors(model).items():
        numbers[f"step/{name}"] = value
    averages = nepa_keras.interop.official_gradients(model, model.optimizer.ema_values())
    for name, value in averages.items():
        numbers[f"step/ema.{name}"] = value
    return {f"{folder}/{k}": np.asarray(ops.convert_to_numpy(v)) for k, v in numbers.items()}


def curve() -> dict[str, np.ndarray]:
    """Losses of 50 steps on the embedded images, with the augmentation of the recipe."""
    model = tiny.pretrainer(
        image_shape=(28, 28, 1), patch_size=7, hidden_dim=48, num_heads=3, mlp_dim=96, seed=5
    )
    for variable in model.trainable_variables:  # nearer to a real start than the other tests need
        if len(variable.shape) > 1:
            variable.assign(variable * 0.3)
    data = nepa_keras.data.load("embedded")
    batches = nepa_keras.data.AugmentedBatches(
        data.train_images, batch_size=16, image_size=28, seed=1337
    )
    model.compile(
        optimizer=adamw(WarmupCosine(1e-3, CURVE_STEPS, warmup_ratio=0.1), ema_decay=0.99)
    )
    inputs = [np.asarray(ops.convert_to_numpy(batches[i])) for i in range(CURVE_STEPS)]
    losses, norms = [], []
    for images in inputs:
        logs = model.train_on_batch(images, return_dict=True)
        losses.append(float(logs["loss"]))
        norms.append(float(logs["gradient_norm"]))
    return {
        "inputs/first": inputs[0],
        "inputs/last": inputs[-1],
        "curve/loss": np.array(losses),
        "norms/gradient_norm": np.array(norms),
    }


def segmentation() -> dict[str, np.ndarray]:
    """Logits, and gradients of both losses in training, with the statistics of the batch.

    Of a backbone with learned positions, which the images' grid of 5 x 4 cells resizes from 4 x 4.
    """
    keras.utils.set_random_seed(7)
    model = nepa_keras.NepaImageSegmenter(
        tiny.backbone(num_layers=4, image_shape=(16, 16, 1), position_embedding="learned"),
        3,
        channels=8,
        dropout=0.0,
    )
    generator = np.random.default_rng(3)
    for variable in model.trainable_variables:
        value = np.asarray(ops.convert_to_numpy(variable))
        variable.assign(value + 0.05 * generator.standard_normal(value.shape).astype("float32"))
    images = tiny.images(4, (18, 14, 1))  # padded to 20 x 16
    labels = generator.integers(0, 3, (4, 18, 14)).astype("uint8")
    labels[:, :4] = 255
    numbers = {"segment/logits": model(images)}
    _, gradients = loss_and_gradients(
        model, lambda: model.compute_loss(y=labels, y_pred=model(images, training=True))
    )
    for variable, value in zip(model.trainable_variables, gradients, strict=True):
        # A constant before a BatchNorm changes nothing: those gradients are 0, and rounding.
        if not (variable.path.startswith("pyramid/") and variable.path.endswith("/bias")):
            numbers[f"segment_gradient/{variable.path}"] = value
    return {name: np.asarray(ops.convert_to_numpy(v)) for name, v in numbers.items()}


def objectives() -> dict[str, np.ndarray]:
    """Loss and gradients of LeNEPA with the same directions, over images and over the batch."""
    numbers, images = {}, ops.convert_to_tensor(tiny.images(4))
    for over in ("image", "batch"):
        keras.utils.set_random_seed(7)
        backbone = tiny.backbone()
        tiny.spread_weights(backbone)
        small = {"projected_dim": 8, "projector_dim": 32, "num_slices": 16}
        model = nepa_keras.objectives.LeNepaPretrainer(backbone, sigreg_over=over, **small)
        drawn = np.random.default_rng(3).standard_normal((16, 8)).astype("float32")
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        model.directions = lambda training, drawn=drawn: ops.convert_to_tensor(drawn)
        loss, gradients = loss_and_gradients(
            model, lambda m=model: m.compute_loss(x=images, y_pred=m(images))
        )
        numbers[f"objective/{over}"] = np.array(loss)
        for variable, value in zip(model.trainable_variables, gradients, strict=True):
            if variable is backbone.norm.beta:
                continue  # a shift of all predictions, which BatchNorm takes away: 0 but for rounding
            numbers[f"objective_gradient/{over}.{variable.path}"] = value
    return {name: np.asarray(ops.convert_to_numpy(v)) for name, v in numbers.items()}


def main() -> None:
    numbers = pass_and_step("pretrain_gelu") | pass_and_step("pretrain_gated") | curve()
    numbers |= segmentation() | objectives()
    np.savez(sys.argv[1], backend=keras.backend.backend(), **numbers)


if __name__ == "__main__":
    main()
