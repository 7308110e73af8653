"""Features of all images of a source written to a file; interrupted work can be resumed.

While it runs, the features lie in pieces in a folder OUTPUT.parts beside the file. A piece gets its name,
which says which images it covers, only when it is completely on disk. So a kill at any moment loses no
finished piece and repeats no image.
"""

import copy
import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from nepa_keras.data import BadImagesError, OrderedBatches, fingerprint
from nepa_keras.evaluation.blocks import block_name
from nepa_keras.evaluation.feature_files import check_format, read_record, write_features
from nepa_keras.evaluation.features import FeatureExtractor, predict_filled_up
from nepa_keras.files import printable, replacing
from nepa_keras.presets import backbone_of
from nepa_keras.skipped_steps import NonFiniteError
from nepa_keras.training import OtherRunError
from nepa_keras.training.run_lock import RunLock

_BYTES = 128 * 2**20  # largest size of a piece in memory
_DECIDING = {  # keys of the record on which the features depend, and their names in messages
    "model": "the model",
    "images": "images",
    "image_shape": "the size of the images",
    "transform": "the transform",
    "value_range": "value_range",
    "block": "the block",
    "pool": "the pool",
    "attention": "attention",
    "dtype": "precision",
}


def model_fingerprint(model: keras.Model) -> str:
    """Number of weights of a backbone and a digest of them, such as "86,567,656 weights (5f2a09c41b7d)".

    The digest depends on all weights and on the configuration of the blocks; not on the name of a file or on
    the backend.

    Args:
        model: a `NepaBackbone`, or a model that has one.
    """
    backbone = backbone_of(model)
    config = backbone.get_config()
    for name in ("name", "trainable", "dtype", "remat"):
        config.pop(name, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    weights = [v for v in backbone.weights if not v.path.endswith("seed_generator_state")]
    for variable in weights:
        digest.update(np.asarray(ops.convert_to_numpy(ops.cast(variable, "float32"))).tobytes())
    count = sum(int(np.prod(variable.shape)) for variable in weights)
    return f"{count:,} weights ({digest.hexdigest()[:12]})"


def embed_source(
    extractor: FeatureExtractor,
    batches: OrderedBatches,
    output: str | Path,
    origin: Mapping[str, Any] | None = None,
    seconds: float = 20.0,
) -> dict[str, Any]:
    """Write the features of all images of a source, with their names and labels, to a file.

    An interrupted call is resumed by the same call with the same model and images. If the file is already
    complete, its record is returned.

    Args:
        extractor: model that computes the features.
        batches: batches of the images. Images that cannot be read are left out and listed in the record.
        output: file to write, .npz or .parquet; its folder is created.
        origin: JSON to keep in the record, such as the paths of model and images.
        seconds: longest time between two writes to disk, which is the work that a kill may cost.

    Returns:
        The record of the file: model, images and settings, number of images, "bad_images", "origin".

    Raises:
        OtherRunError: the file, or an interrupted one, has features of other weights, images or settings.
        ValueError: the file exists and holds no features.
        NonFiniteError: features are not finite.
        ImportError: the file is .parquet and pyarrow is missing.
        BlockingIOError: another process is writing the file.
        BadImagesError: more images are bad than the budget of the batches allows, or all are.

    Example:
        >>> source = data.open_source("folder:pictures", with_labels=True)
        >>> batches = data.OrderedBatches(source, 8, (28, 28), channels=1)
        >>> extractor = evaluation.FeatureExtractor(backbone, causal=False, block=2)
        >>> record = evaluation.embed_source(extractor, batches, "features.npz")
        >>> evaluation.read_features("features.npz").features.shape
        (8, 32)
    """
    output = Path(output).expanduser()
    check_format(output)
    record = _record(extractor, batches)
    held = begun(output)
    if held is not None:
        _compare(output, held, record)
    if output.exists():
        return held or {}
    parts = _parts(output)
    parts.mkdir(parents=True, exist_ok=True)
    with RunLock(parts):
        if held is None:
            with replacing(parts / "record.json") as path:
                path.write_text(json.dumps({**record, "origin": dict(origin or {})}))
        held = json.loads((parts / "record.json").read_text())
        _embed_rest(extractor, batches, parts, seconds)
        finished = _join(batches, parts, output, held)
        shutil.rmtree(parts)
    return finished


def begun(output: str | Path) -> dict[str, Any] | None:
    """Record of a file of features, complete or interrupted; None if there is neither.

    The record of an interrupted file has "covered", the number of images that are done.

    Raises:
        ValueError: the file is damaged or holds no features.
    """
    output = Path(output).expanduser()
    if output.exists():
        return read_record(output)
    covered = _covered(_parts(output))
    if not covered:
        return None
    return {**json.loads((_parts(output) / "record.json").read_text()), "covered": covered}


def _parts(output: Path) -> Path:
    return output.with_name(f"{output.name}.parts")


def _record(extractor: FeatureExtractor, batches: OrderedBatches) -> dict[str, Any]:
    images = fingerprint(batches.source)
    if len(batches.indices) != len(batches.source):
        images += f", {len(batches.indices):,} of them"
        images += f" ({hashlib.sha256(batches.indices.tobytes()).hexdigest()[:12]})"
    settings = {name: str(value) for name, value in sorted(vars(batches.transform).items())}
    return {
        "format": 1,
        "model": model_fingerprint(extractor.backbone),
        "images": images,
        "image_shape": [*batches.image_size, batches.channels],
        "transform": f"{type(batches.transform).__name__}{settings}",
        "value_range": batches.value_range and list(batches.value_range),
        "block": block_name(extractor.block),
        "pool": extractor.pool,
        "attention": "causal" if extractor.causal else "bidirectional",
        "dtype": extractor.backbone.compute_dtype,
        "class_names": batches.source.class_names and list(batches.source.class_names),
    }


def _compare(output: Path, held: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Check that a file was begun with the same settings.

    Raises:
        OtherRunError: it was not.
    """
    for key, words in _DECIDING.items():
        if held.get(key) != asked[key]:
            begun_as = output if output.exists() else _parts(output)
            raise OtherRunError(
                f"{output} was begun with {words} {held.get(key)}, and now it is {asked[key]}; give the same "
                f"again, choose another output, or delete {begun_as}."
            )


def _embed_rest(
    extractor: FeatureExtractor, batches: OrderedBatches, parts: Path, seconds: float
) -> None:
    """Write pieces for the images that no piece covers yet."""
    begin, total = _covered(parts), len(batches.indices)
    rest = copy.copy(batches)
    rest.indices = batches.indices[begin:]
    rows: list[np.ndarray] = []
    kept: list[np.ndarray] = []
    start, stop, since = begin, begin, time.monotonic()
    with closing(iter(rest)) as stream:
        for images, indices in stream:
            stop = min(stop + batches.batch_size, total)
            if len(images):
                rows.append(predict_filled_up(extractor, images, batches.batch_size))
                kept.append(indices)
                _check_finite(rows[-1], indices, batches)
            late = time.monotonic() - since > seconds
            if stop == total or late or sum(r.nbytes for r in rows) > _BYTES:
                _write_piece(parts, start, stop, rows, kept, batches)
                rows, kept, start, since = [], [], stop, time.monotonic()


def _check_finite(features, indices, batches):
    bad = ~np.isfinite(features).reshape(len(features), -1).all(axis=1)
    if bad.any():
        name = printable(batches.source.name(int(indices[bad.argmax()])))
        raise NonFiniteError(
            f"Features of {name} are not finite; check the weights, or compute in float32."
        )


def _write_piece(parts, start, stop, rows, kept, batches):
    covered = {int(i) for i in batches.indices[start:stop]}
    bad = {i: line for i, line in sorted(batches.bad_images.reasons.items()) if i in covered}
    arrays: dict[str, Any] = {"bad": np.array(json.dumps(list(bad.values())))}
    if rows:
        arrays |= {"indices": np.concatenate(kept), "features": np.concatenate(rows)}
    with replacing(parts / f"{start:012d}-{stop:012d}.npz") as path, open(path, "wb") as file:
        np.savez(file, **arrays)


def _pieces(parts: Path) -> list[Path]:
    return sorted(parts.glob("[0-9]*-[0-9]*.npz"))


def _covered(parts: Path) -> int:
    """Number of images that the pieces cover; they start with the first image and leave no gap."""
    pieces = _pieces(parts)
    return int(pieces[-1].stem.partition("-")[2]) if pieces else 0


def _join(batches, parts, output, record) -> dict[str, Any]:
    """Write the file of all pieces and return its record."""
    indices: list[np.ndarray] = []
    bad: list[str] = []
    full = []
    for piece in _pieces(parts):
        with np.load(piece) as held:
            bad += json.loads(str(held["bad"]))
            if "features" in held:
                full.append(piece)
                indices.append(held["indices"])
                record["shape"] = list(held["features"].shape[1:])
    if not full:
        raise BadImagesError(f"None of the images can be read, the first because of {bad[0]}.")
    numbers, source = np.concatenate(indices), batches.source
    labels = None if source.labels is None else source.labels[numbers]
    names = [printable(source.name(int(i))) for i in numbers]
    record = {**record, "rows": len(numbers), "first": names[0], "bad_images": bad}

    def features():
        for piece in full:
            with np.load(piece) as held:
                yield held["features"]

    with replacing(output) as path:
        write_features(path, names, numbers, labels, features(), record)
    return record
