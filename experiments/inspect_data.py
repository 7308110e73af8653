"""Inspect a data set: counts, sizes, classes, unreadable images; convert it to TFRecord files.

    python experiments/inspect_data.py --data=folder:/path/to/images --sheet=sheet.png
    python experiments/inspect_data.py --data=embedded --sheet=seen.png --transform=finetune
    python experiments/inspect_data.py --data=imagenet:/data --convert=/data/records --shorter_side=256
    python experiments/inspect_data.py --data=pairs:/path/to/images_and_masks

--data is required. The script prints counts, sizes, formats, ranges of values, classes, files that are left
out, unreadable images with the reason, and how fast this machine decodes images; for pairs also the content
of the masks. --sheet draws some of the images. --convert writes a copy that is faster to read, TFRecord
shards with a manifest for --data=tfrecord:FOLDER. The exit status is 3 if images are unreadable.
"""

import sys
from pathlib import Path

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

flags.DEFINE_string(
    "data",
    None,
    "Images to inspect: folder:PATH, tfds:NAME and the other kinds of --data of pretrain.py, or images with "
    "masks: pairs:PATH, ade20k:PATH.",
    required=True,
)
flags.DEFINE_string("split", "train", "Split of --data, for sources with several splits.")
define_cache_flags()
define_data_dir_flag()
define_label_flags(several=True)
define_value_range_flag()
flags.DEFINE_integer(
    "channels",
    3,
    "Channels to decode images to: 3 (colour), 1 (grey), or those of .npy files.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "limit",
    None,
    "Number of images to inspect, evenly spaced over the data set; default all.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "threads",
    None,
    "Threads that read and decode images; default one per CPU core.",
    lower_bound=1,
)
flags.DEFINE_string(
    "sheet", None, "PNG file for a contact sheet of up to 64 images; default none is drawn."
)
flags.DEFINE_enum(
    "transform",
    None,
    ["pretrain", "finetune", "evaluate"],
    "Draw the images on the sheet as the model sees them in this recipe of the released scripts, at 224x224 "
    "pixels; default as they are.",
)
flags.DEFINE_string("convert", None, "Folder for a copy of the data set as TFRecord files.")
flags.DEFINE_integer(
    "shorter_side",
    None,
    "Length in pixels to which the shorter side of larger images is reduced in the copy; default none is.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "images_per_shard", 10_000, "Number of images per TFRecord file of the copy.", lower_bound=1
)
define_number(
    "bad_images_share",
    0.001,
    "Largest fraction of unreadable images that the copy leaves out; beyond it the script stops.",
    SHARE,
)
FLAGS = flags.FLAGS
_ON_SHEET = 64  # images
_SEEN = 224  # pixels


def open_data():
    """Open --data; return the source, its channels, and notes on its masks, if any."""
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
    """Draw up to 64 readable images, evenly spaced over the source, with classes and file names."""
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
        captions.append(caption(source, int(index)))
    visualization.plot_contact_sheet(images, captions, FLAGS.sheet)
    print(f"drawn: {FLAGS.sheet}")


def caption(source, index: int) -> str:
    """Class name or names of an image, if it has labels, above the name of its file."""
    name = printable(Path(source.name(index)).name)
    if source.labels is None:
        return name
    names = source.class_names or [str(k) for k in range(int(source.labels.max()) + 1)]
    if source.multi_label:
        names = source.class_names or [str(k) for k in range(source.labels.shape[1])]
    return f"{printable(class_scores.caption(source.labels[index], names))}\n{name}"


def main():
    if FLAGS.transform and not FLAGS.sheet:
        end(1, "--transform applies to the contact sheet; give --sheet=FILE too.")
    if FLAGS.shorter_side and not FLAGS.convert:
        end(1, "--shorter_side applies to the copy; give --convert=FOLDER too.")
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
