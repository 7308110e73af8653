"""README.md and the pages under docs/: code runs, commands parse, links, tables and messages hold.

Python blocks of a page run in one namespace from top to bottom, in a folder that has what they name:
pictures, a CSV file of labels, and models of two blocks under the released names, as those need a network.
`fit` and `fit_steps` are cut to two steps, the embedded images to 256. The site is built by `.ci/run`.
"""

import ast
import csv
import dataclasses
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from absl import flags
from PIL import Image

import nepa_keras
from nepa_keras.presets.names import Released
from tests.helpers import ROOT, scripts, tiny

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TABLES = ROOT / "docs" / "hooks" / "tables.py"
RELEASED = ("nepa_base_patch14_224", "nepa_base_patch14_224_sft")


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The code blocks of a page in a language, each with the number of its first line."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    return [(text[: match.start(1)].count("\n") + 1, match[1]) for match in found]


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
WITH_COMMANDS = [page for page in PAGES if blocks(page, "bash")]


# ---- Python blocks


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with the files that the pages name."""
    folder, draw = tmp_path_factory.mktemp("documents"), np.random.default_rng(0)

    def picture(name: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (60, 80, 3)).astype("uint8")).save(path)

    for name in ("cat.jpg", "dog.png", "wide.jpg"):
        picture(name)
    for split, count in (("train", 16), ("test", 2)):
        for i in range(count):
            picture(f"pictures/{split}/cats/{i}.jpg")
            picture(f"pictures/{split}/dogs/{i}.jpg")
    with open(folder / "labels.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "tags"))
        for i in range(16):
            rows.writerow(
                (f"pictures/train/cats/{i}.jpg", ("cat", "cat;outside", "outside")[i % 3])
            )
    backbone = tiny.backbone(image_shape=(224, 224, 3), patch_size=14)
    models = (
        nepa_keras.NepaPretrainer(backbone),
        nepa_keras.NepaImageClassifier(backbone, 3, class_names=["cat", "dog", "hen"]),
    )
    for name, model in zip(RELEASED, models, strict=True):
        nepa_keras.interop.export_huggingface(model, folder / "released" / name)
    return folder


@pytest.fixture
def short(workplace, monkeypatch):
    """Work in that folder, with the released names for its models, and two steps of any training."""
    monkeypatch.chdir(workplace)
    for name in RELEASED:
        folder = Released(str(workplace / "released" / name), "in no way")
        monkeypatch.setitem(nepa_keras.RELEASED, name, folder)
    load, fit, fit_steps = nepa_keras.data.load, keras.Model.fit, nepa_keras.training.fit_steps

    def few(*arguments, **options):
        held = load(*arguments, **options)
        parts = ("train_images", "train_labels", "test_images", "test_labels")
        return dataclasses.replace(held, **{part: getattr(held, part)[:256] for part in parts})

    def two_steps(model, *arguments, **options):
        return fit(model, *arguments, **options | {"epochs": 1, "steps_per_epoch": 2})

    def two_steps_of_a_run(*arguments, **options):
        with monkeypatch.context() as whole:
            whole.setattr(keras.Model, "fit", fit)
            return fit_steps(*arguments, **options | {"steps": 2})

    monkeypatch.setattr(nepa_keras.data, "load", few)
    monkeypatch.setattr(keras.Model, "fit", two_steps)
    monkeypatch.setattr(nepa_keras.training, "fit_steps", two_steps_of_a_run)
    yield
    plt.close("all")


@pytest.mark.first_on("torch")
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_python_blocks_run(page, short):
    namespace = {}
    for line, code in blocks(page, "python"):
        where = f"{page.relative_to(ROOT)}, line {line}"
        exec(compile("\n" * (line - 1) + code, where, "exec"), namespace)


# ---- commands

WRAPPERS = re.compile(r"^(?:\S*/)?(?:python3?|nepa-keras|torchrun)$")
OTHER_TOOLS = (
    "… apt-get bash export gcloud git hf mkdocs mlflow pip pre-commit srun tensorboard wandb"
).split()
# Flags of absl, of nepa-keras itself and of other programs that the text names.
THEIR_FLAGS = (
    "backend backend-store-uri collect-only data-dir dist flagfile help helpfull "
    "image_processor_name logdir no-deps nproc_per_node resume"
).split()


def flags_of(script: str) -> set[str]:
    """The names of a script's flags, whether or not some have to be given."""
    try:
        return set(scripts.flag_values(script))
    except flags.IllegalFlagValueError as error:
        needed = re.findall(r"flag --(\w+)=None", str(error))
        return set(scripts.flag_values(script, *(f"--{name}=any" for name in needed)))


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """The commands in the bash blocks of a page, each as (place, words), without variables before it."""
    found = []
    for line, code in blocks(page, "bash"):
        for text in code.replace("\\\n", " ").splitlines():
            words = shlex.split(text, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                command, words = words[:end], words[end + 1 :]
                while command and re.match(r"[A-Z_]+=", command[0]):
                    command = command[1:]
                if command:
                    found.append((f"{page.relative_to(ROOT)}, after line {line}", command))
    return found


def script_and_flags(words: list[str]) -> tuple[str, list[str]] | None:
    """The script that a command runs, as a path in the repository, and what follows it."""
    if words[0].endswith("nepa-keras"):
        return f"experiments/{words[1].replace('-', '_')}.py", words[2:]
    for i, word in enumerate(words):
        if word == "-m" and words[i + 1] == "nepa_keras":
            return f"experiments/{words[i + 2]}.py", words[i + 3 :]
        if word.endswith(".py"):
            return word, words[i + 1 :]
    return None


def known_to_argparse(path: Path) -> set[str]:
    """Flags of a script that uses argparse; tests/run.py hands others on to pytest."""
    source = path.read_text(encoding="utf-8")
    if path.name == "run.py":
        source += (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    return set(re.findall(r"(?:add_argument|addoption)\(\s*[\"']--([\w-]+)", source))


def name_of(flag: str) -> str:
    return flag.lstrip("-").partition("=")[0]


@pytest.mark.once
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_commands_parse(page):
    """Each script, flag, value and recipe of the bash blocks exists, as do the extras of pip."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for where, words in commands(page):
        if not WRAPPERS.match(words[0]) and not words[0].endswith("/pip"):
            assert words[0] in OTHER_TOOLS, f"{where}: {words[0]}"
        named = {extra for word in words for extra in re.findall(r"\[([\w,]+)\]$", word)}
        assert {x for names in named for x in names.split(",")} <= set(extras), where
        found = script_and_flags(words) if "pip" not in words[0] and words[-1] != "--help" else None
        if found is None:
            continue
        script, given = found
        path = ROOT / script
        assert path.is_file(), f"{where}: there is no {script}"
        given = [word for word in given if name_of(word) != "backend"]
        if "argparse" in path.read_text(encoding="utf-8"):
            unknown = {
                name_of(word) for word in given if word.startswith("--")
            } - known_to_argparse(path)
            assert not unknown, f"{where}: {script} has no {unknown}"
            continue
        if script.startswith("experiments/"):
            recipe = rf"--flagfile={ROOT}/experiments/recipes/\1.flags"
            given = [re.sub(r"^--recipe=(.*)", recipe, word) for word in given]
        # Not files that are there after the command before, nor a placeholder for flags.
        given = [word for word in given if not re.match("--flagfile=RUN_DIR|FLAGS$", word)]
        scripts.flag_values(path.name, *given)


@pytest.mark.once
def test_flags_in_the_text_exist():
    """Each `--flag` that a sentence or a table names is one of some script."""
    known = set(THEIR_FLAGS)
    for path in [*(ROOT / "experiments").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        source = path.read_text(encoding="utf-8")
        known |= known_to_argparse(path)
        if "\nif __name__" in source and "absl" in source:
            known |= flags_of(path.name)
    for path in [ROOT / "tests" / "run.py", *(ROOT / "examples").glob("*.py")]:
        known |= known_to_argparse(path)
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        named = set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", text))
        unknown = {
            name for name in named if name not in known and name.removeprefix("no") not in known
        }
        assert not unknown, f"{page.name} names flags that no script has: {sorted(unknown)}"


# ---- tables, messages, links


@pytest.mark.once
def test_generated_tables_are_current():
    tables = runpy.run_path(str(TABLES))
    old = [
        page.name
        for page in tables["PAGES"]
        if (text := page.read_text(encoding="utf-8")) != tables["with_tables"](text)
    ]
    assert not old, f"{old}: python docs/hooks/tables.py writes their tables anew"


def test_parameters_in_the_table_of_models():
    """Counts are those of the small models as built, and of the authors' checkpoints."""
    count = runpy.run_path(str(TABLES))["parameter_count"]
    for name in ("nepa_micro_patch2_8", "nepa_micro_patch7_28"):
        backbone = nepa_keras.NepaBackbone.from_preset(name, load_weights=False)
        assert count(nepa_keras.PRESETS[name]) == backbone.count_params()
    assert count(nepa_keras.PRESETS["nepa_base_patch14_224"]) == 85_527_552
    assert count(nepa_keras.PRESETS["nepa_large_patch14_224"]) == 302_967_808


def part_of_text(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return part.value
    return "config.json" if "CONFIG" in ast.unparse(part) else "…"


def texts_of_the_source() -> str:
    """All strings of the package and the scripts, a line each, with the parts that are filled in left out."""
    lines = []
    for path in [*(ROOT / "nepa_keras").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                lines.append("".join(map(part_of_text, node.values)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                lines.append(node.value)
    return "\n".join(lines)


@pytest.mark.once
def test_messages_of_the_troubleshooting_page_exist():
    """The package says what the page quotes, but for a few messages of absl, Keras and the backends."""
    theirs = (
        "Unknown command line flag",
        "Unknown layer",
        "Could not locate class",
        "RESOURCE_",
        "CUDA",
    )
    source, missing = texts_of_the_source(), []
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\| (`.*?) \|", page, re.M):
        for message in re.findall(r"`([^`]+)`", row):
            parts = [part.strip(" ().,;:") for part in message.split("…")]
            if not message.startswith(theirs):
                missing += [message for part in parts if part and part not in source]
    assert not missing, missing


@pytest.mark.once
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page):
    """Links work on GitHub, where the pages are read without the site; api/ is a part of the site alone."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        if name.startswith("api/") or name == "index.md":
            continue
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)", path.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, f"{page.name}: {target}"
