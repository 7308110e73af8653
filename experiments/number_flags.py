"""Numeric flags with a domain of valid values."""

from collections.abc import Callable
from typing import NamedTuple

from absl import flags

from nepa_keras.backends import LARGEST_RATE

flags.disclaim_key_flags()  # key flags of the script that calls, not of this module


class Domain(NamedTuple):
    """Set of numbers that a flag accepts.

    Attributes:
        words: description, to follow "must be".
        holds: function that returns True for a number in the set, and False for NaN.
    """

    words: str
    holds: Callable[[float], bool]


LARGEST = 1e6  # bound of numbers without a bound of their own; far above any sensible setting
RATE = Domain(f"a number from 0 to {LARGEST_RATE:g}", lambda x: 0 <= x <= LARGEST_RATE)
SHARE = Domain("a number from 0 to 1", lambda x: 0 <= x <= 1)
BELOW_ONE = Domain("at least 0 and below 1", lambda x: 0 <= x < 1)
INSIDE = Domain("above 0 and below 1", lambda x: 0 < x < 1)
FACTOR = Domain("above 0 and at most 1", lambda x: 0 < x <= 1)
MAGNITUDE = Domain("a number from 0 to 10", lambda x: 0 <= x <= 10)
NOT_NEGATIVE = Domain(f"a number from 0 to {LARGEST:,.0f}", lambda x: 0 <= x <= LARGEST)
POSITIVE = Domain(f"above 0 and at most {LARGEST:,.0f}", lambda x: 0 < x <= LARGEST)


class _Parser(flags.ArgumentParser):
    """Parser of a number in a domain; absl's own bounds accept NaN and infinity."""

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
    """Define a numeric flag; a value outside its domain is refused when flags are parsed."""
    flags.DEFINE(_Parser(domain), name, default, help_text, serializer=flags.ArgumentSerializer())


def list_of_numbers(name: str, kind: type, domain: Domain, count: int | None = None) -> tuple:
    """Values of a list flag as numbers.

    Args:
        name: name of the flag.
        kind: int or float.
        domain: valid numbers.
        count: required number of values; default any number, including none.

    Raises:
        ValueError: a value is no number of that kind or outside the domain, or the count differs.
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
