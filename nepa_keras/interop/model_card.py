"""Model card: the README.md that describes shared weights."""

import contextlib
import csv
import re
from collections.abc import Mapping, Sequence

import keras

from nepa_keras.presets import backbone_of
from nepa_keras.tables import markdown_table, read_table
from nepa_keras.training import RunDir

_PAPER = "[NEPA, next-embedding prediction](https://arxiv.org/abs/2512.16922)"
_TASKS = {
    "NepaImageClassifier": "image-classification",
    "NepaImageSegmenter": "image-segmentation",
}
_DATA_FLAGS = ("data", "validation_data", "num_labels", "image_size", "channels")
# Columns of log.csv that are results; the others concern speed and optimization.
_MEASURED = re.compile(r"(?:ema_)?val_\w+|loss")


def model_card(
    model: keras.Model,
    handle: str,
    run: RunDir | None = None,
    weights: str = "",
    license_name: str | None = None,
    picture: str | None = None,
) -> str:
    """Text of a model card: architecture, data, recipe, results, loading, licence.

    Paths in flags are shortened to their last part, as a card is public.

    Args:
        model: a backbone, pretrainer, classifier or segmenter.
        handle: argument of `from_preset`: hf://owner/name or a folder.
        run: folder of the run that trained the model, if known.
        weights: description of the run's weights that are shared.
        license_name: identifier of the licence on the hub, such as apache-2.0 or cc-by-4.0.
        picture: file beside the card with the curves of the run.

    Example:
        >>> card = model_card(backbone, "hf://owner/name", license_name="apache-2.0")
    """
    name = handle.rstrip("/").rpartition("/")[2]
    kind = type(model).__name__
    head = {
        "library_name": "nepa_keras",
        "license": license_name,
        "pipeline_tag": _TASKS.get(kind, "image-feature-extraction"),
        "tags": "[keras, nepa, vit_nepa, self-supervised-learning]",
    }
    sections = [
        "\n".join(["---", *(f"{k}: {v}" for k, v in head.items() if v), "---"]),
        f"# {name}",
        f"{_sentence(model)} Trained with nepa_keras (Keras 3), for TensorFlow, JAX and PyTorch.",
        *_architecture(model, weights),
        *(_of_run(run, picture) if run is not None else ()),
        *_loading(kind, handle),
        "## Licence",
        f"The weights: {license_name}."
        if license_name
        else "No licence is stated: ask the owner of this repository before you use the weights.",
    ]
    return "\n\n".join(sections) + "\n"


def _sentence(model: keras.Model) -> str:
    if classes := getattr(model, "num_classes", None):
        task = "Image segmenter" if "Segmenter" in type(model).__name__ else "Image classifier"
        return f"{task} of {classes} classes on the Vision Transformer of {_PAPER}."
    return f"Vision Transformer of {_PAPER}, for features of images and for fine-tuning."


def _architecture(model: keras.Model, weights: str) -> list[str]:
    backbone = backbone_of(model)
    shape = " x ".join(map(str, backbone.image_shape))
    rows = [
        ("model", ""),
        ("class", type(model).__name__),
        ("parameters", f"{model.count_params():,}"),
        (
            "Transformer",
            f"{backbone.num_layers} blocks of width {backbone.hidden_dim}, {backbone.num_heads} heads",
        ),
        ("input", f"{shape} (channels last), values in [-1, 1]"),
    ]
    if names := getattr(model, "class_names", None):
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        rows.append(("classes", _one_line(shown)))
    if weights:
        rows.append(("weights", weights))
    return ["## Model", markdown_table(rows)]


def _of_run(run: RunDir, picture: str | None) -> list[str]:
    """Sections on data, recipe and results, as far as the run's files provide them."""
    flags = run.read_flags()
    sections = []
    if flags is not None:
        lines = [_without_folders(line) for line in flags.lines]
        of_data = [line for line in lines if line[2:].partition("=")[0] in _DATA_FLAGS]
        sections += ["## Data", "Flags of the run:", _code("\n".join(of_data))]
        script = re.search(r"(\w+)(?:\.py)? --flagfile", flags.command)
        by = f" by `nepa-keras {script[1]}`" if script else ""
        sections += ["## Recipe", f"Trained{by} with {flags.versions}:", _code("\n".join(lines))]
    tables = {**_tables(run), **_last_row(run)}
    if tables or picture:
        sections.append("## Results")
    for title, rows in tables.items():
        cells = [[_one_line(str(cell)) for cell in row] for row in rows]
        sections += [f"{title}:", markdown_table(cells)]
    if picture:
        sections.append(f"![Curves of the training]({picture})")
    return sections


def _tables(run: RunDir) -> Mapping[str, Sequence[Sequence[str]]]:
    """Return the run's tables of results, and Markdown tables in *.md files beside them."""
    beside = {path.stem: read_table(path) for path in sorted(run.path.glob("*.md"))}
    return run.read_results() | {title: rows for title, rows in beside.items() if len(rows) > 1}


def _last_row(run: RunDir) -> Mapping[str, Sequence[Sequence[str]]]:
    """Return loss and scores of the last row of log.csv."""
    if not run.log.is_file():
        return {}
    with open(run.log, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    last = {name: value or "" for name, value in rows[-1].items() if name} if rows else {}
    found = []
    for name in filter(_MEASURED.fullmatch, last):
        with contextlib.suppress(ValueError):  # the score was not measured at this step
            found.append((name, f"{float(last[name]):.4g}"))
    title = f"At the last step ({last.get('step', 'number unknown')})"
    return {title: [("column of log.csv", "value"), *found]} if found else {}


def _without_folders(line: str) -> str:
    """Remove the folders from paths in a flag; hf:// handles and variable names stay."""
    name, given, value = line.partition("=")
    if name == "--freeze":
        return line
    pieces = re.split(r"([,:](?!//))", value)
    last = [p if p.startswith("hf://") else re.split(r"[/\\]", p.rstrip("/\\"))[-1] for p in pieces]
    return f"{name}{given}{''.join(last)}"


def _one_line(text: str) -> str:
    """Format text for a table cell; shorten absolute paths to their last part."""
    text = re.sub(r"\s+", " ", text).replace("|", "\\|")
    return re.sub(r"(?<!\S)[/~][^\s,;]*/([^\s,;/]+)", r"\1", text)


def _code(text: str, language: str = "") -> str:
    return f"```{language}\n{text}\n```"


def _loading(kind: str, handle: str) -> list[str]:
    head = "import nepa_keras\n\n"
    if kind == "NepaImageSegmenter":
        code = f'''model = nepa_keras.{kind}.from_preset("{handle}")
labels = nepa_keras.evaluation.ImageSegmenter(model).labels(picture)  # of uint8 (height, width, channels)'''
    elif kind == "NepaImageClassifier":
        code = f'''model = nepa_keras.{kind}.from_preset("{handle}")
converter = nepa_keras.NepaImageConverter.from_preset("{handle}")
logits = model.predict(converter(["picture.jpg"]))
print(model.decode_predictions(logits, top=3))'''
    else:
        code = f'''backbone = nepa_keras.NepaBackbone.from_preset("{handle}")
converter = nepa_keras.NepaImageConverter.from_preset("{handle}")
features = nepa_keras.evaluation.extract_features(backbone, converter(["picture.jpg"]))
# To fine-tune: nepa_keras.NepaImageClassifier.from_preset("{handle}", num_classes=10)'''
    return ["## How to load", _code(head + code, "python")]
