"""Short run of the library on another Python version than the suite's.

    KERAS_BACKEND=jax python tests/python_versions.py

Imports every public package, pretrains a tiny model by `fit`, saves it as a preset, and classifies with it.
Needs the library and one backend installed, nothing of the test environment.
"""

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import nepa_keras
from nepa_keras import data, evaluation, interop, objectives, training, visualization

PACKAGES = (data, evaluation, interop, objectives, training, visualization)


def main():
    backbone = nepa_keras.NepaBackbone(
        image_shape=(8, 8, 1), patch_size=2, hidden_dim=32, num_layers=2, num_heads=2, mlp_dim=64
    )
    model = nepa_keras.NepaPretrainer(backbone)
    model.compile(optimizer=training.adamw(learning_rate=1e-3, ema_decay=0.9))
    images = np.random.default_rng(0).standard_normal((64, 8, 8, 1)).astype("float32")
    losses = model.fit(images, batch_size=16, epochs=4, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0], losses

    with tempfile.TemporaryDirectory() as folder:
        model.save_to_preset(Path(folder) / "preset")
        loaded = nepa_keras.NepaImageClassifier.from_preset(Path(folder) / "preset", num_classes=3)
    assert loaded.predict(images[:4], verbose=0).shape == (4, 3)
    names = sum(len(package.__all__) for package in PACKAGES)
    print(
        f"Python {sys.version.split()[0]}, keras {keras.__version__}, {keras.backend.backend()}: "
        f"{names} public names, loss {losses[0]:.4f} -> {losses[-1]:.4f}"
    )


if __name__ == "__main__":
    main()
