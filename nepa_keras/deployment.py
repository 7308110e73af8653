"""Use of trained models: `predict`, `export`, and quantization that is saved with a model."""

import gc
import json
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np

from nepa_keras import backends
from nepa_keras.presets import backbone_of
from nepa_keras.symbolic import Symbolic

_LARGEST_ONNX_OF_TENSORFLOW = 25_000_000  # weights; converting them needs 3 GiB of memory
_WRITTEN_ELSEWHERE = {
    ("jax", "onnx"): "tensorflow or torch",  # jax2onnx fails for a free batch size
    ("torch", "tf_saved_model"): "tensorflow or jax",
}


def as_batches(x: Any) -> Any:
    """Prepare data for Keras: turn an iterator of arrays into one of tuples; return other data unchanged.

    Raises:
        ValueError: x is a list, which Keras would take for several inputs, or has no images.
    """
    if isinstance(x, list):
        raise ValueError(f"x is a list of {len(x)}, but one array is needed; pass np.stack(x).")
    if isinstance(x, np.ndarray) and len(x) == 0:
        raise ValueError(f"There are no images in x, an array of shape {x.shape}.")
    if isinstance(x, Iterator):
        return ((batch,) if hasattr(batch, "shape") else batch for batch in x)
    return x


def _check_export(model, format):
    """Refuse formats that the backend's exporter cannot write, with a clearer message than its own."""
    backend = keras.backend.backend()
    if (backend, format) in _WRITTEN_ELSEWHERE:
        raise NotImplementedError(
            f"{format} cannot be written on the {backend} backend; keep the model with save_to_preset, and "
            f"export it with KERAS_BACKEND={_WRITTEN_ELSEWHERE[backend, format]}."
        )
    if format != "onnx":
        return
    package = {"tensorflow": "tf2onnx", "torch": "onnxscript"}[backend]
    if find_spec(package) is None:
        raise ImportError(
            f"ONNX export on {backend} needs {package}; pip install 'nepa_keras[onnx]'."
        )
    if model.compute_dtype != "float32":
        raise ValueError(
            f"ONNX export is for models that compute in float32, not {model.compute_dtype}; load the "
            'model with from_preset(..., dtype="float32").'
        )
    count = model.count_params()
    if backend == "tensorflow" and count > _LARGEST_ONNX_OF_TENSORFLOW:
        raise ValueError(
            f"TensorFlow's converter to ONNX takes about 30 times the memory of the weights, here "
            f"{30 * 4 * count / 2**30:.0f} GiB; keep the model with save_to_preset, and export it with "
            "KERAS_BACKEND=torch."
        )


def _run_onnx(path):
    """Run an ONNX file on zeros: a converter may write a file that cannot be run."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path))
        for each in session.get_inputs():
            shape = [size if isinstance(size, int) else 1 for size in each.shape]
            session.run(None, {each.name: np.zeros(shape, "float32")})
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise RuntimeError(f"{path} was written, but it does not run: {error}") from error


class Deployable(Symbolic, backends.Model):
    """Base of all models: `export` for images of the model's size, and quantization in the configuration.

    Attributes:
        image_shape: (height, width, channels) of the model or its backbone.
    """

    def predict(self, x: Any, *args, **kwargs) -> Any:
        """Call `keras.Model.predict`; x may also be a generator of arrays."""
        return super().predict(as_batches(x), *args, **kwargs)

    def export(
        self,
        filepath: str | Path,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: list | None = None,
        **kwargs,
    ) -> None:
        """Call `keras.Model.export`, by default for images of the model's size and any batch size.

        To export for images of any size, where the backend supports it, use
        `keras.Model(x, model(x)).export(...)` with `x = keras.Input((None, None, 3))`. An ONNX file is run
        once if onnxruntime is installed.

        Args:
            filepath: file or folder to write.
            format: a format of `keras.Model.export`, such as "tf_saved_model" or "onnx".
            verbose: print progress.
            input_signature: list of `keras.InputSpec`; default images of the model's size.
            **kwargs: more arguments of `keras.Model.export`.

        Raises:
            NotImplementedError: the backend cannot write the format.
            ImportError: a package is missing.
            ValueError: for ONNX, the model is too large for TensorFlow's converter or does not compute in
                float32.
            RuntimeError: the ONNX file does not run.
        """
        _check_export(self, format)
        if input_signature is None:
            shape = (None, *backbone_of(self).image_shape)
            input_signature = [keras.InputSpec(shape=shape, dtype="float32")]
        filepath = str(Path(filepath).expanduser())
        super().export(filepath, format, verbose, input_signature, **kwargs)
        if format == "onnx" and find_spec("onnxruntime"):
            _run_onnx(filepath)

    def quantize(
        self, mode: str | None = None, config: Any = None, filters: Any = None, **kwargs
    ) -> None:
        """Call `keras.Model.quantize`: "int8" quantizes all dense layers and no others.

        Quantize after training. The file that `save` writes is then about a quarter as large.

        Args:
            mode: quantization mode, such as "int8"; or pass `config`.
            config: a Keras quantization configuration.
            filters: which layers to quantize, as in Keras.
        """
        gc.freeze()  # Keras collects garbage after each layer; the cost grows with the number of objects
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".* does not have a `quantize` method")
                super().quantize(mode, config=config, filters=filters, **kwargs)
        finally:
            gc.unfreeze()

    def get_config(self) -> dict:
        """Extend `keras.Model.get_config` by the quantization of each quantized layer."""
        held = {id(layer) for layer in self._held_layers()}
        found = {
            self._path_of(layer): keras.saving.serialize_keras_object(layer.quantization_config)
            for layer in self._flatten_layers(include_self=False)
            if id(layer) not in held and layer.quantization_mode is not None
        }
        config = super().get_config()
        return {**config, "quantization": found} if found else config

    @classmethod
    def from_config(cls, config: dict) -> Self:
        """Create the model and quantize the same layers, before weights are loaded."""
        config = dict(config)
        quantization = config.pop("quantization", {})
        model = cls(**config)
        for text in {json.dumps(how) for how in quantization.values()}:
            paths = {path for path, how in quantization.items() if json.dumps(how) == text}
            model.quantize(
                config=keras.saving.deserialize_keras_object(json.loads(text)),
                filters=lambda layer, paths=paths: model._path_of(layer) in paths,
            )
        return model

    def _held_layers(self) -> list:
        """Return the layers of an inner model (the backbone), whose own configuration describes them."""
        backbone = backbone_of(self)
        return [] if backbone is self else backbone._flatten_layers()

    def _path_of(self, layer: keras.layers.Layer) -> str:
        return (layer.path or layer.name).removeprefix(f"{self.path}/")
