"""Folders of JPEG and PNG files through `tf.data`; the only part of the library that needs TensorFlow."""

from pathlib import Path

from nepa_keras.data.augment import AREA, ASPECT, sides

SUFFIXES = (".jpg", ".jpeg", ".png")


def image_files(path: str | Path) -> list[str]:
    """The JPEG and PNG files below a folder, sorted.

    Raises:
        ValueError: the folder is missing, or holds no such file.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}; pass an existing one as folder:PATH.")
    files = sorted(
        str(f) for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file()
    )
    if not files:
        raise ValueError(f"The folder {folder} holds no file ending in {', '.join(SUFFIXES)}.")
    return files


def image_folder(
    path: str | Path,
    image_size: int | tuple[int, int],
    batch_size: int,
    seed: int = 1337,
    augment: bool = True,
    channels: int = 3,
):
    """An endless `tf.data.Dataset` of float32 batches in [-1, 1], in an order fixed by the seed.

    Args:
        path: folder with JPEG or PNG files at any depth.
        image_size: one side or (height, width); reached by random resized crop and flip, or by plain
            resizing.
        batch_size: images per batch.
        seed: of order and augmentation.
        augment: whether to crop and flip at random.
        channels: 3 for colour, 1 for grey.

    Raises:
        ImportError: TensorFlow is not installed.
        ValueError: no folder, no images, fewer images than a batch, or (while iterating) a file that
            cannot be decoded.
    """
    try:
        import tensorflow as tf
    except ImportError:
        raise ImportError(
            "Reading image folders uses tf.data: install TensorFlow (pip install tensorflow-cpu), "
            "whichever backend trains, or use in-memory data."
        ) from None
    files = image_files(path)
    if len(files) < batch_size:
        raise ValueError(f"{path} holds {len(files)} images, fewer than a batch of {batch_size}.")
    size = sides(image_size)

    def decode(file):
        try:
            return tf.io.decode_image(
                tf.io.read_file(file), channels, expand_animations=False
            ).numpy()
        except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
            raise ValueError(
                f"{file.numpy().decode()} is not a readable image; remove or replace it."
            ) from error

    def read(file, index):
        image = tf.py_function(decode, [file], tf.uint8)
        image.set_shape((None, None, channels))
        image = tf.image.convert_image_dtype(image, tf.float32)
        if augment:
            seeds = tf.random.split(tf.stack([tf.cast(seed, tf.int64), index]), 2)
            begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
                tf.shape(image),
                tf.zeros((1, 0, 4)),
                seeds[0],
                min_object_covered=0.0,
                aspect_ratio_range=ASPECT,
                area_range=AREA,
                use_image_if_no_bounding_boxes=True,
            )
            image = tf.slice(image, begin, extent)
            image = tf.image.stateless_random_flip_left_right(image, seeds[1])
        image = tf.image.resize(image, size, antialias=True)
        image.set_shape((*size, channels))
        return image * 2.0 - 1.0

    order = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files), seed=seed)
    indexed = order.repeat().enumerate().map(lambda index, file: (file, index))
    images = indexed.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return images.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
