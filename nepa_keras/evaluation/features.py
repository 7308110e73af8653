"""Features of a frozen backbone: one vector per image, or one per patch on the grid (h, w) of patches."""

from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from nepa_keras import backends
from nepa_keras.backbone import NepaBackbone
from nepa_keras.data import normalize
from nepa_keras.types import Tensor

AFTER_NORM = -1  # in place of the number of a block: output of the last block after the final norm
POOLS = ("mean", "cls", "last", "patches", "map")


class FeatureExtractor(backends.Model):
    """Model that maps images to pooled features: the output of a backbone, or of one of its blocks.

    The extractor holds the backbone itself, not a copy: features before and after training come from one
    compiled program.

    Args:
        backbone: a `NepaBackbone`.
        pool: "mean" of the patch tokens, "cls" for the CLS token, "last" for the last patch token,
            "patches" for all patch tokens, "map" for all patch tokens on their grid.
        causal: whether token t attends only to tokens 0..t; None for the backbone's own setting.
        block: number, from 0, of the block whose output is pooled; `AFTER_NORM` (the default) for the last
            block followed by the final norm.

    Call arguments:
        images: (B, height, width, channels), normalised floats.

    Returns:
        Features (B, D); (B, T, D) for "patches", (B, h, w, D) for "map".

    Raises:
        ValueError: the pool or the block does not exist; or "cls" under a causal mask, where the CLS token
            attends to no patch.

    Example:
        >>> extractor = evaluation.FeatureExtractor(model.backbone)
        >>> before = extractor.extract(images)
        >>> history = model.fit(images, verbose=0)
        >>> after = extractor.extract(images)
        >>> after.shape
        (16, 32)
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
        """Features (B, D) float32 of images (B, height, width, channels).

        Args:
            images: uint8 of any size (then normalised and resized), or floats already normalised.
            batch_size: images per forward pass.
        """
        return predict_padded(self, images, self.backbone.image_shape[:2], batch_size)


def extract_features(
    backbone: NepaBackbone,
    images: np.ndarray,
    batch_size: int = 256,
    pool: str = "mean",
    causal: bool | None = None,
    block: int = AFTER_NORM,
) -> np.ndarray:
    """Features (B, D) float32 of images (B, height, width, channels).

    Each call compiles a new program. To extract features several times, make one `FeatureExtractor`.

    Args:
        backbone: a `NepaBackbone`.
        images: uint8 of any size (then normalised and resized), or floats already normalised.
        batch_size: images per forward pass.
        pool, causal, block: see `FeatureExtractor`.

    Example:
        >>> evaluation.extract_features(backbone, images, block=2).shape
        (16, 32)
    """
    return FeatureExtractor(backbone, pool, causal, block).extract(images, batch_size)


def check_blocks(backbone: NepaBackbone, blocks: Iterable[int]) -> None:
    """Check that a backbone has these blocks; `AFTER_NORM` is always accepted.

    Raises:
        ValueError: a number is outside 0..L-1.
    """
    last = backbone.num_layers - 1
    if wrong := [b for b in blocks if b != AFTER_NORM and not 0 <= b <= last]:
        raise ValueError(f"blocks go from 0 to {last}, or {AFTER_NORM}; got {wrong[0]}.")


def predict_padded(
    model: keras.Model, images: np.ndarray, image_size: tuple[int, int], batch_size: int
) -> np.ndarray:
    """Outputs (B, ...) float32 of a model with one output.

    Args:
        model: takes batches of normalised images.
        images: (B, height, width, channels), uint8 of any size (then normalised and resized batch by batch,
            so that only one batch exists as floats), or floats of any rank, already normalised.
        image_size: (height, width) to which uint8 images are resized.
        batch_size: images per forward pass.

    Raises:
        ValueError: there are no images.
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
    """Outputs float32 of one batch, padded to `batch_size`: another shape would compile the model again."""
    missing = batch_size - len(images)
    padded = np.pad(images, ((0, missing), *[(0, 0)] * (images.ndim - 1))) if missing else images
    return np.asarray(model.predict_on_batch(padded), "float32")[: len(images)]
