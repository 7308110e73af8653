"""Low-rank adapters (LoRA, arXiv 2106.09685) of a backbone: y = x W + b + (x A) B, of which A and B train."""

from typing import Self

import keras

from nepa_keras.layers import Linear


class Adaptable(keras.Model):
    """`enable_lora`, and adapters in the configuration, for `load_model`.

    Attributes:
        blocks: layers whose dense layers get adapters.
        lora_rank: of the adapters; None where there are none.
    """

    lora_rank: int | None = None

    def enable_lora(self, rank: int) -> None:
        """Adds adapters to the dense layers of the blocks; everything else here is frozen.

        They start as zero. `save` keeps them apart from the kernels, so that a run can go on;
        `save_to_preset` and the official format hold the sums. Compile afterwards.

        Args:
            rank: width between the two matrices of an adapter.

        Raises:
            ValueError: the rank is below 1, or there are adapters already.
        """
        if rank < 1 or self.lora_rank is not None:
            raise ValueError(
                f"Adapters have a rank of at least 1 and are added once; got rank {rank}, and there are "
                f"{'none' if self.lora_rank is None else f'some of rank {self.lora_rank}'}."
            )
        for variable in self.weights:
            variable.trainable = False
        for block in self.blocks:
            for layer in block._flatten_layers():
                if isinstance(layer, Linear):
                    layer.enable_lora(rank)
        self.lora_rank = rank

    def get_config(self) -> dict:
        """As `keras.Model.get_config`, with the rank where there are adapters."""
        config = super().get_config()
        return config if self.lora_rank is None else {**config, "lora_rank": self.lora_rank}

    @classmethod
    def from_config(cls, config: dict) -> Self:
        """As `keras.Model.from_config`, with adapters where there were some."""
        config = dict(config)
        rank = config.pop("lora_rank", None)
        model = super().from_config(config)
        if rank is not None:
            model.enable_lora(rank)
        return model
