"""JSON texts in and beside data sets, written by other programs."""

import json
from typing import Any


def parse_json(content: bytes | str, name: str) -> Any:
    """Parse a JSON text.

    Args:
        content: the text.
        name: name of its file, for messages.

    Raises:
        ValueError: the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError(f"{name} is damaged: it is not JSON.") from None


def json_object(content: bytes | str, name: str) -> dict[str, Any]:
    """Parse a JSON text that must be an object.

    Raises:
        ValueError: the text is not JSON, or not an object.
    """
    value = parse_json(content, name)
    if not isinstance(value, dict):
        raise ValueError(f"{name} is damaged: it holds no JSON object.")
    return value


def names_of_classes(value: Any, name: str) -> tuple[str, ...] | None:
    """Check the names of classes from a JSON text; null means none.

    Raises:
        ValueError: they are not a list of texts.
    """
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    raise ValueError(f"{name} is damaged: its names of classes are not a list of texts.")
