"""The embedding f of images: z_0 (CLS), z_1 ... z_T (patches in row-major order)."""

import keras
from keras import ops

from nepa_keras import backends
from nepa_keras.inputs import as_floats, check_dtype
from nepa_keras.layers.linear import NormalInitializer
from nepa_keras.layers.sequence_embedding import after_cls, learned_vector
from nepa_keras.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="nepa_keras")
class PatchEmbedding(keras.layers.Layer):
    """Linear embedding of non-overlapping patches, after a learned CLS vector.

    Equivalent to a convolution with kernel = stride = patch, but computed as one matrix product. The output
    has the variable dtype (float32 in mixed precision), as it enters the residual stream and is the target of
    the objective.

    Args:
        hidden_dim: width D.
        patch_size: side of a square patch in pixels.
        use_mask_token: create a learned vector that can replace patches.

    Call arguments:
        images: (B, height, width, C), floats in [-1, 1], or uint8 pixels, which are scaled to that range;
            `patch_size` must divide height and width.

    Returns:
        (B, N, D).

    Raises:
        ValueError: in `call`, the images have another integer type or a size that the patch does not divide.

    Example:
        >>> tuple(PatchEmbedding(hidden_dim=32, patch_size=4)(images).shape)
        (16, 50, 32)
    """

    def __init__(self, hidden_dim: int, patch_size: int, use_mask_token: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.patch_size = patch_size
        self.use_mask_token = use_mask_token

    def build(self, input_shape: Shape) -> None:
        p = self.patch_size
        self.cls_token = learned_vector(self, "cls_token", self.hidden_dim)
        self.kernel = self.add_weight(
            shape=(p, p, input_shape[-1], self.hidden_dim),
            initializer=NormalInitializer(),
            name="kernel",
        )
        self.bias = self.add_weight(shape=(self.hidden_dim,), initializer="zeros", name="bias")
        self.mask_token = None
        if self.use_mask_token:
            self.mask_token = learned_vector(self, "mask_token", self.hidden_dim)

    def grid(self, image_shape: Shape) -> Shape:
        """Number of patches per column and per row for images of shape (B, height, width, C).

        A size that is a tensor or None gives a tensor or None.

        Raises:
            ValueError: the shape is not four-dimensional, has other channels than the layer was built with,
                or a side is not a multiple of the patch.
        """
        if len(image_shape) != 4:
            raise ValueError(
                f"Images must have the shape (batch, height, width, channels), got "
                f"{tuple(image_shape)}; add the missing axis or remove the extra one."
            )
        _, height, width, channels = image_shape
        if self.built and channels != self.kernel.shape[2]:
            raise ValueError(
                f"The model was built for {self.kernel.shape[2]} channels, channels last, but the "
                f"images have shape {tuple(image_shape)}."
            )
        known = [size for size in (height, width) if isinstance(size, int)]
        if any(size < self.patch_size or size % self.patch_size for size in known):
            raise ValueError(
                f"Images of {height}x{width} pixels cannot be cut into patches of "
                f"{self.patch_size}x{self.patch_size}; resize or crop them to a multiple, such as "
                f"{self._sizes_near(height, width)}."
            )
        return tuple(None if size is None else size // self.patch_size for size in (height, width))

    def _sizes_near(self, height, width) -> str:
        """Next smaller and next larger size that is a multiple of the patch, as text."""
        p = self.patch_size

        def sides(round_side):
            near = (round_side(size) if isinstance(size, int) else size for size in (height, width))
            return "x".join(map(str, near))

        found = [sides(lambda size: max(size // p, 1) * p), sides(lambda size: -(-size // p) * p)]
        return " or ".join(dict.fromkeys(found))

    def call(self, images: Tensor) -> Tensor:
        p, width = self.patch_size, self.hidden_dim
        check_dtype(keras.backend.standardize_dtype(images.dtype))
        grid_h, grid_w = self.grid(ops.shape(images))
        channels = images.shape[-1]
        x = as_floats(images, self.compute_dtype)
        x = ops.reshape(x, (-1, grid_h, p, grid_w, p, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # (B, h, w, p, p, C)
        x = ops.reshape(x, (-1, p * p * channels))
        kernel = ops.reshape(ops.convert_to_tensor(self.kernel), (-1, width))
        patches = backends.linear(x, kernel, ops.convert_to_tensor(self.bias))
        patches = ops.cast(ops.reshape(patches, (-1, grid_h * grid_w, width)), self.variable_dtype)
        return after_cls(self.cls_token, patches)  # (B, N, D)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        grid = self.grid(input_shape)
        tokens = None if None in grid else 1 + grid[0] * grid[1]
        return (input_shape[0], tokens, self.hidden_dim)

    def compute_output_spec(self, images: Tensor, **kwargs) -> keras.KerasTensor:
        check_dtype(images.dtype)
        return keras.KerasTensor(self.compute_output_shape(images.shape), self.variable_dtype)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "patch_size": self.patch_size,
            "use_mask_token": self.use_mask_token,
        }
