"""Checkpoints as others leave them: wrapped names, PyTorch's files, configurations with keys left out."""

import json
from collections import OrderedDict

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nepa_keras
from nepa_keras import interop
from tests.helpers import golden_files, tiny
from tests.helpers.tolerances import assert_same_tensors


def folder_of(tmp_path, name="classify", config=None, tensors=None):
    """An official folder of the reference numbers; `config` changes keys, or leaves out those that are ..."""
    whole = golden_files.record(f"{name}/config.json") | (config or {})
    held = {key: value for key, value in whole.items() if value is not ...}
    (tmp_path / "config.json").write_text(json.dumps(held))
    if tensors is None:
        tensors = load_file(golden_files.GOLDEN / name / "weights.safetensors")
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def torch_tensors(tensors):
    import torch

    return OrderedDict((name, torch.from_numpy(value.copy())) for name, value in tensors.items())


def assert_golden(model, name="classify"):
    expected = golden_files.tensors(f"{name}/weights.safetensors")
    assert_same_tensors(interop.official_tensors(model), expected, "exact")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.model."])
def test_the_prefix_of_a_wrapper_is_a_rule(prefix, tmp_path):
    tensors = golden_files.tensors("classify/weights.safetensors")
    wrapped = {prefix + name: value for name, value in tensors.items()}
    source = folder_of(tmp_path, tensors=wrapped)
    model = nepa_keras.NepaImageClassifier.from_preset(source)
    assert_golden(model)
    assert model.load_report.rules == ["strip_prefix"]
    assert f"({prefix})" in str(model.load_report)
    sources = [name for a in model.load_report.assignments for name in a.sources]
    assert sorted(sources) == sorted(wrapped)
    backbone = nepa_keras.NepaBackbone.from_preset(source)
    assert backbone.load_report.rules == ["drop_head", "strip_prefix"]
    assert f"{prefix}classifier.bias" in backbone.load_report.left_out
    again = golden_files.classifier()
    interop.load_official_tensors(again, wrapped)
    assert_golden(again)


OTHER_NAMES = {
    "one without": (
        lambda n, i: n if i == 3 else f"module.{n}",
        "holds '.* and 'module.* rename the",
    ),
    "one with": (lambda n, i: f"module.{n}" if i == 3 else n, "rename the tensors consistently"),
    "unknown": (lambda n, i: f"network.{n}", "lacks"),
    "inside": (lambda n, i: n.replace("encoder.", "encoder._orig_mod."), "lacks"),
}


@pytest.mark.parametrize("case", OTHER_NAMES)
def test_other_names_are_refused(case, tmp_path):
    rename, words = OTHER_NAMES[case]
    tensors = golden_files.tensors("classify/weights.safetensors")
    renamed = {rename(name, i): value for i, (name, value) in enumerate(tensors.items())}
    with pytest.raises(interop.CheckpointError, match=words):
        nepa_keras.NepaImageClassifier.from_preset(folder_of(tmp_path, tensors=renamed))


def test_files_of_pytorch_are_read_in_place_of_safetensors(tmp_path):
    """One file, with the metadata that a module's state dict has; shards; and parameters."""
    import torch

    tensors = golden_files.tensors("classify/weights.safetensors")
    source = folder_of(tmp_path)
    (source / "model.safetensors").unlink()
    held = torch_tensors(tensors)
    held._metadata = OrderedDict({"": {"version": 1}})
    torch.save(held, source / "pytorch_model.bin")
    model = nepa_keras.NepaImageClassifier.from_preset(source)
    assert_golden(model)
    assert model.load_report.source.endswith("pytorch_model.bin") and not model.load_report.rules

    parameters = {f"module.{n}": torch.nn.Parameter(t) for n, t in held.items()}
    torch.save(parameters, source / "pytorch_model.bin")
    assert_golden(nepa_keras.NepaImageClassifier.from_preset(source))

    (source / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    parts = {
        "pytorch_model-00001-of-00002.bin": names[:20],
        "pytorch_model-00002-of-00002.bin": names[20:],
    }
    for file, inside in parts.items():
        torch.save({name: held[name] for name in inside}, source / file)
    index = {"weight_map": {name: file for file, inside in parts.items() for name in inside}}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert_golden(nepa_keras.NepaImageClassifier.from_preset(source))


def test_two_classes_without_names(tmp_path):
    """Configurations as Transformers writes them, which leaves out its defaults."""
    tensors = dict(golden_files.tensors("classify/weights.safetensors"))
    tensors["classifier.weight"] = tensors["classifier.weight"][:2].copy()
    tensors["classifier.bias"] = tensors["classifier.bias"][:2].copy()
    source = folder_of(tmp_path, config={"id2label": ..., "label2id": ...}, tensors=tensors)
    model = nepa_keras.NepaImageClassifier.from_preset(source)
    assert_same_tensors(interop.official_tensors(model), tensors, "exact")
    assert model.class_names == ("LABEL_0", "LABEL_1")
    assert "(id2label {'0': 'LABEL_0'" in str(model.load_report)
    assert model.load_report.rules == ["config_defaults"]


LEFT_OUT = {
    "architectures": {"architectures": ...},
    "no architectures": {"architectures": None},
    "names": {"id2label": ..., "label2id": ...},
    "names by number": {"id2label": ..., "num_labels": 10},
    "pooling": {"add_pooling_layer": ...},
    "all that is as by default": {
        key: ...
        for key in "architectures id2label add_pooling_layer num_channels use_gated_mlp hidden_act qkv_bias "
        "hidden_dropout_prob attention_probs_dropout_prob layer_norm_eps rope_theta qk_norm_bias "
        "pos_embed_shift pos_embed_jitter pos_embed_rescale layerscale_value".split()
    },
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_a_configuration_leaves_out_is_a_rule(case, tmp_path):
    source = folder_of(tmp_path, config=LEFT_OUT[case])
    assert interop.model_class(source) is nepa_keras.NepaImageClassifier
    model = nepa_keras.NepaImageClassifier.from_preset(source)
    assert_golden(model)
    whole = golden_files.classifier()
    assert model.backbone.get_config() | {"name": ""} == whole.backbone.get_config() | {"name": ""}
    assert (model.pooling, model.num_classes) == (whole.pooling, whole.num_classes)
    assert model.load_report.rules == ["config_defaults"]
    for key in LEFT_OUT[case]:
        if key not in ("label2id", "num_labels"):
            assert f"{key} " in str(model.load_report)


@pytest.mark.parametrize("bare", [True, False])
def test_a_checkpoint_of_transformers_with_all_defaults_left_out(bare, tmp_path):
    """Sizes too, and norms of q and k that nothing uses; the backbone alone, or with its objective."""
    config = {"model_type": "vit_nepa", "num_hidden_layers": 1}
    config |= {"qk_norm_affine": True, "qk_norm_bias": True}
    config["architectures"] = ["ViTNepaModel" if bare else "ViTNepaForPreTraining"]
    backbone = nepa_keras.NepaBackbone(num_layers=1, patch_size=16, qk_norm=False)
    used = interop.official_tensors(backbone)
    norms = "vit_nepa.encoder.layer.0.attention.attention.{}_norm.{}"
    unused = {norms.format(x, "weight"): np.ones(64, "float32") for x in "qk"}
    unused |= {norms.format(x, "bias"): np.zeros(64, "float32") for x in "qk"}
    held = {n.removeprefix("vit_nepa." if bare else ""): v for n, v in {**used, **unused}.items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(held, tmp_path / "model.safetensors")
    assert interop.model_class(tmp_path).__name__ == ("NepaBackbone" if bare else "NepaPretrainer")
    model = interop.model_class(tmp_path).from_preset(tmp_path)
    assert_same_tensors(interop.official_tensors(model), used, "exact")
    rules = {"config_defaults", "drop_qk_norm"} | ({"add_prefix"} if bare else set())
    assert set(model.load_report.rules) == rules
    interop.export_huggingface(model, tmp_path / "ours")
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert written["architectures"] == ["ViTNepaForPreTraining"]
    assert (written["model_type"], written["hidden_size"]) == ("vit_nepa", 768)
    next(held[name] for name in held if name.endswith("k_norm.bias"))[0] = 1.0
    save_file(held, tmp_path / "model.safetensors")
    with pytest.raises(interop.CheckpointError, match=r"k_norm.bias' was trained, but .* qk_norm"):
        interop.model_class(tmp_path).from_preset(tmp_path)


WRONG_CONFIGS = {
    "number of classes": (
        {"id2label": ..., "num_labels": 7},
        "num_labels is 7, but the head .* 10 classes",
    ),
    "endless classes": (
        {"id2label": ..., "num_labels": 10**9},
        "num_labels is 1000000000, but the head",
    ),
    "no number": ({"id2label": ..., "num_labels": "ten"}, "num_labels is 'ten'"),
    "other pooling": ({"add_pooling_layer": False}, "'fc_norm.* no variable"),
    "a size": (
        {"num_attention_heads": ...},
        "divide hidden_dim=32. .*omits num_attention_heads",
    ),
    "another size": ({"num_hidden_layers": ...}, "of more than .* parameters|lacks .*layer"),
    "other default": (
        {"qk_norm": ...},
        "[kq]_norm.weight' was trained, but config.json has qk_norm",
    ),
}


@pytest.mark.parametrize("case", WRONG_CONFIGS)
def test_what_it_says_wrong_is_refused(case, tmp_path):
    config, words = WRONG_CONFIGS[case]
    with pytest.raises(ValueError, match=words):
        nepa_keras.NepaImageClassifier.from_preset(folder_of(tmp_path, config=config))


def test_pretraining_without_architectures(tmp_path):
    source = folder_of(tmp_path, "pretrain_gelu", {"architectures": ...})
    assert interop.model_class(source) is nepa_keras.NepaPretrainer
    assert_golden(nepa_keras.NepaPretrainer.from_preset(source), "pretrain_gelu")


def test_other_files_and_folders_say_what_to_give(tmp_path):
    model = tiny.pretrainer()
    model.save(tmp_path / "model.keras")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "flags.txt").write_text("--steps=1")
    from_preset = nepa_keras.NepaPretrainer.from_preset
    with pytest.raises(
        ValueError, match=r"run has no config.json; give a folder that save_to_preset"
    ):
        from_preset(run)
    model.save(run / "checkpoint.keras")
    with pytest.raises(ValueError, match=r"load_model reads .*run/checkpoint.keras"):
        from_preset(run)
    for name in ("ema", "best"):
        model.save_to_preset(run / name)
    with pytest.raises(ValueError, match=r"no config.json; give one .*: \S*run/best, \S*run/ema\."):
        from_preset(run)
    with pytest.raises(ValueError, match=r"model.keras is a .keras file"):
        from_preset(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"give its folder"):
        from_preset(run / "best" / "model.safetensors")
    with pytest.raises(ValueError, match=r"run has no preprocessor_config.json"):
        nepa_keras.NepaImageConverter.from_preset(run)
    with pytest.raises(ValueError, match=r"no preset or folder"):
        from_preset(tmp_path / "nothing")
    (run / "best" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"best has no weights"):
        from_preset(run / "best")


def test_an_export_says_what_the_authors_code_shall_do(tmp_path):
    model = nepa_keras.NepaImageClassifier(tiny.backbone(image_shape=(8, 8, 3)), 2)
    converter = nepa_keras.NepaImageConverter(8, resize_to=10)
    arguments = {"drop_path_rate": 0.1, "class_names": ["cat", "dog"]}
    interop.export_huggingface(model, tmp_path, converter=converter, **arguments)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["drop_path_prob"] == 0.1 and config["label2id"] == {"cat": 0, "dog": 1}
    preparation = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert preparation["image_processor_type"] == "ViTImageProcessorFast"
    assert preparation["crop_size"] == {"height": 8, "width": 8} and preparation["do_center_crop"]
    again = nepa_keras.NepaImageClassifier.from_preset(tmp_path)
    assert again.class_names == ("cat", "dog") and again.backbone.drop_path_rate == 0.1
    for wrong in ({"class_names": ["cat"]}, {"drop_path_rate": 1.0}, {"drop_path_rate": np.nan}):
        with pytest.raises(ValueError, match=r"1 class names for 2|drop_path_rate must be"):
            interop.export_huggingface(model, tmp_path, **wrong)
