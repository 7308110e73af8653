"""The same twelve labelled images in each format that a source reads, by the formats' own writers."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n01484850")
COUNT = 12
LABELS = np.arange(COUNT) % len(CLASSES)


def pixels(index: int) -> np.ndarray:
    """Image `index`, of a size of its own."""
    draw = np.random.default_rng(index).integers
    return draw(0, 256, (30 + index, 40, 3), dtype=np.uint8)


def png(index: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(index)).save(file, "PNG")
    return file.getvalue()


def folder(root: Path) -> str:
    """Folders of classes, one of them a link, and one image two levels down."""
    for i, label in enumerate(LABELS):
        place = root / "images" / CLASSES[label] / ("deep" if i == 3 else "")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:02}.png").write_bytes(png(i))
    (root / "images" / CLASSES[2]).rename(root / "elsewhere")
    (root / "images" / CLASSES[2]).symlink_to(root / "elsewhere")
    (root / "images" / CLASSES[0] / "again").symlink_to(root / "images")  # a loop
    (root / "images" / CLASSES[0] / "notes.txt").write_text("no image")
    return f"folder:{root / 'images'}"


def imagenet(root: Path) -> str:
    """train/ in folders, val/ flat with the devkit's two files."""
    from scipy.io import savemat

    for i, label in enumerate(LABELS):
        train = root / "imagenet" / "train" / CLASSES[label]
        train.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(i)).save(train / f"{CLASSES[label]}_{i}.JPEG", quality=95)
        val = root / "imagenet" / "val"
        val.mkdir(exist_ok=True)
        Image.fromarray(pixels(i)).save(val / f"ILSVRC2012_val_{i + 1:08}.JPEG", quality=95)
    data = root / "imagenet" / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    # The devkit numbers the classes in an order of its own, and lists groups of classes, too.
    ids = {CLASSES[0]: 2, CLASSES[1]: 3, CLASSES[2]: 1}
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, name, "words", 0) for name, number in ids.items()]
    savemat(data / "meta.mat", {"synsets": np.array([*rows, (4, "n00001740", "group", 3)], kind)})
    text = "\n".join(str(ids[CLASSES[label]]) for label in LABELS) + "\n"
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(text)
    return f"imagenet:{root / 'imagenet'}"


def write_records(files: list[Path], image_key: str, label_key: str) -> None:
    import tensorflow as tf

    def feature(values):
        if isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    for number, file in enumerate(files):
        with tf.io.TFRecordWriter(str(file)) as writer:
            for i in range(number * COUNT // len(files), (number + 1) * COUNT // len(files)):
                features = {
                    image_key: feature([png(i)]),
                    label_key: feature([int(LABELS[i])]),
                    "image/filename": feature([f"{i}.png".encode()]),
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())


def tfrecord(root: Path) -> str:
    place = root / "records"
    place.mkdir()
    files = [place / f"train-{i:05}-of-00002.tfrecord" for i in range(2)]
    write_records(files, "image/encoded", "image/class/label")
    return f"tfrecord:{place}"


def tfds(root: Path) -> str:
    """Two versions, of which the newer counts; pass `data_dir=root`."""
    for version in ("2.0.0", "10.0.0"):
        place = root / "toys" / version
        place.mkdir(parents=True)
        (place / "features.json").write_text("{}")
    (place / "label.labels.txt").write_text("\n".join(CLASSES) + "\n")
    files = [place / f"toys-train.tfrecord-{i:05}-of-00003" for i in range(3)]
    write_records(files, "image", "label")
    return "tfds:toys"


def _table():
    import pyarrow

    image = {"bytes": pyarrow.binary(), "path": pyarrow.string()}
    rows = [{"bytes": png(i), "path": f"{i}.png"} for i in range(COUNT)]
    names = {"_type": "ClassLabel", "names": list(CLASSES)}
    features = {"image": {"_type": "Image"}, "label": names}
    table = pyarrow.table(
        {
            "image": pyarrow.array(rows, pyarrow.struct(list(image.items()))),
            "label": pyarrow.array(LABELS, pyarrow.int64()),
        }
    )
    described = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": described}), features


def parquet(root: Path) -> str:
    """Two files of row groups of two."""
    from pyarrow.parquet import write_table

    table, _ = _table()
    place = root / "parquet" / "data"
    place.mkdir(parents=True)
    for number in range(2):
        part = table.slice(number * 6, 6)
        write_table(part, place / f"train-{number:05}-of-00002.parquet", row_group_size=2)
    return f"parquet:{place.parent}"


def arrow(root: Path) -> str:
    import pyarrow

    table, features = _table()
    place = root / "saved" / "train"
    place.mkdir(parents=True)
    names = [f"data-{i:05}-of-00002.arrow" for i in range(2)]
    for number, name in enumerate(names):
        part = table.slice(number * 6, 6)
        with pyarrow.ipc.new_stream(str(place / name), part.schema) as writer:
            writer.write_table(part, max_chunksize=4)
    (place / "state.json").write_text(json.dumps({"_data_files": [{"filename": n} for n in names]}))
    (place / "dataset_info.json").write_text(json.dumps({"features": features}))
    return f"arrow:{place.parent}"


def webdataset(root: Path) -> str:
    """Two tars: labels as .cls in one and as .json in the other."""
    place = root / "tars"
    place.mkdir()
    for number in range(2):
        with tarfile.open(place / f"train-{number:03}.tar", "w") as tar:
            for i in range(number * 6, number * 6 + 6):
                label = str(LABELS[i]) if number == 0 else json.dumps({"label": int(LABELS[i])})
                suffix = "cls" if number == 0 else "json"
                for name, content in (
                    (f"{i:06}.png", png(i)),
                    (f"{i:06}.{suffix}", label.encode()),
                ):
                    member = tarfile.TarInfo(f"part/{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return f"webdataset:{place}/train-{{000..001}}.tar"


WRITERS = {
    write.__name__: write
    for write in (folder, imagenet, tfrecord, tfds, parquet, arrow, webdataset)
}
