"""report.html: its maps are the model's, nothing in it gets out of its quotes, it is whole or not there."""

import base64
import json
import os
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import nepa_keras
from nepa_keras.visualization import log_pictures, patch_maps, predicted_similarity, write_report
from tests.helpers import tiny

SHAPE = (8, 12, 1)  # 2 x 3 patches
LOG = "epoch,gradient_norm,learning_rate,loss,step\n0,1.5,0.001,-0.2,10\n1,1.1,0.0005,-0.4,20\n"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&$name"


def unpack(text: str, patches: int, power: int) -> tuple[np.ndarray, np.ndarray]:
    """A map, and the shares of CLS."""
    raw = zlib.decompress(base64.b64decode(text))
    base, step, cls = np.frombuffer(raw, "<f4", 3 * patches).reshape(3, patches, 1)
    levels = np.frombuffer(raw, np.uint8, offset=12 * patches).reshape(patches, patches)
    return base + step * levels.astype("float64") ** power, cls[:, 0]


class Page(HTMLParser):
    """Elements, their attributes, and the text of scripts."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements, self.scripts, self.texts, self._inside = [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside.append(tag)

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        kept = self.scripts if self._inside and self._inside[-1] == "script" else self.texts
        kept.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    @property
    def maps(self) -> dict:
        return json.loads(self.scripts[0])

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def run_dir(folder: Path, log: str | None = LOG) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "flags.txt").write_text(
        "# KERAS_BACKEND=jax python a.py\n# keras 3\n--data=digits\n--noshift\n"
    )
    if log is not None:
        (folder / "log.csv").write_text(log)
    Image.new("RGB", (4, 4)).save(folder / "similarity.png")
    return folder


@pytest.mark.parametrize("causal", [True, False])
def test_maps_are_those_of_the_model(causal):
    model, images = tiny.pretrainer(use_causal_mask=causal), tiny.images(2, SHAPE)
    maps = patch_maps(model, images)
    assert (maps["rows"], maps["columns"], maps["layers"], maps["heads"]) == (2, 3, 2, 2)
    assert (maps["causal"], maps["shift"], maps["pretrained"]) == (causal, 1, True)
    activations = model.backbone.activations(images)
    for i, of_image in enumerate(maps["images"]):
        for layer, probabilities in enumerate(activations["attentions"]):
            heads = keras.ops.convert_to_numpy(probabilities)[i, :, 1:]
            wanted = [heads.mean(axis=0), *heads]
            for text, expected in zip(of_image["attention"][layer], wanted, strict=True):
                found, of_cls = unpack(text, 6, 1)
                spread = np.ptp(expected[:, 1:], axis=1, keepdims=True)
                assert (np.abs(found - expected[:, 1:]) <= spread / 509 + 1e-6).all()
                np.testing.assert_allclose(of_cls, expected[:, 0], rtol=1e-4)
        # The last block's cosines give the maps of `predicted_similarity`.
        cosines, _ = unpack(of_image["cosines"][-1], 6, 2)
        weights = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / 0.5)
        weights /= weights.sum(axis=1, keepdims=True)
        similarity = predicted_similarity(model, images[i : i + 1], range(5), temperature=0.5)
        np.testing.assert_allclose(weights[:5], similarity.reshape(5, 6), atol=5e-3)


def test_an_earlier_block_predicts_through_the_final_norm():
    model, images = tiny.pretrainer(), tiny.images(1, SHAPE)
    cosines, _ = unpack(patch_maps(model, images)["images"][0]["cosines"][0], 6, 2)
    found = model.backbone.activations(images)
    said = keras.ops.convert_to_numpy(model.backbone.norm(found["hidden_states"][1]))[0, 1 + 2]
    patch = keras.ops.convert_to_numpy(found["embeddings"])[0, 1 + 4]
    expected = said @ patch / np.linalg.norm(said) / np.linalg.norm(patch)
    assert abs(cosines[2, 4] - expected) < 5e-3


def test_other_models_have_their_own_mask_and_say_so():
    for made in (nepa_keras.NepaImageClassifier, nepa_keras.NepaImageSegmenter):
        backbone = tiny.backbone()
        assert backbone.use_causal_mask
        maps = patch_maps(made(backbone, num_classes=3), tiny.images(1))
        assert (maps["causal"], maps["pretrained"]) == (False, False)
        attention, _ = unpack(maps["images"][0]["attention"][0][0], 4, 1)
        assert np.all(attention > 0.0), "also of patches that come later"
    maps = patch_maps(tiny.backbone(), tiny.images(1))
    assert (maps["causal"], maps["pretrained"]) == (True, True)
    assert patch_maps(tiny.pretrainer(shift=False), tiny.images(1))["shift"] == 0


def test_the_page_stays_below_its_bound():
    """First the single heads go, then images, then all; what is left is the same."""
    model, images = tiny.pretrainer(), tiny.images(3, SHAPE)
    everything = patch_maps(model, images)
    size = len(json.dumps(everything))
    without_heads = patch_maps(model, images, max_bytes=size - 1500)
    assert without_heads["heads"] == 0 and without_heads["images_left_out"] == 0
    assert without_heads["images"][2]["attention"][1] == everything["images"][2]["attention"][1][:1]
    of_one = len(json.dumps(without_heads["images"][0]))
    fewer = patch_maps(model, images, max_bytes=int(2.5 * of_one))
    assert fewer["images_left_out"] == 1 and len(json.dumps(fewer)) < 2.5 * of_one + 500
    assert patch_maps(model, images, max_bytes=100) is None


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pictures_of_any_channels(channels):
    model = tiny.pretrainer(image_shape=(8, 8, channels))
    address = patch_maps(model, tiny.images(1, (8, 8, channels)))["images"][0]["picture"]
    assert base64.b64decode(address.partition(",")[2]).startswith(b"\x89PNG")


def test_wrong_inputs_are_refused():
    model, images = tiny.pretrainer(), tiny.images(1, SHAPE)
    with pytest.raises(ValueError, match="2 captions for 1 images"):
        patch_maps(model, images, ["a", "b"])
    with pytest.raises(ValueError, match="patch"):
        patch_maps(model, tiny.images(1, (9, 8, 1)))
    signals = tiny.backbone(
        image_shape=(8, 1), embedding=keras.layers.Conv1D(16, 4, strides=4), name="signals"
    )
    with pytest.raises(ValueError, match="tokens lie on 1"):
        patch_maps(signals, np.zeros((1, 8, 1), "float32"))


def test_a_report_shows_what_the_folder_and_the_model_hold(tmp_path):
    folder = run_dir(tmp_path / "run")
    tables = {"Worth": [("accuracy", "before", "after"), ("k-NN", "1.0", "2.0")]}
    path = write_report(folder, tiny.pretrainer(), tiny.images(2, SHAPE), ["boot", "bag"], tables)
    assert path == folder / "report.html" and not list(folder.glob("unfinished*"))
    page = Page(path)
    for words in ("KERAS_BACKEND=jax python a.py", "noshift", "digits", "NepaPretrainer", "Worth"):
        assert words in page.text
    assert f"{keras.backend.backend()}, device" in page.text and keras.__version__ in page.text
    assert [image["caption"] for image in page.maps["images"]] == ["boot", "bag"]
    assert all(image["alt"] or image.get("id") == "picture" for image in page.named("img"))
    charts = [svg["aria-label"] for svg in page.named("svg")]
    assert any(said == "Loss: training from −0.2 at step 10 to −0.4 at step 20." for said in charts)
    assert "-0.4" in page.text  # the numbers as a table, too


def test_the_report_fetches_nothing(tmp_path):
    page = Page(write_report(run_dir(tmp_path / "run"), tiny.pretrainer(), tiny.images(1)))
    (policy,) = [m["content"] for m in page.named("meta") if m.get("http-equiv")]
    assert "default-src 'none'" in policy and "img-src data:" in policy
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes)
    assert not re.search(r"https?://|@import|url\(", page.source)


def test_hostile_names_are_escaped(tmp_path):
    """Flags, columns, files, tables and captions that are HTML are shown as they are."""
    folder = run_dir(tmp_path / "run <b>&amp;", LOG.replace("epoch", "epoch<i>"))
    (folder / "flags.txt").write_text(f"# {HOSTILE}\n--data={HOSTILE}\n")
    Image.new("RGB", (4, 4)).save(folder / "x' onload=alert(3) <svg>.png")
    tables = {HOSTILE: [(HOSTILE, HOSTILE), (HOSTILE, HOSTILE)]}
    path = write_report(folder, tiny.pretrainer(), tiny.images(1), [HOSTILE], tables)
    harmless = write_report(run_dir(tmp_path / "b"), tiny.pretrainer(), tiny.images(1))
    page, plain = Page(path), Page(harmless)
    assert len(page.named("script")) == len(plain.named("script")) == 2
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert page.text.count(HOSTILE) >= 6
    assert page.maps["images"][0]["caption"] == HOSTILE
    assert page.scripts[-1] == plain.scripts[-1]


@pytest.mark.parametrize("log", [None, "", "epoch,accuracy\n0,0.5\n", "step,loss\n10,nan\n20,NA\n"])
def test_any_folder_has_a_report(tmp_path, log):
    folder = run_dir(tmp_path / "run", log)
    page = Page(write_report(folder))
    assert "without a model" in page.text and len(page.scripts) == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no flags.txt" in Page(write_report(empty)).text
    with pytest.raises(NotADirectoryError, match="missing"):
        write_report(tmp_path / "missing")


def test_links_out_of_the_folder_and_what_is_no_file_are_not_shown(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "secret.txt").write_text("| a secret |\n|---|\n| of someone |\n")
    for name in ("picture.png", "table.md"):
        (run / name).symlink_to(tmp_path / "secret.txt")
    (run / "own.png").write_bytes(b"own picture")
    (run / "inside.png").symlink_to(run / "own.png")
    os.mkfifo(run / "pipe.png")
    (run / "folder.png").mkdir()
    page = write_report(run).read_text()
    secret = base64.b64encode((tmp_path / "secret.txt").read_bytes()).decode()
    assert "secret" not in page and secret not in page
    assert page.count("<figure><img") == 2 and "picture.png" not in page and "pipe.png" not in page


def test_long_logs_are_thinned_in_the_table_and_end_with_the_last_row(tmp_path):
    rows = "".join(f"{i},{-i / 1000}\n" for i in range(1, 1002))
    page = Page(write_report(run_dir(tmp_path / "run", f"step,loss\n{rows}")))
    assert "every 6th of 1001 rows" in page.text and "-1.001" in page.text
    assert len(page.named("tr")) < 220


def test_a_report_takes_the_place_of_another_at_once(tmp_path, monkeypatch):
    folder = run_dir(tmp_path / "run")
    path = write_report(folder)
    before = path.read_bytes()

    def full(source, target):
        raise OSError("no room")

    (folder / "flags.txt").write_text("--data=other\n")
    with monkeypatch.context() as broken:
        broken.setattr("os.replace", full)
        with pytest.raises(OSError, match="no room"):
            write_report(folder)
    assert path.read_bytes() == before
    assert "other" in Page(write_report(folder)).text


@pytest.mark.once
def test_pictures_are_events_once(tmp_path):
    """A finished run that is started again records none twice."""
    from tensorboardX.proto.event_pb2 import Event

    folder = run_dir(tmp_path / "run")
    Image.new("RGB", (4, 4)).save(folder / "curves.png")
    for _ in range(2):
        assert log_pictures(folder) == ["similarity"]
    (path,) = folder.glob("events.out.*")
    raw, found = path.read_bytes(), []
    while raw:  # length, its checksum, the event, its checksum
        size = int.from_bytes(raw[:8], "little")
        found += [
            (v.tag, v.image.width) for v in Event.FromString(raw[12 : 12 + size]).summary.value
        ]
        raw = raw[16 + size :]
    assert found == [("similarity", 4)]
