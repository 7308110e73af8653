"""Compiled, eager and several steps in one call: the same updates."""

import pytest

from nepa_keras.training import adamw
from tests.helpers import tiny


@pytest.mark.xla
def test_compiled_and_eager_agree():
    models = []
    for jit_compile in (False, True):
        arguments = {"jit_compile": jit_compile}
        models.append(
            tiny.compiled_pretrainer(compile_arguments=arguments, gated_mlp=True, num_layers=1)
        )
        models[-1].fit(tiny.images(8), batch_size=4, shuffle=False, verbose=0)
    tiny.assert_same_weights(*models)


def test_run_eagerly():
    model = tiny.compiled_pretrainer(compile_arguments={"run_eagerly": True})
    model.fit(tiny.images(12), batch_size=4, shuffle=False, verbose=0)
    other = tiny.compiled_pretrainer()
    other.fit(tiny.images(12), batch_size=4, shuffle=False, verbose=0)
    tiny.assert_same_weights(model, other)


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
