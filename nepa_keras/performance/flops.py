"""Model FLOPs: what the architecture asks for, whatever a program does to compute it.

Only matrix products count, 2 FLOPs per multiply-add; norms, softmax, rotation, GELU and the optimizer
do not. With N tokens (T patches and CLS), D width, M width of the MLP, L layers, P patch, C channels:

    patch embedding    2 T P^2 C D
    q, k, v, output    L 2 N 4 D^2
    scores, values     L 2 N 2 N D        full squares, as usual for MFU, also where causal
    MLP                L 2 N 2 D M        3 D M when gated
    training step      3 x forward        each product has two in the backward pass
"""

import math

from nepa_keras.backbone import NepaBackbone
from nepa_keras.layers import PatchEmbedding


def forward_flops(backbone: NepaBackbone, image_size: tuple[int, int] | None = None) -> int:
    """Matrix FLOPs of one forward pass for one image.

    Of an embedding other than that of patches nothing is known, so it does not count.

    Args:
        backbone: the model.
        image_size: (height, width) in pixels; default that of the backbone.

    Raises:
        ValueError: the patch does not divide the image.
    """
    shape = backbone.image_shape
    if image_size is not None:
        shape = (*image_size, *shape[2:])
    dim = backbone.hidden_dim
    patches = math.prod(backbone.patch_embedding.grid((None, *shape)))
    tokens = 1 + patches
    embedding = 0
    if isinstance(backbone.patch_embedding, PatchEmbedding):
        embedding = 2 * patches * backbone.patch_size**2 * shape[2] * dim
    projections = 2 * tokens * 4 * dim**2
    attention = 2 * tokens * 2 * tokens * dim
    mlp = 2 * tokens * (3 if backbone.gated_mlp else 2) * dim * backbone.mlp_dim
    return embedding + backbone.num_layers * (projections + attention + mlp)


def training_flops(backbone: NepaBackbone, image_size: tuple[int, int] | None = None) -> int:
    """Matrix FLOPs of one training step per image: three times `forward_flops`.

    Recomputation (`remat`) does not count. The images need no gradient, so this overstates the patch
    embedding by a third, under 1 % of the whole for the presets of 224 pixels.
    """
    return 3 * forward_flops(backbone, image_size)
