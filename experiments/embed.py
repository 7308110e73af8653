r"""Features of all images of a source, in one file with their names and labels.

    KERAS_BACKEND=jax python experiments/embed.py --model=runs/mine --data=folder:/path/to/images \
        --output=features.parquet
    KERAS_BACKEND=jax python experiments/embed.py --model=hf://SixAILab/nepa-base-patch14-224 \
        --data=imagenet:/data --split=val --blocks=8 --attention=bidirectional --pool=map --output=maps.npz

A row for each image that can be read; the others are named. Stopped in whatever way, the same command goes on
where it was, without a row lost or twice. search.py finds the pictures that are nearest to one, and in Python
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
_NAMED = 20  # images without a row that are printed; the file names all
flags.DEFINE_string("model", None, f"Model: {MODEL}", required=True)
define_weights_flag()
flags.DEFINE_string("data", None, "Images, as of pretrain.py.", required=True)
flags.DEFINE_string("split", "train", "Of sources that have several.")
define_cache_flags()
define_data_dir_flag()
define_label_flags()
define_value_range_flag()
define_image_size_flag()
flags.DEFINE_string(
    "output", None, "File to write: .npz for NumPy, or .parquet for tables.", required=True
)
define_block_flag("norm", "are written")
flags.DEFINE_integer("choosing_images", 2000, "Images that --blocks=auto looks at.", lower_bound=20)
flags.DEFINE_enum(
    "pool",
    "mean",
    POOLS,
    "One vector an image: the mean of its patches, the CLS token, or the last patch. Or one for each patch: "
    "patches in a row, or as a map of rows and columns.",
)
flags.DEFINE_enum(
    "attention",
    None,
    ["causal", "bidirectional"],
    "Whether a patch sees those before it, or all; default as the model was trained.",
)
flags.DEFINE_integer("batch_size", 64, "Images at a time.", lower_bound=1)
define_dtype_flag()
define_image_flags()


def batches_of(source, embedder: Embedder, bad_images=None, indices=None) -> data.OrderedBatches:
    """The images of a source as the model takes them."""
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
    """The block of --blocks; auto chooses by labels, and again what was chosen when the file was begun."""
    if FLAGS.blocks != AUTO:
        (block,) = given_blocks([FLAGS.blocks], embedder.backbone.num_layers)
        return block
    if held and held["origin"].get("blocks") == AUTO:
        return given_blocks([held["block"].removeprefix("block ")])[0]
    try:
        source = open_labelled("--data", FLAGS.data, FLAGS.split, **source_options(FLAGS.data))
    except ValueError as error:
        raise ValueError(f"--blocks=auto chooses by labels: {error} Name a block.") from None
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
        print(f"goes on after {held['covered']:,} of {len(source):,} images", flush=True)
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
        print(f"left out: {len(bad) - _NAMED} more, which the record of the file names")
    shape = " x ".join(map(str, record["shape"]))
    print(f"{done}: {FLAGS.output}, {record['rows']:,} rows of {shape}", flush=True)
    near = next_command("search.py", features=FLAGS.output, query=record["first"])
    print(f"pictures near to the first: {near}")


if __name__ == "__main__":
    run(main)
