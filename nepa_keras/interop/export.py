"""Export of models in the official format, and as files for serving."""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import keras

from nepa_keras.data import NepaImageConverter
from nepa_keras.files import replacing
from nepa_keras.presets import backbone_of
from nepa_keras.presets.folder import write_checkpoint, write_preprocessor
from nepa_keras.presets.official import official_tensors
from nepa_keras.presets.official_config import official_config
from nepa_keras.presets.preset import config_of_source, preprocessor_of_source
from nepa_keras.training import ema_weights


def export_huggingface(
    model: keras.Model,
    folder: str | Path,
    ema: bool = False,
    converter: NepaImageConverter | None = None,
    drop_path_rate: float | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write `config.json`, `preprocessor_config.json` and `model.safetensors` in the official format.

    Args:
        model: a `NepaPretrainer`, `NepaImageClassifier`, or a backbone, which is written as pretrained.
        folder: created if missing.
        ema: write the averaged weights in place of the trained ones.
        converter: image preprocessing; default that of the checkpoint the model was loaded from, else plain
            resizing to the size of the model.
        drop_path_rate: rate for training with the authors' code; default that of the model.
        class_names: names for a classifier; default those of the model, else LABEL_0 and so on.

    Raises:
        ValueError: the model has no averaged weights or another number of classes, or the converter returns
            images of another size.

    Example:
        >>> export_huggingface(backbone, "official")
        >>> same = nepa_keras.NepaBackbone.from_preset("official")
    """
    backbone = backbone_of(model)
    config = official_config(model, backbone, config_of_source(model), drop_path_rate, class_names)
    *size, channels = backbone.image_shape
    if converter is not None and (*converter.image_size, converter.channels) != (*size, channels):
        raise ValueError(
            f"The converter returns images of {(*converter.image_size, converter.channels)}, but the model "
            f"takes {(*size, channels)}; give both the same size."
        )
    with ema_weights(model) if ema else nullcontext():
        write_checkpoint(folder, config, official_tensors(model))
    write_preprocessor(preprocessor_config_of(model, converter), folder)


def preprocessor_config_of(model: keras.Model, converter: NepaImageConverter | None = None) -> dict:
    """Return the content of the `preprocessor_config.json` that `export_huggingface` writes."""
    preprocessor = preprocessor_of_source(model)
    if converter is None and preprocessor is not None:
        return preprocessor
    *size, channels = backbone_of(model).image_shape
    return (converter or NepaImageConverter(tuple(size), channels=channels)).official_config()


def replace_huggingface(
    model: keras.Model, folder: str | Path, converter: NepaImageConverter | None = None
) -> None:
    """Run `export_huggingface` atomically: the folder is complete at any moment; see `files.replacing`."""
    with replacing(folder) as unfinished:
        export_huggingface(model, unfinished, converter=converter)


def export_saved_model(model: keras.Model, folder: str | Path) -> None:
    """Write a TensorFlow SavedModel whose endpoint `serve` computes `model(images)`.

    Works on the backends tensorflow and jax; the latter needs TensorFlow installed too.

    Args:
        model: a backbone (features) or classifier (logits); the batch size is dynamic.
        folder: created; an existing export in it is replaced.

    Raises:
        NotImplementedError: the backend is torch.
        ImportError: TensorFlow is missing.
    """
    model.export(folder, format="tf_saved_model", verbose=False)


def export_onnx(model: keras.Model, path: str | Path) -> None:
    """Write an ONNX file that computes `model(images)`.

    Works on the backends tensorflow (with tf2onnx) and torch; `pip install 'nepa_keras[onnx]'` installs what
    either needs. The outputs of a backbone are `embeddings` and `sequence_output` in this order; PyTorch's
    exporter names them by numbers.

    Args:
        model: a backbone (features) or classifier (logits) that computes in float32; the batch size is
            dynamic, the image size is fixed.
        path: file to write; an existing one is replaced.

    Raises:
        NotImplementedError: the backend is jax.
        ImportError: a package is missing.
        ValueError: the model computes in another dtype.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():  # tracers warn about Python numbers that become constants
        warnings.simplefilter("ignore")
        model.export(path, format="onnx", verbose=False)
