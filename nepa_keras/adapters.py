"""Low-rank adapters (LoRA, arXiv 2106.09685) for a backbone: y = x W + b + (x A) B; only A and B train."""

from typing import Self

import keras

from nepa_keras.layers import Linear


class Adaptable(keras.Model):
    """Mixin that gives a backbone `enable_lora` and stores the adapters in its configuration.

    Attributes:
        blocks: layers whose dense layers get adapters.
        lora_rank: rank of the adapters; None without adapters.

    Example:
        >>> backbone.enable_lora(rank=4)
        >>> sorted({variable.path.split("/")[-1] for variable in backbone.trainable_variables})
        ['lora_kernel_a', 'lora_kernel_b']
    """

    lora_rank: int | None = None

    def enable_lora(self, rank: int) -> None:
        """Add adapters to the dense layers of the blocks and freeze all other weights of the backbone.

        The adapters start as zero. `save` stores them apart from the kernels, so that training can go on;
        `save_to_preset` and the official format store the merged kernels. Compile the model afterwards.

        Args:
            rank: inner width of an adapter, the columns of A and rows of B.

        Raises:
            ValueError: the rank is below 1, or the backbone already has adapters.
        """
        if rank < 1 or self.lora_rank is not None:
            raise ValueError(
                f"Adapters need a rank of at least 1 and are added once; got rank {rank}, and the backbone "
                f"has {'none' if self.lora_rank is None else f'some of rank {self.lora_rank}'}."
            )
        for variable in self.weights:
            variable.trainable = False
        for block in self.blocks:
            for layer in block._flatten_layers():
                if isinstance(layer, Linear):
                    layer.enable_lora(rank)
        self.lora_rank = rank

    def get_config(self) -> dict:
        """Extend `keras.Model.get_config` by the rank of the adapters, if any."""
        config = super().get_config()
        return config if self.lora_rank is None else {**config, "lora_rank": self.lora_rank}

    @classmethod
    def from_config(cls, config: dict) -> Self:
        """Create the model by `keras.Model.from_config`, and its adapters if the configuration has a rank."""
        config = dict(config)
        rank = config.pop("lora_rank", None)
        model = super().from_config(config)
        if rank is not None:
            model.enable_lora(rank)
        return model
