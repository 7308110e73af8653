"""Features and attention probabilities from inside a backbone.

B images, T patches on a grid (h, w), N = 1 + T tokens, D width, L blocks, H heads.
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
    """Return the requested blocks as numbers from 0 to L - 1; None requests all blocks.

    Raises:
        ValueError: `blocks` is empty, holds something other than whole numbers, or names no existing block.
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
    """Tell whether a single block is requested, not a list of blocks."""
    return blocks is not None and not isinstance(blocks, Sequence)


class HiddenStates(keras.Model):
    """Mixin of `NepaBackbone`: `intermediates`, `block_outputs` and `activations`."""

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
        """Return patch features after chosen blocks, for dense tasks; later blocks are not computed.

        For a `keras.Input` the results are symbolic tensors: a functional model made of them can be trained,
        saved and exported like any other.

        Args:
            images: (B, height, width, channels) of any size that the patch divides.
            blocks: a block number or several in any order, from 0, or negative from the end; default all.
            reshape: return patches on their grid, (B, h, w, D), instead of (B, T, D).
            norm: apply the final norm to each result; for the last block this gives `sequence_output`.
            cls_token: return each result as a pair with the CLS token (B, D).
            causal: let each token see only itself and earlier tokens; None uses the backbone's setting. Use
                False for dense tasks, so that each patch sees the whole image.
            training: as in `call`; a functional model sets it for its own passes.

        Returns:
            A list of tensors (or pairs) in the order of `blocks`; for a single block number, that one alone.

        Raises:
            ValueError: a block does not exist, or the images do not fit.

        Example:
            >>> x = keras.Input((28, 28, 1))
            >>> maps = backbone.intermediates(x, blocks=(1, 3), reshape=True, causal=False)
            >>> maps[0].shape
            (None, 7, 7, 32)
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
        """Cells along each axis: integers, or tensors if a graph knows a size only at run time."""
        shape = (images.shape[0], *ops.shape(images)[1:])
        grid = self.patch_embedding.grid(shape)
        known = [isinstance(size, int) for size in grid]
        if any(known) and not all(known):  # Keras accepts no mixture as an argument of a layer
            grid = tuple(ops.convert_to_tensor(size, "int32") for size in grid)
        return grid

    def block_outputs(
        self, images: Tensor, causal: bool | None = None, training: bool = False
    ) -> list[Tensor]:
        """Return the output of each block, and the last one after the final norm: L + 1 tensors (B, N, D)."""
        entering = self.add_positions(self.embed(images), images)
        outputs = list(self._states(entering, images, causal, training))
        return [*outputs, self.norm(outputs[-1])]

    def activations(self, images: Tensor, causal: bool | None = None) -> dict:
        """Return all activations of an inference pass, computed eagerly.

        Returns:
            The outputs of `call`; "hidden_states", the input of block 0 and the output of each block, L + 1
            tensors (B, N, D); and "attentions", softmax probabilities, L tensors (B, H, N, N).

        Example:
            >>> tuple(backbone.activations(images)["attentions"][0].shape)
            (16, 2, 50, 50)
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
    """Layer that computes `backbone.intermediates` inside a functional model.

    A second call of the backbone itself would not do: Keras assumes that all calls of one operation have
    the same number of outputs.

    Args:
        backbone: the `NepaBackbone`; shared, not copied, and trained unless its `trainable` is False.
        blocks, reshape, norm, cls_token, causal: see `intermediates`.

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
        # Keras numbers a shared object only where it occurs again; without a number here, a file would hold
        # two backbones.
        backbone["shared_object_id"] = id(self.backbone)
        return {**super().get_config(), "backbone": backbone, **self._options()}

    @classmethod
    def from_config(cls, config: dict) -> Self:
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**{**config, "backbone": backbone})
