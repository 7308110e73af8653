"""Extension of griffe, the parser of docstrings for the site; mkdocs.yml names it."""

import re

import griffe


class Sections(griffe.Extension):
    """Docstring sections of this package as griffe's Google style names them."""

    def on_object(self, *, obj, **_):
        """Rewrite `Example:` and `Call arguments:` of one docstring."""
        if obj.is_alias or obj.docstring is None:
            return
        text = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
        obj.docstring.value = re.sub(
            r"(?m)^Call arguments:\n((?:    .*\n|\n)+)",
            lambda section: "Call arguments:\n" + re.sub(r"(?m)^    (?=\w)", "    - ", section[1]),
            text + "\n",
        ).rstrip("\n")
