"""Author and licence of a photograph, as stated by its package."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple
from urllib.parse import unquote

from photographs.sources import COPYRIGHT, METADATA, README

# Creative Commons without NC or ND, public domain, BSD and MIT; and free software licences.
_FREE = re.compile(
    r"CC0(-1\.0)?|CC-BY(-SA)?-\d(\.\d)?|public domain|BSD-[23]-clause[\w-]*|MIT|Expat", re.I
)
_GPL = re.compile(r"L?GPL-?v?\d(\.\d)?\+?", re.I)
_FIELD = re.compile(r"([A-Z][\w-]*):\s*(.*)")
_PICTURE = re.compile(r"\S+\.(?:jpg|jpeg|png|webp)")
_ADDRESS = re.compile(r"https?://\S+")


class Credit(NamedTuple):
    """Credit to be shown with a picture.

    Attributes:
        licence: short name, such as CC-BY-SA-4.0 or public domain.
        author: author as written in the package.
        address: URL of the picture's source, or "".
    """

    licence: str
    author: str
    address: str = ""

    def is_free(self, gpl: bool = False) -> bool:
        """Return True if anyone may use, change and redistribute the picture.

        Args:
            gpl: whether the GPL and LGPL count as free.
        """
        return bool(_FREE.fullmatch(self.licence) or (gpl and _GPL.fullmatch(self.licence)))

    @property
    def work(self) -> str:
        """Name of the work from its address, the same for each rendition; or ""."""
        return unquote(self.address).rpartition("/")[2].rpartition(":")[2].lower()


def read(stated: str, files: Mapping[str, bytes]) -> Callable[[str], Credit | None]:
    """Read the credits in a package.

    Args:
        stated: value of `sources.Source.stated`.
        files: path -> content of the files that may state credits.

    Returns:
        A function from the path of a picture to its credit, or None if there is none. The last matching
        statement counts, as in Debian's format.
    """
    rules: list[tuple[str, Credit]] = []
    if stated not in (COPYRIGHT, README, METADATA):
        rules = list(_rules(stated))
    for path, content in files.items():
        folder, _, name = path.rpartition("/")
        if name != stated:
            continue
        text = content.decode("utf-8", "replace")
        if stated == METADATA:
            rules += [(f"{folder}/*", credit) for credit in _of_kde(text)]
        elif stated == README:
            rules += [(f"{folder}/{pattern}", credit) for pattern, credit in _rules(text)]
        else:
            rules += [
                (place, credit) for pattern, credit in _rules(text) for place in _places(pattern)
            ]

    def of(path: str) -> Credit | None:
        found = None
        for pattern, credit in rules:
            if fnmatchcase(path, pattern):
                found = credit
        return found

    return of


def _places(pattern: str) -> list[str]:
    """Patterns of the installed path of a source file: in the same folders, or anywhere by its name."""
    if pattern == "*":
        return ["*"]
    name = pattern.rpartition("/")[2]
    return [f"*/{pattern}"] + ([f"*/{name}"] if name.strip("*?.") else [])


def _rules(text: str) -> Iterator[tuple[str, Credit]]:
    """Pattern and credit of each paragraph about pictures, in Debian's copyright format or a similar one.

    Continuation lines may lack their indentation, and the field name Files may be missing.
    """
    for paragraph in re.split(r"\n\s*\n", text):
        fields: dict[str, list[str]] = {}
        here: list[str] = []
        for line in paragraph.strip().splitlines():
            if field := _FIELD.match(line):
                here = fields.setdefault(field[1].rstrip("s").lower(), [])
                line = field[2]
            if line.strip():
                here.append(line.strip())
        if not fields.get("license") or not fields.get("copyright"):
            continue
        licence, *more = fields["license"]
        patterns = " ".join(fields.get("file", [])).split() or _PICTURE.findall(" ".join(more))
        comment = " ".join(fields.get("comment", []))
        address = _ADDRESS.search(" ".join([*fields.get("source", []), comment]))
        author = "; ".join(fields["copyright"])
        if address and address[0] in comment:  # the comment names the author of the original work
            author = f"{author}; {comment}"
        credit = Credit(_short(licence), author, address[0] if address else "")
        yield from ((pattern, credit) for pattern in patterns)


def _of_kde(text: str) -> Iterator[Credit]:
    """Credit in the metadata of a KDE wallpaper, if they state author and licence."""
    plugin = json.loads(text).get("KPlugin", {})
    authors = ", ".join(author["Name"] for author in plugin.get("Authors", ()))
    if authors and "License" in plugin:
        yield Credit(_short(plugin["License"]), authors)


def _short(licence: str) -> str:
    """Usual short name of a licence, such as CC-BY-SA-4.0 for "CC-BY-SA 4.0"."""
    licence = licence.strip()
    if re.fullmatch(r"public[ -]domain", licence, re.I):
        return "public domain"
    if licence == "CC0":  # there is only one version
        return "CC0-1.0"
    return re.sub(r"^(CC-BY(?:-\w+)*)\s+(?=\d)", r"\1-", licence)
