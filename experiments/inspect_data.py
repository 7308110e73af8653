"""What is in a data set, what is wrong with it, and a faster copy of it.

    python experiments/inspect_data.py --data=folder:/path/to/images --sheet=sheet.png
    python experiments/inspect_data.py --data=embedded --sheet=seen.png --transform=finetune
    python experiments/inspect_data.py --data=imagenet:/data --convert=/data/records --shorter_side=256
    python experiments/inspect_data.py --data=pairs:/path/to/images_and_masks

Prints counts, sizes, formats, ranges of values, classes, what is left out, the images that cannot be read
with the reason, and how fast this machine decodes them; of pairs, also what their masks hold. --convert
writes TFRecord shards with a manifest, for --data=tfrecord:FOLDER.
"""

import sys

import before_keras  # noqa: F401
import class_scores
import numpy as np
from absl import flags
from command_line import check_file_to_write, end, run, user_errors
from inputs import check_data, say
from label_flags import define_label_flags, source_options
from number_flags import SHARE, define_number
from shared_flags import define_cache_flags, define_data_dir_flag, define_value_range_flag

from nepa_keras import data, visualization
from nepa_keras.data import segmentation
from nepa_keras.files import printable

flags.DEFINE_string("data", None, "as of pretrain.py: folder:PATH, tfds:NAME, …", required=True)
flags.DEFINE_string("split", "train", "of sources that have several")
define_cache_flags()
define_data_dir_flag()
define_label_flags(several=True)
define_value_range_flag()
flags.DEFINE_integer("channels", 3, "as of pretrain.py", lower_bound=1)
flags.DEFINE_integer("limit", None, "look at so many images, evenly over all", lower_bound=1)
flags.DEFINE_integer("threads", None, "that read and decode; default one per core", lower_bound=1)
flags.DEFINE_string("sheet", None, "picture to draw of up to 64 of the images")
flags.DEFINE_enum(
    "transform",
    None,
    ["pretrain", "finetune", "evaluate"],
    "draw on the sheet what a model sees of each image in that recipe of the released scripts, 224 pixels "
    "wide",
)
flags.DEFINE_string("convert", None, "folder to write a copy to, as TFRecord files")
flags.DEFINE_integer("shorter_side", None, "of larger images in the copy, in pixels", lower_bound=1)
flags.DEFINE_integer("images_per_shard", 10_000, "in a file of the copy", lower_bound=1)
define_number("bad_images_share", 0.001, "that the copy may leave out", SHARE)
FLAGS = flags.FLAGS
_ON_SHEET = 64
_SEEN = 224


def open_data():
    """The images of --data, their channels, and notes on their masks, if they have any."""
    if FLAGS.data.partition(":")[0] not in segmentation.KINDS:
        check_data("--data", FLAGS.data)
        options = source_options(FLAGS.data)
        source = data.open_source(FLAGS.data, FLAGS.split, with_labels=True, **options)
        return source, FLAGS.channels, ()
    if FLAGS.sheet or FLAGS.convert:
        raise ValueError(
            f"--sheet and --convert are not for images with masks, --data={FLAGS.data}."
        )
    if given := set(source_options(FLAGS.data)) - {"data_dir"}:
        raise ValueError(f"--{min(given)} is not for images with masks, --data={FLAGS.data}.")
    split = FLAGS.split if segmentation.splits_of(FLAGS.data) else None
    source = segmentation.open_pairs(FLAGS.data, split, value_range=FLAGS.value_range)
    return source, source.channels + 1, segmentation.mask_notes(source)


def draw_sheet(source):
    """Up to 64 readable images, evenly over the source, with their classes."""
    transforms = {
        "pretrain": data.RandomResizedCrop,
        "finetune": data.FinetuningTransform,
        "evaluate": data.CenterCrop,
    }
    transform = transforms[FLAGS.transform]() if FLAGS.transform else None
    images, captions = [], []
    for index in np.linspace(0, len(source) - 1, min(_ON_SHEET, len(source))).astype(int):
        try:
            pixels = data.decode_image(source.read(int(index)), FLAGS.channels, FLAGS.value_range)
        except data.ImageError:
            continue
        images.append(transform.preview(pixels, _SEEN, index=index) if transform else pixels)
        captions.append(printable(caption(source, index)))
    visualization.plot_contact_sheet(images, captions, FLAGS.sheet)
    print(f"drawn: {FLAGS.sheet}")


def caption(source, index: int) -> str:
    """The class of an image, or the classes that it shows; of one without a label nothing."""
    if source.labels is None:
        return ""
    names = source.class_names or [str(k) for k in range(int(source.labels.max()) + 1)]
    if source.multi_label:
        names = source.class_names or [str(k) for k in range(source.labels.shape[1])]
    return class_scores.caption(source.labels[index], names)


def main():
    if FLAGS.transform and not FLAGS.sheet:
        end(1, "--transform is of the images on the sheet that --sheet=FILE draws.")
    if FLAGS.shorter_side and not FLAGS.convert:
        end(1, "--shorter_side is of the copy that --convert=FOLDER writes.")
    with user_errors():
        check_file_to_write("--sheet", FLAGS.sheet)
        source, channels, notes = open_data()
        found = data.inspect_source(source, channels, FLAGS.limit, FLAGS.threads, FLAGS.value_range)
        print(found)
        say(notes)
        if FLAGS.sheet:
            draw_sheet(source)
        if FLAGS.convert:
            manifest = data.copy_to_records(
                source,
                FLAGS.convert,
                FLAGS.shorter_side,
                FLAGS.channels,
                FLAGS.images_per_shard,
                data.BadImages(len(source), FLAGS.bad_images_share),
                FLAGS.threads,
                FLAGS.value_range,
            )
            size = sum(shard["bytes"] for shard in manifest["shards"])
            print(
                f"written: {FLAGS.convert}, {manifest['images']:,} images in "
                f"{len(manifest['shards'])} files of {size:,} bytes; train on it with "
                f"--data=tfrecord:{FLAGS.convert}"
            )
    if found.bad and not FLAGS.convert:
        sys.exit(3)


if __name__ == "__main__":
    run(main)
