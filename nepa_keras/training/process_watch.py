"""A bounded end for the processes of a run one of which is gone."""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

LOST = 6  # status of a process that ended because another one of the run did
_FAILED = "failed"


class ProcessWatch:
    """Ends this process within a bounded time once another one of the run is lost.

    Left to the engines, a collective whose partner was killed raises, is aborted after minutes with a page
    of C++, or waits for hours. So each process counts in a file of its own, and reads those of the others.
    One whose count stands still for `patience` seconds is lost; one that left by an error says so in its
    file. The main thread may be inside a collective then, where no exception reaches it, so that `end` is
    called by the thread that watches. An error of the engine that leaves this context is held back for as
    long: a lost process may be its reason, which then is the better sentence.

    Args:
        folder: that all processes see; made if missing, and removed when all have left in good order.
        number: of this process, from 0.
        count: of all; with 1 nothing is watched.
        is_lost_process: whether an error is one that a collective raises whose partner is gone.
        patience: seconds.
        end: called with one sentence; by default it is printed, and the process ends with the status `LOST`.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        number: int,
        count: int,
        is_lost_process: Callable[[BaseException], bool],
        patience: float = 60.0,
        end: Callable[[str], None] | None = None,
    ):
        self.folder = Path(folder)
        self.number, self.count = number, count
        self.is_lost_process = is_lost_process
        self.patience = patience
        self.end = end or _end_process
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="process watch", daemon=True)

    def __enter__(self) -> "ProcessWatch":
        if self.count > 1:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file(self.number).write_text(f"{0:8d}")
        return self

    def start(self) -> None:
        """Watch from now on; every process has to have entered its own context by then."""
        if self.count > 1:
            self._thread.start()

    def __exit__(self, kind, error, trace) -> None:
        if self.count == 1:
            return
        if self._thread.is_alive() and error is not None and self.is_lost_process(error):
            self._thread.join(1.5 * self.patience)  # until it ends the process, if it does
        self._left.set()
        if self._thread.is_alive():
            self._thread.join()
        if error is None:
            self._file(self.number).unlink(missing_ok=True)
            with suppress(OSError):  # until the last has left
                self.folder.rmdir()
        else:
            self._write(_FAILED)

    def _file(self, number: int) -> Path:
        return self.folder / f"process-{number}"

    def _write(self, text: str) -> None:
        """Over what is there, which takes no room on a full disk."""
        # The next time it may be possible; if not, the others end.
        with suppress(OSError), open(self._file(self.number), "r+") as file:
            file.write(f"{text:>8}")

    def _watch(self) -> None:
        now = time.monotonic()
        heard = {i: ("", now) for i in range(self.count) if i != self.number}
        beat = 0
        while heard and not self._left.wait(self.patience / 12):
            beat += 1
            self._write(str(beat % 10**8))
            now = time.monotonic()
            for number, (before, when) in tuple(heard.items()):
                try:
                    text = self._file(number).read_text().strip()
                except FileNotFoundError:  # it has left in good order
                    del heard[number]
                    continue
                except OSError:
                    text = before
                if text != before:
                    heard[number] = (text, now)
                elif text == _FAILED and now - when > self.patience / 6:
                    # The time is for this process to come to the same error, if it is one of all.
                    return self.end(self._sentence(number, "has ended by an error, which it names"))
                elif now - when > self.patience:
                    said = f"has not been heard of for {self.patience:.0f} s"
                    return self.end(self._sentence(number, said))

    def _sentence(self, number: int, what: str) -> str:
        return (
            f"Process {number} of 0 to {self.count - 1} {what}, so this one ends; with all processes started "
            "again by the same command, the run goes on from its last checkpoint."
        )


def _end_process(sentence: str) -> None:
    sys.stdout.flush()
    print(f"{Path(sys.argv[0]).name}: {sentence}", file=sys.stderr, flush=True)
    os._exit(LOST)
