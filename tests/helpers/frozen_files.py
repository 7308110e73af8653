"""Files for tests/test_frozen.py. Imports nothing of the tests, so that an older version can write them.

git worktree add ../old 553c603
PYTHONPATH=../old KERAS_BACKEND=torch python tests/helpers/frozen_files.py tests/frozen
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from safetensors.numpy import save_file

import nepa_keras
from nepa_keras.training import Preempted, adamw, fit_steps

STOPPED_AT = 7


def backbone():
    return nepa_keras.NepaBackbone(
        image_shape=(8, 8, 1),
        patch_size=4,
        hidden_dim=8,
        num_layers=2,
        num_heads=2,
        mlp_dim=12,
        layer_scale=0.5,
        qk_norm_scale=True,
        rope_rescale=None,
    )


def models():
    """One model of each kind, with weights far from their initial values."""
    segmenter = nepa_keras.NepaImageSegmenter
    made = {
        "pretrainer": nepa_keras.NepaPretrainer(backbone()),
        "classifier": nepa_keras.NepaImageClassifier(backbone(), 3, class_names=["a", "b", "c"]),
        "segmenter": segmenter(backbone(), 3, head="linear", class_names=["a", "b", "c"]),
    }
    for model in made.values():
        spread(model)
    return made


def spread(model):
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        noise = generator.standard_normal(variable.shape).astype("float32")
        variable.assign(float(variable.path.endswith(("gamma", "scale"))) + 0.3 * noise)


def images(seed: int = 0, count: int = 4):
    return np.random.default_rng(seed).standard_normal((count, 8, 8, 1)).astype("float32")


def outputs(model):
    """Outputs for a batch, as arrays by name."""
    found = model.predict(images(), verbose=0)
    return found if isinstance(found, dict) else {"logits": found}


def batches(first: int = 0):
    for step in itertools.count(first):
        yield (images(step),)


class AskToEnd(keras.callbacks.Callback):
    """Sends SIGTERM in a step, as a scheduler does."""

    left = STOPPED_AT

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGTERM)


def run_model():
    model = nepa_keras.NepaPretrainer(backbone())
    spread(model)
    # An eager step of JAX compiles each operation by itself.
    jit_compile = keras.backend.backend() == "jax"
    model.compile(optimizer=adamw(1e-2, ema_decay=0.9), jit_compile=jit_compile)
    return model


def write(folder: Path) -> None:
    for name, model in models().items():
        if name == "pretrainer":
            model.compile(optimizer=adamw(1e-2, ema_decay=0.9), jit_compile=False)
            model.fit(images(), batch_size=2, shuffle=False, verbose=0)
        else:
            model.save_to_preset(folder / f"{name}_preset")
        model.save(folder / f"{name}.keras")
        save_file(
            {key: np.ascontiguousarray(value) for key, value in outputs(model).items()},
            folder / f"{name}.safetensors",
        )
    with tempfile.TemporaryDirectory() as scratch:
        run, straight = Path(scratch, "run"), Path(scratch, "straight")
        with contextlib.suppress(Preempted):
            fit_steps(run_model(), batches, 20, 4, run, callbacks=[AskToEnd()])
        shutil.copytree(run / "checkpoints", folder / "stopped" / "checkpoints")
        shutil.copy(run / "log.csv", folder / "stopped")
        fit_steps(run_model(), batches, 20, 4, straight)
        shutil.copy(straight / "log.csv", folder / "straight.csv")

        script = Path(nepa_keras.__file__).parents[1] / "experiments" / "pretrain.py"
        flags = "--data=digits --preset=nepa_micro_patch4_28 --steps=1 --batch_size=8 --noevaluate"
        command = [sys.executable, script, *flags.split(), f"--run_dir={scratch}/script"]
        subprocess.run(command, check=True)
        _, *lines = Path(scratch, "script", "flags.txt").read_text().splitlines(keepends=True)
        Path(folder, "flags.txt").write_text("".join(lines))  # without the command and its paths


if __name__ == "__main__":
    write(Path(sys.argv[1]))
