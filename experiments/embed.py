r"""Extract the features of images into one file, with their names and labels.

    KERAS_BACKEND=jax python experiments/embed.py --model=runs/mine --data=folder:/path/to/images \
        --output=features.parquet
    KERAS_BACKEND=jax python experiments/embed.py --model=hf://SixAILab/nepa-base-patch14-224 \
        --data=imagenet:/data --split=val --blocks=8 --attention=bidirectional --pool=map --output=maps.npz

The file has a row for each readable image; unreadable images are listed on the screen. An interrupted command
resumes where it stopped, without losing or repeating a row. At the end the script prints the shape of the
features and a search.py command that finds similar pictures. In Python,
`nepa_keras.evaluation.read_features(FILE)` reads the file.
"""

from pathlib import Path

import before_keras  # noqa: F401
import keras
import numpy as np
from absl import flags
from blocks import AUTO, define_block_flag, given_blocks
from command_line import exit_with_status, next_command, run, user_errors
from embedding import Embedder, load_embedder
from given_model import MODEL, define_weights_flag, settle_model
from inputs import SEES_MORE, check_data, check_weights, open_labelled, say, say_range, say_sight
from label_flags import define_label_flags, source_options
from progress import ShownBatches
from shared_flags import (
    define_cache_flags,
    define_data_dir_flag,
    define_dtype_flag,
    define_image_flags,
    define_image_size_flag,
    define_value_range_flag,
)

from nepa_keras import data, evaluation
from nepa_keras.evaluation.embed import begun
from nepa_keras.evaluation.feature_files import check_format
from nepa_keras.evaluation.features import POOLS

FLAGS = flags.FLAGS
_NAMED = 20  # unreadable images to print; the record of the file lists all of them
flags.DEFINE_string(
    "model", None, f"Model whose backbone computes the features: {MODEL}", required=True
)
define_weights_flag()
flags.DEFINE_string(
    "data",
    None,
    "Images, such as folder:PATH; the same kinds as for --data of pretrain.py.",
    required=True,
)
flags.DEFINE_string("split", "train", "Split of --data, for sources with several splits.")
define_cache_flags()
define_data_dir_flag()
define_label_flags()
define_value_range_flag()
define_image_size_flag()
flags.DEFINE_string(
    "output",
    None,
    "File to write: FILE.npz (NumPy) or FILE.parquet (a table).",
    required=True,
)
define_block_flag("norm", "are written")
flags.DEFINE_integer(
    "choosing_images",
    2000,
    "Number of images on which --blocks=auto chooses the block.",
    lower_bound=20,
)
flags.DEFINE_enum(
    "pool",
    "mean",
    POOLS,
    "Pooling of the tokens. One vector per image: mean of the patches, CLS token, or last patch. One vector "
    "per patch: patches as a sequence, or map as a grid of rows and columns.",
)
flags.DEFINE_enum(
    "attention",
    None,
    ["causal", "bidirectional"],
    "Attention of a patch: to earlier patches only, or to all; default as the model was trained.",
)
flags.DEFINE_integer("batch_size", 64, "Images per batch.", lower_bound=1)
define_dtype_flag()
define_image_flags()


def batches_of(source, embedder: Embedder, bad_images=None, indices=None) -> data.OrderedBatches:
    """Batches of a source's images, preprocessed for the model."""
    *size, channels = embedder.backbone.image_shape
    return ShownBatches(
        source,
        min(FLAGS.batch_size, len(source)),
        tuple(size),
        embedder.transform,
        channels,
        indices=indices,
        bad_images=bad_images,
        value_range=FLAGS.value_range or embedder.value_range,
    )


def chosen_block(embedder: Embedder, causal: bool, held: dict | None) -> int:
    """Block of --blocks; auto keeps the block of a file to resume, else chooses one by labels.

    Args:
        embedder: model and preprocessing.
        causal: whether attention is causal.
        held: record of the file to resume, or None.

    Raises:
        ValueError: there is no such block, or auto has no labels.
    """
    if FLAGS.blocks != AUTO:
        (block,) = given_blocks([FLAGS.blocks], embedder.backbone.num_layers)
        return block
    if held and held["origin"].get("blocks") == AUTO:
        return given_blocks([held["block"].removeprefix("block ")])[0]
    try:
        source = open_labelled("--data", FLAGS.data, FLAGS.split, **source_options(FLAGS.data))
    except ValueError as error:
        raise ValueError(f"--blocks=auto needs labels: {error} Name a block instead.") from None
    order = np.random.default_rng(0).permutation(len(source))[: FLAGS.choosing_images]
    batches = batches_of(source, embedder, data.BadImages(len(source), share=1.0), order)
    pool = FLAGS.pool if FLAGS.pool in ("cls", "last") else "mean"
    choice = evaluation.choose_block(
        embedder.backbone, batches, source.labels, causal=causal, pool=pool
    )
    print(f"features of {choice}", flush=True)
    return choice.block


def main():
    with user_errors():
        check_format(FLAGS.output)
        given = settle_model()
        say(given.notes)
        check_weights("--model", FLAGS.model)
        check_data("--data", FLAGS.data)
        options = source_options(FLAGS.data)
        source = data.open_source(FLAGS.data, FLAGS.split, with_labels=True, **options)
        held = begun(FLAGS.output)
        embedder = load_embedder(given, FLAGS.dtype, FLAGS.image_size)
        say_range(source, FLAGS.value_range or embedder.value_range)
        *size, channels = embedder.backbone.image_shape
        say_sight("--data", FLAGS.data, source, channels, tuple(size), SEES_MORE)
        causal = embedder.causal if FLAGS.attention is None else FLAGS.attention == "causal"
        block = chosen_block(embedder, causal, held)
        extractor = evaluation.FeatureExtractor(embedder.backbone, FLAGS.pool, causal, block)
    share = 0.0 if FLAGS.bad_images == "fail" else FLAGS.bad_images_share
    batches = batches_of(source, embedder, data.BadImages(len(source), share))
    print(
        f"{keras.backend.backend()}: {FLAGS.model}, {len(source):,} images of {FLAGS.data}, {FLAGS.pool} of "
        f"{evaluation.block_name(block)}, {'causal' if causal else 'bidirectional'}",
        flush=True,
    )
    if held and "covered" in held:
        print(f"resumes after {held['covered']:,} of {len(source):,} images", flush=True)
    path = Path(FLAGS.model).expanduser()
    origin = {
        "model": str(path.resolve()) if path.is_dir() else FLAGS.model,
        "weights": FLAGS.weights,
        "data": FLAGS.data,
        "split": FLAGS.split,
        "options": options,
        "blocks": FLAGS.blocks,
    }
    with exit_with_status():
        record = evaluation.embed_source(extractor, batches, FLAGS.output, origin)
    bad, done = record["bad_images"], "was there already" if held and "rows" in held else "written"
    for line in bad[:_NAMED]:
        print(f"left out: {line}")
    if len(bad) > _NAMED:
        print(f"left out: {len(bad) - _NAMED} more, listed in the record of the file")
    shape = " x ".join(map(str, record["shape"]))
    print(f"{done}: {FLAGS.output}, {record['rows']:,} rows of {shape}", flush=True)
    near = next_command("search.py", features=FLAGS.output, query=record["first"])
    print(f"to find pictures similar to the first: {near}")


if __name__ == "__main__":
    run(main)
