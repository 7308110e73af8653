"""Features of a frozen backbone: one vector per image.

N images, B batch, T patches on a grid of h x w, D width, K classes.
"""

from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from nepa_keras import backends
from nepa_keras.backbone import NepaBackbone
from nepa_keras.data import normalize
from nepa_keras.types import Tensor

AFTER_NORM = -1  # in place of a block's number: the last block and the final norm
POOLS = ("mean", "cls", "last", "patches", "map")


class FeatureExtractor(backends.Model):
    """Images -> pooled `sequence_output` of a backbone, or output of one of its blocks.

    It holds the backbone, not a copy, so that features before and after training come from one
    compiled program.

    Args:
        backbone: a `NepaBackbone`.
        pool: "mean" of the patch tokens, "cls" token, "last" patch token, all "patches", or these on their
            grid as a "map".
        causal: whether token t sees only tokens 0..t; None for the backbone's own choice.
        block: number from 0 of the block whose output is pooled; default the last and the final norm.

    Call arguments:
        images: (B, height, width, channels), normalised floats.

    Returns:
        Features (B, D); (B, T, D) for "patches", (B, h, w, D) for "map".

    Raises:
        ValueError: unknown pool or block; "cls" of a causal backbone, as its CLS token sees no patch.

    Example:
        >>> extractor = FeatureExtractor(model.backbone)
        >>> before = extractor.extract(images)
        >>> model.fit(images)
        >>> after = extractor.extract(images)
    """

    def __init__(
        self,
        backbone: NepaBackbone,
        pool: str = "mean",
        causal: bool | None = None,
        block: int = AFTER_NORM,
        **kwargs,
    ):
        super().__init__(**kwargs)
        causal = backbone.use_causal_mask if causal is None else causal
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}; got {pool!r}.")
        if pool == "cls" and causal:
            raise ValueError(
                'pool="cls" is the same for every image under a causal mask, as CLS comes first; '
                'pass causal=False (--attention=bidirectional), or pool="mean" or "last".'
            )
        check_blocks(backbone, (block,))
        self.backbone = backbone
        self.block = block
        self.pool = pool
        self.causal = causal
        self.built = True
        self.compile(jit_compile=backends.default_jit_compile())

    def call(self, images: Tensor) -> Tensor:
        patches, cls = self.backbone.intermediates(
            images,
            -1 if self.block == AFTER_NORM else self.block,
            reshape=self.pool == "map",
            norm=self.block == AFTER_NORM,
            cls_token=True,
            causal=self.causal,
        )
        if self.pool == "cls":
            return cls
        if self.pool == "last":
            return patches[:, -1]
        if self.pool == "mean":
            return ops.mean(patches, axis=1)
        return patches

    def extract(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """Features (N, D) float32 of images (N, H, W, C): uint8, or floats already normalised."""
        return predict_padded(self, images, self.backbone.image_shape[:2], batch_size)


def extract_features(
    backbone: NepaBackbone,
    images: np.ndarray,
    batch_size: int = 256,
    pool: str = "mean",
    causal: bool | None = None,
    block: int = AFTER_NORM,
) -> np.ndarray:
    """Features (N, D) float32 of images (N, H, W, C); see `FeatureExtractor` for the arguments.

    Compiles anew on every call; `FeatureExtractor` does so once.

    Args:
        images: uint8 of any size (then normalised and resized), or floats already normalised.
        batch_size: images per forward pass.
    """
    return FeatureExtractor(backbone, pool, causal, block).extract(images, batch_size)


def check_blocks(backbone: NepaBackbone, blocks: Iterable[int]) -> None:
    """Refuse numbers of blocks that the backbone lacks; `AFTER_NORM` is none of them and always there.

    Raises:
        ValueError: there is one.
    """
    last = backbone.num_layers - 1
    if wrong := [b for b in blocks if b != AFTER_NORM and not 0 <= b <= last]:
        raise ValueError(f"blocks go from 0 to {last}, or {AFTER_NORM}; got {wrong[0]}.")


def predict_padded(
    model: keras.Model, images: np.ndarray, image_size: tuple[int, int], batch_size: int
) -> np.ndarray:
    """Outputs (N, ...) float32 of a model with one array as output.

    Args:
        images: (N, H, W, C): uint8 of any size (then normalised and resized batch by batch, so that
            only one batch exists as floats), or floats already normalised, also of another rank.
        image_size: (height, width) that uint8 images are brought to.

    Raises:
        ValueError: no images.
    """
    if len(images) == 0:
        raise ValueError("images is empty; give at least one image.")
    batch_size = min(batch_size, len(images))
    outputs = []
    for start in range(0, len(images), batch_size):
        chunk = images[start : start + batch_size]
        if chunk.dtype == np.uint8:
            chunk = normalize(chunk, image_size)
        outputs.append(predict_filled_up(model, chunk, batch_size))
    return np.concatenate(outputs)


def predict_filled_up(model: keras.Model, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Outputs float32 of a batch, filled up to `batch_size`: another shape would compile the model again."""
    missing = batch_size - len(images)
    padded = np.pad(images, ((0, missing), *[(0, 0)] * (images.ndim - 1))) if missing else images
    return np.asarray(model.predict_on_batch(padded), "float32")[: len(images)]
