"""Memory of a training step on a device in bytes, computed from the architecture.

Weights, gradients, both moments and the averages are float32 (4 bytes); products have c bytes (2 in
bfloat16). P parameters, N tokens seen by the blocks (CLS and all patches but the last), D width, M width of
the MLP, H heads, L blocks. Activations that a block keeps of each image for the backward pass, counted in
compiled programs without and with fused attention:

    fused       N (8 D + 10 c D + [c < 4] 8 D + 2 c M + 16 + 20 H)            PyTorch
    explicit    N (16 D + 11 c D + 3 c M) + (9 + c) H 5/8 N^2                 JAX without fused attention

A gated MLP has 4 c M + [c < 4] c D in place of 2 c M (fused), and 6 c M + c D in place of 3 c M (explicit).
The terms:

    8 D         inputs or outputs of the two norms, in float32
    10 c D      input of qkv (1), qkv (3), rotated q and k (2), output of the heads (1), input of the MLP (1),
                both branches before LayerScale (2)
    8 D         q and k before their norm, converted to float32 if c < 4
    2 c M       MLP before and after GELU; explicit: also the derivative of GELU
    16 + 20 H   mean and deviation of the norms, log-sum-exp of the softmax
    16 D        explicit: norms, q and k, all in float32
    11 c D      explicit: inputs of qkv, MLP and output projection (3), q (1), k and v for each block of
                queries (5), both branches (2)
    9 + c       explicit: a score masked and exponentiated (float32) and normalised (c), and its mask (1), for
                the five eighths of all pairs that causal blocks compute
"""

from nepa_keras.backbone import NepaBackbone

_CAUSAL_SHARE = (
    5 / 8
)  # fraction of scores computed, see `backends.portable.explicit_attention`; on CPU
_STATE = 4 + 4 + 8 + 4  # bytes per parameter: weight, gradient, two moments, average
_BLOCKS_GATHERED = 2  # the block being computed and the one being fetched


def state_bytes(backbone: NepaBackbone, devices: int = 1, accumulates: bool = False) -> float:
    """Weights, gradients, moments and averages on a device: 20 P / n, plus 4 P / n for accumulated gradients.

    Args:
        backbone: model.
        devices: number n of devices that shard the state; 1 if it is replicated.
        accumulates: whether gradients of several batches are accumulated.
    """
    return (_STATE + 4 * accumulates) * backbone.count_params() / devices


def copy_bytes(backbone: NepaBackbone, sharded: bool, compute_bytes: int = 2) -> float:
    """Copies of weights in addition to the state: [c < 4] c P.

    Sharded, the gathered weights, gradients and copies of two blocks: 2 (4 + 4 + [c < 4] c) P / L.
    """
    copy = compute_bytes if compute_bytes < 4 else 0
    if not sharded:
        return copy * backbone.count_params()
    return _BLOCKS_GATHERED * (4 + 4 + copy) * backbone.count_params() / backbone.num_layers


def block_bytes(backbone: NepaBackbone, fused: bool, compute_bytes: int = 2) -> float:
    """Activations that a block keeps of an image for the backward pass, see the module's docstring."""
    n, d, m = _tokens(backbone), backbone.hidden_dim, backbone.mlp_dim
    heads, gated, c = backbone.num_heads, backbone.gated_mlp, compute_bytes
    if fused:
        mlp = 4 * c * m + c * d * (c < 4) if gated else 2 * c * m
        return n * (8 * d + 10 * c * d + 8 * d * (c < 4) + mlp + 16 + 20 * heads)
    mlp = c * (6 * m + d if gated else 3 * m)
    share = _CAUSAL_SHARE if backbone.use_causal_mask else 1
    return n * (16 * d + 11 * c * d + mlp) + (9 + c) * heads * share * n**2


def ends_bytes(backbone: NepaBackbone, fused: bool, compute_bytes: int = 2) -> float:
    """Activations outside the blocks, per image: (4 + c) pixels + 12 N D (explicit: 16 N D).

    The pixels are the float32 image and its patches in c bytes; N D stands for the final norm and the loss.
    """
    height, width, channels = backbone.image_shape
    pixels = (4 + compute_bytes) * height * width * channels
    return pixels + (12 if fused else 16) * _tokens(backbone) * backbone.hidden_dim


def image_bytes(
    backbone: NepaBackbone, fused: bool, remat: bool = False, compute_bytes: int = 2
) -> float:
    """Memory per image in a step: activations in and outside L blocks, and gradients of one block.

    With `remat` only the input of each block (4 N D) and one recomputed block are kept.
    """
    block = block_bytes(backbone, fused, compute_bytes)
    kept = backbone.num_layers * block
    if remat:
        kept = backbone.num_layers * 4 * _tokens(backbone) * backbone.hidden_dim + block
    return kept + block + ends_bytes(backbone, fused, compute_bytes)


def _tokens(backbone: NepaBackbone) -> int:
    height, width, _ = backbone.image_shape
    return (height // backbone.patch_size) * (width // backbone.patch_size)
