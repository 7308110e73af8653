"""Model FLOPs: the arithmetic of the architecture, independent of the implementation.

Only matrix products count, 2 FLOPs per multiply-add; norms, softmax, rotation, GELU and the optimizer do not.
With T patches, N = 1 + T tokens, D width, M width of the MLP, L blocks, P patch size, C channels:

    patch embedding    2 T P^2 C D
    q, k, v, output    L 2 N 4 D^2
    scores, values     L 2 N 2 N D        full squares, also if causal, as usual for MFU
    MLP                L 2 N 2 D M        3 D M if gated
    training step      3 x forward        each product has two in the backward pass
"""

import math

from nepa_keras.backbone import NepaBackbone
from nepa_keras.layers import PatchEmbedding


def forward_flops(backbone: NepaBackbone, image_size: tuple[int, int] | None = None) -> int:
    """Matrix FLOPs of one forward pass for one image.

    An embedding other than `PatchEmbedding` is not counted.

    Args:
        backbone: the model.
        image_size: (height, width) in pixels; default that of the backbone.

    Raises:
        ValueError: the patch does not divide the image.

    Example:
        >>> forward_flops(backbone)
        4606976
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

    Recomputation (`remat`) is not counted. As images need no gradient, this overstates the patch embedding by
    a third, less than 1 % of the total for the 224-pixel presets.
    """
    return 3 * forward_flops(backbone, image_size)
