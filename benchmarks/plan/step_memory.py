"""Bytes that a training step holds on a device, from the architecture.

Weights, gradients, both moments and the average are float32; products are in c bytes (2 in bfloat16).
P parameters, N tokens that the blocks see (CLS and all patches but the last), D width, M width of the
MLP, H heads, L layers. What a block keeps of each image for the backward pass, as counted in the two kinds
of program there are:

    fused       N (8 D + 10 c D + [c < 4] 8 D + 2 c M + 16 + 20 H)            PyTorch
    explicit    N (16 D + 11 c D + 3 c M) + (9 + c) H 5/8 N^2                 JAX without fused attention

With a gated MLP 4 c M + [c < 4] c D in place of 2 c M, and 6 c M + c D of 3 c M. The terms:

    8 D         what enters the two norms, or leaves them, in float32
    10 c D      what enters qkv (1), qkv (3), rotated q and k (2), the heads (1), what enters up (1), both
                branches before LayerScale (2)
    8 D         q and k before their norm in float32, where they are not that already
    2 c M       the MLP before and after GELU; explicit: GELU's share too
    16 + 20 H   mean and deviation of the norms, log-sum-exp of the softmax
    16 D        explicit: norms, q and k, all in float32
    11 c D      explicit: what enters qkv, up and output (3), q (1), k and v for each block of queries (5),
                both branches (2)
    9 + c       explicit: a score masked, exponentiated (float32) and normalised (c), and its mask (1), of the
                five eighths of the square that causal blocks compute
"""

from nepa_keras.backbone import NepaBackbone

_CAUSAL_SHARE = 5 / 8  # of the square of scores, see `backends.portable.explicit_attention`; on CPU
_STATE = 4 + 4 + 8 + 4  # weight, gradient, two moments, average
_BLOCKS_GATHERED = 2  # the block that works and the one that is fetched


def state_bytes(backbone: NepaBackbone, devices: int = 1, accumulates: bool = False) -> float:
    """Weights, gradients, moments, averages of a device: 20 P / n, and 4 P / n for sums of gradients.

    Args:
        backbone: the model.
        devices: n that share the state; 1 where each has all of it.
        accumulates: whether an update has several batches.
    """
    return (_STATE + 4 * accumulates) * backbone.count_params() / devices


def copy_bytes(backbone: NepaBackbone, sharded: bool, compute_bytes: int = 2) -> float:
    """Weights beside the state: [c < 4] c P, or of two blocks only, with weights and gradients, if sharded.

    Sharded: 2 (4 + 4 + [c < 4] c) P / L.
    """
    copy = compute_bytes if compute_bytes < 4 else 0
    if not sharded:
        return copy * backbone.count_params()
    return _BLOCKS_GATHERED * (4 + 4 + copy) * backbone.count_params() / backbone.num_layers


def block_bytes(backbone: NepaBackbone, fused: bool, compute_bytes: int = 2) -> float:
    """What a block keeps of an image for the backward pass: the formula of the module's header."""
    n, d, m = _tokens(backbone), backbone.hidden_dim, backbone.mlp_dim
    heads, gated, c = backbone.num_heads, backbone.gated_mlp, compute_bytes
    if fused:
        mlp = 4 * c * m + c * d * (c < 4) if gated else 2 * c * m
        return n * (8 * d + 10 * c * d + 8 * d * (c < 4) + mlp + 16 + 20 * heads)
    mlp = c * (6 * m + d if gated else 3 * m)
    share = _CAUSAL_SHARE if backbone.use_causal_mask else 1
    return n * (16 * d + 11 * c * d + mlp) + (9 + c) * heads * share * n**2


def ends_bytes(backbone: NepaBackbone, fused: bool, compute_bytes: int = 2) -> float:
    """What lies before and after the blocks, of an image: 4 pixels + c patches + 12 N D (explicit: 16 N D).

    Pixels and patches are the float32 image and the same in c bytes; N D are the final norm and the loss.
    """
    height, width, channels = backbone.image_shape
    pixels = (4 + compute_bytes) * height * width * channels
    return pixels + (12 if fused else 16) * _tokens(backbone) * backbone.hidden_dim


def image_bytes(
    backbone: NepaBackbone, fused: bool, remat: bool = False, compute_bytes: int = 2
) -> float:
    """All that an image adds to a step: L blocks and their ends, and one block's worth of gradients.

    With `remat` 4 N D of each block, its input, and one block recomputed.
    """
    block = block_bytes(backbone, fused, compute_bytes)
    kept = backbone.num_layers * block
    if remat:
        kept = backbone.num_layers * 4 * _tokens(backbone) * backbone.hidden_dim + block
    return kept + block + ends_bytes(backbone, fused, compute_bytes)


def _tokens(backbone: NepaBackbone) -> int:
    height, width, _ = backbone.image_shape
    return (height // backbone.patch_size) * (width // backbone.patch_size)
