r"""Draw what a model attends to, expects and finds surprising, of any images and any model.

    KERAS_BACKEND=jax python experiments/visualize.py --model=runs/mine/ema --output=runs/mine/pictures
    KERAS_BACKEND=jax python experiments/visualize.py --model=hf://SixAILab/nepa-base-patch14-224 \
        --data=folder:/path/to/images --pictures=rollout,attention --output=pictures

overview.png     the method on one image: patches, attention, the predicted next patch, the true one
similarity.png   patches that are like the predicted next embedding, for several queries
attention.png    what one patch attends to, in every block and head, and through all blocks
error.png        prediction error of each patch
components.png   patch features of every layer as colours, one basis for all images
nearest.png      the patches of other images that are nearest to one patch
projection.png   images on the plane of the first two components of their features
rollout.png      the model goes on from the first patches, reading its own predictions
report.html      all of these, and for each patch what it attends to and what it predicts

The images are drawn at random (--seed) from --data, the shown ones and those they are compared with. Below
each stand its class and the name of its file.
"""

from pathlib import Path
from typing import NamedTuple

import before_keras  # noqa: F401
import class_scores
import keras
import numpy as np
from absl import flags
from blocks import AUTO, define_block_flag, given_blocks
from command_line import exit_with_status, require_experiments_extra, run, user_errors
from given_model import MODEL, define_weights_flag, settle_model
from inputs import check_data, check_weights, open_labelled, say, say_range, test_split
from label_flags import define_label_flags, source_options
from number_flags import FACTOR, POSITIVE, SHARE, define_number
from shared_flags import (
    define_cache_flags,
    define_data_dir_flag,
    define_image_size_flag,
    define_value_range_flag,
)

import nepa_keras
from nepa_keras import data, evaluation, interop, visualization
from nepa_keras.files import printable

FLAGS = flags.FLAGS
PICTURES = (
    "overview",
    "similarity",
    "attention",
    "error",
    "components",
    "nearest",
    "projection",
    "rollout",
)
OF_PREDICTIONS = {"overview", "similarity", "error", "rollout"}
OF_OTHERS, FEWEST = (
    {"overview", "nearest", "projection", "rollout"},
    4,
)  # need more images than the shown ones
flags.DEFINE_string("model", None, f"Model to visualize: {MODEL}", required=True)
define_weights_flag()
flags.DEFINE_string("data", "embedded", "Source of the images, as for pretrain.py.")
flags.DEFINE_string("split", None, "Split of the source; default its test split, if it has one.")
define_cache_flags()
define_data_dir_flag()
define_label_flags()
define_value_range_flag()
define_image_size_flag()
flags.DEFINE_list("images", [], "Picture files to show in place of images of --data.")
flags.DEFINE_integer("num_images", 6, "Number of images to show.", lower_bound=1)
flags.DEFINE_integer(
    "other_images",
    500,
    "Number of images that overview, nearest, projection and rollout compare the shown ones with.",
    lower_bound=4,
)
flags.DEFINE_integer("seed", 1, "Seed of the choice of images.", lower_bound=0)
flags.DEFINE_list("pictures", list(PICTURES), f"Pictures to draw, of {', '.join(PICTURES)}.")
flags.DEFINE_string("output", None, "Folder for the pictures.", required=True)
flags.DEFINE_enum("format", "png", ["png", "jpg"], "File format of the pictures.")
flags.DEFINE_list(
    "patch",
    [],
    "Query patch of overview, similarity, attention and nearest as ROW,COLUMN, counted from 1; default the "
    "middle.",
)
define_number("known", 0.5, "Share of the patches that rollout is given.", SHARE)
define_number(
    "temperature",
    0.1,
    "Temperature of the softmax over cosine similarities in similarity.png.",
    POSITIVE,
)
define_number(
    "top_p",
    None,
    "Keep only the most similar patches whose probabilities sum to this fraction in similarity.png; default "
    "all.",
    FACTOR,
)
flags.DEFINE_string(
    "layer",
    None,
    "Features that nearest compares: embedding, output or 'block 3'; default as --blocks says.",
)
define_block_flag("norm", "nearest and projection show")
flags.DEFINE_integer(
    "choosing_images",
    2000,
    "Number of training images that --blocks=auto chooses the block by.",
    lower_bound=20,
)


class Images(NamedTuple):
    """Images as the model takes them, (…, height, width, channels).

    Attributes:
        shown: those that are drawn.
        captions: of each, its class and the name of its file.
        others: those they are compared with.
        other_captions: of each.
        labels: of the others, or None.
        class_names: of the labels, or none.
    """

    shown: np.ndarray
    captions: list[str]
    others: np.ndarray
    other_captions: list[str]
    labels: np.ndarray | None
    class_names: tuple[str, ...]


def check_flags() -> None:
    """Refuse before the work what would fail after it."""
    if unknown := set(FLAGS.pictures) - set(PICTURES):
        raise ValueError(
            f"--pictures has no {', '.join(unknown)}; known are {', '.join(PICTURES)}."
        )
    if FLAGS.patch and not (len(FLAGS.patch) == 2 and all(n.isdigit() for n in FLAGS.patch)):
        raise ValueError(f"--patch={','.join(FLAGS.patch)} must be ROW,COLUMN, such as 3,2.")
    if (Path(FLAGS.output).expanduser() / "flags.txt").exists():
        raise ValueError(
            f"--output={FLAGS.output} is the folder of a run, which has pictures and a report of its own; "
            f"name another, such as {FLAGS.output}/pictures."
        )


def load_model() -> keras.Model:
    """Load the model as what it was trained as; of a backbone alone, the pretrainer."""
    given = settle_model()
    say(given.notes)
    check_weights("--model", FLAGS.model)
    kind = interop.model_class(FLAGS.model)
    if kind is nepa_keras.NepaBackbone or issubclass(kind, nepa_keras.NepaPretrainer):
        return nepa_keras.NepaPretrainer.from_preset(
            FLAGS.model, ema=given.ema, image_size=FLAGS.image_size
        )
    if OF_PREDICTIONS & set(FLAGS.pictures):
        print(
            f"{FLAGS.model} was fine-tuned: what it predicts as next embedding ("
            f"{', '.join(sorted(OF_PREDICTIONS))}) is no longer trained"
        )
    return kind.from_preset(FLAGS.model, ema=given.ema, image_size=FLAGS.image_size)


def load_images(model) -> Images:
    """Load the shown images and the others."""
    *size, channels = model.backbone.image_shape
    shown = np.zeros((0, *size, channels), "float32")
    if FLAGS.images:
        convert = data.NepaImageConverter(
            tuple(size), resize_to=max(size), channels=channels, value_range=FLAGS.value_range
        )
        shown = convert(FLAGS.images)
    wanted = 0 if FLAGS.images else FLAGS.num_images
    compared = FLAGS.other_images if OF_OTHERS & set(FLAGS.pictures) else 0
    check_data("--data", FLAGS.data)
    source = data.open_source(
        FLAGS.data,
        FLAGS.split or test_split(FLAGS.data) or "train",
        **source_options(FLAGS.data),
    )
    say(source.notes)
    say_range(source, FLAGS.value_range)
    order = np.random.default_rng(FLAGS.seed).permutation(len(source))[: wanted + compared]
    batches = data.OrderedBatches(
        source,
        64,
        tuple(size),
        data.CenterCrop(max(size)),
        channels,
        indices=order,
        bad_images=data.BadImages(len(source), share=1.0),
        value_range=FLAGS.value_range,
    )
    parts = list(batches) if len(order) else []
    for reason in batches.bad_images.reasons.values():
        print(f"left out: {reason}")
    read = np.concatenate([np.zeros_like(shown[:0]), *[images for images, _ in parts]])
    indices = np.concatenate([np.zeros(0, int), *[number for _, number in parts]])
    shown, others = np.concatenate([shown, read[:wanted]]), read[wanted:]
    if not len(shown):
        raise ValueError(f"--data={FLAGS.data} has no image that can be read.")
    if compared and len(others) < FEWEST:
        needing = ", ".join(name for name in FLAGS.pictures if name in OF_OTHERS)
        raise ValueError(
            f"--data={FLAGS.data} leaves {len(others)} images to compare with, and {needing} want {FEWEST}: "
            "give more images, fewer --num_images, or other --pictures."
        )
    captions = [caption(source, int(index)) for index in indices]
    given = [Path(path).name for path in FLAGS.images]
    return Images(
        shown,
        [*map(printable, given), *captions[:wanted]],
        others,
        captions[wanted:],
        None if source.labels is None else source.labels[indices[wanted:]],
        source.class_names or (),
    )


def caption(source, index: int) -> str:
    """The class of an image, if it has one, above the name of its file."""
    name = Path(source.name(index)).name
    if source.labels is None:
        return printable(name)
    names = source.class_names or [f"class {k}" for k in range(int(np.max(source.labels)) + 1)]
    if source.multi_label and not source.class_names:
        names = [f"class {k}" for k in range(source.labels.shape[1])]
    return "\n".join(
        map(printable, (class_scores.caption(source.labels[index], names), name))
    ).strip()


def block_of_features(model) -> int:
    """The number of the block that --blocks names; "auto" chooses it by labels of training images."""
    if FLAGS.blocks != AUTO:
        (block,) = given_blocks([FLAGS.blocks], model.backbone.num_layers)
        return block
    try:
        source = open_labelled("--data", FLAGS.data, "train", **source_options(FLAGS.data))
    except ValueError as error:
        raise ValueError(f"--blocks=auto chooses by labels: {error} Name a block.") from None
    *size, channels = model.backbone.image_shape
    order = np.random.default_rng(FLAGS.seed).permutation(len(source))[: FLAGS.choosing_images]
    batches = data.OrderedBatches(
        source,
        64,
        tuple(size),
        data.CenterCrop(max(size)),
        channels,
        indices=order,
        bad_images=data.BadImages(len(source), share=1.0),
        value_range=FLAGS.value_range,
    )
    causal = getattr(model, "use_causal_mask", None)  # a classifier's own, not its backbone's
    choice = evaluation.choose_block(model.backbone, batches, source.labels, "knn", causal)
    print(f"features of {choice}", flush=True)
    return choice.block


def patch_number(model, images) -> int:
    """The patch that --patch names, counted row by row from 0; default the one in the middle."""
    rows, columns = model.backbone.patch_embedding.grid(images.shape)
    row, column = rows // 2, columns // 2
    if FLAGS.patch:
        row, column = (int(n) - 1 for n in FLAGS.patch)
    if not (0 <= row < rows and 0 <= column < columns):
        raise ValueError(
            f"--patch={','.join(FLAGS.patch)} is outside of this model's {rows}x{columns} patches."
        )
    return row * columns + column


def draw(name: str, model, images: Images, block: int, path: Path) -> dict:
    """Draw one picture; returns tables for the report."""
    shown, captions, others = images.shown, images.captions, images.others
    layer = "output" if block == evaluation.AFTER_NORM else evaluation.block_name(block)
    patch = patch_number(model, shown)
    asked = patch if FLAGS.patch else None
    if name == "overview":
        visualization.plot_overview(model, shown[0], path, asked, others)
    elif name == "similarity":
        visualization.plot_similarity(
            model,
            shown,
            path,
            None if asked is None else [asked],
            FLAGS.temperature,
            FLAGS.top_p,
            captions,
        )
    elif name == "attention":
        visualization.plot_attention(model, shown[0], path, patch, caption=captions[0])
    elif name == "error":
        visualization.plot_prediction_error(model, shown, path, captions=captions)
    elif name == "components":
        visualization.plot_patch_components(model, shown, path, captions=captions)
    elif name == "nearest":
        layer = FLAGS.layer or layer
        visualization.plot_nearest_patches(
            model,
            shown,
            others,
            path,
            patch,
            layer,
            captions=captions,
            bank_captions=images.other_captions,
        )
    elif name == "projection":
        causal = getattr(model, "use_causal_mask", None)  # a classifier's own, not its backbone's
        features = evaluation.extract_features(
            model.backbone, others[:200], 32, causal=causal, block=block
        )
        labels = None if images.labels is None else images.labels[:200]
        visualization.plot_projection(
            features, others[:200], path, labels, images.class_names, layer
        )
    else:
        rows, columns = model.backbone.patch_embedding.grid(shown.shape)
        patches = rows * columns
        known = min(max(1, round(FLAGS.known * patches)), patches - 1)
        measured = len(others) // 5
        measured_images = np.concatenate([shown, others[:measured]])
        found = visualization.plot_rollout(
            model, measured_images, others[measured:], path, known, len(shown), captions
        )
        title = f"Cosine to the truth over {patches - known} patches after {known} known ones"
        means = {guess: f"{np.nanmean(cosines):.3f}" for guess, cosines in found.cosines.items()}
        print(title)
        for guess, mean in means.items():
            print(f"  {guess:<12}{mean:>6}")
        return {title: [("guess", "cosine"), *means.items()]}
    return {}


def main():
    with user_errors():
        check_flags()
        require_experiments_extra()
        model = load_model()
    with exit_with_status(), user_errors():
        images = load_images(model)
        patch_number(model, images.shown)
        layers = visualization.patch_features(model, images.shown[:1])
        if FLAGS.layer is not None and FLAGS.layer not in layers:
            raise ValueError(f"--layer={FLAGS.layer}: embedding, output, or 'block 0' and so on.")
        block = block_of_features(model)
    output, tables = Path(FLAGS.output).expanduser(), {}
    for name in FLAGS.pictures:
        with user_errors():
            path = output / f"{name}.{FLAGS.format}"
            tables |= draw(name, model, images, block, path)
        print(f"{keras.backend.backend()}: {path}", flush=True)
    with user_errors():
        shown, captions = images.shown[:4], images.captions[:4]
        print(visualization.write_report(output, model, shown, captions, tables))


if __name__ == "__main__":
    run(main)
