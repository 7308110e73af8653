"""Tables of the documents that are generated from the package, without importing Keras.

    python docs/hooks/tables.py      # writes them anew into README.md and the pages under docs/

A page holds one between `<!-- table: NAME -->` and `<!-- end of table -->`; tests/test_documents.py
compares.
"""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def _presets() -> tuple[dict, dict]:
    names = runpy.run_path(str(ROOT / "nepa_keras" / "presets" / "names.py"))
    return names["PRESETS"], names["RELEASED"]


def parameter_count(preset: dict) -> int:
    """Parameters of the backbone of a preset; `tests/test_documents.py` compares them with the models'."""
    shape, patch = preset.get("image_shape", (224, 224, 3)), preset.get("patch_size", 14)
    width, depth = preset.get("hidden_dim", 768), preset.get("num_layers", 12)
    heads, inner = preset.get("num_heads", 12), preset.get("mlp_dim", 3072)
    block = 4 * width * (width + 1)  # q, k, v and the output projection
    block += 2 * width * inner + inner + width
    block += 4 * width  # two norms
    block += 2 * width * (preset.get("layer_scale", 1e-5) is not None)
    block += 2 * (width // heads) * preset.get("qk_norm_scale", False)
    patches = patch * patch * shape[2] * width + width
    return patches + width + depth * block + 2 * width  # CLS, the final norm


def models_table() -> str:
    """A row for each named architecture: size, and whether weights are released."""
    presets, released = _presets()
    lines = [
        "| preset | image | patch | width | blocks | heads | parameters | released weights |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, preset in presets.items():
        height, width, channels = preset.get("image_shape", (224, 224, 3))
        columns = [
            f"`{name}`",
            f"{height}×{width}×{channels}",
            preset.get("patch_size", 14),
            preset.get("hidden_dim", 768),
            preset.get("num_layers", 12),
            preset.get("num_heads", 12),
            f"{parameter_count(preset):,}",
            "yes" if name in released else "",
        ]
        lines.append(f"| {' | '.join(map(str, columns))} |")
    return "\n".join(lines)


def released_table() -> str:
    """A row for each released checkpoint: size, training, handle. README.md holds a copy of it."""
    presets, released = _presets()
    lines = ["| preset | parameters | trained | on the hub |", "|---|---|---|---|"]
    for name, model in released.items():
        millions = f"{parameter_count(presets[name]) / 1e6:.1f} M"
        address = model.handle.removeprefix("hf://")
        lines.append(
            f"| `{name}` | {millions} | {model.trained} | [{address}](https://huggingface.co/{address}) |"
        )
    return "\n".join(lines)


def recipes_table() -> str:
    """A row for each recipe, with the first sentence of its opening comment."""
    lines = ["| recipe | what it is |", "|---|---|"]
    for path in sorted((ROOT / "experiments" / "recipes").glob("*.flags")):
        comment = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            comment.append(line.lstrip("# "))
        sentence = re.split(r"(?<=[.:;])\s", " ".join(comment))[0].rstrip(".:;")
        lines.append(f"| `{path.stem}` | {sentence} |")
    return "\n".join(lines)


def commands_table() -> str:
    """A row for each command, with the first line of its docstring."""
    command = runpy.run_path(str(ROOT / "nepa_keras_cli.py"))
    found = command["commands"](ROOT / "experiments")
    rows = [f"| `{name.replace('_', '-')}` | {line} |" for name, line in found.items()]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


TABLES = {
    "commands": commands_table,
    "models": models_table,
    "released": released_table,
    "recipes": recipes_table,
}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def with_tables(text: str) -> str:
    """The text of a page with its tables as they should be."""
    return re.sub(
        r"(<!-- table: (\w+) -->\n\n).*?(\n\n<!-- end of table -->)",
        lambda found: found[1] + TABLES[found[2]]() + found[3],
        text,
        flags=re.S,
    )


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
