"""Words that a stranger understands: docstrings, help texts of flags, and the letters of shapes.

The rules are those of CONTRIBUTING.md, "Language".
"""

import ast
import re
from pathlib import Path

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.once

FOLDERS = ("nepa_keras", "experiments", "benchmarks", "examples", "tests")
FILES = [*(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]
FILES += sorted(ROOT.glob("*.py"))

# A docstring that opens with one of these is the end of a sentence whose start the reader does not see.
NO_OPENING = set(
    "Also And As At Because But By From How If In Inside It Its Of On Or Others So That Then There They This "
    "Those Unless Upon What Whatever When Where Whether Which Who Whose Why With Without".split()
)
# Third person of the verbs that our docstrings use: they open in the imperative ("Write", not "Writes").
VERBS = set(
    "add ask assign begin build call check choose clear close collect compare compute "
    "continue convert copy count create cut decode delete describe download draw drop encode "
    "end ensure erase estimate evaluate export fail fetch fill find fit get give go hand hide "
    "hold ignore join keep know leave let limit list load lock look make map match measure "
    "merge mix move name notice open order parse pick plan predict pretrain print put raise "
    "read receive reduce refuse remember remove rename replace report reset resize restore "
    "return run save say see select send set show skip sort split start step stop store sum "
    "switch take tell test time train tune turn update upload use wait walk warn watch wrap "
    "write yield".split()
)
OUTSIDE = re.compile(
    r"\b(SPEC|DESIGN|REDESIGN|PAPER|STYLE|CASES|KERAS-FACTS|ACCELERATORS)\b(\.md| section| §)"
)
FLAG = re.compile(r"^(DEFINE_\w+|define_\w+)$")


def docstrings(path: Path) -> list[tuple[int, str]]:
    tree = ast.parse(path.read_text())
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return [
        (getattr(node, "lineno", 1), text)
        for node in ast.walk(tree)
        if isinstance(node, kinds) and (text := ast.get_docstring(node))
    ]


def opening_fault(text: str) -> str | None:
    first = re.split(r"[\s:,.]", text.lstrip("`(\"'"), maxsplit=1)[0]
    if first in NO_OPENING:
        return f"opens with {first!r}"
    if first.endswith("s") and first.lower()[:-1] in VERBS and _is_verb(text):
        return f"opens with {first!r}, not with an imperative"
    return None


def _is_verb(text: str) -> bool:
    """Tell verbs ("Names the files") from plural nouns ("Names of files") by the second word."""
    second = [*text.split(), ""][1]
    return second in {"a", "an", "the", "each", "all", "every", "one", "what", "its", "no"} or (
        second.startswith("`")
    )


def shape_faults(text: str, letters: set[str]) -> list[str]:
    faults = []
    for inside in re.findall(r"\(([A-Z](?:, [^()]*)?,?)\)", text):
        parts = [part.strip() for part in inside.split(",") if part.strip()]
        unknown = {part for part in parts if re.fullmatch("[A-Z]", part)} - letters
        if unknown and len(parts) > 1:
            faults.append(
                f"({inside}) has letters that the legend lacks: {', '.join(sorted(unknown))}"
            )
        if "1 + T" in parts:
            faults.append(f"({inside}): 1 + T is N")
        if parts[0] == "N":
            faults.append(f"({inside}): N counts tokens, B images")
    return faults


def legend() -> set[str]:
    text = ast.get_docstring(ast.parse((ROOT / "nepa_keras" / "types.py").read_text()))
    return set(re.findall(r"^ {4}([A-Z]) +\w", text, re.M))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_can_be_read_alone(path):
    letters = legend()
    assert len(letters) >= 7, letters
    faults = []
    for line, text in docstrings(path):
        found = [opening_fault(text), *shape_faults(text, letters)]
        if "tests" not in path.parts and OUTSIDE.search(text):
            found.append("names a document that is not in this repository")
        faults += [f"{path.name}:{line}: {fault}" for fault in found if fault]
    assert faults == []


def help_texts(path: Path) -> list[tuple[int, str]]:
    """The help of each flag that a file defines by absl, where it is written out as text."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        if (not name.startswith("DEFINE_") and name != "define_number") or name == "DEFINE_alias":
            continue
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        place = 3 if name in ("DEFINE_enum", "DEFINE_multi_enum") else 2
        value = keywords.get("help", node.args[place] if len(node.args) > place else None)
        if isinstance(value, ast.JoinedStr):
            # A value at the end may be a text with its own full stop, such as `given_model.MODEL`.
            text = "".join(
                part.value if isinstance(part, ast.Constant) else "1" for part in value.values
            ) + ("" if isinstance(value.values[-1], ast.Constant) else ".")
        elif isinstance(value, ast.Constant):
            text = value.value
        else:
            continue
        found.append((node.lineno, text))
    return found


def help_fault(text: str) -> str | None:
    words = text.split()
    if len(words) < 3:
        return "is no phrase"
    if words[0].strip(",") in NO_OPENING:
        return f"opens with {words[0]!r}"
    if not (text[0].isupper() or text[0] in "-`(") or not text.rstrip().endswith("."):
        return "is no sentence from a capital letter to a full stop"
    return None


def test_help_texts_can_be_read_alone():
    texts = [
        (path, line, text)
        for path in FILES
        if path.parts[-2] != "tests" and "tests" not in path.parts
        for line, text in help_texts(path)
    ]
    assert len(texts) > 150
    faults = [
        f"{path.relative_to(ROOT)}:{line}: {fault}: {text!r}"
        for path, line, text in texts
        if (fault := help_fault(text))
    ]
    assert faults == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("What a step makes of it.", "opens with 'What'"),
        ("Writes the file.", "opens with 'Writes'"),
        ("Names of classes.", None),
        ("Write the file.", None),
    ],
)
def test_openings(text, fault):
    found = opening_fault(text)
    assert found is None if fault is None else found.startswith(fault)


def test_shapes():
    letters = set("BTND")
    assert shape_faults("(B, N, D) and (B, T, D)", letters) == []
    assert len(shape_faults("(B, 1 + T, D), (N, height, width), (B, Q, D)", letters)) == 3
    assert help_fault("Of all.") and help_fault("of all the images.")
    assert help_fault("Images in a batch.") is None
