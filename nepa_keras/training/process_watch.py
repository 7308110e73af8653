"""Detection of lost processes, so that the other processes of a run end within a bounded time."""

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
    """End this process within a bounded time once another process of the run is lost.

    If a process is killed, the collectives of the others may raise, abort after minutes, or wait for hours.
    So each process writes a counter to a file of its own and reads those of the others. A process whose
    counter stands still for `patience` seconds is lost; one that leaves by an error writes so into its file.
    As the main thread may be inside a collective, where no exception reaches it, the watching thread calls
    `end`. An error of a collective is held back for as long, because a lost process may be its cause and is
    the better message.

    Args:
        folder: folder that all processes see; created if missing, and removed after all have left normally.
        number: rank of this process.
        count: number of processes; with 1 nothing is watched.
        is_lost_process: tells whether a collective may raise this error because a process is lost.
        patience: seconds without a new counter.
        end: called with one sentence; by default it is printed and the process exits with status `LOST`.
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
        """Start watching; every process must have entered its context by then."""
        if self.count > 1:
            self._thread.start()

    def __exit__(self, kind, error, trace) -> None:
        if self.count == 1:
            return
        if self._thread.is_alive() and error is not None and self.is_lost_process(error):
            self._thread.join(1.5 * self.patience)  # time for it to end the process
        self._left.set()
        if self._thread.is_alive():
            self._thread.join()
        if error is None:
            self._file(self.number).unlink(missing_ok=True)
            with suppress(OSError):  # not empty until the last process has left
                self.folder.rmdir()
        else:
            self._write(_FAILED)

    def _file(self, number: int) -> Path:
        return self.folder / f"process-{number}"

    def _write(self, text: str) -> None:
        """Overwrite the content in place, which needs no space on a full disk."""
        # A failed write is retried at the next beat; if it keeps failing, the others end.
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
                except FileNotFoundError:  # the process has left normally
                    del heard[number]
                    continue
                except OSError:
                    text = before
                if text != before:
                    heard[number] = (text, now)
                elif text == _FAILED and now - when > self.patience / 6:
                    # Gives this process time to raise the same error, if all processes do.
                    return self.end(
                        self._sentence(number, "has ended by an error, which it reports")
                    )
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
