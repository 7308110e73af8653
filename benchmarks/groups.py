"""`benchmark.py --suite=groups`: a fine-tuning step with a rate for each block, and with one rate for all.

Weight decay applies to matrices only, so that one rate gives two parameter groups.
"""

import statistics
import sys

from measure import Side
from sides import TOTAL_STEPS, random_batches
from time_left import counter

CLASSES = 1000


class FinetuneSide:
    """Fine-tuning of a classifier; with the option "layerwise" each block has its own learning rate."""

    def __init__(self, options):
        import random

        import keras
        import numpy as np

        import nepa_keras
        from nepa_keras.training import LayerwiseWarmupCosine, WarmupCosine, adamw

        if options["dtype"] == "bfloat16":
            keras.config.set_dtype_policy("mixed_bfloat16")
        random.seed(1337)
        backbone = nepa_keras.NepaBackbone.from_preset(
            options["preset"], load_weights=False, use_causal_mask=False
        )
        self.model = nepa_keras.NepaImageClassifier(backbone, CLASSES)
        schedule = WarmupCosine(1e-3, TOTAL_STEPS, 0.2)
        if options["layerwise"]:
            schedule = LayerwiseWarmupCosine(
                1e-3, TOTAL_STEPS, backbone.num_layers, 0.65, 1e-3, 0.2
            )
        self.model.compile(
            optimizer=adamw(schedule, beta_2=0.999, ema_decay=0.9999),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            jit_compile={"auto": "auto", "true": True, "false": False}[options["jit_compile"]],
        )
        images = random_batches(backbone.image_shape, options["batch_size"])
        targets = np.eye(CLASSES, dtype="float32")[np.arange(options["batch_size"]) % CLASSES]
        self.batches = [(x, targets) for x in images]
        self.model.optimizer.build(self.model.trainable_variables)
        groups = len(self.model.optimizer.groups)
        self.facts = {"name": f"{groups} groups", "backend": keras.backend.backend()}

    def run(self, steps):
        batches = (self.batches[i % len(self.batches)] for i in range(steps))
        self.model.fit(batches, shuffle=False, verbose=0)


def groups_suite(options, steps: int, repeats: int) -> int:
    """Measure both in alternate turns after a warm-up turn; print times and their ratio."""
    sides = [Side(FinetuneSide, options | {"layerwise": on}) for on in (False, True)]
    count = counter(repeats + 1, "turn", sys.stderr)
    for turn in range(repeats + 1):
        for side in sides if turn % 2 else reversed(sides):
            side.turn(steps)
        count()
    print(
        f"{options['preset']}, {sides[0].figures['backend']}, batch {options['batch_size']}, "
        f"{options['dtype']}, {options['threads']} threads, {repeats} turns of {steps} steps"
    )
    for side in sides:
        turns = sorted(side.seconds[1:])
        print(
            f"{side.figures['name']:<24}{statistics.median(turns):.4f} s per step "
            f"({turns[0]:.4f} to {turns[-1]:.4f})"
        )
        side.pipe.send(None)
        side.process.join()
    one, each = (side.seconds[1:] for side in sides)
    ratios = sorted(b / a for a, b in zip(one, each, strict=True))
    print(f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    return 0
