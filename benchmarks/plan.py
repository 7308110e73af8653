"""Hours, memory, input and storage of the paper's pretraining on machines that are not at hand.

    KERAS_BACKEND=torch python benchmarks/plan.py
    python benchmarks/plan.py --preset=nepa_base_patch14_224 --machine=v5e-64 --images_per_second=650

Everything is computed, by the formulae of `plan/layouts.py` and `plan/step_memory.py`, from the
models, the makers' figures of the machines, and a share of the peak (--mfu) that is assumed; a measured rate
takes its place by --images_per_second.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "experiments"))

import before_keras  # noqa: F401
from absl import flags
from command_line import end, run
from number_flags import POSITIVE, define_number
from plan import layouts, tables
from progress import shown

from nepa_keras import NepaBackbone
from nepa_keras.performance import training_flops
from nepa_keras.presets import PRESETS

flags.DEFINE_multi_enum(
    "preset", ["nepa_base_patch14_224", "nepa_large_patch14_224"], list(PRESETS), "architectures"
)
flags.DEFINE_multi_enum(
    "machine", list(layouts.MACHINES), list(layouts.MACHINES), "what to plan for"
)
flags.DEFINE_multi_float(
    "mfu",
    [0.3, 0.5],
    "shares of the peak that a device is assumed to reach",
    lower_bound=0.01,
    upper_bound=1,
)
define_number(
    "images_per_second",
    None,
    "that one device was measured to train on without remat, in place of --mfu; of one preset and machine",
    POSITIVE,
)
define_number(
    "images_per_core",
    987,
    "images/s that one core decodes and crops; default half of what two did here (benchmark.py --input)",
    POSITIVE,
)
flags.DEFINE_integer("epochs", 1600, "passes over ImageNet-1k", lower_bound=1)
flags.DEFINE_integer("batch_size", 4096, "images of an update, on all devices", lower_bound=1)
FLAGS = flags.FLAGS


def main():
    measured = FLAGS.images_per_second
    if measured and (len(FLAGS.preset) > 1 or len(FLAGS.machine) > 1):
        end(1, "--images_per_second is of one --preset on one --machine.")
    machines = [layouts.MACHINES[name] for name in FLAGS.machine]
    recipe = layouts.Recipe(FLAGS.epochs, FLAGS.batch_size)
    try:
        layouts.check(recipe, machines)
    except ValueError as error:
        end(1, error)
    backbones = [
        NepaBackbone.from_preset(name, load_weights=False, name=name) for name in FLAGS.preset
    ]
    mfus = FLAGS.mfu
    if measured:
        mfus = [layouts.implied_mfu(backbones[0], machines[0], measured)]
    print(
        f"{FLAGS.epochs} epochs of {recipe.images:,} images, batch {FLAGS.batch_size}: {recipe.updates:,} "
        f"updates. Computed; the machines by their makers' figures, of which {layouts.USABLE:.0%} of the "
        f"memory is used:\n\n{tables.machines_table(machines)}"
    )
    for backbone in backbones:
        planned = shown(machines, len(machines), f"{backbone.name}: machine")
        print(
            f"\n{backbone.name}: {backbone.count_params():,} parameters, "
            f"{training_flops(backbone) / 1e9:.1f} GFLOP an image and step\n\n"
            f"{tables.layouts_table(backbone, planned, recipe, mfus)}"
        )
    rates = tables.input_table(backbones, machines, recipe, max(mfus), FLAGS.images_per_core)
    print(
        f"\nInput of the fastest layout at {max(mfus):.0%}, {FLAGS.images_per_core:g} images/s of a core\n\n"
        f"{rates}\n\nStorage\n\n{tables.storage_table(backbones)}"
    )


if __name__ == "__main__":
    run(main)
