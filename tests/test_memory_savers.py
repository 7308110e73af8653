"""Gradient accumulation and rematerialisation change no number."""

import keras
import numpy as np
import pytest

from nepa_keras.training import adamw
from tests.helpers import tiny
from tests.helpers.tolerances import assert_close


def test_gradient_accumulation_equals_the_big_batch():
    """Four batches of 2 make the update of one batch of 8: weights, average, step count."""
    big, small = (
        tiny.compiled_pretrainer(),
        tiny.compiled_pretrainer(optimizer=adamw(1e-2, ema_decay=0.9, accumulation_steps=4)),
    )
    images = tiny.images(24)
    for model, batch_size in ((big, 8), (small, 2)):
        model.fit(images, batch_size=batch_size, shuffle=False, verbose=0)
        assert int(model.optimizer.iterations) == 3
    tiny.assert_same_weights(big, small)
    for a, b in zip(big.optimizer.ema_values(), small.optimizer.ema_values(), strict=True):
        assert_close(a, b, "same_numbers")


def test_accumulated_batches_do_not_move_the_weights_before_the_last():
    model = tiny.compiled_pretrainer(optimizer=adamw(1e-2, accumulation_steps=3))
    before = tiny.weights(model)
    for step in range(3):
        model.train_on_batch(tiny.images(2, seed=step))
        moved = any(np.any(a != b) for a, b in zip(before, tiny.weights(model), strict=True))
        assert moved == (step == 2)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_remat_changes_no_number(policy):
    """Same loss and, through the recomputed backward pass, same weights after training.

    With SGD, as Adam's first steps are by the sign of a gradient, also of one that is nearly 0.
    """
    models = [
        tiny.compiled_pretrainer(remat=remat, dtype=policy, optimizer=keras.optimizers.SGD(0.1))
        for remat in (False, True)
    ]
    losses = [m.train_on_batch(tiny.images(4), return_dict=True)["loss"] for m in models]
    assert_close(losses[1], losses[0], "same_numbers")
    for model in models:
        model.fit(tiny.images(8, seed=1), batch_size=4, shuffle=False, verbose=0)
    kind = "same_numbers" if policy == "float32" else "same_bfloat16_weights"
    tiny.assert_same_weights(*models, kind)


def test_remat_draws_the_same_random_numbers_twice():
    """Drop path recomputes the same forward pass, or gradients would be wrong."""
    model = tiny.compiled_pretrainer(optimizer=adamw(0.0), remat=True, drop_path_rate=0.5)
    plain = tiny.compiled_pretrainer(optimizer=adamw(0.0), remat=False, drop_path_rate=0.5)
    for each in (model, plain):
        for i, block in enumerate(each.backbone.blocks[1:]):
            for j, drop in enumerate((block.attention_drop, block.mlp_drop)):
                drop.seed_generator.state.assign([7 + i, j])
    logs = [m.train_on_batch(tiny.images(8), return_dict=True) for m in (model, plain)]
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], abs=1e-5)
    assert logs[0]["gradient_norm"] == pytest.approx(logs[1]["gradient_norm"], rel=1e-4)


def test_what_saves_memory_together_trains_as_float32_does():
    """bfloat16, remat and half batches: the updates of whole batches in float32, but for rounding."""
    exact = tiny.compiled_pretrainer()
    optimizer = adamw(1e-2, ema_decay=0.9, accumulation_steps=2)
    small = tiny.compiled_pretrainer(dtype="mixed_bfloat16", remat=True, optimizer=optimizer)
    images, losses = tiny.images(16), []
    for model, batch_size in ((exact, 8), (small, 4)):
        history = model.fit(images, batch_size=batch_size, epochs=8, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
        assert int(model.optimizer.iterations) == 16
    assert_close(losses[1], losses[0], "bfloat16_curve")
