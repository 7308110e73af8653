"""Pretrainings of a study with a run folder, whose log and checkpoints are examined afterwards."""

import hashlib
import json
from collections.abc import Mapping

import keras
import numpy as np

from nepa_keras.backbone import NepaBackbone
from nepa_keras.data import AugmentedBatches, ImageArrays
from nepa_keras.skipped_steps import NonFiniteError
from nepa_keras.training import RunDir, find_weights, fit_steps
from nepa_keras.training.checkpoints import Checkpoints
from nepa_keras.visualization.curves import read_log
from study.ablations import Ablation, ablated, compile_to_pretrain
from study.results import Results

POINTS = 5  # number of checkpoints to keep, evenly spaced


class KeptRun:
    """A pretraining with its curves and checkpoints, trained now or by an earlier run of the same command.

    Args:
        name: name of the ablation, for printed lines.
        ablation: model to pretrain.
        config: configuration of the backbone.
        data: images and labels.
        results: store of the outcome; the run's folder lies beside its file.
        steps: number of updates, a multiple of 10.
        seed: seed of weights, order of images and augmentation.
        about: further settings that the outcome depends on.
        batch_size, base_learning_rate, ema_decay: as `pretrain_briefly`.

    Attributes:
        run: folder of the run, a `RunDir`.
        diverged: whether the training diverged; then there are no checkpoints to examine.
        setup: settings that results about this run depend on.
    """

    def __init__(
        self,
        name: str,
        ablation: Ablation,
        config: dict,
        data: ImageArrays,
        results: Results,
        *,
        steps: int,
        seed: int,
        about: Mapping,
        **how,
    ):
        self._ablation, self._config, self.seed = ablation, config, seed
        options = {**ablation.objective, **ablation.backbone}
        self.setup = {**about, **how, "steps": steps, "options": options}
        about = {"part": "pretraining", "name": name, "seed": seed, "setup": self.setup}
        text = json.dumps([keras.backend.backend(), about], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.run = RunDir(results.path.parent / f"run_{digest}")

        def train() -> dict:
            model = self._fresh()
            compile_to_pretrain(model, steps, **how)
            size = model.backbone.image_shape[:2]
            batches = AugmentedBatches(data.train_images, how["batch_size"], size, seed=seed)

            def batches_from(step: int):
                batches.seek(step)
                return batches.endless()

            every = steps // POINTS
            try:
                fit_steps(model, batches_from, steps, how["batch_size"], self.run, keep_every=every)
            except NonFiniteError:
                return {"diverged": 1}
            return {"loss": float(self.curve("loss")[-1])}

        found = results.of(about, train, again=not self.run.path.is_dir())
        self.diverged = "diverged" in found

    def _fresh(self):
        return ablated(self._ablation, NepaBackbone.from_config(self._config), self.seed)

    def curve(self, column: str) -> np.ndarray:
        """Column of the log, with a value for each log interval."""
        return read_log(self.run.log)[column]

    def steps(self) -> list[int]:
        """Step 0 and the steps of the evenly spaced checkpoints."""
        saved = Checkpoints(self.run.checkpoints).steps()
        return [step for step in sorted({0, *saved}) if step % (max(saved) // POINTS) == 0]

    def backbone(self, step: int) -> NepaBackbone:
        """Backbone with the averaged weights of a step, or for step 0 with the initial weights."""
        if step == 0:
            return self._fresh().backbone
        weights = find_weights(Checkpoints(self.run.checkpoints).path(step), "ema")
        return NepaBackbone.from_preset(str(weights.folder), ema=True)
