"""Flags that hold a number, with the domain in which it can be meant."""

from collections.abc import Callable
from typing import NamedTuple

from absl import flags

from nepa_keras.backends import LARGEST_RATE

flags.disclaim_key_flags()  # what is defined here belongs to the script that asks for it


class Domain(NamedTuple):
    """Numbers that a flag takes.

    Attributes:
        words: which, after "must be".
        holds: whether a number is one of them; false of NaN.
    """

    words: str
    holds: Callable[[float], bool]


LARGEST = 1e6  # of a number without a bound of its own; nothing in a recipe is near it
RATE = Domain(f"a number from 0 to {LARGEST_RATE:g}", lambda x: 0 <= x <= LARGEST_RATE)
SHARE = Domain("a number from 0 to 1", lambda x: 0 <= x <= 1)
BELOW_ONE = Domain("at least 0 and below 1", lambda x: 0 <= x < 1)
INSIDE = Domain("above 0 and below 1", lambda x: 0 < x < 1)
FACTOR = Domain("above 0 and at most 1", lambda x: 0 < x <= 1)
MAGNITUDE = Domain("a number from 0 to 10", lambda x: 0 <= x <= 10)
NOT_NEGATIVE = Domain(f"a number from 0 to {LARGEST:,.0f}", lambda x: 0 <= x <= LARGEST)
POSITIVE = Domain(f"above 0 and at most {LARGEST:,.0f}", lambda x: 0 < x <= LARGEST)


class _Parser(flags.ArgumentParser):
    """Text to a number of a domain. absl's bounds let NaN and infinity pass."""

    def __init__(self, domain: Domain):
        self.domain = domain
        self.syntactic_help = domain.words

    def parse(self, argument) -> float:
        try:
            value = float(argument)
        except ValueError:
            value = float("nan")
        if not self.domain.holds(value):
            raise ValueError(f"it must be {self.domain.words}")
        return value

    def flag_type(self) -> str:
        return "float"


def define_number(name: str, default: float | None, help_text: str, domain: Domain) -> None:
    """Define a flag of a number, which is refused outside of its domain before anything is done."""
    flags.DEFINE(_Parser(domain), name, default, help_text, serializer=flags.ArgumentSerializer())


def list_of_numbers(name: str, kind: type, domain: Domain, count: int | None = None) -> tuple:
    """The values of a list flag.

    Args:
        kind: int or float.
        count: how many they have to be; default any number, also none.

    Raises:
        ValueError: a value is no number of that kind, or outside of the domain.
    """
    given = flags.FLAGS[name].value or []
    try:
        values = tuple(kind(value) for value in given)
    except ValueError:
        values = None
    if values is None or not all(map(domain.holds, values)) or count not in (None, len(values)):
        kinds = "whole numbers" if kind is int else "numbers"
        wanted = kinds if count is None else f"{count} {kinds}"
        raise ValueError(f"--{name}={','.join(given)} must be {wanted}, each {domain.words}.")
    return values
