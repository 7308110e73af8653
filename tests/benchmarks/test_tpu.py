"""`benchmark.py --suite=tpu`: the reading of compiled programs, and steps compiled where libtpu is."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest
from tpu import program, suite

from tests.helpers.scripts import refusal, run

pytestmark = pytest.mark.once

# In the forms of the compiler's own text, cut to what is read.
TEXT = Path(__file__).with_name("program.hlo.txt").read_text()


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[4,257]{1,0:T(4,128)}", 4 * 384 * 4),
        ("bf16[4,257,64]{2,1,0:T(8,128)(2,1)}", 4 * 264 * 128 * 2),
        ("bf16[4,257,64]{1,2,0:T(8,128)(2,1)}", 4 * 64 * 384 * 2),
        ("f32[300]{0:T(512)}", 512 * 4),
        ("f32[]{:T(128)}", 4),
        ("f32[300]", 1200),
        ("f32[8,128]{1,0:T(8,128)S(1)}", 0),
        ("(pred[8,128]{1,0:T(8,128)(4,1)}, s32[2]{0})", 8 * 128 + 8),
    ],
)
def test_sizes_have_the_padding_of_tiles(shape, size):
    assert program.padded_bytes(shape) == size


def test_an_instruction_moves_what_it_reads_and_writes_outside_of_the_chip():
    activations, reduced, weight = 4 * 264 * 128 * 2, 4 * 384 * 4, 128 * 384 * 4
    assert program.traffic(TEXT) == {
        "copy-start.1": weight,  # onto the chip, once
        "fusion.1": activations + reduced,
        "fusion.2": reduced + weight,
        "all-reduce.1": 2 * weight,
        "all-gather.1": 5 * weight,
        "reduce-scatter.1": 5 * weight,
        "collective-permute-start.1": 2 * 16 * 128 * 2,
    }
    (name, number, size), *_ = program.largest(TEXT, 3)
    assert (number, size) == (1, 5 * weight) and name.startswith(("all-gather", "reduce-scatter"))
    assert "fusion jit(train_step)/block_N/mul" in {name for name, *_ in program.largest(TEXT, 9)}


def test_collectives_are_counted_with_what_a_chip_sends():
    weight = 128 * 300 * 4
    assert program.collectives(TEXT) == {
        "all-reduce": (1, 2 * weight * 3 // 4),
        "all-gather": (1, 4 * weight * 3 // 4),
        "reduce-scatter": (1, 4 * weight // 2),
        "collective-permute": (1, 16 * 128 * 2),
    }
    ordered = "mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}"
    assert program.collectives(TEXT.replace("[2,2]<=[4]", ordered)) == program.collectives(TEXT)
    with pytest.raises(ValueError, match="unknown form"):
        program.collectives(TEXT.replace("{{0,1,2,3}}", "<=[8]"))


def test_a_table_has_a_row_for_what_fits_and_for_what_does_not():
    standard = suite.standard_cases()
    assert len(set(standard)) == len(standard)
    assert {case.work for case in standard} == set(suite.WORKS)
    assert {"v5e:1x1", "v5e:2x2", "v5e:8x8", "v6e:2x2"} <= {case.topology for case in standard}
    fits = {
        **{"compiled": True, "state_bytes": 2**30, "temporary_bytes": 2**29},
        **{"hbm_bytes_per_image": 9e8, "flops_per_image": 1.4e11, "model_flops_per_image": 1.3e11},
        **{"collectives": {"all-reduce": [3, 5_000_000]}, "bound_by": "memory"},
        "images_per_second_bound": 910.0,
    }
    refused = {"compiled": False, "reason": "Used 20.1G of 15.7G hbm"}
    rows = [
        dataclasses.asdict(case) | said
        for case, said in zip(standard, [fits, refused], strict=False)
    ]
    _, _, first, second = suite.table(rows).splitlines()
    assert "| 64 | 1.00 | 0.50 | 900 | 140 (130) | 3 all-reduce 5 | 910 (memory) |" in first
    assert "| yes | 64 | Used 20.1G of 15.7G hbm |" in second
    assert first.count("|") == second.count("|")


def test_flags_multiply():
    cases = suite.product_cases(
        [8], False, preset=["a"], topology=["v5e:1x1", "v5e:2x2"], work=["forward"]
    )
    assert cases == [
        suite.Case("a", 8, "forward", "v5e:1x1"),
        suite.Case("a", 8, "forward", "v5e:2x2"),
    ]


@pytest.mark.full
def test_a_step_is_compiled_for_tpu_chips_that_are_not_here():
    """The TPU compiler's figures with libtpu; without it (as in CI) the message says how to get it."""
    small = ["--suite=tpu", "--preset=nepa_micro_patch2_8", "--batch_size=8"]
    if importlib.util.find_spec("libtpu") is None:
        assert "pip install 'nepa_keras[tpu]'" in refusal("benchmark.py", *small)
        return
    result = run("benchmark.py", *small, "--topology=v5e:2x2", "--layout=data,fsdp:2x2")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    data, sharded = map(json.loads, lines[:2])
    for row in (data, sharded):
        assert row["compiled"] and row["chips"] == 4
        # XLA counts everything but nothing twice; products of a model so small are a part of it.
        assert row["flops_per_image"] > 0.9 * row["model_flops_per_image"]
        assert row["hbm_bytes_per_image"] > 0 and row["collectives"]
    assert set(data["collectives"]) == {"all-reduce"} and "all-gather" in sharded["collectives"]
    assert sharded["state_bytes"] < data["state_bytes"]
    assert lines[-2].startswith("| micro_patch2_8 | pretrain | v5e:2x2 | data | bfloat16 |")
