"""JSON beside and inside of data sets, which others wrote."""

import json
from typing import Any


def parse_json(content: bytes | str, name: str) -> Any:
    """What a JSON text holds.

    Args:
        content: the text.
        name: of its file, for a person.

    Raises:
        ValueError: it is damaged, or nested too deep.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError(f"{name} is damaged: it is no JSON.") from None


def json_object(content: bytes | str, name: str) -> dict[str, Any]:
    """`parse_json` of an object.

    Raises:
        ValueError: as there, or it holds something else.
    """
    value = parse_json(content, name)
    if not isinstance(value, dict):
        raise ValueError(f"{name} is damaged: it holds no JSON object.")
    return value


def names_of_classes(value: Any, name: str) -> tuple[str, ...] | None:
    """The names of classes in a JSON text; null is for none.

    Raises:
        ValueError: they are something else.
    """
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    raise ValueError(f"{name} is damaged: its names of classes are no list of texts.")
