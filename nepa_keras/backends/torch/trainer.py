"""PyTorch: the training step, eager or with compiled blocks; on several processes with DDP."""

import os
from importlib.util import find_spec

import keras
import torch
from keras import ops
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from nepa_keras.backends.compiled_code import folder_of_processor
from nepa_keras.backends.guard import GuardedOptimizer, is_rate
from nepa_keras.backends.torch import devices as torch_devices
from nepa_keras.backends.torch.devices import mean_over_replicas, replicas
from nepa_keras.backends.torch.kernels import compiling, global_norm

_CACHE = "TORCHINDUCTOR_CACHE_DIR"


class Model(keras.Model):
    """`keras.Model` whose `jit_compile` compiles the functions given to `compiled`; the rest stays eager.

    Keras would compile the whole step: each block separately, which takes minutes, and with graph breaks, as
        it
    reads seeds and rates on the host.
    """

    def _should_torch_compile(self):
        return False

    def train_step(self, data):
        with compiling(self.jit_compile):
            return super().train_step(data)

    def test_step(self, data):
        with compiling(self.jit_compile):
            return super().test_step(data)

    def predict_step(self, data):
        with compiling(self.jit_compile):
            return super().predict_step(data)


class Trainer(Model):
    """`keras.Model` with a guarded training step; `nepa_keras.task.Task` has the methods it calls."""

    def make_train_function(self, force=False):
        if force or self.train_function is None:
            self.__dict__["in_parallel"] = None  # an attribute would make Keras track it twice
        super().make_train_function(force)

    def _initialize_ddp(self):
        """Do nothing: Keras 3.16 would wrap the model in DDP here, but `in_parallel` is the wrapper."""

    def get_metrics_result(self):
        """Return the metrics of this process; Keras 3.16 would wait for processes that are elsewhere."""
        results = {}
        for metric in self.metrics:
            result = metric.result()
            results.update(result if isinstance(result, dict) else {metric.name: result})
        return results

    def train_step(self, data):
        """Run one guarded step; return the logs."""
        x, y, sample_weight = keras.tree.map_structure(
            lambda a: None if a is None else ops.convert_to_tensor(a),
            keras.utils.unpack_x_y_sample_weight(data),
            none_is_leaf=True,
        )
        with torch_devices.step(), compiling(self.jit_compile):
            return self._guarded_step(x, y, sample_weight)

    def _guarded_step(self, x, y, sample_weight):
        variables = list(self.trainable_variables)
        statistics = [(v, v.value.clone()) for v in self.moving_statistics]
        self.zero_grad()
        if replicas() > 1 and self.in_parallel is None:
            self.__dict__["in_parallel"] = torch_devices.wrap(self)
        y_pred = (self.in_parallel if replicas() > 1 else self)(x, training=True)
        loss = self.compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
        )
        self.optimizer.scale_loss(loss).backward()
        gradients = [v.value.grad for v in variables]
        with torch.no_grad():
            loss = mean_over_replicas(loss.detach())
            learning_rate = ops.convert_to_tensor(self.optimizer.learning_rate).clone()
            norm, ok = _apply(self.optimizer, gradients, variables, loss, learning_rate)
            for variable, old in statistics:
                variable.assign(torch.where(ok, variable.value, old))
            y_pred = keras.tree.map_structure(lambda a: a.detach(), y_pred)
            logs = self.record_step(
                x, y, y_pred, sample_weight, loss, norm, ok, learning_rate.clone()
            )
            if replicas() > 1:  # metrics given to `compile` have seen this process's images only
                values = torch.stack([v.to(torch.float32) for v in logs.values()])
                logs = dict(zip(logs, mean_over_replicas(values), strict=True))
            return logs


def _apply(optimizer, gradients, variables, loss, learning_rate):
    if isinstance(optimizer, GuardedOptimizer):
        return optimizer.apply_guarded(gradients, variables, loss)
    norm = global_norm([g for g in gradients if g is not None])
    ok = torch.isfinite(norm) & torch.isfinite(loss) & is_rate(learning_rate)
    if ok:
        optimizer.apply(gradients, variables)
    return norm, ok


def default_jit_compile() -> bool:
    """Return True on a GPU, where compiled steps are much faster; on CPU they hardly are."""
    return torch.cuda.is_available() and find_spec("triton") is not None


def keep_compiled(folder) -> None:
    """Cache compiled code in a folder, unless TORCHINDUCTOR_CACHE_DIR names one.

    PyTorch sets the variable to a default itself, which does not count.
    """
    default = default_cache_dir()
    if os.environ.get(_CACHE, default) == default:
        os.environ[_CACHE] = folder_of_processor(folder)


def sync(model) -> None:
    """Do nothing: the variables are the state."""
