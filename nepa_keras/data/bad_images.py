"""Images that cannot be read: recorded, counted, and tolerated up to a budget."""

import math
import threading
from pathlib import Path

from nepa_keras.files import printable


class BadImagesError(ValueError):
    """More images were bad than the budget allows."""


class BadImages:
    """Record of the bad images of a run; safe to use from several threads.

    Args:
        count: number of images of the source.
        share: fraction of them that may be bad in one process; 0 stops at the first bad image.
        record: file that receives one line `name: reason` per bad image, also over several runs; None for no
            file. Unprintable characters in names are escaped.

    Attributes:
        reasons: lines of this process, by index of the image.
        lines: all lines, including those that were in the file before.

    Example:
        >>> bad_images = data.BadImages(count=1000, share=0.01)
        >>> bad_images.add(3, "cats/3.jpg", "the file is empty")
        >>> bad_images.reasons
        {3: 'cats/3.jpg: the file is empty'}
    """

    def __init__(self, count: int, share: float = 0.001, record: str | Path | None = None):
        self.budget = math.ceil(share * count)
        self.record = None if record is None else Path(record).expanduser()
        self.reasons: dict[int, str] = {}
        self.lines: set[str] = set()
        if self.record is not None and self.record.exists():
            held = self.record.read_text("utf-8", errors="backslashreplace")
            self.lines.update(held.splitlines())
        self.lock = threading.Lock()

    def add(self, index: int, name: str, reason: str) -> None:
        """Record an image; a second time has no effect.

        Raises:
            BadImagesError: more images are bad than the budget allows.
        """
        with self.lock:
            if index in self.reasons:
                return
            line = printable(f"{name}: {reason}")
            self.reasons[index] = line
            if self.record is not None and line not in self.lines:
                with open(self.record, "a", encoding="utf-8") as file:
                    file.write(line + "\n")
            self.lines.add(line)
            if len(self.reasons) > self.budget:
                raise BadImagesError(self._message())

    def _message(self) -> str:
        lines = list(self.reasons.values())
        if self.budget == 0:
            return (
                f"{lines[0]}. Remove or replace it, or allow a share of bad images (--bad_images_share "
                "without --bad_images=fail; BadImages(share=) in Python)."
            )
        shown = "\n  ".join(lines[:20])
        more = f"\n  and {len(lines) - 20} more" if len(lines) > 20 else ""
        return (
            f"{len(lines)} images are bad, more than the {self.budget} that are allowed; remove or replace "
            "them, or allow a larger share (--bad_images_share; BadImages(share=) in Python):\n  "
            f"{shown}{more}"
        )
