"""Damaged and hostile files: refused with the reason, without running what they contain."""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save

import nepa_keras
from nepa_keras import interop
from nepa_keras.presets.checkpoint import open_safetensors
from nepa_keras.presets.state_dict import open_state_dict
from tests.helpers import golden_files, tiny
from tests.helpers.scripts import run_python

pytestmark = pytest.mark.once


def safetensors_bytes(header, data=b"", length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


FILES = {
    "empty": b"",
    "short": b"\x01\x02",
    "no header": safetensors_bytes(b"", length=0),
    "header longer than the file": safetensors_bytes({"a": entry()}, bytes(4), length=10**6),
    "giant header": safetensors_bytes({"a": entry()}, bytes(4), length=2**62),
    "no JSON": safetensors_bytes(b"{not json", bytes(4)),
    "deep JSON": safetensors_bytes(b"[" * 100_000, bytes(4)),
    "no UTF-8": safetensors_bytes(b'{"\xff": 1}', bytes(4)),
    "truncated": safetensors_bytes({"a": entry(shape=(100,), offsets=(0, 400))}, bytes(40)),
    "more data than tensors": safetensors_bytes({"a": entry()}, bytes(400)),
    "out of range": safetensors_bytes({"a": entry(offsets=(2**40, 2**40 + 4))}, bytes(4)),
    "backwards": safetensors_bytes({"a": entry(offsets=(4, 0))}, bytes(4)),
    "negative": safetensors_bytes({"a": entry(offsets=(-4, 0))}, bytes(4)),
    "overlapping": safetensors_bytes(
        {"a": entry(shape=(2,), offsets=(0, 8)), "b": entry(offsets=(4, 8))}, bytes(8)
    ),
    "hole": safetensors_bytes({"a": entry(), "b": entry(offsets=(8, 12))}, bytes(12)),
    "shape and offsets differ": safetensors_bytes({"a": entry(shape=(7,))}, bytes(4)),
    "product of the shape overflows": safetensors_bytes(
        {"a": entry(shape=(2**40, 2**40))}, bytes(4)
    ),
    "too many dimensions": safetensors_bytes({"a": entry(shape=(1,) * 65)}, bytes(4)),
    "unknown dtype": safetensors_bytes({"a": entry("F33")}, bytes(4)),
    "integers": safetensors_bytes({"a": entry("I32")}, bytes(4)),
    "a pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("problem", FILES)
def test_hostile_safetensors_are_refused(problem, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(FILES[problem])
    with pytest.raises(interop.CheckpointError, match=r"model.safetensors"):
        open_safetensors(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named_and_none_is_assigned(value):
    model = tiny.pretrainer()
    before = tiny.weights(model)
    tensors = interop.official_tensors(model)
    name = "vit_nepa.encoder.layer.1.output.dense.weight"
    tensors[name][0, 0] = value
    with pytest.raises(interop.CheckpointError, match=f"{name}.*NaN or infinite"):
        interop.load_official_tensors(model, tensors)
    for old, new in zip(before, tiny.weights(model), strict=True):
        np.testing.assert_array_equal(old, new)


ESCAPES = ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "..\\x.safetensors"]


@pytest.mark.parametrize("file", ESCAPES)
def test_a_shard_index_cannot_lead_out_of_its_folder(file, tmp_path):
    (tmp_path / "secret.safetensors").write_bytes(save({"a": np.zeros(1, "float32")}))
    folder = tmp_path / "model"
    folder.mkdir()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(interop.CheckpointError, match="outside its folder"):
        interop.open_checkpoint(folder)


INDEXES = {
    "no JSON": ("{", "not a readable JSON"),
    "a list": ("[1]", "holds no JSON object"),
    "no map": ('{"weight_map": [1]}', "no weight_map"),
    "numbers": ('{"weight_map": {"a": 1}}', "no weight_map"),
    "missing shard": ('{"weight_map": {"a": "b.safetensors"}}', "is missing"),
    "tensor elsewhere": ('{"weight_map": {"z": "s.safetensors"}}', "does not hold it"),
    "tensor unlisted": ('{"weight_map": {"a": "s.safetensors"}}', "does not list 'b'"),
    "deep": ("[" * 100_000, "not a readable JSON"),
}


@pytest.mark.parametrize("problem", INDEXES)
def test_a_damaged_shard_index_is_refused(problem, tmp_path):
    text, words = INDEXES[problem]
    (tmp_path / "model.safetensors.index.json").write_text(text)
    tensors = {name: np.zeros(1, "float32") for name in "ab"}
    (tmp_path / "s.safetensors").write_bytes(save(tensors))
    with pytest.raises(interop.CheckpointError, match=words):
        interop.open_checkpoint(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_configuration_that_is_no_file_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "config.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    for call in (interop.model_class, nepa_keras.NepaBackbone.from_preset):
        with pytest.raises(interop.CheckpointError, match=r"config.json .*not a regular file"):
            call(tmp_path)


def layer(name, **config):
    return {"module": "keras.layers", "class_name": name, "config": config, "registered_name": None}


HUGE = layer("Dense", units=10**9)
BUILT = layer("Dense", units=2**20) | {"build_config": {"input_shape": [None, 8, 2**20]}}
CONFIGS = {  # of our own layout: changes of the model's and of the backbone's arguments
    "embedding of no layer": (
        {},
        {"embedding": 16},
        "embedding must be the configuration of a layer",
    ),
    "unknown layer": ({}, {"embedding": layer("Nothing")}, "embedding cannot be read"),
    "no layer": ({}, {"embedding": {"a": 1}}, "embedding (must be|cannot be read)"),
    "embedding of a function": (
        {},
        {"embedding": layer("Lambda", function="x")},
        "embedding cannot",
    ),
    "built at once": (
        {},
        {"embedding": BUILT},
        "tokens of width 1048576|embedding: units is 1,048,576",
    ),
    "wide embedding": (
        {},
        {"embedding": HUGE},
        "width 1000000000|embedding: units is 1,000,000,000",
    ),
    "wide inside": (
        {},
        {"embedding": layer("Sequential", layers=[HUGE])},
        "units is 1,000,000,000",
    ),
    "channels": ({}, {"image_shape": [8, 8, 10**9]}, r"more than [\d,]+ parameters .*image_shape="),
    "blocks": ({}, {"num_layers": 10**9}, r"more than [\d,]+ parameters .*num_layers=1000000000"),
    "small blocks": (
        {},
        {"num_layers": 10**9, "hidden_dim": 2, "mlp_dim": 1},
        "num_layers=1000000000",
    ),
    "width": ({}, {"hidden_dim": 2**30}, "hidden_dim=1073741824"),
    "inner width": ({}, {"mlp_dim": 10**9}, "mlp_dim=1000000000"),
    "patch": ({}, {"patch_size": 10**6, "image_shape": [10**6, 10**6, 1]}, "patch_size=1000000"),
    "above 32 bits": ({}, {"num_layers": 10**10}, "num_layers must be a whole number"),
    "floats": ({}, {"image_shape": [8.0, 8, 1]}, "image_shape must be a list, each a whole number"),
    "number for a list": ({}, {"image_shape": 8}, "image_shape must be a list"),
    "text": ({}, {"hidden_dim": "16"}, "hidden_dim must be a whole number"),
    "flag": ({}, {"qk_norm": 1}, "qk_norm must be true or false"),
    "null": ({}, {"mlp_dim": None}, "mlp_dim must be a whole number"),
    "not finite": ({}, {"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon must be a number"),
    "unknown": ({}, {"depth": 3}, "NepaBackbone has no argument 'depth'"),
    "type": ({}, {"dtype": {}}, "dtype must be a text"),
    "seed": ({"seed": 10**18}, {}, "seed must be a whole number"),
    "unknown of the model": ({"speed": 1}, {}, "NepaPretrainer has no argument 'speed'"),
}


@pytest.mark.parametrize("load_weights", [True, False])
@pytest.mark.parametrize("problem", CONFIGS)
def test_hostile_arguments_are_refused_before_memory_is_taken(problem, load_weights, tmp_path):
    arguments, backbone, words = CONFIGS[problem]
    tiny.pretrainer().save_to_preset(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["arguments"] |= arguments
    config["backbone"] |= backbone
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=words):
        nepa_keras.NepaPretrainer.from_preset(tmp_path, load_weights=load_weights)


@pytest.mark.parametrize("kind", [[], {}, 5, None, "Model", "NepaNothing"])
def test_an_unknown_class_is_refused(kind, tmp_path):
    tiny.pretrainer().save_to_preset(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"class": kind}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(interop.CheckpointError, match="neither to this library"):
        interop.model_class(tmp_path)


def test_a_number_of_classes_without_weights_for_them_is_refused(tmp_path):
    nepa_keras.NepaImageClassifier(tiny.backbone(), 2).save_to_preset(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["arguments"]["num_classes"] = 10**9
    (tmp_path / "config.json").write_text(json.dumps(config))
    for load_weights in (True, False):
        with pytest.raises(ValueError, match="num_classes=1000000000"):
            nepa_keras.NepaImageClassifier.from_preset(tmp_path, load_weights=load_weights)
    replaced = nepa_keras.NepaImageClassifier.from_preset(tmp_path, num_classes=3)
    assert replaced.num_classes == 3


def torch_file(path, tensors=None):
    import torch

    if tensors is None:
        tensors = golden_files.tensors("pretrain_gelu/weights.safetensors")
    torch.save(OrderedDict((n, torch.from_numpy(v.copy())) for n, v in tensors.items()), path)
    return path


def test_a_state_dict_is_read_without_torch(tmp_path):
    """A process that cannot import torch reads the weights of a file that torch wrote."""
    shutil.copy(golden_files.GOLDEN / "pretrain_gelu/config.json", tmp_path)
    torch_file(tmp_path / "pytorch_model_ema.bin")
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import nepa_keras
model = nepa_keras.NepaPretrainer.from_preset(sys.argv[1], ema=True)
nepa_keras.interop.export_huggingface(model, sys.argv[1])
"""
    result = run_python("-c", code, tmp_path, KERAS_BACKEND="jax")
    assert result.returncode == 0, result.stderr
    written = (tmp_path / "model.safetensors").read_bytes()
    expected = golden_files.tensors("pretrain_gelu/weights.safetensors")
    from safetensors.numpy import load

    for name, value in load(written).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_state_dicts_of_half_precision_and_shared_storage(tmp_path):
    import torch

    base = torch.arange(6, dtype=torch.float32)
    tensors = {"a": base[:2], "b": base[2:].reshape(2, 2), "c": base.bfloat16(), "d": base.half()}
    torch.save(tensors, tmp_path / "x.bin")
    read = dict(open_state_dict(tmp_path / "x.bin"))
    np.testing.assert_array_equal(read["b"], [[2, 3], [4, 5]])
    assert read["c"].dtype == ml_dtypes.bfloat16 and read["d"].dtype == np.float16
    np.testing.assert_array_equal(read["c"].astype(np.float32), np.arange(6))
    torch.save({"t": torch.zeros(3, 4).T}, tmp_path / "y.bin")
    with pytest.raises(interop.CheckpointError, match="row by row"):
        open_state_dict(tmp_path / "y.bin")
    torch.save({"t": torch.zeros(3, dtype=torch.int64)}, tmp_path / "z.bin")
    with pytest.raises(interop.CheckpointError, match="LongStorage"):
        open_state_dict(tmp_path / "z.bin")


class Hostile:
    """Object that runs a command when it is unpickled."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def archive(data_pkl: bytes, members=(), compression=zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", data_pkl)
        for name, data in members:
            file.writestr(name, data)
    return buffer.getvalue()


def pickles(marker) -> dict[str, tuple[bytes, str]]:
    command = f"touch {marker}"
    return {
        "os.system": (archive(pickle.dumps(Hostile(os.system, command))), "posix.system"),
        "eval": (
            archive(pickle.dumps(Hostile(eval, f"open({str(marker)!r}, 'w')"))),
            "builtins.eval",
        ),
        "nested": (
            archive(pickle.dumps({"a": [Hostile(os.system, command)]}, protocol=2)),
            "posix.system",
        ),
        "torch function": (archive(b"ctorch\nload\n."), "torch.load"),
        "dotted name": (
            archive(b"\x80\x04\x8c\x0bcollections\x8c\x20OrderedDict.__init__.__globals__\x93."),
            "OrderedDict.__init__",
        ),
        "extension": (archive(b"\x80\x02\x82\x01."), "extension registry"),
        "memo of 2**31": (archive(b"\x80\x02}r\xff\xff\xff\x7f."), ""),
        "bytes of 2**62": (
            archive(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"."),
            "not a readable",
        ),
        "deep": (archive(b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b"."), "no dictionary"),
        "no tensors": (archive(pickle.dumps({"a": 1})), "is no tensor"),
        "a list": (archive(pickle.dumps([1])), "no dictionary"),
        "truncated": (archive(pickle.dumps({"a": 1})[:-3]), "not a readable"),
        "two pickles": (archive(pickle.dumps({}), [("other/data.pkl", b"")]), "exactly one pickle"),
        "compressed": (
            archive(pickle.dumps({}), compression=zipfile.ZIP_DEFLATED),
            "compressed member",
        ),
        "big endian": (archive(pickle.dumps({}), [("archive/byteorder", b"big")]), "byte order"),
        "no zip": (pickle.dumps({"a": 1}), "not a readable"),
        "empty": (b"", "not a readable"),
    }


@pytest.mark.parametrize("problem", pickles(""))
def test_hostile_state_dicts_are_refused_and_run_nothing(problem, tmp_path):
    marker = tmp_path / "marker"
    data, words = pickles(marker)[problem]
    path = tmp_path / "pytorch_model_ema.bin"
    path.write_bytes(data)
    if problem == "memo of 2**31":  # harmless where the memo is a dictionary
        assert dict(open_state_dict(path)) == {}
    else:
        with pytest.raises(interop.CheckpointError, match=words):
            open_state_dict(path)
    assert not marker.exists()


def test_a_state_dict_that_lies_about_its_tensors_is_refused(tmp_path):
    """Offsets, shapes, strides and lengths that do not fit the bytes."""
    import torch

    torch.save({"a": torch.zeros(4)}, tmp_path / "x.bin")
    with zipfile.ZipFile(tmp_path / "x.bin") as file:
        members = {n: file.read(n) for n in file.namelist()}
    (pkl,) = [n for n in members if n.endswith("data.pkl")]
    (storage,) = [n for n in members if n.endswith("data/0")]

    def spoilt(name, data):
        with zipfile.ZipFile(tmp_path / "y.bin", "w") as file:
            for member, content in members.items():
                file.writestr(member, data if member == name else content)
        return open_state_dict(tmp_path / "y.bin")

    assert spoilt(None, None)["a"].shape == (4,)
    shape = b"K\x04\x85"
    assert members[pkl].count(shape) == 1
    with pytest.raises(interop.CheckpointError, match="larger than its storage"):
        spoilt(pkl, members[pkl].replace(shape, b"K\x05\x85"))
    with pytest.raises(interop.CheckpointError, match="another length"):
        spoilt(storage, bytes(15))


def mutations(valid: bytes, count: int, seed: int):
    """`count` variants of a file: bits flipped, bytes replaced, parts cut, doubled, swapped."""
    generator = np.random.default_rng(seed)
    head = min(len(valid), 1024)  # where the structure is
    for i in range(count):
        data = bytearray(valid)
        for _ in range(generator.integers(1, 4)):
            at = int(generator.integers(head if i % 4 else len(data))) % max(len(data), 1)
            length = int(generator.integers(1, 32))
            kind = generator.integers(6)
            if kind == 0:
                data[at] ^= 1 << int(generator.integers(8))
            elif kind == 1:
                data[at : at + length] = generator.bytes(length)
            elif kind == 2:
                del data[at : at + length]
            elif kind == 3:
                data[at:at] = data[at : at + length]
            elif kind == 4:
                data[at : at + 1] = b'0123456789-[]{}",:eF'[generator.integers(20) :][:1]
            else:
                del data[at:]
            if not data:
                break
        yield bytes(data)


def check_mutations(valid, path, open_file, count, seed):
    """Each variant is refused by a CheckpointError or read as tensors of their stated shapes."""
    refused, survivors = 0, []
    for data in mutations(valid, count, seed):
        path.write_bytes(data)
        try:
            checkpoint = open_file(path)
            tensors = {name: checkpoint[name] for name in checkpoint}
        except interop.CheckpointError:
            refused += 1
            continue
        for name, value in tensors.items():
            assert value.shape == checkpoint.entries[name].shape
            assert value.dtype.name == checkpoint.entries[name].dtype
        survivors.append(tensors)
    assert refused > count / 4 and survivors
    return survivors


def test_mutated_safetensors(tmp_path, mutation_count):
    """A model takes a surviving file wholly or stays unchanged."""
    model = tiny.pretrainer()
    valid = save(interop.official_tensors(model))
    survivors = check_mutations(
        valid, tmp_path / "m.safetensors", open_safetensors, mutation_count, seed=1
    )
    for tensors in survivors[:200]:
        before = tiny.weights(model)
        try:
            interop.load_official_tensors(model, tensors)
        except interop.CheckpointError:
            for old, new in zip(before, tiny.weights(model), strict=True):
                np.testing.assert_array_equal(old, new)
        assert all(np.isfinite(w).all() for w in tiny.weights(model))


def test_mutated_state_dicts(tmp_path, mutation_count):
    tensors = {"a": np.ones((2, 3), "float32"), "b": np.ones(4, "float32")}
    valid = torch_file(tmp_path / "valid.bin", tensors).read_bytes()
    check_mutations(valid, tmp_path / "m.bin", open_state_dict, mutation_count, seed=2)


def test_mutated_configurations(tmp_path):
    """A model, or one sentence; never another error, and never an endless allocation."""
    valid = json.dumps(golden_files.record("pretrain_gelu/config.json")).encode()
    outcomes = set()
    for data in mutations(valid, 500, seed=3):
        (tmp_path / "config.json").write_bytes(data)
        try:
            interop.model_class(tmp_path)
            outcomes.add("read")
        except ValueError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
