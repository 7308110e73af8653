"""from_preset, save_to_preset, the official models, and what a person sees when it goes wrong."""

import ctypes
import gc
import json
import zlib

import keras
import numpy as np
import pytest
from safetensors import safe_open

import nepa_keras
from nepa_keras import interop
from nepa_keras.presets.official import official_variables, official_views
from tests.helpers import golden_files, tiny
from tests.helpers.scripts import run_python

# Parameters and tensors of the published checkpoints.
OFFICIAL = {
    "nepa_base_patch14_224": (85_527_552, 221),
    "nepa_large_patch14_224": (302_967_808, 485),
    "nepa_base_patch14_224_sft": (86_299_624, 249),
    "nepa_large_patch14_224_sft": (303_994_856, 489),
}


def official_model(preset):
    if preset.endswith("_sft"):
        return nepa_keras.NepaImageClassifier.from_preset(
            preset, load_weights=False, num_classes=1000
        )
    return nepa_keras.NepaPretrainer.from_preset(preset, load_weights=False)


def checksums(model) -> dict[str, tuple]:
    """Shape, dtype and checksum of each tensor, one variable at a time, as all of them are gigabytes."""
    found = {}
    for variable in official_variables(model):
        value = np.asarray(keras.ops.convert_to_numpy(variable))
        for name, view in official_views(variable.path, value).items():
            found[name] = view.shape, view.dtype, zlib.crc32(np.ascontiguousarray(view))
    return found


def expected_names(layers: int, qk_scale: bool, classifier: bool) -> set[str]:
    """The names of SPEC section 3, written out."""
    names = {"embeddings.cls_token", "layernorm.weight", "layernorm.bias"}
    names |= {f"embeddings.patch_embeddings.projection.{k}" for k in ("weight", "bias")}
    parts = [f"attention.attention.{n}" for n in ("query", "key", "value")]
    parts += ["layernorm_before", "layernorm_after", "attention.output.dense"]
    parts += ["intermediate.up_proj", "output.dense"]
    for i in range(layers):
        block = f"encoder.layer.{i}"
        names |= {f"{block}.{p}.{k}" for p in parts for k in ("weight", "bias")}
        names |= {f"{block}.layer_scale.lambda1", f"{block}.output.layer_scale.lambda1"}
        if qk_scale:
            names |= {f"{block}.attention.attention.{n}_norm.weight" for n in "qk"}
    names = {f"vit_nepa.{n}" for n in names}
    if classifier:
        names |= {f"{p}.{k}" for p in ("fc_norm", "classifier") for k in ("weight", "bias")}
    return names


def release_memory():
    """Gives memory of models that are gone, 1.2 GB of a large one, back to the system; JAX keeps it."""
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):  # glibc
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def freed():
    yield
    release_memory()


@pytest.mark.once
@pytest.mark.parametrize("preset", OFFICIAL)
def test_official_models_are_exported_and_imported(preset, tmp_path, zero_initial_weights, freed):
    """All parameters, names and values; of the values checksums, as all twice are gigabytes."""
    model = official_model(preset)
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(generator.standard_normal(variable.shape, dtype="float32"))
    parameters, tensors = OFFICIAL[preset]
    assert model.count_params() == parameters
    interop.export_huggingface(model, tmp_path)
    path = tmp_path / "model.safetensors"
    large = "large" in preset
    names = expected_names(24 if large else 12, large or "sft" in preset, "sft" in preset)
    with safe_open(path, "numpy") as file:
        assert set(file.keys()) == names and len(names) == tensors
    expected, model_class = checksums(model), type(model)
    del model, variable
    release_memory()
    again = model_class.from_preset(tmp_path)
    assert checksums(again) == expected and set(expected) == names


@pytest.mark.once
@pytest.mark.parametrize(
    "backend",
    [*(pytest.param(name, marks=pytest.mark.full) for name in ("jax", "tensorflow")), "torch"],
)
def test_importing_large_needs_little_memory(tmp_path, backend):
    """The peak rises by the model, but not by another copy of it, mapped or freed."""
    code = """
import sys
import keras, nepa_keras
def peak():  # getrusage begins at that of the process which started this one
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
if sys.argv[2] == "write":  # zeros, as drawing 300 million numbers takes seconds
    zeros = keras.initializers.Zeros()
    nepa_keras.layers.NormalInitializer.__call__ = lambda _, shape, dtype=None: zeros(shape, dtype)
    model = nepa_keras.NepaPretrainer.from_preset("nepa_large_patch14_224", load_weights=False)
    nepa_keras.interop.export_huggingface(model, sys.argv[1])
else:
    nepa_keras.NepaPretrainer.from_preset("nepa_micro_patch2_8", load_weights=False)  # start-up
    before = peak()
    nepa_keras.NepaPretrainer.from_preset(sys.argv[1])
    print(peak() - before)
"""
    for work in ("write", "read"):
        result = run_python("-c", code, tmp_path, work, KERAS_BACKEND=backend)
        assert result.returncode == 0, result.stderr
        size = (tmp_path / "model.safetensors").stat().st_size
        assert work == "write" or size <= int(result.stdout) <= 1.3 * size


@pytest.mark.parametrize("model_name", ["backbone", "pretrainer", "classifier"])
def test_a_preset_folder_keeps_weights_and_config(model_name, tmp_path):
    backbone = tiny.backbone(remat=True, drop_path_rate=0.2, image_shape=(8, 12, 1))
    model = {
        "backbone": backbone,
        "pretrainer": nepa_keras.NepaPretrainer(backbone, shift=False),
        "classifier": nepa_keras.NepaImageClassifier(
            backbone, 2, pooling="last", class_names=["cat", "dog"]
        ),
    }[model_name]
    tiny.spread_weights(model)
    model.save_to_preset(tmp_path)
    again = type(model).from_preset(tmp_path)
    ours, theirs = (
        {k: v for k, v in m.get_config().items() if k not in ("name", "backbone")}
        for m in (model, again)
    )
    assert ours == theirs
    for a, b in zip(tiny.weights(model), tiny.weights(again), strict=True):
        np.testing.assert_array_equal(a, b)
    fresh = type(model).from_preset(tmp_path, load_weights=False)
    assert any(
        np.any(a != b) for a, b in zip(tiny.weights(model), tiny.weights(fresh), strict=True)
    )


def test_mixed_precision_is_kept_and_can_be_changed(tmp_path):
    tiny.backbone(dtype="mixed_bfloat16").save_to_preset(tmp_path)
    assert nepa_keras.NepaBackbone.from_preset(tmp_path).dtype_policy.name == "mixed_bfloat16"
    changed = nepa_keras.NepaBackbone.from_preset(tmp_path, dtype="float32")
    assert changed.dtype_policy.name == "float32"


def test_class_names_come_out_of_predictions(tmp_path):
    classifier = nepa_keras.NepaImageClassifier(tiny.backbone(), 3, class_names=["a", "b", "c"])
    (best, *_), second = classifier.decode_predictions(np.array([[0.0, 2.0, 1.0], [9.0, 0.0, 0.0]]))
    assert best[0] == "b" and best[1] == pytest.approx(np.exp(2) / (1 + np.e + np.exp(2)))
    assert second[0][0] == "a" and len(second) == 3
    with pytest.raises(ValueError, match="2 class names for 3"):
        nepa_keras.NepaImageClassifier(tiny.backbone(), 3, class_names=["a", "b"])


@pytest.mark.once
def test_released_checkpoints_are_described():
    for name, released in nepa_keras.RELEASED.items():
        assert name in nepa_keras.PRESETS and released.handle.startswith("hf://SixAILab/nepa-")
        assert ("fine-tuned" in released.trained) == name.endswith("_sft")


PROBLEMS = {
    "no such preset": (
        lambda: nepa_keras.NepaBackbone.from_preset("nepa_huge"),
        "no preset.*nepa_huge",
    ),
    "no weights": (
        lambda: nepa_keras.NepaBackbone.from_preset("nepa_micro_patch4_28"),
        "without released weights.*load_weights=False",
    ),
    "unknown argument": (
        lambda: nepa_keras.NepaBackbone.from_preset(
            "nepa_micro_patch4_28", load_weights=False, depth=3
        ),
        "no argument depth",
    ),
    "bad handle": (lambda: nepa_keras.NepaBackbone.from_preset("hf://nepa"), "hf://owner/name"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_wrong_presets_are_refused(problem):
    call, words = PROBLEMS[problem]
    with pytest.raises(ValueError, match=words):
        call()


SPOILT_CONFIGS = {
    "other model": ({"model_type": "vit"}, "vit_nepa"),
    "missing key": ({"hidden_size": ...}, "cls_token' has shape"),
    "no number": ({"rope_theta": "100"}, "rope_theta must be a number"),
    "not a flag": ({"qk_norm": 1}, "qk_norm must be true or false"),
    "negative": ({"num_hidden_layers": -1}, "num_hidden_layers must be a positive integer"),
    "too large": ({"hidden_size": 10**12}, "hidden_size must be a positive integer"),
    "activation": ({"hidden_act": "gelu_new"}, "hidden_act must be"),
    "heads": ({"num_attention_heads": 5}, "num_heads=5 does not divide"),
    "width": ({"hidden_size": 72}, "shape.*needs"),
    "depth": ({"num_hidden_layers": 2}, "no variable"),
    "more depth": ({"num_hidden_layers": 4}, "lacks.*encoder.layer.3"),
    "norm": ({"qk_norm_affine": True}, "lacks.*q_norm.weight"),
    "size": ({"num_hidden_layers": 10**6, "hidden_size": 10**6}, "describes a model of more than"),
    "architecture": ({"architectures": ["ViT"]}, "architectures must be"),
}


@pytest.mark.parametrize("problem", SPOILT_CONFIGS)
def test_a_configuration_that_does_not_fit_is_refused(problem, tmp_path):
    changes, words = SPOILT_CONFIGS[problem]
    config = {**golden_files.record("pretrain_gelu/config.json"), **changes}
    config = {k: v for k, v in config.items() if v is not ...}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = golden_files.GOLDEN / "pretrain_gelu/weights.safetensors"
    (tmp_path / "model.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(ValueError, match=words):
        nepa_keras.NepaPretrainer.from_preset(tmp_path)


@pytest.mark.once
@pytest.mark.parametrize(
    ("preset", "count"),
    [("nepa_base_patch14_224", 85_527_552), ("nepa_large_patch14_224", 302_967_808)],
)
def test_parameter_counts_of_the_published_models(preset, count, zero_initial_weights):
    backbone = nepa_keras.NepaBackbone.from_preset(preset, load_weights=False)
    model = nepa_keras.NepaPretrainer(backbone)
    assert model.count_params() == count
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == count


@pytest.mark.parametrize("preset", nepa_keras.PRESETS)
def test_every_preset_runs_at_reduced_depth(preset):
    """Each named architecture makes a model that takes its images; two layers, to be quick."""
    backbone = nepa_keras.NepaBackbone.from_preset(
        preset, load_weights=False, num_layers=2, hidden_dim=32, num_heads=2, mlp_dim=32
    )
    size, _, channels = backbone.image_shape
    patch = nepa_keras.PRESETS[preset].get("patch_size", 14)
    out = backbone(np.zeros((1, *backbone.image_shape), "float32"))
    assert out["sequence_output"].shape == (1, 1 + (size // patch) ** 2, 32)
    assert f"patch{patch}_{size}" in preset and channels in (1, 3)
