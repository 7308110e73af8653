"""Inside a pass of a backbone: features of its blocks, and attention probabilities.

B batch, T patches on a grid (h, w for images), D width, L layers, H heads.
"""

import itertools
import operator
from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from nepa_keras.renamed import warn_renamed
from nepa_keras.types import Shape, Tensor


def block_numbers(blocks: int | Sequence[int] | None, num_layers: int) -> list[int]:
    """Numbers 0 ... L - 1 of the blocks that are asked for; None asks for all.

    Raises:
        ValueError: one that does not exist, no number, or none at all.
    """
    try:
        asked: Any = range(num_layers) if blocks is None else blocks
        numbers = [operator.index(block) for block in ([asked] if is_one(blocks) else asked)]
    except TypeError:
        raise ValueError(f"blocks must be a whole number or several, got {blocks!r}.") from None
    if not numbers:
        raise ValueError("blocks is empty; name at least one, such as -1 for the last.")
    for number in numbers:
        if not -num_layers <= number < num_layers:
            raise ValueError(
                f"There is no block {number}: this backbone has {num_layers}, from 0 to {num_layers - 1}, or "
                f"counted from the end from -1 to -{num_layers}."
            )
    return [number % num_layers for number in numbers]


def is_one(blocks: Any) -> bool:
    """Whether a single block is asked for, and no list of them."""
    return blocks is not None and not isinstance(blocks, Sequence)


class HiddenStates(keras.Model):
    """Part of `NepaBackbone`: `intermediates`, `block_outputs` and `activations`."""

    def intermediates(
        self,
        images: Tensor,
        blocks: int | Sequence[int] | None = None,
        reshape: bool = False,
        norm: bool = False,
        cls_token: bool = False,
        causal: bool | None = None,
        training: bool = False,
    ) -> Any:
        """Features of the patches after some blocks, for dense tasks; blocks behind the last one do not run.

        Of a `keras.Input` it gives symbolic tensors, for a functional model that trains, is saved and
        exported like any other.

        Args:
            images: (B, height, width, channels) of any size that the patch divides.
            blocks: numbers from 0, or from -1 for the last backwards; one, or several in any order; default
                all. What leaves the last block is not normed yet.
            reshape: patches on their grid, (B, h, w, D), in place of (B, T, D).
            norm: put each through the final norm; of the last block that is `sequence_output`.
            cls_token: give each as a pair with the CLS token, (B, D).
            causal: whether token t sees only tokens 0..t; None for the backbone's own choice. For dense tasks
                False, as then each patch sees the whole image.
            training: as of `call`; in a functional model it is that of the pass.

        Returns:
            A tensor (or pair) for each block in the order of `blocks`, as a list; of a single number alone.

        Raises:
            ValueError: there is no such block, or images do not fit.

        Example:
            >>> x = keras.Input((224, 224, 3))
            >>> maps = backbone.intermediates(x, blocks=(3, 7, 11), reshape=True, causal=False)
            >>> model = keras.Model(x, keras.layers.Conv2D(1, 1)(keras.layers.Concatenate()(maps)))
        """
        if isinstance(images, keras.KerasTensor):
            return Intermediates(self, blocks, reshape, norm, cls_token, causal)(images)
        numbers = block_numbers(blocks, self.num_layers)
        entering = self.add_positions(self.embed(images), images)
        states = self._states(entering, images, causal, training)
        tokens = list(itertools.islice(states, 1 + max(numbers)))

        def features(x):
            x = self.norm(x) if norm else x
            patches = x[:, 1:]
            if reshape:
                patches = ops.reshape(patches, (-1, *self._grid(images), self.hidden_dim))
            return (patches, x[:, 0]) if cls_token else patches

        found = [features(tokens[number]) for number in numbers]
        return found[0] if is_one(blocks) else found

    def _grid(self, images):
        """Cells along each axis: integers, or tensors where a graph knows one only when it runs."""
        shape = (images.shape[0], *ops.shape(images)[1:])
        grid = self.patch_embedding.grid(shape)
        known = [isinstance(size, int) for size in grid]
        if any(known) and not all(known):  # which Keras takes for no argument of a layer
            grid = tuple(ops.convert_to_tensor(size, "int32") for size in grid)
        return grid

    def block_outputs(
        self, images: Tensor, causal: bool | None = None, training: bool = False
    ) -> list[Tensor]:
        """What leaves each block, and last what the final norm makes of it: L + 1 of (B, 1 + T, D)."""
        entering = self.add_positions(self.embed(images), images)
        outputs = list(self._states(entering, images, causal, training))
        return [*outputs, self.norm(outputs[-1])]

    def activations(self, images: Tensor, causal: bool | None = None) -> dict:
        """Everything inside an inference pass, eagerly.

        Returns:
            The outputs of `call`, "hidden_states": what enters block 0 and what leaves each block, L + 1 of
            (B, 1 + T, D), and "attentions": softmax probabilities, L of (B, H, 1 + T, 1 + T).
        """
        embeddings = self.embed(images := ops.convert_to_tensor(images))
        entering = self.add_positions(embeddings, images)
        found = self._states(entering, images, causal, return_probabilities=True)
        states, attentions = zip(*found, strict=True)
        return {
            "embeddings": embeddings,
            "hidden_states": [entering, *states],
            "attentions": list(attentions),
            "sequence_output": self.norm(states[-1]),
        }

    def taps(self, images: Tensor, causal: bool | None = None) -> dict:
        """Former name of `activations`."""
        warn_renamed("NepaBackbone.taps", "NepaBackbone.activations")
        return self.activations(images, causal)


@keras.saving.register_keras_serializable(package="nepa_keras")
class Intermediates(keras.layers.Layer):
    """`backbone.intermediates` as a layer, the form in which a functional model holds it.

    A call of the backbone with other outputs would not do: to Keras each call of one operation has as many
    outputs as the first.

    Args:
        backbone: a `NepaBackbone`; held, not copied, and trained along unless its `trainable` is False.
        blocks, reshape, norm, cls_token, causal: as of `intermediates`.

    Call arguments:
        images: (B, height, width, channels).
    """

    def __init__(
        self,
        backbone: HiddenStates,
        blocks: int | Sequence[int] | None = None,
        reshape: bool = False,
        norm: bool = False,
        cls_token: bool = False,
        causal: bool | None = None,
        **kwargs,
    ):
        super().__init__(**{"dtype": backbone.dtype_policy, **kwargs})
        block_numbers(blocks, backbone.num_layers)
        self.backbone = backbone
        self.blocks = tuple(blocks) if isinstance(blocks, Sequence) else blocks
        self.reshape = reshape
        self.norm = norm
        self.cls_token = cls_token
        self.causal = causal
        self.built = True

    def _options(self):
        names = ("blocks", "reshape", "norm", "cls_token", "causal")
        return {name: getattr(self, name) for name in names}

    def call(self, images: Tensor, training: bool = False) -> Any:
        return self.backbone.intermediates(images, training=training, **self._options())

    def compute_output_shape(self, input_shape: Shape) -> Any:
        embedding, width = self.backbone.patch_embedding, self.backbone.hidden_dim
        batch, tokens, _ = embedding.compute_output_shape(input_shape)
        cells = embedding.grid(input_shape) if self.reshape else (tokens and tokens - 1,)
        patches = (batch, *cells, width)
        each = (patches, (batch, width)) if self.cls_token else patches
        if is_one(self.blocks):
            return each
        return len(block_numbers(self.blocks, self.backbone.num_layers)) * [each]

    def compute_output_spec(self, images: Tensor, training: bool = False) -> Any:
        return keras.tree.map_shape_structure(
            lambda shape: keras.KerasTensor(shape, self.backbone.variable_dtype),
            self.compute_output_shape(images.shape),
        )

    def get_config(self) -> dict:
        backbone = keras.saving.serialize_keras_object(self.backbone)
        # Keras gives a number only to the second of two layers that share an object, and in a file the first
        # would have another backbone.
        backbone["shared_object_id"] = id(self.backbone)
        return {**super().get_config(), "backbone": backbone, **self._options()}

    @classmethod
    def from_config(cls, config: dict) -> Self:
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**{**config, "backbone": backbone})
