"""Callback that watches the features of a model during training: collapse diagnostics and probes."""

from collections.abc import Callable

import keras
import numpy as np

from nepa_keras import backends
from nepa_keras.data import normalize
from nepa_keras.evaluation.diagnostics import collapse_warnings, diagnostics
from nepa_keras.evaluation.features import FeatureExtractor
from nepa_keras.evaluation.knn import knn_accuracy
from nepa_keras.evaluation.linear_probe import check_probe_rows, linear_probe_accuracy
from nepa_keras.packages import required_for
from nepa_keras.training import on_one_device
from nepa_keras.types import Logs


class FeatureMonitor(keras.callbacks.Callback):
    """Evaluate the features of fixed images every few epochs, and warn when they collapse.

    Adds to the logs: `feature_effective_rank`, `feature_mean_cosine` and `feature_spread` of the pooled
    features; `target_drift`, the change of the patch embeddings (the targets) since the last evaluation;
    with labels `knn_accuracy`; with `linear_probe` also `linear_probe_accuracy`. In epochs without an
    evaluation the last values are repeated. Place this callback before those that write logs.

    Args:
        images: uint8 (B, height, width, channels), or floats already normalised; a few hundred.
        labels: (B,) class numbers for the probes, which learn from the first half of the images and are
            tested on the second; None for no probes.
        every: epochs between two evaluations; the first follows the first epoch.
        k: number of nearest neighbours.
        linear_probe: whether to fit a linear probe too.
        batch_size: images per forward pass.
        say: function that receives each warning.

    Attributes:
        warnings: all warnings so far.

    Raises:
        ValueError: images and labels do not fit, or are too few.
        ImportError: `linear_probe` is set and scikit-learn is missing.

    Example:
        >>> monitor = evaluation.FeatureMonitor(arrays.test_images, arrays.test_labels, k=5)
        >>> history = model.fit(images, callbacks=[monitor], verbose=0)
        >>> sorted(name for name in history.history if name.startswith("feature"))
        ['feature_effective_rank', 'feature_mean_cosine', 'feature_spread']
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        every: int = 1,
        k: int = 20,
        linear_probe: bool = False,
        batch_size: int = 256,
        say: Callable[[str], object] = print,
    ):
        super().__init__()
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"There are {len(labels)} labels for {len(images)} images.")
        if len(images) < 4:
            raise ValueError(f"A monitor needs at least 4 images, got {len(images)}.")
        self.images, self.labels = images, None if labels is None else np.asarray(labels)
        self.linear_probe = linear_probe
        if linear_probe:
            if labels is None:
                raise ValueError("A linear probe needs labels.")
            with required_for("The linear probe", "scikit-learn"):
                import sklearn  # noqa: F401, to fail now and not after the first epoch
            check_probe_rows(np.asarray(labels)[: len(images) // 2])
        self.every, self.batch_size, self.say = every, batch_size, say
        self.k = min(k, len(images) // 2)
        self.warnings: list[str] = []
        self._extractor: FeatureExtractor | None = None
        self._targets: np.ndarray | None = None
        names = ["feature_effective_rank", "feature_mean_cosine", "feature_spread", "target_drift"]
        self._names = names if labels is None else [*names, "knn_accuracy"]
        self._names += ["linear_probe_accuracy"] if linear_probe else []
        self._last: dict[str, float] = {}
        self._warned: set[str] = set()

    state_name = "monitor"

    def state_dict(self) -> dict:
        """Latest results and targets, for a checkpoint; see `training.resume.Stateful`."""
        arrays = {} if self._targets is None else {"targets": self._targets}
        return {"last": self._last, "warned": sorted(self._warned), **arrays}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self._last, self._warned = state["last"], set(state["warned"])
        self._targets = state.get("targets")

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if epoch % self.every == 0:
            # On JAX the newest weights are in the train state until `sync` copies them to the model.
            backends.sync(self.model)
            with on_one_device(self.model) as model:
                self._last = self._look(model.backbone, epoch)
        logs.update(self._last)

    def _look(self, backbone, epoch: int) -> dict[str, float]:
        if self._extractor is None:
            self._extractor = FeatureExtractor(backbone)
        features = self._extractor.extract(self.images, self.batch_size)
        targets = self._embeddings(backbone)
        before = targets if self._targets is None else self._targets
        self._targets = targets
        if not (np.isfinite(features).all() and np.isfinite(targets).all()):
            self._warn(epoch, {"finite": "features are not finite"})
            return dict.fromkeys(self._names, float("nan"))
        found = diagnostics(features)
        drift = diagnostics(targets, before)["drift"]
        self._warn(epoch, collapse_warnings({**found, "drift": drift}))
        logs = {f"feature_{name}": value for name, value in found.items()}
        logs["target_drift"] = drift
        if self.labels is not None:
            half = len(features) // 2
            parts = features[:half], self.labels[:half], features[half:], self.labels[half:]
            logs["knn_accuracy"] = knn_accuracy(*parts, k=self.k)
            if self.linear_probe:
                logs["linear_probe_accuracy"] = linear_probe_accuracy(*parts)
        return logs

    def _embeddings(self, backbone) -> np.ndarray:
        """Patch embeddings (B * T, D) of the first 16 images: the targets of the objective."""
        images = self.images[:16]
        if images.dtype == np.uint8:
            images = normalize(images, backbone.image_shape[:2])
        z = keras.ops.convert_to_numpy(backbone.patch_embedding(images))
        return np.array(z[:, 1:], "float32").reshape(-1, z.shape[-1])

    def _warn(self, epoch: int, words: dict[str, str]) -> None:
        """Report each new problem once; one that disappeared and returns is reported again."""
        for name, sentence in words.items():
            if name not in self._warned:
                self.warnings.append(f"epoch {epoch + 1}: {sentence}.")
                if backends.process()[0] == 0:
                    self.say(f"\n{self.warnings[-1]}")
        self._warned = set(words)
