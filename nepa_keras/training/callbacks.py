"""What a run shows and keeps while `fit` works: throughput, progress, events."""

import datetime
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras


class Throughput(keras.callbacks.Callback):
    """Adds `step` (batches so far) and `images_per_second` to the logs of each epoch.

    Put it before the callbacks that read them. The first batch, which compiles, is left out.

    Args:
        batch_size: images per batch.
        seconds_waited: gives the seconds that were waited for data so far; then `data_wait`, the share of the
            epoch's time, is in the logs, too.
        step: batches that were done before this `fit`.
        mfu: gives the share of the machine's peak that so many images per second use, see
            `evaluation.ModelFlopsUtilization`; then `mfu` is in the logs, too.
    """

    def __init__(
        self,
        batch_size: int,
        seconds_waited: Callable[[], float] | None = None,
        step: int = 0,
        mfu: Callable[[float], float] | None = None,
    ):
        super().__init__()
        self.batch_size = batch_size
        self.seconds_waited = seconds_waited
        self.mfu = mfu
        self.step = self.before = step
        self.first_step = step  # of this epoch
        self.started_at = step  # step at which the clock was started
        self.started = None

    def on_epoch_begin(self, epoch, logs=None):
        self.first_step = self.step
        self.started = None
        if self.step > self.before:
            self._start()

    def _start(self):
        self.started, self.started_at = time.perf_counter(), self.step
        self.waited_before = self.seconds_waited() if self.seconds_waited else 0.0

    def on_train_batch_end(self, batch, logs=None):
        self.step = self.first_step + batch + 1
        if self.started is None:
            self._start()

    @property
    def images_per_second(self) -> float:
        """Of this epoch so far; NaN until a batch was timed."""
        images = (self.step - self.started_at) * self.batch_size
        return images / (time.perf_counter() - self.started) if images else float("nan")

    @property
    def data_wait(self) -> float:
        """Share of this epoch so far that was waited for data, in [0, 1]; NaN until a batch was timed."""
        if self.started is None or self.step == self.started_at:
            return float("nan")
        waited = self.seconds_waited() - self.waited_before
        return min(1.0, waited / (time.perf_counter() - self.started))

    def on_epoch_end(self, epoch, logs=None):
        logs["step"] = self.step
        logs["images_per_second"] = self.images_per_second
        if self.seconds_waited is not None:
            logs["data_wait"] = self.data_wait
        if self.mfu is not None:
            logs["mfu"] = self.mfu(logs["images_per_second"])


class Progress(keras.callbacks.Callback):
    """Loss, img/s, share of waiting, MFU and the time that remains, over all steps of a run.

    A terminal has one bar that is drawn again; a file a plain line now and then. Use it with
    `fit(verbose=0)`, whose own bars count epochs.

    Args:
        steps: of the run.
        throughput: the `Throughput` of the same `fit`.
    """

    def __init__(self, steps: int, throughput: Throughput):
        super().__init__()
        self.steps, self.throughput = steps, throughput
        self.bar = None
        if sys.stdout.isatty():
            names = ["loss", "img/s", "data_wait", "mfu"]
            self.bar = keras.utils.Progbar(steps, unit_name="step", stateful_metrics=names)
        self.interval = 0.5 if self.bar else 10.0
        self.drawn = 0.0

    def on_train_batch_end(self, batch, logs=None):
        step, now = self.throughput.step, time.perf_counter()
        if now - self.drawn < self.interval and step < self.steps:
            return
        self.drawn = now
        values = {"loss": float(logs["loss"]), "img/s": self.throughput.images_per_second}
        if self.throughput.seconds_waited is not None:
            values["data_wait"] = self.throughput.data_wait
        if self.throughput.mfu is not None:
            values["mfu"] = self.throughput.mfu(values["img/s"])
        if self.bar:
            self.bar.update(step, list(values.items()), finalize=step >= self.steps)
        else:
            print(progress_line(step, self.steps, self.throughput.batch_size, values), flush=True)


def progress_line(step: int, steps: int, batch_size: int, values: dict[str, float]) -> str:
    """A line for a file: "step 480 of 1,600, loss -0.4321, img/s 1,234, data_wait 2%, 0:01:56 left".

    What is not known yet is left out.
    """
    forms = {"loss": "{:.4f}", "img/s": "{:,.0f}", "data_wait": "{:.0%}", "mfu": "{:.1%}"}
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    parts = [f"step {step:,} of {steps:,}"]
    parts += [f"{name} {forms[name].format(value)}" for name, value in known.items()]
    if known.get("img/s") and step < steps:
        left = datetime.timedelta(seconds=round((steps - step) * batch_size / known["img/s"]))
        parts.append(f"{left} left")
    return ", ".join(parts)


class StopAtStep(keras.callbacks.Callback):
    """Ends `fit` after so many batches, also in the middle of an epoch.

    Args:
        steps: batches.
        throughput: the `Throughput` of the same `fit`, which counts them.
    """

    def __init__(self, steps: int, throughput: Throughput):
        super().__init__()
        self.steps = steps
        self.throughput = throughput

    def on_train_batch_end(self, batch, logs=None):
        if self.throughput.step >= self.steps:
            self.model.stop_training = True


class EventLog(keras.callbacks.Callback):
    """Writes the logs of each epoch as TensorBoard events, without TensorFlow.

    Args:
        folder: of the event file.
        step: events of earlier files beyond it, of a run that was killed, no longer count.

    Raises:
        ImportError: tensorboardX is missing.
    """

    def __init__(self, folder: str | Path, step: int = 0):
        super().__init__()
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ImportError(
                "TensorBoard events need tensorboardX: pip install tensorboardX."
            ) from None
        self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def on_epoch_end(self, epoch, logs=None):
        step = int(logs.get("step", epoch + 1))
        for name, value in logs.items():
            if name != "step" and math.isfinite(value):
                self.writer.add_scalar(name, float(value), step)
        self.writer.flush()

    def on_train_end(self, logs=None):
        self.writer.close()
