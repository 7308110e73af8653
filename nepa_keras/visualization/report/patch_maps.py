"""Maps of each patch of an image for the page of a report, small enough to lie in it.

B batch, L blocks, H heads, T patches on a grid of rows x columns.
"""

import base64
import io
import zlib
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from nepa_keras.presets import backbone_of
from nepa_keras.visualization.patches import displayable, own_mask, patch_grid, unit_tokens

MAX_BYTES = 6_000_000


def patch_maps(
    model: keras.Model,
    images: np.ndarray,
    captions: Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
) -> dict | None:
    """Compute attention and predicted-embedding maps of every patch and block, packed as text for JSON.

    Attention is under the model's own mask. Predictions are under the causal mask, as in
    `predicted_similarity`: cosines of what a block leaves, through the final norm, with the input
    embeddings; the last block's are the model's predictions. A row of a map is kept as bytes between its
    smallest and its largest value, see `pack`: attention is off by 1/510 of that range at most, and cosines
    by less near the largest.

    Args:
        model: a `NepaPretrainer`, or a model with a `backbone`, or the `NepaBackbone`.
        images: (B, height, width, channels), normalised floats; a few.
        captions: one for each image, or none.
        max_bytes: bound of the packed text. Single heads are left out where they pass it, and then images.

    Returns:
        For JSON: rows, columns, layers, heads (0: only their mean), causal, shift (patches from a query to
        what is predicted there), pretrained (whether the model predicts embeddings), images_left_out,
        and images: {picture, caption, attention: L lists of the mean and the heads, cosines: L}. None if
        not even one image is within the bound. Packed text is base64 of zlib of T bases, T steps
        and T shares of CLS (0 in cosines), float32 little-endian, and (T, T) levels as bytes.

    Raises:
        ValueError: images that the patch does not divide, or inputs that have no rows and columns; captions
            of another number.

    Example:
        >>> maps = visualization.patch_maps(model, images[:2], ["coat", "bag"])
        >>> maps["rows"], maps["layers"], len(maps["images"])
        (7, 4, 2)
    """
    backbone, causal = backbone_of(model), own_mask(model)
    images = np.asarray(images, "float32")
    grid = patch_grid(backbone, images)
    if len(captions) not in (0, len(images)):
        raise ValueError(f"{len(captions)} captions for {len(images)} images; give one for each.")
    rows, columns = grid
    patches = rows * columns
    # Packing takes a half to a tenth; far beyond the bound nothing is computed at all.
    if 2 * backbone.num_layers * patches**2 > 8 * max_bytes:
        return None
    captions = captions or [f"Image {i + 1}" for i in range(len(images))]
    kept, heads, bytes_of_means, bytes_of_heads = [], [], 0, 0
    for image, caption in zip(images, captions, strict=True):
        of_image, of_heads = _of_image(backbone, image, causal, bytes_of_heads <= max_bytes)
        picture = _picture(image)
        size = len(picture) + _size(of_image["attention"]) + _size(of_image["cosines"])
        if bytes_of_means + size > max_bytes:
            break
        bytes_of_means += size
        bytes_of_heads += _size(of_heads)
        kept.append({"picture": picture, "caption": str(caption), **of_image})
        heads.append(of_heads)
    if not kept:
        return None
    with_heads = bytes_of_means + bytes_of_heads <= max_bytes
    if with_heads:
        for of_image, of_heads in zip(kept, heads, strict=True):
            pairs = zip(of_image["attention"], of_heads, strict=True)
            of_image["attention"] = [mean + single for mean, single in pairs]
    return {
        "rows": rows,
        "columns": columns,
        "layers": backbone.num_layers,
        "heads": backbone.num_heads if with_heads else 0,
        "causal": bool(causal),
        "shift": int(getattr(model, "shift", True)),
        "pretrained": not (hasattr(model, "num_classes") or model.training_only),
        "images_left_out": len(images) - len(kept),
        "images": kept,
    }


def pack(maps: np.ndarray, power: int = 1, of_cls: np.ndarray | float = 0.0) -> str:
    """Pack rows (T, T) as text: base + step * level ** power, with a base and a step for each row.

    With power 2 levels are close to each other below a row's largest value, where a softmax looks. CLS is
    kept beside the map: where it takes nearly all attention, patches would get few levels.
    """
    low, high = maps.min(axis=1, keepdims=True), maps.max(axis=1, keepdims=True)
    base, end = (low, high) if power == 1 else (high, low)
    span = np.where(high > low, end - base, 1.0)
    levels = np.round(255 * ((maps - base) / span) ** (1 / power)).astype(np.uint8)
    step = (end - base) / 255**power
    of_cls = np.broadcast_to(of_cls, len(maps))
    floats = np.stack([base[:, 0], step[:, 0], of_cls]).astype("<f4")
    packed = zlib.compress(floats.tobytes() + levels.tobytes())
    return base64.b64encode(packed).decode("ascii")


def _of_image(backbone, image: np.ndarray, causal: bool, with_heads: bool) -> tuple[dict, list]:
    """Compute means of attention and cosines of every block, and single heads if asked for."""
    own = backbone.activations(image[None], causal=causal)
    predicting = own if causal else backbone.activations(image[None], causal=True)
    attention, heads = [], []
    for probabilities in own["attentions"]:
        of_heads = _numpy(probabilities)[0, :, 1:]  # (H, T, 1 + T): queries without CLS
        attention.append([_pack_attention(of_heads.mean(axis=0))])
        heads.append([_pack_attention(one) for one in of_heads] if with_heads else [])
    targets = unit_tokens(own["embeddings"])[0, 1:]  # (T, D)
    # Token 0 is CLS, so what is predicted at patch t leaves token 1 + t.
    said = [unit_tokens(backbone.norm(x))[0, 1:] for x in predicting["hidden_states"][1:]]
    cosines = [pack(of_block @ targets.T, power=2) for of_block in said]
    return {"attention": attention, "cosines": cosines}, heads


def _pack_attention(probabilities: np.ndarray) -> str:
    return pack(probabilities[:, 1:], of_cls=probabilities[:, 0])


def _numpy(tensor) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def _size(packed) -> int:
    """Count the characters in lists of lists."""
    return len(packed) if isinstance(packed, str) else sum(map(_size, packed))


def _picture(image: np.ndarray) -> str:
    """A normalised image as the address of a PNG."""
    from PIL import Image

    pixels = np.round(255 * displayable(image)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).save(
        file, "PNG", optimize=True
    )
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
