"""Runs that are killed again and again and started anew until they are finished, and what is left each time.

    KERAS_BACKEND=torch python -m tests.helpers.lives saves FOLDER --kills=200
    KERAS_BACKEND=torch python -m tests.helpers.lives runs FOLDER --kills=200

A life is a process of its own, forked after the imports, which are most of the time it takes to start, and
before the backend has made threads. It ends by a real SIGKILL, or SIGTERM, at a random moment or at a
boundary within a save. After each death the parent looks at what is on the disk; what it finds wrong is in
the list "faults" of the JSON that it prints.
"""

import argparse
import csv
import itertools
import json
import os
import select
import signal
import sys
import time
import zlib
from functools import partial
from pathlib import Path

import keras
import numpy as np

from nepa_keras import data, training
from nepa_keras.training import run
from nepa_keras.training.checkpoints import Checkpoints
from tests.helpers import tiny

WORDS = ("made", "state", "record", "manifest", "synced", "renamed", "complete", "removed")
STEPS, BATCH = 60, 4  # of a run; 16 batches are an epoch
# Shares of the deaths that come before the first step, in a save, and by SIGTERM.
STARTING, SAVING, ASKED = 0.1, 0.3, 0.1
PREEMPTED = 75


class Watched(Checkpoints):
    """Print what is under way, and exit at a chosen event of a save."""

    def __init__(self, *arguments, tell, die_at=None, **keywords):
        super().__init__(*arguments, **keywords)
        self.tell, self.die_at, self.saves, self.step = tell, die_at, 0, 0
        self.at_boundary = self.reached

    def save(self, step, *arguments):
        self.saves, self.step = self.saves + 1, step
        self.tell("save", step)
        return super().save(step, *arguments)

    def reached(self, word):
        if (word, self.saves) == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "complete":
            self.tell("complete", self.step)


class Life:
    """A process that does `work(tell)`, and what it told.

    Attributes:
        told: pairs of a word and a number, in order.
        status: exit status, or the signal that ended it, negative.
    """

    def __init__(self, work, log: Path):
        out, into = os.pipe()
        self.out, self.told, self.rest, self.status = out, [], b"", None
        self.pid = os.fork()
        if self.pid:
            os.close(into)
            return
        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = 1
        try:
            work(lambda word, number=0: os.write(into, f"{word} {number}\n".encode()))
            status = 0
        except training.Preempted:
            status = PREEMPTED
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def wait_until(self, word: str | None, seconds: float) -> bool:
        """Listens until it tells `word`; False if it ended, or so many seconds passed, before."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.out], [], [], left)[0]:
                break
            content = os.read(self.out, 65536)
            if not content:  # closed: it is dead
                return False
            *lines, self.rest = (self.rest + content).split(b"\n")
            new = [(w.decode(), int(n)) for w, n in (line.split() for line in lines)]
            self.told += new
            if word in dict(new):
                return True
        return False

    def end(self, number: int | None = None) -> None:
        """Send a signal, if one is given, and wait for the end."""
        if number is not None:
            os.kill(self.pid, number)
        while self.wait_until(None, 600):
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.out)
        self.status = os.waitstatus_to_exitcode(status)

    def last(self, word: str) -> int:
        return max((number for w, number in self.told if w == word), default=0)

    @property
    def in_a_save(self) -> bool:
        saves = [word for word, _ in self.told if word in ("save", "complete")]
        return saves[-1:] == ["save"]


class Account:
    """Record of the kills and of the faults that were found."""

    def __init__(self):
        self.counts = dict.fromkeys(["kills", "in_a_save", "starting", "sigterm", "finished"], 0)
        self.faults = []

    def add(self, name: str, number: int = 1) -> None:
        self.counts[name] += number

    def check(self, good: bool, sentence: str) -> None:
        if not good:
            self.faults.append(sentence)


def whole(folder: Path, at_least: int, account: Account):
    """The newest checkpoint; none may be damaged, and none that was complete may be lost."""
    checkpoints = Checkpoints(folder)
    saved = checkpoints.newest()
    step = saved.step if saved else 0
    account.check(not checkpoints.damaged, f"{checkpoints.damaged}")
    account.check(step >= at_least, f"{folder}: step {at_least} was complete, {step} is there")
    return saved


# Saves without a model.


def state_of(step: int) -> dict[str, np.ndarray]:
    return {name: np.full(100_000, step, "float32") for name in ("weights", "moments")}


def save_for_ever(folder: Path, die_at, tell) -> None:
    checkpoints = Watched(folder, tell=tell, die_at=die_at)
    for step in itertools.count((checkpoints.newest().step if checkpoints.steps() else 0) + 1):
        checkpoints.save(step, state_of(step), {"best": step})


def killed_saves(folder: Path, kills: int, draw: np.random.Generator) -> Account:
    account, at_least = Account(), 0
    places = [(word, save) for word in WORDS for save in (1, 2, 4)]
    for place in [*places, *[None] * kills]:
        life = Life(partial(save_for_ever, folder / "saves", place), folder / "lives.log")
        if place is None:
            life.wait_until("save", 60)
            life.wait_until(None, draw.uniform(0, 0.03))
        life.end(None if place else signal.SIGKILL)
        account.check(life.status == -signal.SIGKILL, f"at {place}: status {life.status}")
        account.add("kills")
        account.add("in_a_save", life.in_a_save)
        at_least = max(at_least, life.last("complete"))
        if saved := whole(folder / "saves", at_least, account):
            same = all(
                np.array_equal(saved.state[name], value)
                for name, value in state_of(saved.step).items()
            )
            account.check(same, f"step {saved.step} holds what was not saved in it")
    return account


# Whole runs.


def train(folder: Path, die_at, tell) -> None:
    run.Checkpoints = partial(Watched, tell=tell, die_at=die_at)
    keras.utils.set_random_seed(0)
    model = tiny.pretrainer(drop_path_rate=0.3)
    tiny.compile_model(model, training.adamw(1e-2, ema_decay=0.9))
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), "uint8")
    batches = data.AugmentedBatches(images, BATCH, 8)

    def batches_from(step: int):
        tell("from", step)
        stream = batches.seek(step).endless()
        for place in itertools.count(step):
            batch = next(stream)
            tell(f"batch:{place}", zlib.crc32(batch[0].tobytes()))
            yield batch

    began = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: tell("step"))
    folder.mkdir(exist_ok=True)
    training.fit_steps(model, batches_from, STEPS, BATCH, folder, callbacks=[began])


def log_of(folder: Path) -> list[dict]:
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def batches_of(life: Life) -> dict[str, int]:
    return {word: number for word, number in life.told if word.startswith("batch:")}


def wait_for_the_moment(life: Life, duration: float, draw: np.random.Generator) -> None:
    """Until it is to die: anywhere in a run that takes so many seconds."""
    if draw.random() < STARTING:
        life.wait_until("step", draw.uniform(0, 1))
        return
    life.wait_until("step", 300)
    life.wait_until(None, draw.uniform(0, 0.5 * duration))
    if draw.random() < SAVING:
        life.wait_until("save", duration)
        life.wait_until(None, draw.uniform(0, 0.02))


def killed_runs(folder: Path, kills: int, draw: np.random.Generator) -> Account:
    account, log = Account(), folder / "lives.log"
    straight = Life(partial(train, folder / "straight", None), log)
    straight.wait_until("step", 300)
    began = time.monotonic()
    straight.end()
    duration = time.monotonic() - began
    account.check(straight.status == 0, f"the run without a break ended with {straight.status}")
    expected, ids = Checkpoints(folder / "straight" / "checkpoints").newest(), batches_of(straight)
    for number in itertools.count():
        again, at_least = folder / f"run-{number}", 0
        while True:
            life = Life(partial(train, again, None), log)
            left = kills - account.counts["kills"]
            if left <= 0:
                number = None
            else:
                wait_for_the_moment(life, duration, draw)
                started = "step" in dict(life.told)
                number = signal.SIGTERM if started and draw.random() < ASKED else signal.SIGKILL
            life.end(number)
            found = batches_of(life)
            account.check(
                all(ids.get(place, crc) == crc for place, crc in found.items()),
                f"{again}: other batches than in the run without a break",
            )
            account.check(
                "from" not in dict(life.told) or life.last("from") >= at_least,
                f"{again}: went on from before step {at_least}",
            )
            at_least = max(at_least, life.last("complete"))
            whole(again / "checkpoints", at_least, account)
            if life.status == 0:
                break
            account.check(
                life.status in (-signal.SIGKILL, PREEMPTED, -signal.SIGTERM),
                f"{again}: status {life.status}, see {log}",
            )
            account.add("kills")
            account.add("sigterm", life.status == PREEMPTED)
            account.add("starting", "step" not in dict(life.told))
            account.add("in_a_save", life.in_a_save)
            if len(account.faults) > 20:
                return account
        account.add("finished")
        saved = Checkpoints(again / "checkpoints").newest()
        same = sorted(saved.state) == sorted(expected.state) and all(
            np.array_equal(saved.state[name], value) for name, value in expected.state.items()
        )
        account.check(same, f"{again}: at the end not the state of the run without a break")
        account.check(log_of(again) == log_of(folder / "straight"), f"{again}: another log.csv")
        if account.counts["kills"] >= kills:
            return account


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["saves", "runs"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    deaths = {"saves": killed_saves, "runs": killed_runs}[options.what]
    account = deaths(options.folder, options.kills, np.random.default_rng(options.seed))
    print(json.dumps({**account.counts, "faults": account.faults}))


if __name__ == "__main__":
    main()
