"""Estimate hours, memory, input rate and storage of a pretraining on ImageNet-1k on larger machines.

    KERAS_BACKEND=torch python benchmarks/plan.py
    python benchmarks/plan.py --recipe=paper_pretrain_large --machine=h100-8
    python benchmarks/plan.py --preset=nepa_base_patch14_224 --machine=v5e-64 --images_per_second=650

Without flags it prints tables for base and large by the recipes of the paper and of the authors' released
scripts (experiments/recipes): the paper's models have SwiGLU, the released ones GELU; large has 800 epochs in
the paper and 1600 in the scripts.

Nothing is measured: the formulae of `plan/layouts.py` and `plan/step_memory.py` use the architecture, the
manufacturers' figures of the machines, and an assumed model FLOPs utilization (--mfu), or a measured rate
(--images_per_second).
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "experiments"))

import before_keras  # noqa: F401
from absl import flags
from command_line import end, run
from number_flags import POSITIVE, define_number
from plan import layouts, pretrainings, tables
from time_left import shown

from nepa_keras.performance import training_flops
from nepa_keras.presets import PRESETS

flags.DEFINE_multi_enum(
    "recipe",
    list(pretrainings.NAMES),
    list(pretrainings.NAMES),
    "Recipe of experiments/recipes to plan; repeat the flag for several, default all.",
)
flags.DEFINE_multi_enum(
    "preset",
    [],
    list(PRESETS),
    "Architecture to plan in place of --recipe, for 1600 epochs at batch size 4096; repeat the flag for "
    "several.",
)
flags.DEFINE_multi_enum(
    "machine",
    list(layouts.MACHINES),
    list(layouts.MACHINES),
    "Machine to plan for; repeat the flag for several, default all.",
)
flags.DEFINE_multi_float(
    "mfu",
    [0.3, 0.5],
    "Assumed model FLOPs utilization, as a fraction of the peak; repeat the flag for several.",
    lower_bound=0.01,
    upper_bound=1,
)
define_number(
    "images_per_second",
    None,
    "Measured training rate of one device without remat, in images/s, in place of --mfu; needs a single "
    "--recipe or --preset and a single --machine.",
    POSITIVE,
)
define_number(
    "images_per_core",
    987,
    "Images/s that one CPU core decodes and crops; default from benchmark.py --input on two cores.",
    POSITIVE,
)
flags.DEFINE_integer(
    "epochs", None, "Passes over ImageNet-1k, in place of those of the recipe.", lower_bound=1
)
flags.DEFINE_integer(
    "batch_size",
    None,
    "Images per update, over all devices, in place of those of the recipe.",
    lower_bound=1,
)
FLAGS = flags.FLAGS


def planned() -> list[pretrainings.Pretraining]:
    """Pretrainings named by the flags."""
    if not FLAGS.preset:
        return [
            pretrainings.of_recipe(name, FLAGS.epochs, FLAGS.batch_size) for name in FLAGS.recipe
        ]
    recipe = layouts.Recipe(FLAGS.epochs or 1600, FLAGS.batch_size or 4096)
    return [pretrainings.Pretraining(name, name, recipe) for name in FLAGS.preset]


def main():
    measured = FLAGS.images_per_second
    plans = planned()
    if measured and (len(plans) > 1 or len(FLAGS.machine) > 1):
        end(1, "--images_per_second needs a single --recipe or --preset and a single --machine.")
    machines = [layouts.MACHINES[name] for name in FLAGS.machine]
    try:
        for plan in plans:
            layouts.check(plan.recipe, machines)
    except ValueError as error:
        end(1, error)
    backbones = [plan.build() for plan in plans]
    trained = [(backbone, plan.recipe) for backbone, plan in zip(backbones, plans, strict=True)]
    mfus = FLAGS.mfu
    if measured:
        mfus = [layouts.implied_mfu(backbones[0], machines[0], measured)]
    print(
        "All figures are computed from the manufacturers' figures of the machines; "
        f"{layouts.USABLE:.0%} of their memory is used:\n\n{tables.machines_table(machines)}",
        flush=True,
    )
    for backbone, recipe in trained:
        looked_at = shown(machines, len(machines), f"{backbone.name}: machine")
        print(
            f"\n{backbone.name}: {recipe.epochs} epochs of {recipe.images:,} images, batch "
            f"{recipe.batch_size}: {recipe.updates:,} updates; {backbone.count_params():,} parameters, "
            f"{training_flops(backbone) / 1e9:.1f} GFLOP per image and step\n\n"
            f"{tables.layouts_table(backbone, looked_at, recipe, mfus)}",
            flush=True,
        )
    rates = tables.input_table(trained, machines, max(mfus), FLAGS.images_per_core)
    print(
        f"\nInput rates of the fastest layout at MFU {max(mfus):.0%}, with {FLAGS.images_per_core:g} "
        "images/s per CPU core\n\n"
        f"{rates}\n\nStorage\n\n{tables.storage_table(backbones)}"
    )


if __name__ == "__main__":
    run(main)
