"""The functions behind `nepa_keras.backends` against their plain definitions."""

import contextlib
import types

import keras
import numpy as np
import pytest
from keras import ops

from nepa_keras import backends
from tests.helpers import tiny
from tests.helpers.gradients import loss_and_gradients
from tests.helpers.tolerances import assert_close


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 5, 37, 70])
def test_attention_is_softmax_over_the_visible_keys(length, causal):
    """Causal attention computed block by block, with blocks of unequal size, included."""
    q, k, v = (random(2, length, 3, 8, seed=i) for i in range(3))
    scores = np.einsum("bqhk,bthk->bhqt", q, k) * 0.5
    if causal:
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = np.einsum("bhqt,bthk->bqhk", weights, v)
    tensors = map(ops.convert_to_tensor, (q, k, v))
    actual = backends.attention(*tensors, scale=0.5, causal=causal)
    assert_close(ops.convert_to_numpy(actual), expected, "attention")


@pytest.fixture
def jax_on_gpu(monkeypatch):
    """Make JAX choose its GPU functions, with XLA's attention in place of cuDNN's.

    Its attribute `fused` has the lengths that cuDNN was asked for. docs/performance.md has what a GPU says.
    """
    import jax

    of_xla = jax.nn.dot_product_attention

    def of_cudnn(q, k, v, *, implementation, **options):
        assert implementation == "cudnn"
        begin.fused.append(q.shape[1])
        return of_xla(q, k, v, **options)

    def begin():
        monkeypatch.setattr(jax.nn, "dot_product_attention", of_cudnn)
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        monkeypatch.setattr(
            "nepa_keras.backends.jax.attention_kernels._compute_capability", lambda: 9.0
        )

    begin.fused = []
    return begin


@pytest.mark.only_on("jax")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("length", "width", "fused"), [(36, 8, [36]), (37, 8, [38]), (36, 12, [])])
def test_attention_of_jax_on_gpu_is_the_same_function(causal, length, width, fused, jax_on_gpu):
    """cuDNN's attention at an even length, except for head widths that it has no kernels for."""
    q, k, v = (ops.cast(random(2, length, 3, width, seed=i), "bfloat16") for i in range(3))
    expected = backends.attention(q, k, v, scale=0.5, causal=causal)
    jax_on_gpu()
    actual = backends.attention(q, k, v, scale=0.5, causal=causal)
    assert jax_on_gpu.fused == fused
    actual, expected = (np.asarray(x, "float32") for x in (actual, expected))
    assert_close(actual, expected, "attention_bfloat16")


@pytest.mark.only_on("jax")
@pytest.mark.parametrize("name", ["gelu", "layer_norm"])
def test_gradients_of_jax_on_gpu_are_those_on_cpu(name, jax_on_gpu):
    import jax

    x, weights = random(5, 16) * 3, random(5, 16, seed=1)
    arguments = {"gelu": (), "layer_norm": (random(16, seed=2), random(16, seed=3), 1e-12)}[name]

    def value_and_gradient():
        function = getattr(backends, name)
        loss = jax.value_and_grad(lambda x: (function(x, *arguments) * weights).sum())
        return function(x, *arguments), loss(x)[1]

    on_cpu = value_and_gradient()
    jax_on_gpu()
    for actual, expected in zip(value_and_gradient(), on_cpu, strict=True):
        assert_close(np.asarray(actual), np.asarray(expected), "same_numbers")


@contextlib.contextmanager
def as_on(platform: str):
    """Kernels are those for a platform that is not here; they run on the CPU all the same."""
    if keras.backend.backend() == "jax":
        from nepa_keras.backends.jax.target import compiled_for

        with compiled_for([types.SimpleNamespace(platform=platform)]):
            yield
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nepa_keras.backends.tensorflow.kernels.platform", lambda: platform)
            yield


@pytest.mark.only_on("jax", "tensorflow")
@pytest.mark.parametrize("platform", ["tpu", "gpu"])
@pytest.mark.parametrize("causal", [False, True])
def test_kernels_of_other_platforms_are_the_same_functions(platform, causal):
    """Kernels that differ by platform give the same numbers and gradients as on CPU."""
    x, weights = random(2, 37, 3, 8), random(2, 37, 3, 8, seed=1)
    kernel, bias = random(8, 8, seed=2), random(8, seed=3)

    variable = keras.Variable(x)
    holder = types.SimpleNamespace(trainable_variables=[variable])

    def result(name):
        x = variable * 1.0
        if name == "attention":
            return backends.attention(x, ops.flip(x, axis=2), ops.square(x), 0.3, causal)
        if name == "linear":
            return backends.linear(x, *map(ops.convert_to_tensor, (kernel, bias)))
        if name == "layer_norm":
            return backends.layer_norm(x, *map(ops.convert_to_tensor, (bias, bias)), 1e-6)
        return backends.optimization_barrier(backends.gelu(x))

    def results(name):
        loss, gradients = loss_and_gradients(holder, lambda: ops.mean(result(name) * weights))
        return [loss, *gradients, result(name)]

    for name in ("attention", "linear", "layer_norm", "gelu"):
        on_cpu = results(name)
        with as_on(platform):
            elsewhere = results(name)
        for actual, expected in zip(elsewhere, on_cpu, strict=True):
            assert_close(np.asarray(actual), np.asarray(expected), "same_numbers")


@pytest.mark.only_on("jax", "tensorflow")
@pytest.mark.parametrize(
    "changes", [{}, {"qk_norm_scale": True}, {"gated_mlp": True, "remat": True}]
)
def test_a_model_on_tpu_is_the_one_on_cpu(changes):
    """36 tokens, so that attention on CPU is in two pieces, with and without a bound of the scores."""
    model = tiny.pretrainer(image_shape=(24, 24, 3), patch_size=4, **changes)
    images = tiny.images(4, (24, 24, 3))

    def loss():
        return model.compute_loss(x=images, y_pred=model(images, training=True))

    on_cpu = loss_and_gradients(model, loss)
    with as_on("tpu"):
        elsewhere = loss_and_gradients(model, loss)
    assert elsewhere[0] == pytest.approx(on_cpu[0], abs=1e-6)
    for actual, expected in zip(elsewhere[1], on_cpu[1], strict=True):
        assert_close(actual, expected, "gradient")


@pytest.mark.only_on("jax")
def test_gradients_on_tpu_in_bfloat16_are_as_near_to_float32_as_on_cpu():
    images, found = tiny.images(4, (24, 24, 3)), {}

    def gradients(dtype):
        model = tiny.pretrainer(image_shape=(24, 24, 3), patch_size=4, dtype=dtype)
        return loss_and_gradients(
            model, lambda: model.compute_loss(x=images, y_pred=model(images, training=True))
        )[1]

    exact = gradients("float32")
    for platform in ("cpu", "tpu"):
        with as_on(platform):
            found[platform] = tiny.relative_distance(gradients("mixed_bfloat16"), exact)
    assert found["tpu"] < max(1.2 * found["cpu"], 0.01), found


def test_what_attention_is_here_is_said():
    said = backends.attention_form(257, 64, "float32", True)
    if keras.backend.backend() == "torch":
        assert said == "by PyTorch's scaled_dot_product_attention (CPU)"
        return
    assert said == "by explicit scores in 4 pieces (CPU)"
    assert "in one piece" in backends.attention_form(257, 64, "float32", False)
    with as_on("tpu"):
        said = backends.attention_form(257, 64, "float32", True)
        assert said == "by explicit scores in one piece (TPU)"


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


@pytest.mark.only_on("jax")
def test_the_compiler_keeps_the_barriers_of_the_residual_stream(tmp_path, monkeypatch):
    """The barrier on CPU keeps the cost linear in depth."""
    model = tiny.pretrainer()
    model.compile(optimizer="sgd")
    compiled = []
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
