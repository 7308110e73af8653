"""NEPA, Next-Embedding Predictive Autoregression (arXiv 2512.16922): the paper's method in one file.

f embeds each of the T patches of an image linearly, z_t = f(x_t), after a learned CLS token z_0. A causal
Transformer h, the `NepaBackbone`, predicts each embedding from those before it (Algorithm 1):

    z^_{t+1} = h(z_0, ..., z_t)
    L = - 1/(B T) sum_b sum_t cos(z^_{t+1}, stop_gradient(z_{t+1})),   t = 0 ... T - 1

The target is the input embedding itself: no decoder, no tokenizer, no teacher network, no contrastive
pairs. B images, T patches, N = 1 + T tokens, D width.
"""

from typing import Any

import keras
from keras import ops

from nepa_keras import backends
from nepa_keras.backbone import NepaBackbone
from nepa_keras.inputs import loss_or_nan
from nepa_keras.step_metrics import FiniteMean
from nepa_keras.task import Task
from nepa_keras.types import Tensor


def normalize(x: Tensor) -> Tensor:
    """Divide x by max(|x|_2, 1e-12) over the last axis, in float32."""
    x = ops.cast(x, "float32")
    # The gradient of sqrt is infinite at 0, so the floor is applied before the root.
    squares = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.maximum(squares, 1e-24))


def nepa_loss(predictions: Tensor, targets: Tensor, stop_gradient: bool = True) -> Tensor:
    """Negative mean cosine of predictions and targets, (B, T, D) each: from -1 (aligned) to 1."""
    if stop_gradient:
        targets = ops.stop_gradient(targets)
    return -ops.mean(ops.sum(normalize(predictions) * normalize(targets), axis=-1))


def spread(x: Tensor) -> Tensor:
    """1 - |mean unit vector of x|^2 for x (B, T, D): 1 for all directions, 0 for a single one (collapse)."""
    mean = backends.mean_over_all(normalize(ops.stop_gradient(x)), axis=(0, 1))
    return 1.0 - ops.sum(ops.square(mean))


@keras.saving.register_keras_serializable(package="nepa_keras")
class NepaPretrainer(Task):
    """A backbone trained to predict its next input embedding.

    Ablations (Tables 1a and 1c): `shift`, `stop_gradient`, `masking_ratio`, the backbone's `use_causal_mask`.

    Args:
        backbone: the `NepaBackbone` to train.
        shift: predict the next position; False predicts the same position, and training fails.
        stop_gradient: block the gradient through the targets; False collapses to a loss of -1.
        masking_ratio: fraction of the patch embeddings replaced by the mask token in training, but not in
            the targets; needs `NepaBackbone(use_mask_token=True)`.
        seed: seed of the random masks.

    Call arguments:
        images: (B, height, width, channels), floats in [-1, 1].

    Returns:
        {"predictions": (B, T, D), "targets": (B, T, D)}.

    Example:
        >>> model = NepaPretrainer(backbone)
        >>> model.compile(optimizer=nepa_keras.training.adamw(1e-3))
        >>> history = model.fit(images, batch_size=8, verbose=0)
        >>> sorted(model.evaluate(images, verbose=0))
        ['loss', 'prediction_spread', 'target_spread']
    """

    own_loss = "every image counts once"
    takes_metrics = False  # there are no labels to compare with

    def __init__(
        self,
        backbone: NepaBackbone,
        shift: bool = True,
        stop_gradient: bool = True,
        masking_ratio: float = 0.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(backbone, **kwargs)
        if not 0.0 <= masking_ratio < 1.0:
            raise ValueError(f"masking_ratio must be in [0, 1), got {masking_ratio}.")
        if masking_ratio and backbone.patch_embedding.mask_token is None:
            raise ValueError("masking_ratio needs a backbone made with use_mask_token=True.")
        self.shift = shift
        self.stop_gradient = stop_gradient
        self.masking_ratio = masking_ratio
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.prediction_spread = FiniteMean(name="prediction_spread")
        self.target_spread = FiniteMean(name="target_spread")
        self.built = True

    def call(self, images: Tensor, training: bool = False) -> dict[str, Tensor]:
        z = self.backbone.embed(images)  # z_0 ... z_T: (B, N, D)
        x = self._mask(z) if training and self.masking_ratio else z
        if self.shift and self.backbone.use_causal_mask:
            x = x[:, :-1]  # z_T has no successor to predict, and is hidden from the other tokens
        h = self.backbone.encode(x, images, training)
        predictions = h[:, : ops.shape(z)[1] - 1] if self.shift else h[:, 1:]
        return {"predictions": predictions, "targets": z[:, 1:]}

    def compute_output_spec(self, images: Tensor, training: bool = False) -> dict:
        batch, tokens, width = (z := self.backbone.compute_output_spec(images)["embeddings"]).shape
        shape = (batch, tokens and tokens - 1, width)
        return {name: keras.KerasTensor(shape, z.dtype) for name in ("predictions", "targets")}

    def _mask(self, embeddings: Tensor) -> Tensor:
        """Replace a random fraction of the patch embeddings by the mask token; CLS stays."""
        batch, tokens = ops.shape(embeddings)[:2]
        shape = (batch * backends.replicas(), tokens, 1)
        draw = keras.random.uniform(shape, seed=self.seed_generator, dtype="float32")
        is_patch = (ops.arange(tokens, dtype="int32") > 0)[None, :, None]
        masked = (backends.local_rows(draw) < self.masking_ratio) & is_patch
        token = ops.convert_to_tensor(self.backbone.patch_embedding.mask_token)
        return ops.where(masked, token, embeddings)

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        self._refuse_with_own_loss(sample_weight=sample_weight)
        return loss_or_nan(nepa_loss(**y_pred, stop_gradient=self.stop_gradient), x)

    def compute_metrics(
        self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        self.prediction_spread.update_state(spread(y_pred["predictions"]))
        self.target_spread.update_state(spread(y_pred["targets"]))
        return self.get_metrics_result()

    def evaluate(self, *args, return_dict: bool = True, **kwargs) -> dict[str, float] | Any:
        """Call `keras.Model.evaluate`, with a dictionary as the default result."""
        return super().evaluate(*args, return_dict=return_dict, **kwargs)

    def get_config(self) -> dict:
        names = ("shift", "stop_gradient", "masking_ratio", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
