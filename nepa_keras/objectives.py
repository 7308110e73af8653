"""Pretraining objectives other than the paper's; each is a `NepaPretrainer` and is trained and saved like it.

PatchNepaPretrainer  NEPA without the prediction of the first patch from CLS
LeNepaPretrainer     LeNEPA: squared error in a projected space, with SIGReg instead of the stop-gradient

B images, T patches, T - 1 pairs of a prediction and its target, D width, d projected width.
"""

import math

import keras
from keras import ops

from nepa_keras import backends, layers
from nepa_keras.backbone import NepaBackbone
from nepa_keras.inputs import loss_or_nan
from nepa_keras.nepa import NepaPretrainer, normalize
from nepa_keras.step_metrics import FiniteMean
from nepa_keras.types import Shape, Tensor

__all__ = ["LeNepaPretrainer", "PatchNepaPretrainer", "Projector", "sigreg", "squared_error"]

_KNOTS = 17  # points of the integral over [-_LARGEST, _LARGEST]
_LARGEST = 5.0
_CLS_AND_ONE = 2  # tokens of an image with one patch


def sigreg(tokens: Tensor, directions: Tensor, over: str = "batch") -> Tensor:
    """SIGReg of LeJEPA (arXiv 2511.08544, Algorithm 1): distance of the tokens' distribution from N(0, I).

    The mean over the directions a of

        integral |phi(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt,   phi(t) = mean_n exp(i t <a, x_n>),

    from -5 to 5 by the trapezoid rule with 17 points, in float32. LeJEPA weights n times this value (the
    Epps-Pulley statistic, whose expectation on N(0, I) is 1.06), with n the number of tokens in the mean. As
    in LeNEPA's code there is no factor n, so that one weight suits batches and images of any size. Tokens
    that are all 0 give 0.41; the upper limit is 2.5.

    Args:
        tokens: (B, T, d).
        directions: (num_slices, d), vectors of length 1.
        over: "batch", the mean over n takes all tokens of all replicas; "image", it takes the tokens of one
            image, and the result is averaged over the images.

    Raises:
        ValueError: another value of `over`.

    Example:
        >>> tokens = np.random.default_rng(0).standard_normal((64, 50, 8))
        >>> bool(sigreg(tokens, np.eye(8)) < 0.01)
        True
    """
    if over not in ("batch", "image"):
        raise ValueError(f'over must be "batch" or "image", got {over!r}.')

    def mean(x):
        return backends.mean_over_all(x, (0, 1)) if over == "batch" else ops.mean(x, axis=1)

    slices = ops.matmul(ops.cast(tokens, "float32"), ops.transpose(directions))  # (B, T, S)
    step = 2 * _LARGEST / (_KNOTS - 1)
    real, imaginary = first = ops.cos(step * slices), ops.sin(step * slices)
    distance = 0.0
    # The integrand is 0 at t = 0 and even, so t > 0 counts twice.
    for k in range(1, _KNOTS // 2 + 1):
        normal = math.exp(-0.5 * (k * step) ** 2)
        gap = ops.square(mean(real) - normal) + ops.square(mean(imaginary))
        distance += (1.0 if 2 * k == _KNOTS - 1 else 2.0) * step * normal * gap
        # exp(i (k + 1) x) = exp(i k x) exp(i x)
        real, imaginary = (
            real * first[0] - imaginary * first[1],
            real * first[1] + imaginary * first[0],
        )
    return ops.mean(distance)


def squared_error(predictions: Tensor, targets: Tensor, stop_gradient: bool = False) -> Tensor:
    """Squared difference averaged over the last axis, (B, T, d) -> (B, T), in float32."""
    predictions, targets = (ops.cast(tokens, "float32") for tokens in (predictions, targets))
    if stop_gradient:
        targets = ops.stop_gradient(targets)
    return ops.mean(ops.square(predictions - targets), axis=-1)


@keras.saving.register_keras_serializable(package="nepa_keras")
class PatchNepaPretrainer(NepaPretrainer):
    """NEPA without the prediction of the first patch from CLS, which has seen no patch.

    The loss is the mean over the other T - 1 patches; the paper's Algorithm 1 includes the one from CLS.

    Args:
        backbone: a `NepaBackbone` for images of two patches or more.
        shift, stop_gradient, masking_ratio, seed: see `NepaPretrainer`.

    Returns:
        {"predictions": (B, T - 1, D), "targets": (B, T - 1, D)}; with shift=False all T patches.

    Example:
        >>> model = PatchNepaPretrainer(backbone)
        >>> model.compile(optimizer=nepa_keras.training.adamw(1e-3))
        >>> history = model.fit(images, batch_size=8, verbose=0)
    """

    def __init__(
        self,
        backbone: NepaBackbone,
        shift: bool = True,
        stop_gradient: bool = True,
        masking_ratio: float = 0.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(backbone, shift, stop_gradient, masking_ratio, seed, **kwargs)
        shape = (None, *backbone.image_shape)
        if shift and backbone.patch_embedding.compute_output_shape(shape)[1] == _CLS_AND_ONE:
            raise ValueError(
                "An image of one patch leaves nothing to predict without CLS; use a smaller patch_size, or "
                "NepaPretrainer."
            )

    def call(self, images: Tensor, training: bool = False) -> dict[str, Tensor]:
        pairs = super().call(images, training)
        return {name: tokens[:, 1:] for name, tokens in pairs.items()} if self.shift else pairs

    def compute_output_spec(self, images: Tensor, training: bool = False) -> dict:
        pairs = super().compute_output_spec(images, training)
        if not self.shift:
            return pairs
        (batch, patches, width), dtype = pairs["targets"].shape, pairs["targets"].dtype
        shape = (batch, patches and patches - 1, width)
        return {name: keras.KerasTensor(shape, dtype) for name in pairs}


@keras.saving.register_keras_serializable(package="nepa_keras")
class Projector(keras.layers.Layer):
    """Projector of LeNEPA: linear, BatchNorm, ReLU, linear; (B, T, D) -> (B, T, d).

    BatchNorm uses the statistics of the current batch over all replicas, in evaluation too: the projector is
    discarded after training and needs no moving averages. Both kernels are normal with
    variance 2 / fan-in at initialisation.

    Args:
        hidden_dim: width between the two linear layers.
        projected_dim: output width d.

    Example:
        >>> tuple(Projector(hidden_dim=64, projected_dim=8)(np.ones((2, 49, 32))).shape)
        (2, 49, 8)
    """

    def __init__(self, hidden_dim: int, projected_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.projected_dim = projected_dim

    def build(self, input_shape: Shape) -> None:
        # No bias: BatchNorm subtracts the mean.
        self.hidden = self._linear(self.hidden_dim, input_shape, "hidden", use_bias=False)
        shape, of_norm = (self.hidden_dim,), {"autocast": False}  # float32, like the statistics
        self.gamma = self.add_weight(shape, "ones", name="gamma", **of_norm)
        self.beta = self.add_weight(shape, "zeros", name="beta", **of_norm)
        self.output_dense = self._linear(
            self.projected_dim, (*input_shape[:-1], self.hidden_dim), "output_dense"
        )

    def _linear(self, units, input_shape, name, use_bias=True):
        start = layers.NormalInitializer(math.sqrt(2 / input_shape[-1]))
        layer = layers.Linear(units, use_bias, start, name=name, dtype=self.dtype_policy)
        layer.build(input_shape)
        return layer

    def call(self, tokens: Tensor) -> Tensor:
        x = ops.cast(self.hidden(tokens), "float32")
        x = x - backends.mean_over_all(x, (0, 1))
        x = x * ops.rsqrt(backends.mean_over_all(ops.square(x), (0, 1)) + 1e-5)
        return self.output_dense(ops.relu(x * self.gamma + self.beta))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.projected_dim)

    def get_config(self) -> dict:
        names = ("hidden_dim", "projected_dim")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="nepa_keras")
class LeNepaPretrainer(PatchNepaPretrainer):
    """LeNEPA (arXiv 2607.00958): NEPA by squared error without stop-gradient, regularised by SIGReg.

        u^_{t+1} = g(h(z_1, ..., z_t)),  u_t = g(z_t),  g a projector that is discarded after training
        L = mean |u^ - u|^2 + weight * (SIGReg(u^) + SIGReg(u)) / 2

    The square is averaged over the d dimensions too, and SIGReg is computed per image, both as in the
    authors' code. The first patch is not predicted, as their model has no CLS. Choices where the paper is
    silent, or differences: the projector runs on predictions and targets separately, each with its own batch
    statistics; both have the T - 1 tokens of the pairs, not all T; the directions are drawn anew in each
    training step, the same for both and for all replicas, and are fixed in evaluation. `squared_error` is
    logged beside the loss.

    Frozen features come from `backbone`; `save_to_preset` and `interop.export_huggingface` write the backbone
    alone, `save` keeps the projector. Pictures of predictions compare unprojected embeddings, which this
    objective does not predict.

    Args:
        backbone: a `NepaBackbone` for images of two patches or more.
        projected_dim: projected width d.
        projector_dim: hidden width of the projector; default 4 D.
        sigreg_weight: weight of SIGReg in the loss.
        sigreg_over: "image" or "batch", see `sigreg`.
        num_slices: number of random directions in `sigreg`.
        shift, masking_ratio: see `NepaPretrainer`.
        stop_gradient: block the gradient of the squared error through the targets.
        seed: seed of directions and masks.

    Returns:
        {"predictions": (B, T - 1, d), "targets": (B, T - 1, d)}, projected.

    Example:
        >>> model = LeNepaPretrainer(backbone, projected_dim=8)
        >>> model.compile(optimizer=nepa_keras.training.adamw(1e-3))
        >>> history = model.fit(images, batch_size=8, verbose=0)
        >>> model.backbone.save_to_preset("backbone")
    """

    training_only = ("projector",)

    def __init__(
        self,
        backbone: NepaBackbone,
        projected_dim: int = 64,
        projector_dim: int | None = None,
        sigreg_weight: float = 20.0,
        sigreg_over: str = "image",
        num_slices: int = 256,
        shift: bool = True,
        stop_gradient: bool = False,
        masking_ratio: float = 0.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(backbone, shift, stop_gradient, masking_ratio, seed, **kwargs)
        if not 0.0 <= sigreg_weight < math.inf:
            raise ValueError(f"sigreg_weight must be 0 or more, got {sigreg_weight}.")
        if sigreg_over not in ("batch", "image"):
            raise ValueError(f'sigreg_over must be "batch" or "image", got {sigreg_over!r}.')
        self.projected_dim = projected_dim
        self.projector_dim = projector_dim
        self.sigreg_weight = sigreg_weight
        self.sigreg_over = sigreg_over
        self.num_slices = num_slices
        hidden = projector_dim or 4 * backbone.hidden_dim
        self.projector = Projector(hidden, projected_dim, name="projector", dtype=self.dtype_policy)
        self.projector.build((None, None, backbone.hidden_dim))
        self.squared_error = FiniteMean(name="squared_error")

    def call(self, images: Tensor, training: bool = False) -> dict[str, Tensor]:
        pairs = super().call(images, training)
        return {name: self.projector(tokens) for name, tokens in pairs.items()}

    def compute_output_spec(self, images: Tensor, training: bool = False) -> dict:
        return {
            name: keras.KerasTensor((*spec.shape[:-1], self.projected_dim), self.compute_dtype)
            for name, spec in super().compute_output_spec(images, training).items()
        }

    def directions(self, training: bool) -> Tensor:
        """Random unit vectors (num_slices, d): new ones in each training step, fixed in evaluation."""
        seed = self.seed_generator if training else 0
        shape = (self.num_slices, self.projected_dim)
        return normalize(keras.random.normal(shape, seed=seed, dtype="float32"))

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        self._refuse_with_own_loss(sample_weight=sample_weight)
        directions = self.directions(training)
        distances = [sigreg(tokens, directions, self.sigreg_over) for tokens in y_pred.values()]
        error = ops.mean(squared_error(**y_pred, stop_gradient=self.stop_gradient))
        return loss_or_nan(error + self.sigreg_weight * 0.5 * sum(distances), x)

    def compute_metrics(
        self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        error = backends.mean_over_all(squared_error(**y_pred), (0, 1))
        self.squared_error.update_state(error)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_config(self) -> dict:
        names = ("projected_dim", "projector_dim", "sigreg_weight", "sigreg_over", "num_slices")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
