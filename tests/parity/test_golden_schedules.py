"""Learning rates and parameter groups of pretraining against the official trainer."""

import re

import keras
import pytest

import nepa_keras
from nepa_keras.presets.official import official_names
from nepa_keras.training import WarmupCosine, adamw, scaled_learning_rate
from tests.helpers import golden_files
from tests.helpers.tolerances import assert_close

TABLES = golden_files.record("schedules.json")["pretrain_cosine"]["tables"]


@pytest.mark.parametrize("table", TABLES, ids=[str(t["total_steps"]) for t in TABLES])
def test_warmup_cosine(table):
    """The formula in double precision, and what the device computes in float32."""
    schedule = WarmupCosine(
        table["peak_lr"], table["total_steps"], warmup_ratio=table["warmup_ratio"]
    )
    assert schedule.warmup_steps == table["warmup_steps"]
    for step, rate in zip(table["steps"], table["lr"], strict=True):
        # A rate near 0 at the end of the cosine is a difference of two close numbers: its error
        # is relative to the peak.
        scale = table["peak_lr"]
        assert_close((schedule.at(step) - rate) + scale, scale, "learning_rate", f"step {step}")
        device_step = keras.ops.convert_to_tensor(step, dtype="int32")
        device = float(keras.ops.convert_to_numpy(schedule(device_step)))
        assert_close((device - rate) + scale, scale, "learning_rate_in_step", f"step {step}")
        if rate > 1e-3 * scale:
            assert schedule.at(step) == pytest.approx(rate, rel=1e-9)


def test_rates_of_the_reference_trajectory():
    steps = golden_files.record("trajectory/steps.json")
    hyper = steps["hyper"]
    schedule = WarmupCosine(hyper["peak_lr"], steps["steps"], warmup_steps=hyper["warmup_steps"])
    for k, step in enumerate(steps["per_step"]):
        assert schedule.at(k) == pytest.approx(step["lr"], rel=1e-9)


def test_schedule_round_trip_and_ends():
    schedule = WarmupCosine(1e-3, 40, warmup_ratio=0.1)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert [again.at(k) for k in range(45)] == [schedule.at(k) for k in range(45)]
    assert schedule.at(0) == 0.0 and schedule.at(4) == 1e-3
    assert schedule.at(40) == schedule.at(1000) == pytest.approx(0.0, abs=1e-18)
    assert WarmupCosine(1e-3, 10, warmup_steps=0).at(0) == 1e-3
    assert scaled_learning_rate(3e-4, 4096) == pytest.approx(4.8e-3)
    assert scaled_learning_rate(1e-3, 128) == pytest.approx(5e-4)


def tiny_gated_model():
    """The model of the reference's table: 3 layers, gated MLP, QK-norm with weight, LayerScale."""
    return golden_files.pretrainer("pretrain_gated")


def groups_by_official_name(optimizer, model) -> dict:
    """official name -> (learning rate factor, decay), each variable exactly once."""
    optimizer.build(model.trainable_variables)
    indices = [i for group in optimizer.groups for i in group.indices]
    assert sorted(indices) == list(range(len(model.trainable_variables)))
    return {
        name: (group.learning_rate_factor, group.weight_decay)
        for group in optimizer.groups
        for i in group.indices
        for name in official_names(model.trainable_variables[i].path)
    }


def test_parameter_groups():
    table = golden_files.record("schedules.json")["pretrain_param_groups_tiny"]
    expected = {
        name: (1.0, group["weight_decay"]) for group in table["groups"] for name in group["names"]
    }
    model = tiny_gated_model()
    assert groups_by_official_name(adamw(table["learning_rate"]), model) == expected


def test_parameter_groups_with_a_rate_for_the_embedding():
    table = golden_files.record("schedules.json")["pretrain_param_groups_tiny_with_embed_lr"]
    peak = golden_files.record("schedules.json")["pretrain_param_groups_tiny"]["learning_rate"]
    factor = table["embed_lr"] / peak
    model = tiny_gated_model()
    found = groups_by_official_name(adamw(peak, embedding_learning_rate_factor=factor), model)
    for group in table["groups"]:
        key = (pytest.approx(group["lr"] / peak), group["weight_decay"])
        names = [name for name, value in found.items() if value == key]
        assert len(names) == group["tensors"]
        assert set(group["first"]) <= set(names)


@pytest.mark.parametrize("folder", ["pretrain_gelu", "pretrain_gated", "classify"])
def test_printed_table_counts_every_parameter_once(folder):
    make = golden_files.classifier if folder == "classify" else golden_files.pretrainer
    model = make(folder)
    lines = adamw(1e-3, embedding_learning_rate_factor=0.5).table(model).splitlines()
    assert len(lines) == 6, "a header, four groups, the sum"
    columns = re.compile(r"  +")  # two spaces or more; names hold single ones
    parameters = [int(columns.split(line)[2].replace(",", "")) for line in lines[1:]]
    assert sum(parameters[:-1]) == parameters[-1] == model.count_params()
    assert str(len(model.trainable_variables)) in lines[-1]


def test_embedding_rate_reaches_the_update():
    """A factor of 0 holds the embedding while everything else moves."""
    model = golden_files.pretrainer("pretrain_gelu", rope_rescale=None)
    before = nepa_keras.interop.official_tensors(model)
    model.compile(optimizer=adamw(1e-3, embedding_learning_rate_factor=0.0))
    model.train_on_batch(golden_files.images("pretrain_gelu"))
    after = nepa_keras.interop.official_tensors(model)
    for name in before:
        same = (before[name] == after[name]).all()
        assert same == name.startswith("vit_nepa.embeddings."), name
