"""Official checkpoints in and out: exact, and every tensor accounted for."""

import json
import shutil

import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file, save_file

import nepa_keras
from nepa_keras import interop
from tests.helpers import golden_files
from tests.helpers.tolerances import assert_close, assert_same_tensors

FOLDERS = ["pretrain_gelu", "pretrain_gated", "classify"]


def official_folder(tmp_path, config: str, tensors: dict):
    """A folder in the official layout made from the reference numbers."""
    tmp_path.mkdir(parents=True, exist_ok=True)
    shutil.copy(golden_files.GOLDEN / config, tmp_path / "config.json")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def folder_of(name: str, tmp_path):
    weights = load_file(golden_files.GOLDEN / name / "weights.safetensors")
    return official_folder(tmp_path / name, f"{name}/config.json", weights)


def before(tmp_path):
    tensors = load_file(golden_files.GOLDEN / "conversion/before.safetensors")
    return official_folder(tmp_path / "before", "conversion/before_config.json", tensors)


def own_class(name: str):
    return nepa_keras.NepaImageClassifier if name == "classify" else nepa_keras.NepaPretrainer


@pytest.mark.parametrize("name", FOLDERS)
def test_export_and_import_are_exact(name, tmp_path):
    """Import and export give the same tensors, names and configuration, also by way of our layout."""
    source = folder_of(name, tmp_path)
    model = own_class(name).from_preset(source)
    interop.export_huggingface(model, tmp_path / "official")
    model.save_to_preset(tmp_path / "ours")
    again = own_class(name).from_preset(tmp_path / "ours")
    interop.export_huggingface(again, tmp_path / "by_ours")
    expected = load_file(source / "model.safetensors")
    for folder in ("official", "ours", "by_ours"):
        actual = load_file(tmp_path / folder / "model.safetensors")
        assert sorted(actual) == sorted(expected)
        for tensor in expected:
            np.testing.assert_array_equal(actual[tensor], expected[tensor], err_msg=tensor)
    config = json.loads((source / "config.json").read_text())
    assert json.loads((tmp_path / "official/config.json").read_text()) == config
    derived = json.loads((tmp_path / "by_ours/config.json").read_text())
    assert {k: config[k] for k in derived} == derived
    assert set(config) - set(derived) <= {"dtype"}
    assert type(again) is type(model) and again.backbone.get_config() == {
        **model.backbone.get_config(),
        "name": again.backbone.name,
    }


def test_the_report_accounts_for_every_tensor(tmp_path):
    model = nepa_keras.NepaImageClassifier.from_preset(folder_of("classify", tmp_path))
    report = model.load_report
    sources = [name for a in report.assignments for name in a.sources]
    assert sorted(sources) == sorted(golden_files.tensors("classify/weights.safetensors"))
    assert sorted(a.target for a in report.assignments) == sorted(
        v.path for v in model.trainable_variables
    )
    assert not report.rules and not report.left_out
    words = str(report)
    assert "query.weight (32, 32) float32" in words and "transposed, q|k|v joined" in words


@pytest.mark.parametrize("fold", [False, True], ids=["plain", "fold"])
def test_pretraining_to_classifier_as_the_official_conversion(fold, tmp_path):
    classifier = nepa_keras.NepaImageClassifier.from_preset(
        before(tmp_path), num_classes=10, fold_layer_scale=fold
    )
    if fold:
        expected = golden_files.tensors("conversion/after_fold.safetensors")
        kind = "folded_weights"
        report = classifier.load_report
        assert "fold_layer_scale" in report.rules
        dropped = golden_files.record("conversion/meta.json")["dropped_by_fold"]
        assert sorted(report.left_out) == sorted(dropped)
    else:
        added = golden_files.tensors("conversion/after_plain_added.safetensors")
        expected = golden_files.tensors("conversion/before.safetensors") | added
        kind = "exact"
    assert_same_tensors(interop.official_tensors(classifier), expected, kind)
    assert {"new_head", "qk_norm_scale_ones"} <= set(classifier.load_report.rules)
    io = golden_files.tensors("conversion/io.safetensors")
    images = golden_files.channels_last(io["pixel_values"])
    tokens = classifier.backbone(images, causal=False)["sequence_output"]
    tokens, logits = ops.convert_to_numpy(tokens), ops.convert_to_numpy(classifier(images))
    (states,) = [n for n in io if "last_hidden_state" in n and ("fold" if fold else "plain") in n]
    assert_close(tokens, io[states], "states")
    assert not np.any(logits), "a new head starts at zero"

    interop.export_huggingface(classifier, tmp_path / "after")
    config = json.loads((tmp_path / "after/config.json").read_text())
    name = "fold" if fold else "plain"
    official = golden_files.record(f"conversion/after_{name}_config.json")
    ignored = {"dtype", "drop_path_prob"}  # the official script set its own drop path
    assert {k: v for k, v in config.items() if k not in ignored} == {
        k: v for k, v in official.items() if k not in ignored
    }


def test_a_classifier_gives_its_backbone_and_takes_a_new_head(tmp_path):
    source = folder_of("classify", tmp_path)
    backbone = nepa_keras.NepaBackbone.from_preset(source)
    assert backbone.load_report.rules == ["drop_head"]
    assert len(backbone.load_report.left_out) == 4
    replaced = nepa_keras.NepaImageClassifier.from_preset(source, num_classes=3)
    assert replaced.load_report.rules == ["new_head"] and replaced.class_names is None
    pretrainer = nepa_keras.NepaPretrainer.from_preset(source)
    images = golden_files.images("classify")
    ours, theirs = (
        ops.convert_to_numpy(b(images)["sequence_output"]) for b in (pretrainer.backbone, backbone)
    )
    np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="num_classes"):
        nepa_keras.NepaImageClassifier.from_preset(before(tmp_path))


def test_a_mask_token_of_pretraining_is_left_out_by_a_rule(tmp_path):
    from tests.helpers import tiny

    model = tiny.pretrainer(use_mask_token=True, masking_ratio=0.5)
    model.save_to_preset(tmp_path / "masked")
    again = nepa_keras.NepaPretrainer.from_preset(tmp_path / "masked")
    assert again.masking_ratio == 0.5 and not again.load_report.rules
    classifier = nepa_keras.NepaImageClassifier.from_preset(
        tmp_path / "masked", num_classes=2, use_mask_token=False
    )
    assert "drop_mask_token" in classifier.load_report.rules


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_sources_are_read(dtype, tmp_path):
    import ml_dtypes

    target = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    weights = golden_files.tensors("pretrain_gelu/weights.safetensors")
    halves = {name: value.astype(target) for name, value in weights.items()}
    source = official_folder(tmp_path / "half", "pretrain_gelu/config.json", halves)
    model = nepa_keras.NepaPretrainer.from_preset(source)
    for name, value in interop.official_tensors(model).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, halves[name].astype(np.float32), err_msg=name)
    assert dtype in str(model.load_report)
    config = json.loads((source / "config.json").read_text()) | {"dtype": dtype}
    (source / "config.json").write_text(json.dumps(config))
    again = nepa_keras.NepaPretrainer.from_preset(source)
    interop.export_huggingface(again, tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float32"


def test_image_preparation_travels_with_the_weights(tmp_path):
    """The checkpoint's preprocessing survives both layouts; a converter given by hand wins."""
    source = folder_of("classify", tmp_path)
    preparation = {"size": {"shortest_edge": 32}, "do_center_crop": True, "resample": 3}
    preparation |= {"crop_size": {"height": 28, "width": 28}, "image_mean": [0.5] * 3, "extra": 1}
    (source / "preprocessor_config.json").write_text(json.dumps(preparation))
    model = nepa_keras.NepaImageClassifier.from_preset(source)
    model.save_to_preset(tmp_path / "ours")
    again = nepa_keras.NepaImageClassifier.from_preset(tmp_path / "ours", num_classes=3)
    interop.export_huggingface(again, tmp_path / "official")
    for folder in ("ours", "official"):
        written = json.loads((tmp_path / folder / "preprocessor_config.json").read_text())
        assert written == preparation
    interop.export_huggingface(
        again, tmp_path / "official", converter=nepa_keras.NepaImageConverter(28)
    )
    assert nepa_keras.NepaImageConverter.from_preset(tmp_path / "official").resize_to is None


def test_image_preparation_follows_the_size_of_the_model(tmp_path):
    """Preprocessing of a checkpoint loaded at another size, in both layouts and by way of its backbone."""
    source = folder_of("classify", tmp_path)
    plain = {"size": {"height": 28, "width": 28}, "resample": 2}
    crop = {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": 28, "extra": 1}
    both = {
        "size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "crop_size": {"height": 28, "width": 28},
    }
    cases = {
        "plain": (plain, (56, 42), (56, 42), None),
        "crop": (crop, (56, 56), (56, 56), 64),
        "flat": (crop, (28, 56), (28, 56), 64),
        "both": (both, (42, 42), (42, 42), (48, 48)),
        "same": (crop, (28, 28), (28, 28), 32),
    }
    for name, (preparation, shape, image_size, resize_to) in cases.items():
        (source / "preprocessor_config.json").write_text(json.dumps(preparation))
        arguments = {"image_shape": (*shape, 3), "num_classes": 3}
        model = nepa_keras.NepaImageClassifier.from_preset(source, **arguments)
        backbone = nepa_keras.NepaBackbone.from_preset(source, image_shape=(*shape, 3))
        model.save_to_preset(tmp_path / name / "ours")
        interop.export_huggingface(model, tmp_path / name / "official")
        wrapped = nepa_keras.NepaImageClassifier(backbone, 3)
        interop.export_huggingface(wrapped, tmp_path / name / "wrapped")
        found = nepa_keras.NepaImageConverter.from_preset(source, image_size=shape)
        assert (found.image_size, found.resize_to) == (image_size, resize_to), name
        for folder in ("ours", "official", "wrapped"):
            converter = nepa_keras.NepaImageConverter.from_preset(tmp_path / name / folder)
            assert (converter.image_size, converter.resize_to) == (image_size, resize_to), name
    with pytest.raises(
        ValueError, match=r"images of \(56, 56, 3\), but the model takes \(28, 28, 3\)"
    ):
        interop.export_huggingface(
            model, tmp_path / "other", converter=nepa_keras.NepaImageConverter(56)
        )


def test_home_is_found(tmp_path, monkeypatch):
    from tests.helpers import tiny

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model = nepa_keras.NepaImageClassifier(tiny.backbone(image_shape=(8, 8, 3)), 2)
    model.save_to_preset("~/preset")
    interop.export_huggingface(model, "~/official")
    interop.replace_huggingface(model, "~/replaced")
    nepa_keras.NepaImageConverter(8).save_to_preset("~/converter")
    assert interop.open_checkpoint("~/official")
    assert not (tmp_path / "~").exists()
    for name in ("preset", "official", "replaced"):
        again = nepa_keras.NepaImageClassifier.from_preset(f"~/{name}")
        assert again.backbone.hidden_dim == model.backbone.hidden_dim
    for name in ("official", "replaced", "converter"):
        assert nepa_keras.NepaImageConverter.from_preset(f"~/{name}").image_size == (8, 8)


def test_shards_are_read_as_one(tmp_path):
    source = folder_of("pretrain_gelu", tmp_path)
    tensors = load_file(source / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:20]}
    parts["model-00002-of-00002.safetensors"] = names[20:]
    for file, held in parts.items():
        save_file({n: tensors[n] for n in held}, source / file)
    index = {"metadata": {}, "weight_map": {n: file for file, held in parts.items() for n in held}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    (source / "model.safetensors").unlink()
    model = nepa_keras.NepaPretrainer.from_preset(source)
    assert_same_tensors(interop.official_tensors(model), tensors, "exact")


def test_averaged_weights_are_exported(tmp_path):
    from tests.helpers import tiny

    model = tiny.pretrainer()
    tiny.compile_model(model, optimizer=nepa_keras.training.adamw(0.1, ema_decay=0.5))
    model.fit(tiny.images(8), batch_size=4, verbose=0)
    interop.export_huggingface(model, tmp_path / "raw")
    interop.export_huggingface(model, tmp_path / "ema", ema=True)
    raw, ema = (load_file(tmp_path / n / "model.safetensors") for n in ("raw", "ema"))
    assert_same_tensors(interop.official_tensors(model), raw, "exact")
    assert any(np.any(raw[n] != ema[n]) for n in raw)
    averages = interop.official_gradients(model, model.optimizer.averages)
    assert_same_tensors(averages, ema, "exact")


def test_a_frozen_part_is_exported_too(tmp_path):
    model = nepa_keras.NepaImageClassifier.from_preset(folder_of("classify", tmp_path))
    model.backbone.patch_embedding.trainable = False
    tensors = interop.official_tensors(model)
    assert_same_tensors(tensors, golden_files.tensors("classify/weights.safetensors"), "exact")
