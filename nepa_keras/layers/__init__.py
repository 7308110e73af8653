"""Layers of NEPA, each usable on its own."""

from nepa_keras.layers.attention import SelfAttention
from nepa_keras.layers.block import TransformerBlock
from nepa_keras.layers.convolutions import ConvNorm, Upsample2x
from nepa_keras.layers.linear import Linear, NormalInitializer
from nepa_keras.layers.mlp import MLP
from nepa_keras.layers.norm import LayerNorm
from nepa_keras.layers.patch_embedding import PatchEmbedding
from nepa_keras.layers.position import PositionEmbedding
from nepa_keras.layers.residual import DropPath, LayerScale
from nepa_keras.layers.rotary import RotaryEmbedding
from nepa_keras.layers.sequence_embedding import SequenceEmbedding
from nepa_keras.layers.upernet import FCNHead, FeaturePyramid, UPerNetHead
from nepa_keras.renamed import former_names

__all__ = [
    "MLP",
    "ConvNorm",
    "DropPath",
    "FCNHead",
    "FeaturePyramid",
    "LayerNorm",
    "LayerScale",
    "Linear",
    "NormalInitializer",
    "PatchEmbedding",
    "PositionEmbedding",
    "RotaryEmbedding",
    "SelfAttention",
    "SequenceEmbedding",
    "TransformerBlock",
    "UPerNetHead",
    "Upsample2x",
]

__getattr__ = former_names(
    __name__,
    {
        "Doubling": "Upsample2x",
    },
)
