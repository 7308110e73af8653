"""Requests to servers, repeated after growing waits when that may help."""

import random
import threading
import time
import warnings
from collections.abc import Callable
from typing import TypeVar

from nepa_keras.data.network.stores import (
    BusyError,
    FileState,
    NetworkError,
    RefusedError,
    forbidden,
    reason,
    store_of,
)
from nepa_keras.files import printable

Answer = TypeVar("Answer")
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # seconds between tries, shortened at random
WAITS_AT_FIRST = 5  # waits for the first request of a file: a wrong address fails soon
_SAID_AT = 3  # failed tries after which the user is told


class Servers:
    """Answers of servers, requested again after growing waits when that may help; thread-safe.

    When one thread gives up, all others fail at once with its message, until `begin_again`: a run that ends
    does not wait for images that other threads still want to read.
    """

    def __init__(self) -> None:
        self._given_up = threading.Event()
        self._sentence = ""
        self._random = random.Random()  # a separate one: the global one belongs to the run's seed

    def begin_again(self) -> None:
        """Allow requests again after one thread gave up."""
        self._given_up.clear()

    def state(self, address: str) -> FileState:
        """Size and tag of a file.

        Raises:
            RefusedError: the file does not exist, or may not be read, or not in parts.
            NetworkError: there was no answer after several tries.
        """
        return self._ask(address, lambda: store_of(address).state(address), WAITS[:WAITS_AT_FIRST])

    def read(self, address: str, start: int, stop: int, state: FileState) -> bytes:
        """Bytes start..stop-1 of a file. Bytes that came before a connection broke are not requested again.

        Args:
            address: address of the file.
            start, stop: range of bytes.
            state: expected state of the file.

        Raises:
            NetworkError: see `state`; or the file has changed.
        """
        content = bytearray()

        def more() -> None:
            held = len(content)
            try:
                store_of(address).read(address, start + held, stop, state, content)
            except Exception:
                if len(content) > held:
                    return  # request the rest at once
                raise
            if len(content) == held:
                raise EOFError("an answer without a byte")

        while len(content) < stop - start:
            self._ask(address, more, WAITS)
        return bytes(content[: stop - start])

    def listing(self, address: str, patterns: tuple[str, ...]) -> list[str]:
        """Files that a pattern matches, sorted; for a folder, those of the first pattern that any matches.

        Raises:
            RefusedError: the server cannot list files.
            NetworkError: there was no answer after several tries.
        """
        return self._ask(
            address, lambda: store_of(address).listing(address, patterns), WAITS[:WAITS_AT_FIRST]
        )

    def _ask(self, address: str, ask: Callable[[], Answer], waits: tuple[float, ...]) -> Answer:
        """Result of `ask()`, tried again after each of `waits` while it fails."""
        began = time.monotonic()
        for attempt, wait in enumerate((*waits, None), start=1):
            if self._given_up.is_set():
                raise NetworkError(self._sentence)
            try:
                return ask()
            except (NetworkError, ImportError):
                raise
            except (FileNotFoundError, IsADirectoryError):
                raise RefusedError(f"There is no file {printable(address)}.") from None
            except PermissionError as error:
                raise RefusedError(forbidden(address, error)) from None
            except ValueError as error:
                raise RefusedError(
                    f"{printable(address)} cannot be read ({reason(error)}): check how it is written."
                ) from None
            except Exception as error:  # each store's library has its own kinds of errors
                if wait is not None:
                    self._wait(address, error, attempt, wait, sum(waits[attempt - 1 :]))
                    continue
                seconds = time.monotonic() - began
                self._sentence = (
                    f"{printable(address)} cannot be read: {attempt} tries within {seconds:.0f} s ended with "
                    f"{reason(error)}. Check the address and the network, then start again; what was read "
                    "before is in the cache."
                )
                self._given_up.set()
                raise NetworkError(self._sentence) from error
        raise AssertionError("the last try returns or raises")

    def _wait(self, address: str, error: Exception, attempt: int, wait: float, left: float) -> None:
        """Wait before the next try, unless another thread gives up; after some failures, say so."""
        if attempt == _SAID_AT:
            warnings.warn(
                f"{printable(address)} does not answer ({reason(error)}); trying again for {left:.0f} s.",
                stacklevel=5,
            )
        asked_for = error.wait if isinstance(error, BusyError) else 0.0
        self._given_up.wait(max(wait * self._random.uniform(0.5, 1.0), asked_for))
