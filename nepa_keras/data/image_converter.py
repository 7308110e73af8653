"""Conversion of images to the input of a model, as in a checkpoint's `preprocessor_config.json`."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nepa_keras.data.decode import ImageError, decode_image, read_file
from nepa_keras.data.pictures import to_eight_bits
from nepa_keras.data.pixels import ValueRange, checked_range, eight_bits
from nepa_keras.data.stored_ranges import range_note, stored_range
from nepa_keras.data.transforms.crops import (
    CenterCrop,
    ImageTransform,
    Resize,
    center_of,
    resized_size,
)
from nepa_keras.data.transforms.resample import sides
from nepa_keras.files import printable
from nepa_keras.presets.folder import preprocessor_of_size, write_preprocessor
from nepa_keras.presets.preset import preprocessor_config

# Pillow's interpolation codes, as used in `preprocessor_config.json`.
_INTERPOLATIONS = {"nearest": 0, "bilinear": 2, "bicubic": 3}


class NepaImageConverter:
    """Resize, crop and normalise images for a model.

    Args:
        image_size: size of the result in pixels, one side or (height, width).
        resize_to: length to which the shorter side is resized, keeping the aspect ratio, or (height, width)
            to which the image is resized, before the centre is cropped. None resizes directly to
            `image_size`, ignoring the aspect ratio.
        interpolation: "bilinear", "bicubic" or "nearest"; the first two with antialias.
        mean, std: mean and standard deviation of each channel after division by 255.
        channels: 3 for RGB, 1 for grey.
        value_range: (lowest, highest) value that become black and white, such as (0, 4095) for 12-bit data in
            16-bit files; for images of more than 8 bits.

    Call arguments:
        images: one image or a sequence of images: a path, a PIL image, or an array or tensor
            (height, width, channels), uint8, floats in [0, 1], or with `value_range` any integers or floats;
            or one array (B, height, width, channels).

    Returns:
        float32 (B, *image_size, channels).

    Raises:
        ValueError: a file is not an image, or an array has another shape or range.

    Example:
        >>> converter = data.NepaImageConverter(image_size=28, channels=1)
        >>> logits = classifier.predict(converter(["pictures/cats/0.png"]), verbose=0)
        >>> tuple(logits.shape)
        (1, 10)
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 224,
        resize_to: int | tuple[int, int] | None = None,
        interpolation: str = "bilinear",
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        channels: int = 3,
        value_range: ValueRange | None = None,
    ):
        if interpolation not in _INTERPOLATIONS:
            raise ValueError(
                f"interpolation must be one of {', '.join(_INTERPOLATIONS)}, got {interpolation!r}."
            )
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}.")
        self.image_size = sides(image_size)
        if min(self.image_size) < 1:
            raise ValueError(f"image_size must be positive, got {image_size}.")
        if resize_to is not None and (np.array(sides(resize_to)) < self.image_size).any():
            raise ValueError(
                f"resize_to={resize_to} leaves less than the {self.image_size} pixels to cut out; give a "
                f"side of at least {max(self.image_size)}, or a height and a width that are no smaller."
            )
        self.resize_to = resize_to
        self.interpolation = interpolation
        self.channels = channels
        self.value_range = checked_range(value_range)
        self.mean = np.broadcast_to(np.asarray(mean, "float32"), (channels,))
        self.std = np.broadcast_to(np.asarray(std, "float32"), (channels,))
        if not (self.std > 0).all():
            raise ValueError(f"std must be positive, got {std}.")

    def __call__(self, images: Any) -> np.ndarray:
        if isinstance(images, list | tuple):
            pictures = list(images)
        elif len(getattr(images, "shape", ())) == 4:
            pictures = list(_as_array(images))
        else:
            pictures = [images]
        if not pictures:
            raise ValueError("images is empty; give at least one image.")
        return np.stack([self._convert(picture) for picture in pictures])

    def _convert(self, picture) -> np.ndarray:
        from PIL import Image

        image = self._open(picture)
        height, width = self.image_size
        resample = Image.Resampling(_INTERPOLATIONS[self.interpolation])
        if self.resize_to is None:
            image = image.resize((width, height), resample)
        else:
            size = resized_size(self.resize_to, image.height, image.width)
            image = image.resize(size[::-1], resample)
            top, left = center_of(size, self.image_size)
            image = image.crop((left, top, left + width, top + height))
        pixels = np.asarray(image, "float32").reshape(height, width, self.channels)
        return (pixels / np.float32(255) - self.mean) / self.std

    def _open(self, picture):
        """Upright 8-bit PIL image of a path, a PIL image, an array or a tensor."""
        from PIL import Image

        mode = "RGB" if self.channels == 3 else "L"
        if isinstance(picture, str | Path):
            try:
                content = read_file(picture)
                pixels = decode_image(content, self.channels, self.value_range)
            except ImageError as error:
                raise ValueError(
                    f"{printable(str(picture))} is not a readable image: {error}"
                ) from None
            if note := self.value_range is None and range_note([stored_range(content)]):
                warnings.warn(f"{printable(str(picture))}: {note}", stacklevel=4)
            return Image.fromarray(pixels if self.channels == 3 else pixels[..., 0])
        if isinstance(picture, Image.Image):
            return to_eight_bits(picture, mode, self.value_range)
        array = _as_array(picture)
        if array.size == 0:
            raise ValueError(f"An image must have pixels, got shape {array.shape}.")
        if array.ndim == 3 and array.shape[-1] == 1:
            array = array[..., 0]
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3):
            raise ValueError(f"An image must be (height, width, 3 or 1), got {array.shape}.")
        if array.dtype == np.uint16 and self.value_range is None:
            raise ValueError(
                f"uint16 values from {array.min()} to {array.max()}: say with value_range which are black "
                "and white, such as (0, 65535)."
            )
        return Image.fromarray(eight_bits(array, self.value_range)).convert(mode)

    def transform(self) -> ImageTransform:
        """Transform that does the same in `AugmentedBatches` and `OrderedBatches`.

        Raises:
            ValueError: mean or std differ from 0.5, or the interpolation is "nearest".
        """
        if not (np.allclose(self.mean, 0.5) and np.allclose(self.std, 0.5)):
            raise ValueError(
                f"Batches have pixels in [-1, 1], not of mean {self.mean} and std {self.std}."
            )
        if self.resize_to is None:
            return Resize(self.interpolation)
        return CenterCrop(self.resize_to, self.interpolation)

    @classmethod
    def from_preset(
        cls, preset: str | Path, image_size: int | tuple[int, int] | None = None
    ) -> "NepaImageConverter":
        """Converter of a preset: its name, a local folder, or `hf://owner/name[@revision]`.

        Args:
            preset: name, folder or address of the preset.
            image_size: side or (height, width) of the result instead of the preset's; the size before the
                crop is scaled accordingly.

        Raises:
            ValueError: there is no converter, or `preprocessor_config.json` asks for something unsupported.
        """
        config = preprocessor_config(preset)
        converter = cls.from_official_config(config)
        if image_size is None:
            return converter
        resized = preprocessor_of_size(config, converter.image_size, sides(image_size))
        return cls.from_official_config(resized)

    def save_to_preset(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json` into a folder, which is created if missing."""
        write_preprocessor(self.official_config(), folder)

    def official_config(self) -> dict:
        """Content of a `preprocessor_config.json`."""
        height, width = self.image_size
        config = {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [float(m) for m in self.mean],
            "image_processor_type": "ViTImageProcessorFast",  # ViTImageProcessor does not crop
            "image_std": [float(s) for s in self.std],
            "resample": _INTERPOLATIONS[self.interpolation],
            "rescale_factor": 1 / 255,
            "size": {"height": height, "width": width},
        }
        if self.value_range is not None:  # a key of this library, not of the official files
            config["value_range"] = list(self.value_range)
        if self.resize_to is not None:
            if np.ndim(self.resize_to):
                config["size"] = dict(zip(("height", "width"), sides(self.resize_to), strict=True))
            else:
                config["size"] = {"shortest_edge": self.resize_to}
            config |= {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
        return config

    @classmethod
    def from_official_config(cls, config: dict) -> "NepaImageConverter":
        """Converter of the content of a `preprocessor_config.json`.

        Raises:
            ValueError: it asks for something this converter does not support.
        """
        try:
            return cls._from_official_config(config)
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"preprocessor_config.json: a value is of the wrong kind ({error})."
            ) from None

    @classmethod
    def _from_official_config(cls, config: dict) -> "NepaImageConverter":
        name = "preprocessor_config.json"
        for key in ("do_normalize", "do_rescale", "do_resize"):
            if config.get(key, True) is not True:
                raise ValueError(f"{name}: {key} must be true, is {config[key]!r}.")
        if abs(config.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
            raise ValueError(
                f"{name}: rescale_factor must be 1/255, is {config['rescale_factor']!r}."
            )
        codes = {code: words for words, code in _INTERPOLATIONS.items()}
        if config.get("resample", 2) not in codes:
            raise ValueError(f"{name}: resample must be 0, 2 or 3, is {config['resample']!r}.")
        size, resize_to = config.get("size", 224), None
        if isinstance(size, dict) and set(size) == {"shortest_edge"}:
            resize_to, size = size["shortest_edge"], config.get("crop_size")
            if not config.get("do_center_crop"):
                raise ValueError(f"{name}: size by shortest_edge needs do_center_crop.")
        elif config.get("do_center_crop"):
            if not isinstance(size, dict):
                raise ValueError(f"{name}: do_center_crop needs a size with names.")
            resize_to, size = (size["height"], size["width"]), config.get("crop_size")
        if isinstance(size, dict) and set(size) == {"height", "width"}:
            size = (size["height"], size["width"])
        if not isinstance(size, int | tuple):
            raise ValueError(f"{name}: size must be a side or height and width, is {size!r}.")
        mean, std = config.get("image_mean", [0.5] * 3), config.get("image_std", [0.5] * 3)
        value_range = config.get("value_range")
        return cls(
            size, resize_to, codes[config.get("resample", 2)], mean, std, len(mean), value_range
        )


def _as_array(tensor) -> np.ndarray:
    if isinstance(tensor, np.ndarray):
        return tensor
    from keras import ops

    return np.asarray(ops.convert_to_numpy(tensor))
