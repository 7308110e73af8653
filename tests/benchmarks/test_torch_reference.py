"""The PyTorch implementation that the benchmark compares with, against the reference numbers."""

import pytest
import torch
from torch_reference import Architecture, Nepa, Trainer, nepa_loss

from tests.helpers import golden_files
from tests.helpers.tolerances import assert_close, assert_same_tensors

pytestmark = pytest.mark.once

# Names in a block of the reference and of the official model, which keeps q, k and v apart.
BLOCK = {
    "norm1": "layernorm_before",
    "attention.out": "attention.output.dense",
    "norm2": "layernorm_after",
    "up": "intermediate.up_proj",
    "down": "output.dense",
}
QKV = [f"attention.attention.{n}" for n in ("query", "key", "value")]


def name_pairs(num_layers):
    """(name in the reference, official names whose tensors it holds one after the other)."""
    yield "cls_token", ["embeddings.cls_token"]
    modules = {
        "patches": ["embeddings.patch_embeddings.projection"],
        "norm": ["layernorm"],
    }
    for i in range(num_layers):
        official = f"encoder.layer.{i}"
        yield f"blocks.{i}.scale1", [f"{official}.layer_scale.lambda1"]
        yield f"blocks.{i}.scale2", [f"{official}.output.layer_scale.lambda1"]
        modules[f"blocks.{i}.attention.qkv"] = [f"{official}.{n}" for n in QKV]
        modules |= {f"blocks.{i}.{ours}": [f"{official}.{n}"] for ours, n in BLOCK.items()}
    for ours, official in modules.items():
        for kind in ("weight", "bias"):
            yield f"{ours}.{kind}", [f"{n}.{kind}" for n in official]


def in_our_names(path, num_layers=3):
    """The tensors of an official file under the reference's names."""
    tensors = {n: torch.from_numpy(v) for n, v in golden_files.tensors(path).items()}
    return {
        ours: torch.cat([tensors.pop(f"vit_nepa.{n}") for n in official])
        for ours, official in name_pairs(num_layers)
    }


def golden_model(rope_rescale=None):
    architecture = Architecture(
        image_size=28,
        patch_size=7,
        hidden_dim=36,
        num_layers=3,
        num_heads=3,
        mlp_dim=90,
        rope_rescale=rope_rescale,
    )
    model = Nepa(architecture)
    model.load_state_dict(in_our_names("pretrain_gelu/weights.safetensors"))
    return model


def test_base_has_the_official_number_of_parameters():
    with torch.device("meta"):
        model = Nepa(Architecture())
    assert sum(p.numel() for p in model.parameters()) == 85_527_552


def test_large_has_the_official_number_of_parameters():
    with torch.device("meta"):
        model = Nepa(
            Architecture(
                hidden_dim=1024, num_layers=24, num_heads=16, mlp_dim=4096, qk_norm_scale=True
            )
        )
    assert sum(p.numel() for p in model.parameters()) == 302_967_808


def test_states_loss_and_gradients():
    io = golden_files.tensors("pretrain_gelu/io.safetensors")
    model = golden_model()
    z, h = model(torch.from_numpy(io["pixel_values"]))
    loss = nepa_loss(z, h)
    loss.backward()
    assert_close(z.detach(), io["input_embedding"], "states", "input_embedding")
    assert_close(h.detach(), io["last_hidden_state"], "states", "last_hidden_state")
    assert_close(loss.detach().reshape(1), io["loss"], "pretrain_loss")
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert_same_tensors(gradients, in_our_names("pretrain_gelu/grads.safetensors"), "gradient")


def test_rescale_is_one_factor_within_its_bounds():
    model = golden_model(rope_rescale=2.0)
    model.eval()
    cos, _ = model.rotary()
    assert_close(cos, model.rotary.angles.cos(), "rope")
    model.train()
    factors = []
    for _ in range(50):
        cos, sin = model.rotary()
        # The lowest frequency turns by less than half a circle, so its angle can be read back.
        angle, base = torch.atan2(sin, cos)[1:, 2], model.rotary.angles[1:, 2]
        ratios = angle / base
        factors.append(float(ratios.mean()))
        assert_close(ratios, torch.full_like(ratios, factors[-1]), "rope")
    assert 0.5 <= min(factors) < 0.8 and 1.25 < max(factors) <= 2.0


def test_ten_steps():
    record = golden_files.record("trajectory/steps.json")
    hyper = record["hyper"]
    images = torch.from_numpy(golden_files.tensors("trajectory/inputs.safetensors")["pixel_values"])
    trainer = Trainer(
        golden_model(),
        hyper["peak_lr"],
        record["steps"],
        hyper["warmup_steps"],
        ema_decay=hyper["ema_decay"],
    )
    losses, norms = zip(*(trainer.step(batch) for batch in images), strict=True)
    expected = record["per_step"]
    assert_close(torch.stack(losses), [s["loss"] for s in expected], "trajectory_loss")
    assert_close(torch.stack(norms), [s["grad_norm"] for s in expected], "trajectory_norm")
    names = [name for name, _ in trainer.model.named_parameters()]
    for file, values in (("final", trainer.parameters), ("ema", trainer.averages)):
        actual = {n: v.detach() for n, v in zip(names, values, strict=True)}
        assert_same_tensors(
            actual, in_our_names(f"trajectory/{file}.safetensors"), "trajectory_weights"
        )
