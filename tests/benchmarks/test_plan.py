"""Plans for large pretraining: each formula is compared with the program, or with its limits."""

import dataclasses
import json
import math

import pytest
from plan import layouts, pretrainings, step_memory

import nepa_keras
from nepa_keras import training
from nepa_keras.performance import forward_flops, training_flops
from nepa_keras.performance.roofline import Device
from nepa_keras.training.checkpoints import Checkpoints
from nepa_keras.training.model_state import model_state
from tests.helpers import scripts, tiny

pytestmark = pytest.mark.once

MACHINE = layouts.Machine("made up", Device("made up", 1e9, 1e9), 4, 1.5e6, 1e6, 2, True)


@pytest.fixture
def backbone():
    return tiny.backbone()


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_state_is_what_optimizer_and_checkpoint_hold(accumulation_steps, tmp_path):
    model = nepa_keras.NepaPretrainer(
        nepa_keras.NepaBackbone.from_preset("nepa_micro_patch4_28", load_weights=False)
    )
    tiny.compile_model(
        model, training.adamw(1e-3, ema_decay=0.99, accumulation_steps=accumulation_steps)
    )
    weights = sum(math.prod(v.shape) for v in model.trainable_variables)
    assert model.backbone.count_params() == weights
    model.optimizer.build(model.trainable_variables)
    accumulates = accumulation_steps > 1
    held = sum(4 * math.prod(v.shape) for v in model.variables + model.optimizer.variables)
    gradients = 4 * weights
    assert held + gradients == pytest.approx(
        step_memory.state_bytes(model.backbone, accumulates=accumulates), abs=1000
    )
    folder = Checkpoints(tmp_path).save(1, model_state(model), {})
    written = sum(path.stat().st_size for path in folder.iterdir())
    expected = layouts.checkpoint_bytes(model.backbone, accumulates)
    assert written == pytest.approx(expected, abs=50_000) and expected > 10 * 50_000


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_the_backward_pass_keeps_what_the_formula_says(backend):
    """Counted in the program: the block to 0.5 %, its ends to 1 %; PyTorch's FLOPs exactly."""
    result = scripts.run_python("-m", "tests.helpers.kept_tensors", KERAS_BACKEND=backend)
    assert result.returncode == 0, result.stderr
    cases = json.loads(result.stdout)
    assert len(cases) == 4
    for found in cases:
        backbone = nepa_keras.NepaBackbone.from_preset(
            "nepa_tiny_patch14_224",
            load_weights=False,
            num_layers=2,
            gated_mlp=found["gated_mlp"],
        )
        kind = {"fused": backend == "torch"}
        kind["compute_bytes"] = 4 if found["dtype"] == "float32" else 2
        assert step_memory.block_bytes(backbone, **kind) == pytest.approx(found["block"], rel=0.005)
        images = 4 * math.prod(backbone.image_shape)  # an argument of the step, not kept by it
        ends = step_memory.ends_bytes(backbone, **kind) - images
        assert ends == pytest.approx(found["ends"], rel=0.01)
        assert backend == "jax" or forward_flops(backbone) == found["flops"]


def test_shards_add_up_to_the_whole(backbone):
    for accumulates in (False, True):
        whole = step_memory.state_bytes(backbone, accumulates=accumulates)
        assert 4 * step_memory.state_bytes(backbone, 4, accumulates) == pytest.approx(whole)
    # Two of two blocks are gathered: all weights and gradients, and the copies that all have.
    extra = step_memory.copy_bytes(backbone, True) - step_memory.copy_bytes(backbone, False)
    assert extra == pytest.approx(8 * backbone.count_params())
    assert step_memory.copy_bytes(backbone, False, compute_bytes=4) == 0


def test_remat_keeps_a_block_and_the_inputs_of_all(backbone):
    deep = tiny.backbone(num_layers=backbone.num_layers + 3)
    inputs = 4 * 4 * backbone.hidden_dim  # CLS and 3 of 4 patches, float32
    for fused in (True, False):
        more = step_memory.image_bytes(deep, fused, True)
        assert more - step_memory.image_bytes(backbone, fused, True) == pytest.approx(3 * inputs)
        more = step_memory.image_bytes(deep, fused) - step_memory.image_bytes(backbone, fused)
        assert more == pytest.approx(3 * step_memory.block_bytes(backbone, fused))


def test_communication_at_its_limits(backbone):
    gradient = 4 * backbone.count_params()
    assert layouts.reduce_seconds(backbone, 1, 1e6, sharded=False) == 0
    assert layouts.reduce_seconds(backbone, 1, 1e6, sharded=True) == 0
    assert layouts.reduce_seconds(backbone, 2, 1e6, sharded=False) == pytest.approx(gradient / 1e6)
    many = layouts.reduce_seconds(backbone, 10**6, 1e6, sharded=True)
    assert many == pytest.approx(3 * gradient / 1e6, rel=1e-5)


def test_one_device_computes_and_nothing_else(backbone):
    alone = dataclasses.replace(MACHINE, devices=1, memory_bytes=1e12)
    recipe = layouts.Recipe(epochs=3, batch_size=8, images=20)
    assert recipe.updates == 3 * 2
    plain, remat = (
        layouts.layout(backbone, alone, recipe, False, remat) for remat in (False, True)
    )
    assert plain.parts == remat.parts == 1
    seconds = 8 * training_flops(backbone) / 1e9
    assert layouts.update_seconds(plain, alone, 1.0) == pytest.approx(seconds)
    assert layouts.update_seconds(plain, alone, 0.5) == pytest.approx(2 * seconds)
    assert layouts.update_seconds(remat, alone, 1.0) == pytest.approx(4 / 3 * seconds)
    assert layouts.implied_mfu(backbone, alone, 8 / seconds) == pytest.approx(1.0)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("remat", [False, True])
def test_a_layout_fits_in_memory(backbone, sharded, remat):
    recipe = layouts.Recipe(batch_size=4 * 240)
    one = layouts.layout(backbone, MACHINE, recipe, sharded, remat)
    usable = layouts.USABLE * MACHINE.memory_bytes
    assert one.parts > 1 and one.used_bytes <= usable
    assert one.state_bytes + one.largest_batch * one.image_bytes <= usable
    assert one.state_bytes + (one.largest_batch + 1) * one.image_bytes > usable
    fewer = [k for k in range(1, one.parts) if 240 % k == 0]
    assert all(240 // k > one.largest_batch for k in fewer)
    alone = layouts.reduce_seconds(backbone, 4, MACHINE.link_bytes_per_second, sharded)
    assert one.communication_seconds == pytest.approx(one.parts * alone)


def test_layouts_that_do_not_fit_or_divide_are_refused(backbone):
    small = dataclasses.replace(MACHINE, memory_bytes=1000)
    found = layouts.layouts(backbone, small, layouts.Recipe(batch_size=8))
    assert [one.parts for one in found] == [one.largest_batch for one in found] == [0] * 4
    assert layouts.fastest(found, small, 0.5) is None
    with pytest.raises(ValueError, match="among the 4 devices of made up"):
        layouts.layouts(backbone, MACHINE, layouts.Recipe(batch_size=6))
    with pytest.raises(ValueError, match="less than a batch"):
        layouts.check(layouts.Recipe(batch_size=8, images=7), [])


def test_the_paper_and_the_released_scripts_are_planned_by_their_names():
    """Table 4 of the paper against the scripts: length of large, and the MLP."""
    found = {name: pretrainings.of_recipe(name) for name in pretrainings.NAMES}
    differ = {
        name: (plan.recipe.epochs, plan.recipe.updates, plan.overrides["gated_mlp"])
        for name, plan in found.items()
    }
    assert differ == {
        "paper_pretrain_base": (1600, 499_200, True),
        "released_pretrain_base": (1600, 499_200, False),
        "paper_pretrain_large": (800, 249_600, True),
        "released_pretrain_large": (1600, 499_200, False),
    }
    assert {plan.recipe.batch_size for plan in found.values()} == {4096}
    assert found["paper_pretrain_large"].preset == "nepa_large_patch14_224"
    shorter = pretrainings.of_recipe("paper_pretrain_base", epochs=3, batch_size=512)
    assert (shorter.recipe.epochs, shorter.recipe.batch_size) == (3, 512)


def test_the_command_prints_the_tables():
    preset = "nepa_tiny_patch14_224"
    flags = [f"--preset={preset}", "--images_per_core=1000"]
    result = scripts.run("plan.py", *flags)
    assert result.returncode == 0, result.stderr
    tables = [part.splitlines() for part in result.stdout.split("\n\n") if part.startswith("|")]
    _, hours, rates, _ = tables
    assert [len(table) - 2 for table in tables] == [3, 3 * 4, 3, 1]
    assert "hours at 30%" in hours[0] and "hours at 50%" in hours[0]
    for table in tables:
        assert {line.count("|") for line in table} == {table[0].count("|")}
    rate, of_a_device, cores = (
        float(cell.replace(",", "")) for cell in rates[2].split("|")[3:6]
    )  # 8 x H100
    assert rate == pytest.approx(8 * of_a_device, abs=8)
    assert cores == pytest.approx(rate / 1000, abs=0.06)

    flags = [f"--preset={preset}", "--machine=v5e-64", "--images_per_second=900"]
    result = scripts.run_here("plan.py", *flags)
    assert result.stdout.count("v5e-64 |") == 4 + 1

    result = scripts.run_here(
        "plan.py",
        "--images_per_second=900",
        *("--recipe=paper_pretrain_base", "--recipe=released_pretrain_base"),
    )
    assert result.returncode and "--preset and a single --machine" in result.stdout + result.stderr
    assert "v5e-64; give a multiple" in scripts.refusal("plan.py", "--batch_size=96")
