"""What all models share between training and use: quantization that is saved with them, and `export`."""

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

_LARGEST_ONNX_OF_TENSORFLOW = 25_000_000  # weights, for which 3 GiB are needed
_WRITTEN_ELSEWHERE = {
    ("jax", "onnx"): "tensorflow or torch",  # jax2onnx fails where the batch size is free
    ("torch", "tf_saved_model"): "tensorflow or jax",
}


def as_batches(x: Any) -> Any:
    """What Keras takes as data: an iterator of arrays as one of tuples, and all else as it is.

    Raises:
        ValueError: a list, in which Keras sees inputs and not images, or no images.
    """
    if isinstance(x, list):
        raise ValueError(f"x is a list of {len(x)}, but one array is needed; pass np.stack(x).")
    if isinstance(x, np.ndarray) and len(x) == 0:
        raise ValueError(f"There are no images in x, an array of shape {x.shape}.")
    if isinstance(x, Iterator):
        return ((batch,) if hasattr(batch, "shape") else batch for batch in x)
    return x


def _check_export(model, format):
    """Refuses what the backend's exporter cannot write, before it says so in its own words."""
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
    """Runs a file on zeros: a converter may write what cannot be run."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path))
        for each in session.get_inputs():
            shape = [size if isinstance(size, int) else 1 for size in each.shape]
            session.run(None, {each.name: np.zeros(shape, "float32")})
    except Exception as error:  # onnxruntime's have no class in common
        raise RuntimeError(f"{path} was written, but it does not run: {error}") from error


class Deployable(Symbolic, backends.Model):
    """`export` for images of the model's size, and quantization in the configuration, for `load_model`.

    Attributes:
        image_shape: (height, width, channels), of the model or its backbone.
    """

    def predict(self, x: Any, *args, **kwargs) -> Any:
        """As `keras.Model.predict`, also of a generator of arrays."""
        return super().predict(as_batches(x), *args, **kwargs)

    def export(
        self,
        filepath: str | Path,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: list | None = None,
        **kwargs,
    ) -> None:
        """As `keras.Model.export`; by default for images of the model's size and any batch.

        For any size, where the backend can: `keras.Model(x, model(x)).export(...)` with
        `x = keras.Input((None, None, 3))`. An ONNX file is run once, if onnxruntime is there.

        Raises:
            NotImplementedError: the backend cannot write the format.
            ImportError: a package is missing.
            ValueError: for ONNX, the model is too large for TensorFlow's converter, or does not compute in
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
        """As `keras.Model.quantize`: "int8" takes all dense layers, and the rest stays as it is.

        Quantize what is trained. The file that `save` writes is then about a quarter as large.
        """
        gc.freeze()  # Keras collects garbage after each layer, which takes as long as there are objects
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".* does not have a `quantize` method")
                super().quantize(mode, config=config, filters=filters, **kwargs)
        finally:
            gc.unfreeze()

    def get_config(self) -> dict:
        """As `keras.Model.get_config`, with how layers are quantized where some are."""
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
        """As `keras.Model.from_config`, with the same layers quantized, for weights that are read then."""
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
        """Those of a model inside this one, which has a configuration of its own."""
        backbone = backbone_of(self)
        return [] if backbone is self else backbone._flatten_layers()

    def _path_of(self, layer: keras.layers.Layer) -> str:
        return (layer.path or layer.name).removeprefix(f"{self.path}/")
