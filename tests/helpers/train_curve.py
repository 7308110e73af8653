"""Train a tiny pretrainer on all devices, and write its losses and weights as JSON.

    python -m tests.helpers.train_curve OUT KIND MESH DEVICES PART...     one process of it; MESH may be "-"

DEVICES are virtual ones on the CPU. The parts: "plain", with hidden patches, DropPath and a NaN in one image
of one batch; "compiled", the same, compiled also on PyTorch; "accumulate", two batches an update; "segment",
a segmenter with BatchNorm whose images have different numbers of pixels that count, two steps only. BatchNorm
takes a bias away, whose gradient is then rounding: a large epsilon keeps Adam from making whole steps of it.
"projected", LeNEPA, whose projector and SIGReg look at the images of all devices.
"""

import itertools
import json
import os
import sys

out, kind, mesh, devices, *parts = sys.argv[1:]
backend = os.environ["KERAS_BACKEND"]
if backend == "jax":
    import jax

    jax.config.update("jax_num_cpu_devices", int(devices))
if backend == "torch":
    import torch

    torch.set_num_threads(1)
import keras  # noqa: E402
import numpy as np  # noqa: E402

if backend == "tensorflow" and "TF_CONFIG" not in os.environ:
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * int(devices),
    )

import nepa_keras  # noqa: E402
from nepa_keras.training import adamw, on_one_device  # noqa: E402

STEPS, BATCH, BAD = 20, 8, 5
FULL = ("plain", "compiled")
SEGMENT_STEPS = 2
processes = nepa_keras.distribute(kind, None if mesh == "-" else mesh)


def batches(part: str, size: int):
    """The part of this process of batches that are the same however many there are."""
    rows = slice(processes.number * size, (processes.number + 1) * size)
    for step in itertools.count():
        numbers = np.random.default_rng(step)
        if part == "segment":
            images = numbers.standard_normal((BATCH, 16, 16, 1)).astype("float32")
            labels = (images[..., 0] > 0).astype("uint8")
            for i in range(BATCH):
                labels[i, : 2 * i] = 255
            yield images[rows], labels[rows]
            continue
        images = numbers.standard_normal((BATCH, 8, 8, 1)).astype("float32")
        if part in FULL and step == BAD:
            images[BATCH - 1, 2, 3, 0] = np.nan
        yield (images[rows],)


def make(part: str):
    keras.utils.set_random_seed(0)
    backbone = nepa_keras.NepaBackbone.from_preset(
        "nepa_micro_patch2_8",
        load_weights=False,
        image_shape=(16, 16, 1) if part == "segment" else (8, 8, 1),
        num_layers=4 if part == "segment" else 2,
        use_mask_token=part in FULL,
        drop_path_rate=0.2 * (part in FULL),
    )
    if part == "segment":
        model = nepa_keras.NepaImageSegmenter(backbone, num_classes=2, dropout=0.0)
    elif part == "projected":
        small = {"projected_dim": 8, "projector_dim": 32, "num_slices": 16, "sigreg_weight": 1.0}
        objective = nepa_keras.objectives.LeNepaPretrainer
        model = objective(backbone, sigreg_over="batch", seed=0, **small)
    else:
        model = nepa_keras.NepaPretrainer(backbone, seed=0, masking_ratio=0.2 * (part in FULL))
    optimizer = adamw(
        1e-3,
        epsilon=1e-3 if part in ("segment", "projected") else 1e-8,
        ema_decay=0.9,
        clip_norm=0.5,
        accumulation_steps=2 if part == "accumulate" else 1,
    )
    model.compile(optimizer=optimizer, jit_compile=backend == "jax" or part == "compiled")
    return model


def whole(variables) -> list:
    """Their values; the order is that of one device."""
    return [np.asarray(keras.ops.convert_to_numpy(v)).tolist() for v in variables]


results = {"processes": list(processes)}
for part in parts:
    model = make(part)
    history = model.fit(
        batches(part, processes.images_of_process(BATCH)),
        steps_per_epoch=1,
        epochs=SEGMENT_STEPS if part == "segment" else STEPS,
        shuffle=False,
        verbose=0,
    ).history
    results[part] = {name: [float(x) for x in values] for name, values in history.items()}
    if kind == "fsdp":
        layouts = [str(v.value.sharding.spec) for v in model.optimizer.moments]
        results[part]["split"] = sum("shards" in x or "batch" in x for x in layouts)
    with on_one_device(model) as copy:
        results[part]["weights"] = whole(copy.trainable_variables)
        results[part]["averages"] = whole(copy.optimizer.averages)
        results[part]["rest"] = whole(copy.moving_statistics)
if processes.number == 0:
    with open(out, "w") as file:
        json.dump(results, file)
