"""Compiled, eager and several steps in one call: the same updates."""

import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from nepa_keras import backends
from nepa_keras.training import adamw
from tests.helpers import scripts, tiny


def trained(steps: int, **arguments):
    """A pretrainer after so many steps, compiled with the arguments."""
    model = tiny.compiled_pretrainer(compile_arguments=arguments, gated_mlp=True, num_layers=1)
    model.fit(tiny.images(4 * steps), batch_size=4, shuffle=False, verbose=0)
    return model


@pytest.mark.first_on("tensorflow", "torch")
@pytest.mark.xla
def test_compiled_and_eager_agree():
    tiny.assert_same_weights(trained(2, jit_compile=False), trained(2, jit_compile=True))


def test_run_eagerly():
    tiny.assert_same_weights(trained(3, run_eagerly=True), trained(3, run_eagerly=False))


@pytest.mark.only_on("jax", "tensorflow")  # Keras 3.15 refuses it on PyTorch
def test_steps_per_execution():
    """Several steps in one call give the same weights."""
    models = []
    for steps in (1, 3):
        models.append(tiny.compiled_pretrainer(compile_arguments={"steps_per_execution": steps}))
        models[-1].fit(tiny.images(12), batch_size=4, shuffle=False, verbose=0)
        assert int(models[-1].optimizer.iterations) == 3
    tiny.assert_same_weights(*models)


def test_random_parts_draw_anew_in_every_step_of_a_compiled_fit():
    """The rescale factor must not be frozen into the compiled step."""
    model = tiny.compiled_pretrainer(optimizer=adamw(0.0), rope_rescale=2.0, drop_path_rate=0.3)
    history = model.fit(tiny.images(4), batch_size=4, epochs=5, verbose=0).history
    assert len(set(history["loss"])) == 5


ALIKE = 3  # blocks of a model, and the first, which has no drop path
PARTS = {
    "as the released base": ({}, 1),
    "SwiGLU, everything drawn": (
        {
            "gated_mlp": True,
            "qk_norm_scale": True,
            "qk_norm_bias": True,
            "rope_rescale": 2.0,
            "rope_jitter": 1.5,
            "drop_path_rate": 0.3,
        },
        2,
    ),
    "dropout": ({"dropout_rate": 0.1, "attention_dropout_rate": 0.1}, 1),
    "bare": ({"qk_norm": False, "layer_scale": None, "rope_theta": None, "qkv_bias": False}, 1),
    "mixed_bfloat16": ({"dtype": "mixed_bfloat16"}, 1),
    "remat": ({"remat": True, "drop_path_rate": 0.3, "dtype": "mixed_bfloat16"}, 2),
}


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that PyTorch makes of what is compiled, as a list; they run without being compiled.

    Where one would break into two, it is an error.
    """
    import torch

    from nepa_keras.backends.torch import kernels

    made = []

    def run_as_it_is(graph, inputs):
        made.append(graph)
        return graph.forward

    options = {"backend": run_as_it_is, "fullgraph": True}
    compile_function = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **k: compile_function(f, **options, **k))
    kernels._compile.cache_clear()
    yield made
    kernels._compile.cache_clear()
    torch.compiler.reset()


@pytest.mark.only_on("torch")
@pytest.mark.parametrize("case", PARTS)
def test_blocks_that_are_alike_are_one_graph(case, graphs):
    """One for training and one for evaluation, with the numbers of the eager model."""
    parts, kinds = PARTS[case]
    models = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        arguments = {"jit_compile": jit_compile}
        optimizer = keras.optimizers.SGD(0.1)
        model = tiny.compiled_pretrainer(
            optimizer=optimizer, compile_arguments=arguments, num_layers=1 + ALIKE, **parts
        )
        models.append(model)
        assert not graphs
        model.fit(tiny.images(12), batch_size=4, shuffle=False, verbose=0)
    assert len(graphs) == kinds
    losses = [model.evaluate(tiny.images(4), verbose=0)["loss"] for model in models]
    assert len(graphs) == kinds + 1, "in evaluation the first block is like the others"
    assert losses[1] == pytest.approx(losses[0], abs=1e-3 if "dtype" in parts else 1e-5)
    kind = "same_bfloat16_weights" if "dtype" in parts else "same_numbers"
    tiny.assert_same_weights(*models, kind)


@pytest.mark.only_on("torch")
def test_a_second_model_shares_the_graph_of_the_first(graphs):
    for _ in range(2):
        model = tiny.compiled_pretrainer(compile_arguments={"jit_compile": True})
        model.train_on_batch(tiny.images(4))
    assert len(graphs) == 1


@pytest.mark.only_on("torch")
def test_what_is_compiled_on_pytorch_is_the_step_of_a_compiled_model_only(graphs):
    """Not a call by hand, whose shapes may be any, and by default nothing on CPU."""
    model = tiny.compiled_pretrainer(compile_arguments={"jit_compile": True})
    model(tiny.images(4))
    eager = tiny.compiled_pretrainer()
    eager.fit(tiny.images(8), batch_size=4, verbose=0)
    assert not eager.jit_compile
    assert not graphs


@pytest.mark.only_on("torch")
def test_pytorch_keeps_what_is_compiled_unless_the_user_names_a_place(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "of the user")
    backends.keep_compiled(tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "of the user"
    from torch._inductor.runtime import cache_dir_utils

    for default in (None, cache_dir_utils.default_cache_dir()):
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
        if default:
            monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default)
        backends.keep_compiled(tmp_path)
        kept = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        assert kept.parent == tmp_path
        assert cache_dir_utils.cache_dir() == str(kept)


@pytest.fixture
def jax_without_cache():
    """JAX as a user has it, whose processes keep nothing by themselves; those of the suite do."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    of_the_suite = jax.config.jax_compilation_cache_dir
    assert of_the_suite
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", of_the_suite)
    compilation_cache.reset_cache()


@pytest.mark.only_on("jax")
def test_jax_keeps_what_is_compiled_and_minds_no_damage(tmp_path, jax_without_cache):
    """Files left by a process that was killed in a write do not matter."""
    import jax

    def compute():
        jax.clear_caches()
        return np.asarray(jax.jit(lambda x: x @ x.T + 1.0)(np.ones((3, 2), "float32")))

    compute()
    backends.keep_compiled(tmp_path / "compiled")
    expected = compute()
    kept = [path for path in (tmp_path / "compiled").glob("*/*") if path.stat().st_size > 100]
    assert kept
    times = {path: path.stat().st_mtime_ns for path in kept}
    np.testing.assert_array_equal(compute(), expected)
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    for path in kept:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache"):
        np.testing.assert_array_equal(compute(), expected)


@pytest.mark.only_on("jax")
def test_jax_keeps_what_is_compiled_where_the_user_says(tmp_path):
    import jax

    before = jax.config.jax_compilation_cache_dir
    backends.keep_compiled(tmp_path / "compiled")
    assert jax.config.jax_compilation_cache_dir == before


@pytest.mark.only_on("tensorflow")
def test_tensorflow_keeps_what_is_compiled_unless_the_user_names_a_place(tmp_path, monkeypatch):
    folder = "--tf_xla_persistent_cache_directory="
    for given in ("", "--tf_xla_auto_jit=1", f"{folder}/of/the/user"):
        monkeypatch.setenv("TF_XLA_FLAGS", given)
        backends.keep_compiled(tmp_path)
        flags = os.environ["TF_XLA_FLAGS"].split()
        (place,) = (flag.removeprefix(folder) for flag in flags if flag.startswith(folder))
        if given.startswith(folder):
            assert place == "/of/the/user"
        else:
            assert Path(place).parent == tmp_path
            assert not given or flags[0] == given


@pytest.mark.full
@pytest.mark.only_on("jax", "tensorflow")  # PyTorch compiles nothing on CPU unless it is asked to
def test_a_run_that_goes_on_compiles_its_step_no_second_time(tmp_path, monkeypatch):
    """A second run in the folder adds nothing to the compiled files."""
    run, aside = tmp_path / "run", tmp_path / "aside"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)  # of the suite
    flags = "--data=digits --steps=20 --batch_size=32 --noevaluate".split()

    def kept():
        done = scripts.run("pretrain.py", *flags, f"--run_dir={run}")
        assert done.returncode == 0, done.stderr
        names = ("jit_train_step", "xla_compile_cache")
        return {path for path in (run / "compiled").glob("*/*") if path.name.startswith(names)}

    first = kept()
    assert first
    shutil.move(run / "compiled", aside)
    shutil.rmtree(run)
    shutil.copytree(aside, run / "compiled")
    assert kept() == first
