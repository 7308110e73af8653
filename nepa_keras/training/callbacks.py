"""Callbacks of a run: step counter, throughput, progress line, trackers."""

import datetime
import math
import sys
import time
from collections.abc import Callable

import keras

from nepa_keras.training.trackers.protocol import Tracker
from nepa_keras.types import Logs


class StepClock(keras.callbacks.Callback):
    """Count the steps of a run; end log intervals and the run at the right step.

    An epoch of `fit` is a log interval. Keras starts an epoch at its first batch, so the rest of an
    interrupted interval is a shorter epoch. Put this callback before all others, which read its attributes.

    Args:
        step: steps done before this `fit`.
        steps: steps of the whole run.
        interval: steps of a log interval.
        restore_metrics: called after `fit` has reset the metrics, to restore the means of an interrupted
            interval.

    Attributes:
        step: steps done.
        epoch_start: step at which this epoch of `fit` began.
    """

    def __init__(
        self,
        step: int,
        steps: int,
        interval: int,
        restore_metrics: Callable[[], None] = lambda: None,
    ):
        super().__init__()
        self.step = self.epoch_start = self.resumed_at = step
        self.steps, self.interval = steps, interval
        self.restore_metrics = restore_metrics
        self.cut = False  # True if this interval began before this `fit`

    @property
    def interval_start(self) -> int:
        """Step at which this log interval began, possibly before this `fit`."""
        return self.epoch_start // self.interval * self.interval

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_start = self.step
        self.cut = self.step % self.interval != 0
        if self.cut:
            self.restore_metrics()

    def on_train_batch_end(self, batch, logs=None):
        self.step = self.epoch_start + batch + 1
        interval_ends = self.cut and self.step % self.interval == 0
        if interval_ends or self.step >= self.steps:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs["step"] = self.step
        if self.cut:
            self.model.stop_training = self.step >= self.steps


class Throughput(keras.callbacks.Callback):
    """Log `images_per_second` of each epoch, without the first batch, which compiles.

    Put this callback before those that write logs.

    Args:
        clock: the `StepClock` of the same `fit`.
        batch_size: images per batch.
        seconds_waited: returns the seconds spent waiting for data so far; if given, `data_wait` (fraction of
            the epoch) is logged.
        mfu: converts images per second to the fraction of the machine's peak, such as
            `performance.ModelFlopsUtilization`; if given, `mfu` is logged.
    """

    def __init__(
        self,
        clock: StepClock,
        batch_size: int,
        seconds_waited: Callable[[], float] | None = None,
        mfu: Callable[[float], float] | None = None,
    ):
        super().__init__()
        self.clock = clock
        self.batch_size = batch_size
        self.seconds_waited = seconds_waited
        self.mfu = mfu
        self.started: float | None = None

    def on_epoch_begin(self, epoch, logs=None):
        self.started = None
        if self.clock.step > self.clock.resumed_at:
            self._start()

    def _start(self):
        self.started, self.started_at = time.perf_counter(), self.clock.step
        self.waited_before = self.seconds_waited() if self.seconds_waited else 0.0

    def on_train_batch_end(self, batch, logs=None):
        if self.started is None:
            self._start()

    @property
    def images_per_second(self) -> float:
        """Images per second in this epoch so far; NaN before a batch was timed."""
        if self.started is None or self.clock.step == self.started_at:
            return float("nan")
        images = (self.clock.step - self.started_at) * self.batch_size
        return images / (time.perf_counter() - self.started)

    @property
    def data_wait(self) -> float:
        """Fraction of this epoch so far spent waiting for data; NaN before a batch was timed."""
        if self.started is None or self.clock.step == self.started_at or not self.seconds_waited:
            return float("nan")
        waited = self.seconds_waited() - self.waited_before
        return min(1.0, waited / (time.perf_counter() - self.started))

    def measured(self) -> dict[str, float]:
        """Return `images_per_second` and, if available, `data_wait` and `mfu`."""
        found = {"images_per_second": self.images_per_second}
        if self.seconds_waited is not None:
            found["data_wait"] = self.data_wait
        if self.mfu is not None:
            found["mfu"] = self.mfu(found["images_per_second"])
        return found

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs.update(self.measured())


class Progress(keras.callbacks.Callback):
    """Show loss, throughput, data wait, MFU and remaining time over all steps of a run.

    The duration of the first step, which includes tracing and compilation, is printed separately. A terminal
    gets one progress bar, a file an occasional line. Use it with `fit(verbose=0)`, whose own bars count
    epochs.

    Args:
        throughput: the `Throughput` of the same `fit`.
    """

    def __init__(self, throughput: Throughput):
        super().__init__()
        self.clock, self.throughput = throughput.clock, throughput
        self.bar = None
        if sys.stdout.isatty():
            names = ["loss", "img/s", "data_wait", "mfu"]
            self.bar = keras.utils.Progbar(
                self.clock.steps, unit_name="step", stateful_metrics=names
            )
        self.interval = 0.5 if self.bar else 10.0  # seconds
        self.drawn = self.began = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        step, steps = self.clock.step, self.clock.steps
        if step == self.clock.resumed_at + 1:
            float(logs["loss"])  # wait until the step is done
            took = time.perf_counter() - self.began
            compiled = ", with compilation" if self.model.jit_compile else ""
            print(f"first step {took:.1f} s{compiled}", flush=True)
        now = time.perf_counter()
        if now - self.drawn < self.interval and step < steps:
            return
        self.drawn = now
        measured = self.throughput.measured()
        values = {"loss": float(logs["loss"]), "img/s": measured.pop("images_per_second")}
        values |= measured
        if self.bar:
            self.bar.update(step, list(values.items()), finalize=step >= steps)
        else:
            print(progress_line(step, steps, self.throughput.batch_size, values), flush=True)


def progress_line(step: int, steps: int, batch_size: int, values: dict[str, float]) -> str:
    """Format progress for a file: "step 480 of 1,600, loss -0.4321, img/s 1,234, data_wait 2%, 0:01:56 left".

    Values that are not known yet are left out.
    """
    forms = {"loss": "{:.4f}", "img/s": "{:,.0f}", "data_wait": "{:.0%}", "mfu": "{:.1%}"}
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    parts = [f"step {step:,} of {steps:,}"]
    parts += [f"{name} {forms[name].format(value)}" for name, value in known.items()]
    if known.get("img/s") and step < steps:
        left = datetime.timedelta(seconds=round((steps - step) * batch_size / known["img/s"]))
        parts.append(f"{left} left")
    return ", ".join(parts)


class TrackerLog(keras.callbacks.Callback):
    """Pass the logs of each epoch to a tracker.

    Args:
        tracker: a tracker whose `begin` has been called.
    """

    def __init__(self, tracker: Tracker):
        super().__init__()
        self.tracker = tracker

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        values = {name: float(value) for name, value in logs.items() if name != "step"}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self.tracker.scalars(finite, int(logs.get("step", epoch + 1)))
