"""One row of `benchmark.py --suite=tpu`, run in its own process: python benchmarks/tpu/row.py CASE.

CASE is a `tpu.suite.Case` as JSON; the last line printed is the result as JSON. `tpu.suite.compile_case` sets
the environment.
"""

import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import jax
import keras
import numpy as np
from jax.experimental import topologies

import nepa_keras
from nepa_keras.backends.jax.target import compiled_for
from nepa_keras.performance import DEVICES, training_flops
from tpu import program

UPDATES, WARMUP = 499_200, 12_480  # as in the recipes; they do not change the cost of a step
CLASSES, PIXEL_CLASSES = 1000, 150


def chips(topology: str) -> list:
    """Devices of a topology such as v5e:2x2, which need not be available."""
    one = {"chips_per_host_bounds": (1, 1, 1)} if topology.endswith(":1x1") else {}
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **one)
    return list(found.devices)


def model_of(case: dict):
    """Model compiled as in its recipe, and a batch of zeros that takes no memory."""
    sizes = {"image_shape": (518, 518, 3)} if case["work"] == "segment" else {}
    if case["work"] in ("classify", "segment"):
        sizes |= {"use_causal_mask": False, "drop_path_rate": 0.1}
    backbone = nepa_keras.NepaBackbone.from_preset(
        case["preset"], load_weights=False, remat=case["remat"], **sizes
    )
    layers, training = backbone.num_layers, nepa_keras.training

    def zeros(*shape, dtype="float32"):
        return np.broadcast_to(np.zeros((), dtype), (case["images"], *shape))

    batch = (zeros(*backbone.image_shape),)
    if case["work"] == "forward":
        return backbone, batch
    if case["work"] == "pretrain":
        model = nepa_keras.NepaPretrainer(backbone)
        schedule = training.WarmupCosine(3e-4, UPDATES, warmup_steps=WARMUP)
        model.compile(optimizer=training.adamw(schedule, ema_decay=0.9999))
    elif case["work"] == "classify":
        model = nepa_keras.NepaImageClassifier(backbone, CLASSES)
        schedule = training.LayerwiseWarmupCosine(1e-3, UPDATES, layers, 0.65, 1e-3, 0.2)
        model.compile(
            optimizer=training.adamw(schedule, beta_2=0.999, ema_decay=0.9999),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        )
        batch += (zeros(CLASSES),)
    else:
        model = nepa_keras.NepaImageSegmenter(backbone, PIXEL_CLASSES)
        schedule = training.LayerwiseWarmupPoly(1e-4, UPDATES, layers, 0.65, WARMUP)
        model.compile(optimizer=training.adamw(schedule, beta_2=0.999, ema_decay=0.9999))
        batch += (zeros(*backbone.image_shape[:2], dtype="int32"),)
    model.optimizer.build(model.trainable_variables)
    model._symbolic_build(data_batch=batch)
    return model, batch


def lowered(case: dict, devices):
    """Lower the step of a case for the devices; return it and the model."""
    kind, _, mesh = case["layout"].partition(":")
    if len(devices) > 1:
        nepa_keras.distribute(kind, mesh or None)
    made = []  # filled inside `eval_shape`, as no array can be put on devices that are not available
    jax.eval_shape(lambda: made.extend(model_of(case)))
    model, batch = made
    alone = jax.sharding.SingleDeviceSharding(devices[0])

    def placed(variable):
        layout = variable._layout.backend_layout if variable._layout is not None else alone
        return jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=layout)

    def shared(array):
        distribution = keras.distribution.distribution()
        layout = alone if distribution is None else distribution.get_data_layout(array.shape)
        return jax.ShapeDtypeStruct(
            array.shape, array.dtype, sharding=getattr(layout, "backend_layout", layout)
        )

    data = tuple(map(shared, batch))
    groups = [model.trainable_variables, model.non_trainable_variables]
    if case["work"] == "forward":
        state = tuple([placed(v) for v in group] for group in groups)

        def forward(state, images):
            outputs, _ = model.stateless_call(*state, images, training=False)
            return outputs["sequence_output"]

        return jax.jit(forward).lower(state, *data), model
    groups += [model.optimizer.variables, model.metrics_variables]
    state = tuple([placed(v) for v in group] for group in groups)
    shardings = (None, tuple([v.sharding for v in group] for group in state))
    step = jax.jit(  # as Keras' `make_train_function` does
        model.train_step, donate_argnums=0, out_shardings=shardings if len(devices) > 1 else None
    )
    return step.lower(state, data), model.backbone


def figures(case: dict) -> dict:
    """Compile a case and collect the compiler's figures, for `tpu.suite.table`."""
    started = time.time()
    keras.config.set_dtype_policy(
        "mixed_bfloat16" if case["dtype"] == "bfloat16" else case["dtype"]
    )
    devices = chips(case["topology"])
    case = case | {"images": case["batch_size"] * len(devices)}
    with compiled_for(devices):
        step, backbone = lowered(case, devices)
        try:
            compiled = step.compile()
        except jax.errors.JaxRuntimeError as error:
            return {"compiled": False, "reason": _reason(str(error))}
    text, memory = compiled.as_text(), compiled.memory_analysis()
    if case.get("hlo"):
        Path(case["hlo"]).write_text(text)
    images, sheet = case["batch_size"], DEVICES[f"tpu_{case['topology'].partition(':')[0]}"]
    moved = sum(program.traffic(text).values())
    flops = compiled.cost_analysis()["flops"]
    model_flops = training_flops(backbone) / (3 if case["work"] == "forward" else 1)
    times = {
        "arithmetic": flops / sheet.flops_per_second,
        "memory": moved / sheet.bytes_per_second,
    }
    limit = max(times, key=times.__getitem__)
    return {
        "compiled": True,
        "chips": len(devices),
        "chip": devices[0].device_kind,
        "state_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "program_bytes": memory.generated_code_size_in_bytes,
        "hbm_bytes_per_image": moved / images,
        "flops_per_image": flops / images,
        "model_flops_per_image": model_flops,
        "collectives": program.collectives(text),
        "images_per_second_bound": images / times[limit],
        "bound_by": limit,
        "largest": program.largest(text, 25),
        "seconds": time.time() - started,
    }


def _reason(message: str) -> str:
    """Short form of a compiler's error message."""
    used = re.search(r"Used [\d.]+\w of [\d.]+\w hbm", message)
    return used[0] if used else next(filter(None, message.splitlines()), "no reason given")[:300]


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        result = figures(json.loads(sys.argv[1]))
    print(json.dumps(result), flush=True)
    os._exit(0)  # a normal exit may hang, as libtpu waits for a chip
