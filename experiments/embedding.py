"""What embed.py and search.py share: a model's backbone, and images as it takes them."""

from typing import NamedTuple

from given_model import GivenModel

from nepa_keras import NepaBackbone, data, interop
from nepa_keras.presets import backbone_of


class Embedder(NamedTuple):
    """A model whose features are taken.

    Attributes:
        backbone: of the model.
        causal: whether the model as a whole reads causally; a classifier's choice is not its backbone's.
        transform: prepares images as the model's preprocessor_config.json says.
        value_range: of that file, for images of more than 8 bits; None where it has none.
    """

    backbone: NepaBackbone
    causal: bool
    transform: data.ImageTransform
    value_range: tuple | None


def load_embedder(
    given: GivenModel, dtype: str = "float32", image_size: tuple[int, int] | None = None
) -> Embedder:
    """The weights that a flag names, as what they were trained as.

    Args:
        given: the weights.
        dtype: of the computation.
        image_size: (height, width) of the images in place of the weights' own.

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
