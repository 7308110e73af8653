"""The scripts under examples/, run as a person does: a process each, in a folder that must stay empty.

In the first tier each on one backend, some with fewer steps; in the second on all.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import speech
from PIL import Image

import nepa_keras
from tests.helpers import ROOT, tiny
from tests.helpers.scripts import run_python

EXAMPLES = ROOT / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))


def run_example(name: str, folder: Path, *options) -> str:
    """Output of a script, which may write below `folder`/tmp, its temporary folder, and nowhere else."""
    here, temporary = folder / "here", folder / "tmp"
    here.mkdir()
    temporary.mkdir()
    before = set(EXAMPLES.rglob("*"))
    result = run_python(
        "-B",
        EXAMPLES / name,
        *options,
        cwd=here,
        TMPDIR=str(temporary),
        OMP_NUM_THREADS="1",  # beside other tests, more would wait for each other
    )
    assert result.returncode == 0, result.stderr
    assert not list(here.iterdir()) and set(EXAMPLES.rglob("*")) == before
    return result.stdout


def numbers(pattern: str, text: str) -> list[float]:
    """The groups of the only match as numbers."""
    (found,) = re.findall(pattern, text)
    return [float(number) for number in ([found] if isinstance(found, str) else found)]


@pytest.mark.once
def test_each_example_is_listed():
    listed = re.findall(
        r"^\| \[`(\w+\.py)`\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text(), re.M
    )
    assert sorted(target for _, target in listed) == [path.name for path in FILES]
    assert all(name == target for name, target in listed)
    page = (ROOT / "docs" / "examples.md").read_text()
    scripts = [path.name for path in FILES if path.name != "speech.py"]
    assert sorted(re.findall(r"^\| `examples/(\w+\.py)`", page, re.M)) == scripts


@pytest.mark.first_on("torch")
def test_pretraining_on_a_folder_of_ones_own(tmp_path):
    """Colours in, grey out; the model that it leaves loads."""
    pictures, draw = tmp_path / "pictures" / "deep", np.random.default_rng(0)
    pictures.mkdir(parents=True)
    for i in range(60):
        tone = np.linspace(0, draw.integers(50, 255), 32)[:, None, None]
        noise = draw.integers(0, 50, (32, 40, 3))
        Image.fromarray(np.clip(tone + noise, 0, 255).astype("uint8")).save(pictures / f"{i}.png")
    output = tmp_path / "tmp" / "model"
    flags = f"--pictures={pictures.parent}", f"--output={output}", "--epochs=15"
    out = run_example("pretrain_on_a_folder.py", tmp_path, *flags)
    assert "60 pictures, 1 batches per epoch" in out
    first, last = numbers(r"loss: (-[\d.]+) after the first epoch, (-[\d.]+) after the last", out)
    assert last < first
    assert (output / "similarity.png").stat().st_size > 0
    assert nepa_keras.NepaPretrainer.from_preset(output / "model").backbone.image_shape == (
        28,
        28,
        1,
    )


@pytest.mark.first_on("jax")
def test_classification_of_real_files(tmp_path):
    """A checkpoint in the authors' layout and pictures of any kind."""
    folder = tmp_path / "checkpoint"
    names = ["cat", "dog", "hen"]
    backbone = tiny.backbone(image_shape=(8, 8, 3))
    classifier = nepa_keras.NepaImageClassifier(backbone, 3, class_names=names)
    tiny.spread_weights(classifier)
    nepa_keras.interop.export_huggingface(classifier, folder)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3)).astype("uint8")
    pictures = [tmp_path / "one.jpg", tmp_path / "two.png"]
    for picture, values in zip(pictures, pixels, strict=True):
        Image.fromarray(values).save(picture)

    out = run_example("classify_with_released_weights.py", tmp_path, folder, *pictures)
    logits = classifier(nepa_keras.NepaImageConverter.from_preset(folder)(pictures))
    best = classifier.decode_predictions(logits, 1)
    assert re.findall(r"^(.+?): (\w+) ", out, re.M) == [
        (picture.name, name) for picture, ((name, _),) in zip(pictures, best, strict=True)
    ]


@pytest.mark.first_on("torch")
def test_classification_with_the_stand_in_for_released_weights(tmp_path):
    out = run_example("classify_with_released_weights.py", tmp_path)
    assert "trouser.png: trouser" in out
    assert len(re.findall(r"^\d .+\.png: .+ \d+ %", out, re.M)) == 4


@pytest.mark.first_on("tensorflow")
def test_layers_in_a_model_of_ones_own(tmp_path):
    out = run_example("layers_in_your_own_model.py", tmp_path, "--epochs=4")
    (accuracy,) = numbers(r"test images: ([\d.]+) %", out)
    assert accuracy > 40, "chance is 10"


@pytest.mark.first_on("torch")
def test_spoken_words(tmp_path):
    out = run_example("spoken_words.py", tmp_path, "--epochs=3")
    nepa, mean, place, before = (
        float(loss) for loss in re.findall(r"^  (?:NEPA|mean .*?|copy .*?) +(-[\d.]+)$", out, re.M)
    )
    assert nepa < min(mean, place, before), "no model is needed for those"
    accuracies = numbers(r"linear probe, 50 labels per word +([\d.]+) +([\d.]+)", out)
    assert accuracies[0] > accuracies[1] + 5, out


@pytest.mark.first_on("torch")
def test_segmenting_scenes(tmp_path):
    output = tmp_path / "tmp" / "scenes"
    out = run_example("segment_scenes.py", tmp_path, "--steps=24", f"--output={output}")
    before, after = numbers(r"mean IoU .*: ([\d.]+) -> ([\d.]+) %", out)
    losses = [float(x) for x in re.search(r"steps: (.*)", out)[1].split(", ")]
    assert losses[-1] < losses[0] and after > before
    assert (output / "scenes.png").stat().st_size > 0


@pytest.mark.first_on("torch")
def test_a_tokenizer_of_ones_own(tmp_path):
    out = run_example("your_own_tokenizer.py", tmp_path, "--epochs=3")
    losses = re.findall(r"test inputs: (-[\d.]+); of the mean embedding: (-[\d.]+)", out)
    assert len(losses) == 2
    assert all(float(ours) < float(constant) - 0.05 for ours, constant in losses)


@pytest.mark.once
def test_mel_filters():
    """Against the formula, band by band: 1 at the own centre, 0 from the centres of the neighbours on."""
    filters = speech.mel_filters(32)
    assert filters.shape == (speech.WINDOW // 2 + 1, 32)
    bins = np.arange(speech.WINDOW // 2 + 1) * speech.RATE / speech.WINDOW

    def mel(f):
        return 2595 * np.log10(1 + f / 700)

    step = (mel(8000) - mel(80)) / 33
    for band in range(32):
        low, centre, high = (
            700 * (10 ** ((mel(80) + step * i) / 2595) - 1) for i in range(band, band + 3)
        )
        expected = np.interp(bins, [low, centre, high], [0, 1, 0])
        np.testing.assert_allclose(filters[:, band], expected, atol=1e-9)
    between = (bins > 700 * (10 ** ((mel(80) + step) / 2595) - 1)) & (bins < 7000)
    np.testing.assert_allclose(filters.sum(axis=1)[between], 1.0, atol=1e-9)


@pytest.mark.once
def test_frames_of_a_tone():
    """A tone of 1 kHz is loudest in the band around it, in the frames that it lasts."""
    time = np.arange(16 * speech.HOP) / speech.RATE
    frames = speech.log_mel(np.sin(2 * np.pi * 1000 * time), frames=32, bands=32)
    assert frames.shape == (32, 32) and frames.dtype == np.float32
    loudest = frames[:14].argmax(axis=1)
    centre = 1000 / speech.RATE * speech.WINDOW
    assert set(loudest) == {speech.mel_filters(32)[round(centre)].argmax()}
    np.testing.assert_allclose(frames[17:], np.log(1e-3), rtol=1e-6, err_msg="silence")


@pytest.mark.once
def test_synthetic_voices_differ_by_word():
    """Speech in a process of its own, as the C library keeps its state in globals."""
    code = """
import json, numpy as np, speech
voice = speech.Synthesizer()
said = [len(voice.say("seven", "en-us+f2", speed=speed)) for speed in (90, 180)]
refused = []
for name in ("en-nowhere+f2", "en-us+nobody", "en-us"):
    try:
        voice.say("seven", name)
    except ValueError as error:
        refused.append(str(error))
words = [voice.say("six", f"{accent}+{speaker}")
         for accent in speech.ACCENTS for speaker in speech.SPEAKERS]
print(json.dumps([said, refused, [float(np.abs(word).max()) for word in words]]))
"""

    result = run_python("-c", code, PYTHONPATH=str(EXAMPLES))
    assert result.returncode == 0, result.stderr
    (slow, fast), refused, peaks = json.loads(result.stdout)
    assert slow > 1.5 * fast > speech.RATE / 4
    names = "en-nowhere+f2", "en-us+nobody", "en-us"
    assert refused == [f"eSpeak NG has no voice {name!r}." for name in names]
    assert len(peaks) == 5 * 62 and min(peaks) > 0.1 and max(peaks) <= 1.0
