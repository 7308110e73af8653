r"""What a model looks at, expects and finds surprising: pictures of any images and any model.

    KERAS_BACKEND=jax python experiments/visualize.py --model=runs/mine/ema --output=runs/mine/pictures
    KERAS_BACKEND=jax python experiments/visualize.py --model=hf://SixAILab/nepa-base-patch14-224 \
        --data=folder:/path/to/images --pictures=rollout,attention --output=pictures

similarity.png   where in the image the next patch's predicted embedding finds its match
attention.png    where one patch looks, in every block and head, and through all blocks
error.png        which patches were predicted badly
components.png   patch features of every layer as colours, one basis for all images
nearest.png      the patches of other images that are nearest to one patch
projection.png   images on the plane of the first two components of their features
rollout.png      the model goes on from the first patches, reading its own predictions
report.html      all of these, and a page on which each patch can be asked where it looks and what it expects

The images are drawn at random (--seed) from --data, the shown ones and those they are compared with.
"""

from pathlib import Path

import before_keras  # noqa: F401
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

FLAGS = flags.FLAGS
PICTURES = ("similarity", "attention", "error", "components", "nearest", "projection", "rollout")
OF_PREDICTIONS = {"similarity", "error", "rollout"}
OF_OTHERS, FEWEST = {"nearest", "projection", "rollout"}, 4  # need more images than the shown ones
flags.DEFINE_string("model", None, f"Model: {MODEL}", required=True)
define_weights_flag()
flags.DEFINE_string("data", "embedded", "As of pretrain.py.")
flags.DEFINE_string("split", None, "Of sources that have several; default their test split.")
define_cache_flags()
define_data_dir_flag()
define_label_flags()
define_value_range_flag()
define_image_size_flag()
flags.DEFINE_list("images", [], "Picture files to show in place of images of --data.")
flags.DEFINE_integer("num_images", 6, "Images to show.", lower_bound=1)
flags.DEFINE_integer("other_images", 500, "To compare them with.", lower_bound=4)
flags.DEFINE_integer("seed", 1, "Of the choice of images.", lower_bound=0)
flags.DEFINE_list("pictures", list(PICTURES), f"Of {', '.join(PICTURES)}.")
flags.DEFINE_string("output", None, "Folder for the pictures.", required=True)
flags.DEFINE_list(
    "patch", [], "ROW,COLUMN, counted from 1, of the patch that is asked about; default the middle."
)
define_number("known", 0.5, "Share of the patches that rollout is given.", SHARE)
define_number("temperature", 0.1, "Of similarity.", POSITIVE)
define_number("top_p", None, "Of similarity: keep only the best patches with this share.", FACTOR)
flags.DEFINE_string(
    "layer", None, "Of nearest: embedding, output or 'block 3'; default as --blocks says."
)
define_block_flag("norm", "nearest and projection show")
flags.DEFINE_integer(
    "choosing_images", 2000, "Training images that --blocks=auto looks at.", lower_bound=20
)


def check_flags() -> None:
    """Notices before the work what would fail after it."""
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
    """The model as what it was trained as; of a backbone alone, the pretrainer."""
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


def load_images(model) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, tuple]:
    """Shown images and others, as the model takes them, and labels and class names of the others."""
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
    labels = None if source.labels is None else source.labels[indices[wanted:]]
    return shown, others, labels, source.class_names or ()


def block_of_features(model) -> int:
    """The block of --blocks; auto chooses by labels of training images, and says so."""
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
    """--patch counted row by row; default the one in the middle."""
    rows, columns = model.backbone.patch_embedding.grid(images.shape)
    row, column = rows // 2, columns // 2
    if FLAGS.patch:
        row, column = (int(n) - 1 for n in FLAGS.patch)
    if not (0 <= row < rows and 0 <= column < columns):
        raise ValueError(
            f"--patch={','.join(FLAGS.patch)} is outside of this model's {rows}x{columns} patches."
        )
    return row * columns + column


def draw(name: str, model, shown, others, labels, class_names, block: int, path: Path) -> dict:
    """One picture; returns tables for the report."""
    layer = "output" if block == evaluation.AFTER_NORM else evaluation.block_name(block)
    patch = patch_number(model, shown)
    if name == "similarity":
        queries = [patch] if FLAGS.patch else None
        visualization.plot_similarity(model, shown, path, queries, FLAGS.temperature, FLAGS.top_p)
    elif name == "attention":
        visualization.plot_attention(model, shown[0], path, patch)
    elif name == "error":
        visualization.plot_prediction_error(model, shown, path)
    elif name == "components":
        visualization.plot_patch_components(model, shown, path)
    elif name == "nearest":
        layer = FLAGS.layer or layer
        visualization.plot_nearest_patches(model, shown, others, path, patch, layer)
    elif name == "projection":
        causal = getattr(model, "use_causal_mask", None)  # a classifier's own, not its backbone's
        features = evaluation.extract_features(
            model.backbone, others[:200], 32, causal=causal, block=block
        )
        shown_labels = None if labels is None else labels[:200]
        visualization.plot_projection(
            features, others[:200], path, shown_labels, class_names, layer
        )
    else:
        rows, columns = model.backbone.patch_embedding.grid(shown.shape)
        patches = rows * columns
        known = min(max(1, round(FLAGS.known * patches)), patches - 1)
        measured = len(others) // 5
        images = np.concatenate([shown, others[:measured]])
        found = visualization.plot_rollout(
            model, images, others[measured:], path, known, len(shown)
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
        shown, others, labels, class_names = load_images(model)
        patch_number(model, shown)
        layers = visualization.patch_features(model, shown[:1])
        if FLAGS.layer is not None and FLAGS.layer not in layers:
            raise ValueError(f"--layer={FLAGS.layer}: embedding, output, or 'block 0' and so on.")
        block = block_of_features(model)
    output, tables = Path(FLAGS.output).expanduser(), {}
    for name in FLAGS.pictures:
        with user_errors():
            path = output / f"{name}.png"
            tables |= draw(name, model, shown, others, labels, class_names, block, path)
        print(f"{keras.backend.backend()}: {path}", flush=True)
    with user_errors():
        print(visualization.write_report(output, model, shown[:4], tables=tables))


if __name__ == "__main__":
    run(main)
