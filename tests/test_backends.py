"""The functions behind `nepa_keras.backends` against their plain definitions."""

import keras
import numpy as np
import pytest
from keras import ops

from nepa_keras import backends
from tests.helpers import tiny
from tests.helpers.tolerances import assert_close


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 5, 37, 70])
def test_attention_is_softmax_over_the_visible_keys(length, causal):
    """Also where the causal one is computed block by block, and the blocks are of unequal size."""
    q, k, v = (random(2, 3, length, 8, seed=i) for i in range(3))
    scores = q @ k.swapaxes(-1, -2) * 0.5
    if causal:
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = weights / weights.sum(axis=-1, keepdims=True) @ v
    tensors = map(ops.convert_to_tensor, (q, k, v))
    actual = backends.attention(*tensors, scale=0.5, causal=causal)
    assert_close(ops.convert_to_numpy(actual), expected, "attention")


@pytest.mark.once
@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_jax_on_gpu_is_the_same_function(causal, monkeypatch):
    """Its layout, scale and mask, in the form that Keras falls back to where there is no cuDNN."""
    import jax

    q, k, v = (ops.cast(random(2, 3, 37, 8, seed=i), "bfloat16") for i in range(3))
    expected = backends.attention(q, k, v, scale=0.5, causal=causal)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    actual = backends.attention(q, k, v, scale=0.5, causal=causal)
    actual, expected = (np.asarray(x, "float32") for x in (actual, expected))
    assert np.any(actual != expected), "the other path ran"
    assert_close(actual, expected, "attention_bfloat16")


def test_linear_keeps_leading_axes():
    x, kernel, bias = random(2, 5, 4), random(4, 3, seed=1), random(3, seed=2)
    actual = backends.linear(*map(ops.convert_to_tensor, (x, kernel, bias)))
    assert_close(ops.convert_to_numpy(actual), x @ kernel + bias, "same_numbers")


def test_global_norm_is_that_of_all_elements():
    arrays = [random(3, 4), random(5, seed=1), random(1, seed=2)]
    norm = backends.global_norm([ops.convert_to_tensor(a) for a in arrays])
    expected = np.linalg.norm(np.concatenate([a.ravel() for a in arrays]))
    assert_close(ops.convert_to_numpy(norm), expected, "same_numbers")
    arrays[1][2] = np.nan
    norm = backends.global_norm([ops.convert_to_tensor(a) for a in arrays])
    assert np.isnan(ops.convert_to_numpy(norm)), "the guard sees every element"


def test_fit_takes_every_batch_of_a_generator_once_and_in_order():
    """Over epochs that share one generator, which ends with the last; and none of an empty one."""
    images, results = tiny.images(24), []

    def batches(count):
        for start in range(0, 4 * count, 4):
            yield (images[start : start + 4],)

    for data in (batches(6), images):
        model = tiny.pretrainer()
        tiny.compile_model(model, optimizer=keras.optimizers.SGD(0.1))
        options = {"batch_size": 4} if data is images else {"steps_per_epoch": 2, "epochs": 3}
        history = model.fit(data, shuffle=False, verbose=0, **options).history
        results.append((tiny.weights(model), history["loss"]))
    (by_generator, losses), (by_array, _) = results
    assert len(losses) == 3
    for a, b in zip(by_generator, by_array, strict=True):
        assert_close(a, b, "same_numbers")
    with pytest.raises(Exception, match=r"(?i)generator|empty|data"):
        model.fit(batches(0), verbose=0)


@pytest.mark.once
def test_the_compiler_keeps_the_barriers_of_the_residual_stream(tmp_path, monkeypatch):
    """On JAX (whose process runs the tests marked once) and CPU, or the cost is quadratic in depth."""
    model = tiny.pretrainer()
    model.compile(optimizer="sgd")
    compiled = []
    assert keras.backend.backend() == "jax"
    import jax

    jit = jax.jit
    monkeypatch.setattr(jax, "jit", lambda *a, **k: compiled.append(jit(*a, **k)) or compiled[-1])
    model.make_train_function()
    monkeypatch.undo()
    model._symbolic_build(data_batch=(tiny.images(4),))
    state = model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )
    text = compiled[0].lower(state, (tiny.images(4),)).compile().as_text()
    assert text.count("opt-barrier(") >= 2 * model.backbone.num_layers
