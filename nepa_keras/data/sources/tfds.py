"""Data sets that TensorFlow Datasets prepared on disk, read without it."""

from pathlib import Path

from nepa_keras.data.sources.columns import ANY, Columns
from nepa_keras.data.sources.records import RecordSource


def tfds_source(
    name: str,
    split: str = "train",
    data_dir: str | Path | None = None,
    with_labels: bool = False,
    columns: Columns = ANY,
) -> RecordSource:
    """The newest prepared version of `NAME`, `NAME/CONFIG` or `NAME/CONFIG/VERSION`, as TFRecord files.

    Args:
        name: as in `tfds.load`.
        split: as in `tfds.load`.
        data_dir: default ~/tensorflow_datasets.
        with_labels, columns: see `RecordSource`.

    Raises:
        ValueError: it is not prepared there, or in another format than TFRecord.
    """
    root = Path(data_dir or "~/tensorflow_datasets").expanduser()
    prepared = [file.parent for file in (root / name).rglob("features.json")]
    if not prepared:
        raise ValueError(
            f"{name} is not prepared below {root}; tfds build {name} does that, or pass its data_dir."
        )
    folder = max(prepared, key=_version)
    files = sorted(str(f) for f in folder.glob(f"*-{split}.tfrecord*"))
    if not files:
        others = sorted({f.name.split(".")[0] for f in folder.glob("*-*.*-of-*")})
        raise ValueError(
            f"{folder} holds no *-{split}.tfrecord files, but {', '.join(others) or 'none of any kind'}; "
            "prepare it with file_format=tfrecord, or name another split."
        )
    names = folder / "label.labels.txt"
    class_names = names.read_text().split("\n") if names.exists() else None
    if class_names and class_names[-1] == "":
        class_names.pop()
    return RecordSource(files, class_names, with_labels, columns)


def _version(folder: Path) -> tuple:
    numbers = folder.name.split(".")
    return tuple(int(n) if n.isdigit() else -1 for n in numbers)
