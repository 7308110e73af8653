"""Parts of both pages, as HTML: tables, pictures, and the frame around them."""

import base64
import hashlib
import itertools
import string
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from nepa_keras.files import replacing
from nepa_keras.visualization.theme import css_variables

Table = Sequence[Sequence[str]]

_FILES = Path(__file__).parent
_LARGEST_PICTURE = 3_000_000  # bytes; larger ones stay files beside the report
_ALT = {
    "overview": "The method in four steps: an image cut into patches; where one patch looks; which patches "
    "are like the predicted next embedding; the expected patch beside the true one.",
    "similarity": "Images in rows, each followed by maps over it, one for each query patch in orange, of how "
    "like the predicted next embedding each patch is.",
    "examples": "Images of the validation set in rows: the image, the true classes in colours, and the "
    "predicted ones.",
    "confusion": "Confusion matrix: which class is taken for which, as shares of each row.",
    "legend": "The number, the colour and the name of each class.",
    "curves": "Training curves, one small diagram for each group of logged numbers.",
    "attention": "Maps over an image of where one of its patches looks: a row for each block, with the mean "
    "of the heads, each head, and the product through all blocks.",
    "error": "Images, and below each a map over it of how badly each of its patches was predicted.",
    "components": "Images in rows, each with maps of its patch features in colours, one for each layer.",
    "nearest": "Images in rows, each with a framed patch, and the nearest patches of other images.",
    "projection": "Thumbnails of images on a plane; those with similar features are near each other.",
    "rollout": "Images in rows: the image, its first patches, and what the model continues them with; below, "
    "a chart of the cosine to the truth after each patch.",
}


def template(file: str, /, **parts: str) -> str:
    """Fill HTML parts into a file of this folder."""
    return string.Template(_text(file)).substitute(parts)


def write_page(
    path: Path, styles: Sequence[str], *, kind: str, title: str, heading: str, lead: str, main: str
) -> None:
    """Write a page whose content policy lets no other script run than ours, and nothing be fetched.

    Args:
        path: takes the place of an earlier file at once.
        styles: style sheets, by file.
        kind: of page, such as "Run report".
        title, heading, lead, main: HTML of the parts of frame.html.
    """
    script = _text("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = template(
        "frame.html",
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        style="\n".join([css_variables(), *map(_text, styles)]),
        script=script,
        kind=kind,
        title=title,
        heading=heading,
        lead=lead,
        main=main,
    )
    with replacing(path) as unfinished:
        # Names of files may be bytes that are no text.
        unfinished.write_bytes(page.encode("utf-8", "xmlcharrefreplace"))


def _text(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def facts_list(facts: Mapping[str, str]) -> str:
    """A list of names beside texts."""
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in facts.items()
    )


def table(title: str, rows: Table, shows_title: bool = False) -> str:
    """A table that scrolls for itself on a narrow screen, also by keyboard.

    Args:
        title: for screen readers.
        rows: the head, then the rows; the first cell of each names it.
        shows_title: whether the title stands above it; a table that does is of results, and on a narrow
            screen its rows are cards, which need no scrolling.
    """
    head, *body = [[escape(str(cell)) for cell in row] for row in rows]
    columns = "".join(f'<th scope="col" role="columnheader">{cell}</th>' for cell in head)
    # Roles are said, as a table that is laid out in another way is none for a screen reader.
    lines = "".join(
        f'<tr role="row"><th scope="row" role="rowheader">{first}</th>{_cells(head[1:], others)}</tr>'
        for first, *others in body
    )
    hidden = "" if shows_title else ' class="unseen"'
    stacked = ' class="stacked"' if shows_title else ""
    return (
        f'<div class="scrolls" tabindex="0" role="region" aria-label="{escape(title)}">'
        f'<table{stacked} role="table"><caption{hidden}>{escape(title)}</caption>'
        f'<thead role="rowgroup"><tr role="row">{columns}</tr></thead>'
        f'<tbody role="rowgroup">{lines}</tbody></table></div>'
    )


def _cells(names: Sequence[str], cells: Sequence[str]) -> str:
    """The cells of a row with the escaped names of their columns."""
    named = itertools.zip_longest(names, cells, fillvalue="")
    pairs = itertools.islice(named, len(cells))
    return "".join(f'<td role="cell" data-column="{name}">{cell}</td>' for name, cell in pairs)


def picture(path: Path, caption: str) -> str:
    """A figure that holds a PNG or JPEG file; a sentence in its place of a file too large for a page."""
    if path.stat().st_size > _LARGEST_PICTURE:
        return f"<p>{escape(caption)} is too large for this page; it stays in the run's folder.</p>"
    held = base64.b64encode(path.read_bytes()).decode("ascii")
    alt = escape(_ALT.get(path.stem, f"The picture {path.name} of the run."), quote=True)
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return (
        f'<figure><img src="data:image/{kind};base64,{held}" alt="{alt}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def section(name: str, title: str, content: str) -> str:
    """A section of the page; none without content.

    Args:
        name: its id.
        title: plain text.
        content: HTML.
    """
    if not content:
        return ""
    heading = f'<h2 id="{name}">{escape(title)}</h2>'
    return f'<section aria-labelledby="{name}">{heading}{content}</section>'
