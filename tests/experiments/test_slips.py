"""Slips of a new user at the scripts: each ends in one sentence with the remedy, or in the right thing."""

import json
import os
import re
import shlex
import shutil
import signal
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import nepa_keras
from nepa_keras import training
from nepa_keras.backends import choice
from nepa_keras.files import is_whole_archive
from tests.helpers import tiny
from tests.helpers.scripts import refusal, run_here, run_python
from tests.helpers.short_run import batches

CLASSES = ("animals", "plants", "things")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with weights, a classifier, the folder of a run, photographs and things that are none."""
    place = tmp_path_factory.mktemp("slips")
    tiny.exported("nepa_micro_patch2_8", place / "run" / "ema")
    (place / "run" / "flags.txt").write_text("# command\n# versions\n--data=digits\n")
    (place / "run" / "checkpoint.keras").write_bytes(b"")
    (place / "begun").mkdir()
    (place / "begun" / "flags.txt").write_text("# command\n# versions\n--data=digits\n")
    (place / "lone.keras").write_bytes(b"")
    backbone = nepa_keras.NepaBackbone.from_preset("nepa_micro_patch2_8", load_weights=False)
    names = [str(digit) for digit in range(10)]
    classifier = nepa_keras.NepaImageClassifier(backbone, 10, class_names=names)
    nepa_keras.interop.export_huggingface(classifier, place / "classifier")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), "uint8")
    for name in CLASSES:
        (place / "photos" / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(pixels).save(place / "photos" / name / f"{number}.png")
    (place / "empty").mkdir()
    (place / "file").write_text("")
    (place / "link").symlink_to(place / "nowhere")
    return place


NUMBERS = ("-1", "inf", "-inf", "nan", "1e30", "much")


@pytest.mark.parametrize(
    ("script", "names"),
    {
        "pretrain.py": "base_learning_rate weight_decay ema_decay beta_2 clip_norm warmup_ratio epochs "
        "warmup_epochs layer_scale masking_ratio finetune_learning_rate bad_images_share",
        "finetune.py": "base_learning_rate head_learning_rate layer_decay final_layer_decay label_smoothing "
        "warmup_epochs mixup cutmix switch_probability erasing magnitude magnitude_std smallest_crop "
        "drop_path validation_share",
        "segment.py": "learning_rate layer_decay auxiliary_weight",
        "probe.py": "temperature",
        "visualize.py": "temperature top_p known",
        "study.py": "base_learning_rate ema_decay ablation_learning_rate",
        "evaluate.py": "bad_images_share",
        "inspect_data.py": "bad_images_share",
        "embed.py": "bad_images_share",
    }.items(),
)
@pytest.mark.once
def test_numbers_that_cannot_be_meant_are_refused_at_the_flag(script, names):
    for name in names.split():
        for number in NUMBERS:
            said = refusal(script, f"--{name}={number}")
            assert f"flag --{name}={number}: it must be " in said, said


@pytest.mark.parametrize(
    ("script", "flag"),
    [
        ("pretrain.py", "--seed=-1"),
        ("pretrain.py", "--batch_size=0"),
        ("pretrain.py", "--steps=-1"),
        ("pretrain.py", "--dtype=fp16"),
        ("visualize.py", "--seed=-1"),
        ("segment.py", "--mode=evalute"),
    ],
)
@pytest.mark.once
def test_other_values_are_refused_at_the_flag(script, flag):
    name, _, value = flag.partition("=")
    assert f"flag {name}={value}: " in refusal(script, flag)


# By words of the sentence: a script and its flags.
SLIPS = {
    "--data={place}/photos is a path; write --data=folder:{place}/photos": (
        "pretrain.py --data={place}/photos"
    ),
    "--data=photos/x.parquet is a path; write --data=parquet:photos/x.parquet": (
        "evaluate.py --model={place}/classifier --data=photos/x.parquet"
    ),
    "--data=https://host/a.tar is a path; write --data=webdataset:https://host/a.tar": (
        "finetune.py --data=https://host/a.tar"
    ),
    "--data={place}/empty is a path; write --data=folder:": "inspect_data.py --data={place}/empty",
    "--data=digit is no source of images; known are embedded, digits": "finetune.py --data=digit",
    "this does not: digits": "study.py --run_dir=any digits",
    "checkpoint.keras is a file of a run; give the run's folder: --model={place}/run.": (
        "probe.py --data=digits --model={place}/run/checkpoint.keras"
    ),
    "/run belongs to a run that has no usable trained weights; use {place}/run/ema": (
        "convert.py --source={place}/run --weights=trained --output={place}/out"
    ),
    "belongs to a run that has no usable weights; resume the run": (
        "visualize.py --model={place}/begun --output={place}/out"
    ),
    "must be a folder; this command writes one: KERAS_BACKEND=": (
        "segment.py --mode=evaluate --model={place}/lone.keras"
    ),
    "model.safetensors is a file; give its folder, {place}/run/ema": (
        "finetune.py --data=digits --model={place}/run/ema/model.safetensors"
    ),
    "--model={place}/empty holds no weights: config.json is missing": (
        "finetune.py --data=digits --model={place}/empty"
    ),
    "is an architecture without weights; give a folder of weights": (
        "evaluate.py --data=digits --model=nepa_tiny_patch16_224"
    ),
    "or --from_scratch": "probe.py --data=digits --model=nepa_micro_patch2_8",
    "--predictions applies to a classifier, but --model={place}/run/ema is a pretrained model": (
        "evaluate.py --data=digits --model={place}/run --predictions=x.csv"
    ),
    "--predictions={place}/photos is a folder; name a file": (
        "evaluate.py --data=digits --model={place}/classifier --predictions={place}/photos"
    ),
    "without a head, and {place}/classifier is a NepaImageClassifier; evaluate them separately": (
        "evaluate.py --data=digits --model={place}/classifier,{place}/run"
    ),
    "is a NepaImageClassifier and no segmenter": "segment.py --mode=predict --images={place}/photos "
    "--model={place}/classifier",
    "--weights=ema reads averaged weights, and {place}/classifier has no pytorch_model_ema.bin": (
        "evaluate.py --data=digits --weights=ema --model={place}/classifier"
    ),
    "--preset=nepa_micro_patch2_8 and --model={place}/run/ema both give the architecture; leave out": (
        "pretrain.py --data=digits --model={place}/run --preset=nepa_micro_patch2_8"
    ),
    "--gated_mlp=True contradicts --model={place}/run/ema, which has gated_mlp False": (
        "pretrain.py --data=digits --model={place}/run --gated_mlp"
    ),
    "{place}/classifier: Images of 512x9 pixels cannot be cut into patches of 2x2": (
        "evaluate.py --data=digits --model={place}/classifier --image_size=512,9"
    ),
    "by --num_classes or --class_names": (
        "convert.py --model=classifier --source={place}/run/ema --output={place}/out"
    ),
    "this model has blocks 0 to 2": ("probe.py --data=digits --model={place}/run/ema --blocks=3"),
    "--blocks=-1 must be numbers": "probe.py --data=digits --model={place}/run/ema --blocks=-1",
    "--k=0 must be whole numbers, each above 0": (
        "probe.py --data=digits --model={place}/run/ema --k=0"
    ),
    "--scales=0 must be numbers, each above 0": (
        "segment.py --data=scenes:digits --model={place}/run/ema --scales=0 --channels=8 --run_dir=any"
    ),
    "{place}/file/out lies below a file": (
        "convert.py --source={place}/run/ema --output={place}/file/out"
    ),
    "{place}/file is a file, where a folder is needed": (
        "evaluate.py --data=digits --model={place}/classifier --confusion={place}/file/x.png"
    ),
}


@pytest.mark.parametrize("words", SLIPS)
@pytest.mark.once
def test_a_slip_ends_in_one_sentence(words, place):
    script, *flags = SLIPS[words].format(place=place).split()
    said = refusal(script, *flags)
    assert words.format(place=place) in said, said
    assert said.count("\n") == 1 and said.startswith(f"{script}: "), said


@pytest.mark.parametrize("folder", ["file/run", "file", "link", "/proc/run"])
@pytest.mark.once
def test_a_run_folder_that_cannot_be_made_has_a_status_of_its_own(folder, place):
    path = place / folder
    result = run_here("pretrain.py", "--data=digits", "--noevaluate", f"--run_dir={path}")
    assert result.returncode == 5, result.stderr
    (line,) = result.stderr.splitlines()
    assert f"--run_dir={path} cannot be created or written to" in line and "another folder" in line


@pytest.mark.once
def test_classes_of_other_names_are_compared_only_when_asked_for(place, tmp_path):
    photos = f"--data=folder:{place / 'photos'}"
    flags = [f"--model={place / 'classifier'}", photos]
    said = refusal("evaluate.py", *flags)
    for words in ("animals, plants, things", "0, 1, … 9", "--classes_by_number"):
        assert words in said, said
    result = run_here("evaluate.py", *flags, "--classes_by_number")
    assert result.returncode == 0 and "6 images" in result.stdout, result.stderr
    assert "this model sees in grey and at 8x8; another --model" in result.stdout

    model = f"--model={place / 'run' / 'ema'}"
    said = refusal("probe.py", model, "--data=digits", f"--test_data=folder:{place / 'photos'}")
    assert "--test_data=folder:" in said and "--classes_by_number" in said
    flags = [model, "--data=digits", f"--validation_data=folder:{place / 'photos'}"]
    said = refusal("finetune.py", *flags, f"--run_dir={tmp_path / 'run'}")
    assert "--validation_data=folder:" in said and not (tmp_path / "run").exists()


@pytest.mark.once
def test_class_names_that_say_nothing_and_wordnets_are_taken_by_number(place, tmp_path):
    """LABEL_0 and so on are placeholders; all number ImageNet's classes in the order of their ids."""
    folder = tmp_path / "model"
    backbone = nepa_keras.NepaBackbone.from_preset("nepa_micro_patch2_8", load_weights=False)
    nepa_keras.interop.export_huggingface(nepa_keras.NepaImageClassifier(backbone, 3), folder)
    flags = [f"--model={folder}", f"--data=folder:{place / 'photos'}", "--batch_size=2"]
    assert run_here("evaluate.py", *flags).returncode == 0
    for old, new in zip(CLASSES, ("n01440764", "n01443537", "n01484850"), strict=True):
        shutil.copytree(place / "photos" / old, tmp_path / "photos" / new)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "tench", "1": "goldfish", "2": "great white shark"}
    (folder / "config.json").write_text(json.dumps(config))
    result = run_here("evaluate.py", flags[0], f"--data=folder:{tmp_path / 'photos'}")
    assert result.returncode == 0, result.stderr
    assert "classes are matched by number" in result.stdout


@pytest.mark.once
def test_a_classifier_of_other_classes_starts_with_a_new_head(place, tmp_path):
    """Fine-tuned for as many classes of other names it would begin with weights of the old ones."""
    source = nepa_keras.NepaImageClassifier.from_preset(place / "classifier", num_classes=3)
    source.head.bias.assign([1.0, 2.0, 3.0])
    source.class_names = ("one", "two", "three")
    nepa_keras.interop.export_huggingface(source, tmp_path / "model")
    flags = [f"--model={tmp_path / 'model'}", f"--data=folder:{place / 'photos'}", "--steps=1"]
    flags += ["--validation_share=0.4", "--base_learning_rate=0", "--head_learning_rate=0"]
    result = run_here("finetune.py", *flags, f"--run_dir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    assert "has other classes (one, two, three): a new head is trained" in result.stdout
    trained = nepa_keras.NepaImageClassifier.from_preset(tmp_path / "run" / "trained")
    assert trained.class_names == CLASSES and not np.any(trained.head.bias)

    # The command that comes next can be pasted, and the same command again says that all is done.
    assert "next: " not in result.stdout  # there are no images but those that were trained on
    flags += [f"--run_dir={tmp_path / 'run'}"]
    began = (tmp_path / "run" / "report.html").stat().st_mtime_ns
    again = run_here("finetune.py", *flags)
    assert again.returncode == 0
    assert again.stdout.startswith(f"{tmp_path / 'run'} is finished: open ")
    assert (tmp_path / "run" / "report.html").stat().st_mtime_ns == began

    # It is not done where its model is damaged, which the newest checkpoint makes whole.
    model = tmp_path / "run" / "checkpoint.keras"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    again = run_here("finetune.py", *flags)
    assert again.returncode == 0 and f"{model} is damaged" in again.stdout
    assert is_whole_archive(model)


@pytest.mark.once
def test_the_next_command_names_interpreter_backend_and_paths_as_a_shell_reads_them(monkeypatch):
    import command_line

    monkeypatch.setattr(sys, "argv", ["a folder/finetune.py"])
    text = command_line.next_command("evaluate.py", model="runs/it's mine/best", data="digits")
    backend, *words = shlex.split(text)
    assert re.fullmatch("KERAS_BACKEND=(jax|tensorflow|torch)", backend)
    assert words == [
        sys.orig_argv[0],
        "a folder/evaluate.py",
        "--model=runs/it's mine/best",
        "--data=digits",
    ]


@pytest.mark.once
def test_help_by_one_letter():
    assert "--base_learning_rate" in run_here("finetune.py", "-h").stdout


BACKENDS = {
    "pytorch": "asks for 'pytorch', which is no supported backend; set KERAS_BACKEND=torch.",
    "JAX": "asks for 'JAX', which is no supported backend; set KERAS_BACKEND=jax.",
    "tf": "set KERAS_BACKEND=tensorflow.",
    "numpy": "set KERAS_BACKEND=jax or KERAS_BACKEND=tensorflow or KERAS_BACKEND=torch.",
}


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.once
def test_a_misspelt_backend_is_one_sentence(name):
    result = run_python("experiments/evaluate.py", KERAS_BACKEND=name)
    assert result.returncode == 1 and BACKENDS[name] in result.stderr
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("evaluate.py: ")


def test_a_backend_that_is_not_installed_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setattr(choice, "find_spec", lambda name: name == "jax")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(ImportError, match="pip install torch, or set KERAS_BACKEND=jax"):
        choice.check_choice()
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(ImportError, match="is not set, so Keras takes tensorflow, which is not in"):
        choice.check_choice()
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    choice.check_choice()


@pytest.mark.once
def test_ctrl_c_is_one_word():
    code = "import sys; sys.path.insert(0, 'experiments'); import before_keras; raise KeyboardInterrupt"
    result = run_python("-c", code)
    assert result.returncode == 130 and result.stderr.strip().endswith("stopped"), result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def listening_to_ctrl_c():
    """Restore SIGINT as in a terminal; under nohup or in a script's background a process ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_saves_a_run_and_the_second_is_left_to_the_system(tmp_path, listening_to_ctrl_c):
    during = []

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                os.kill(os.getpid(), signal.SIGINT)
                during.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    model = tiny.pretrainer()
    tiny.compile_model(model, training.adamw(1e-2))
    with pytest.raises(training.Preempted, match="saved at step 3"):
        training.fit_steps(model, batches, 200, 4, tmp_path, callbacks=[Interrupt()])
    assert during == [signal.SIG_DFL] and signal.getsignal(signal.SIGINT) is before
    assert training.checkpoints.Checkpoints(tmp_path / "checkpoints").newest().step == 3
