"""Features of all blocks and all pools of a backbone from one forward pass."""

import numpy as np
from keras import ops

from nepa_keras import backends
from nepa_keras.backbone import NepaBackbone
from nepa_keras.evaluation.features import AFTER_NORM, check_blocks, predict_padded
from nepa_keras.types import Tensor


class FeatureSets(backends.Model):
    """Model that maps images to the pooled outputs of blocks, (B, number of names, D), in order of `names`.

    Args:
        backbone: a `NepaBackbone`; held, not copied.
        causal: whether token t attends only to tokens 0..t.
        blocks: numbers, from 0, of the blocks whose output is pooled, or `AFTER_NORM`; default all blocks
            and `AFTER_NORM`.
        pools: any of "mean" of the patch tokens, "last" patch token, "cls" token. Under a causal mask "cls"
            is left out, as the CLS token attends to no patch and is the same for every image.

    Attributes:
        names: pairs (block, pool).

    Raises:
        ValueError: a pool or a block does not exist, or no features remain.

    Example:
        >>> sets = evaluation.FeatureSets(backbone, causal=False, pools=("mean", "cls"))
        >>> features = sets.extract(images)
        >>> len(features), features[2, "cls"].shape
        (10, (16, 32))
    """

    def __init__(
        self,
        backbone: NepaBackbone,
        causal: bool,
        blocks: tuple[int, ...] | None = None,
        pools: tuple[str, ...] = ("mean", "last", "cls"),
        **kwargs,
    ):
        super().__init__(**kwargs)
        count = backbone.num_layers
        blocks = (*range(count), AFTER_NORM) if blocks is None else tuple(blocks)
        check_blocks(backbone, blocks)
        if unknown := set(pools) - {"mean", "last", "cls"}:
            raise ValueError(f"pools are mean, last and cls; got {', '.join(sorted(unknown))}.")
        pools = tuple(pool for pool in pools if not (causal and pool == "cls"))
        self.names = [(block, pool) for block in blocks for pool in pools]
        if not self.names:
            raise ValueError("There are no features to take; name a block and a pool.")
        self.backbone = backbone
        self.causal = causal
        self.built = True
        self.compile(jit_compile=backends.default_jit_compile())

    def call(self, images: Tensor) -> Tensor:
        states = self.backbone.block_outputs(images, causal=self.causal)
        pools = {
            "mean": lambda tokens: ops.mean(tokens[:, 1:], axis=1),
            "last": lambda tokens: tokens[:, -1],
            "cls": lambda tokens: tokens[:, 0],
        }
        return ops.stack([pools[pool](states[block]) for block, pool in self.names], axis=1)

    def extract(
        self, images: np.ndarray, batch_size: int = 256
    ) -> dict[tuple[int, str], np.ndarray]:
        """Features (B, D) float32 by (block, pool).

        Args:
            images: (B, height, width, channels), uint8 or floats already normalised. For the images of a
                source use `predict_batches`, which returns one array (B, number of names, D).
            batch_size: images per forward pass.
        """
        found = predict_padded(self, images, self.backbone.image_shape[:2], batch_size)
        return {name: found[:, i] for i, name in enumerate(self.names)}
