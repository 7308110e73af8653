"""Model for features in embed.py and search.py: a backbone and the preprocessing of its images."""

from typing import NamedTuple

from given_model import GivenModel

from nepa_keras import NepaBackbone, data, interop
from nepa_keras.presets import backbone_of


class Embedder(NamedTuple):
    """Backbone for the extraction of features, with the preprocessing of its images.

    Attributes:
        backbone: backbone of the model.
        causal: whether the model uses causal attention; a classifier may differ from its backbone.
        transform: preprocessing by the model's preprocessor_config.json.
        value_range: range of images of more than 8 bits in that file, or None.
    """

    backbone: NepaBackbone
    causal: bool
    transform: data.ImageTransform
    value_range: tuple | None


def load_embedder(
    given: GivenModel, dtype: str = "float32", image_size: tuple[int, int] | None = None
) -> Embedder:
    """Load weights as the model class they were trained as.

    Args:
        given: weights named by a flag.
        dtype: dtype policy of the computation.
        image_size: (height, width) of the images; default that of the weights.

    Raises:
        ValueError: as `from_preset`.
    """
    kind = interop.model_class(given.preset)
    model = kind.from_preset(given.preset, ema=given.ema, dtype=dtype, image_size=image_size)
    backbone = backbone_of(model)
    causal = getattr(model, "use_causal_mask", backbone.use_causal_mask)
    config = interop.preprocessor_config_of(model)
    converter = data.NepaImageConverter.from_official_config(config)
    return Embedder(backbone, causal, converter.transform(), converter.value_range)
