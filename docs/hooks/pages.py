"""Pages of the site that are generated: the home page from README.md, and the API reference from `__all__`.

MkDocs calls the functions `on_…`, as mkdocs.yml names this file as a hook. The source of the package is read
and not imported, so that the site is built in an environment with the extra `docs` alone.
"""

import ast
import re
from pathlib import Path

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent.parent

# Public values that are neither a class nor a function, which Python gives no docstring.
CONSTANTS = {
    "nepa_keras.PRESETS": "Named architectures: arguments of `NepaBackbone` that differ from its defaults.",
    "nepa_keras.RELEASED": "The released checkpoints by name: handle, training and kind of weights.",
    "nepa_keras.data.segmentation.IGNORED": "The value of pixels without a class in a mask, 255.",
    "nepa_keras.data.segmentation.KINDS": "The kinds of segmentation data that `--data` of segment.py names.",
    "nepa_keras.evaluation.AFTER_NORM": "The name of the features after the final norm, in place of a block.",
    "nepa_keras.interop.RULES": "The named exceptions to one-to-one loading, with their explanation.",
    "nepa_keras.performance.DEVICES": "Peak FLOP/s and memory bandwidth of known accelerators by name.",
    "nepa_keras.training.adamw": "Another name of [`nepa_keras.training.AdamW`][], with the same arguments.",
    "nepa_keras.training.TRACKERS": "The experiment trackers by name, as `open_trackers` takes them.",
}


def public_modules(module: str = "nepa_keras") -> dict[str, list[str]]:
    """Public names of a module and, by recursion, of the modules among them, read from each `__all__`."""
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    defined = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    ]
    names, found = (listed[0] if listed else defined), {}
    modules = {
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == module
        for alias in node.names
    }
    inner = [name for name in names if name in modules]
    found[module] = sorted((n for n in names if n not in inner), key=str.lower)
    for name in inner:
        found |= public_modules(f"{module}.{name}")
    return found


def home_page() -> str:
    """README.md as a page of docs/; links to other files of the repository become plain text."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    return re.sub(
        r"(?<!!)\[([^\]]+)\]\(((?!https?:|#)[^)]+)\)",
        lambda link: (
            link[0]
            if re.match(r"[\w-]+\.md(#|$)", link[2])
            and (ROOT / "docs" / link[2].partition("#")[0]).exists()
            else link[1]
        ),
        text,
    )


def reference_pages() -> dict[str, str]:
    """Markdown of the API reference by file name; mkdocstrings fills in the docstrings."""
    modules, package = public_modules(), griffe.load("nepa_keras", search_paths=[str(ROOT)])
    pages, rows = {}, []
    homes = {
        package[f"{module.partition('.')[2]}.{name}".lstrip(".")].canonical_path: module
        for module in sorted(modules, key=lambda m: m == "nepa_keras.evaluation", reverse=True)
        for name in modules[module]
    }
    for module, names in modules.items():
        file = f"{module.removeprefix('nepa_keras.')}.md"
        summary = package if module == "nepa_keras" else package[module.partition(".")[2]]
        lines = [
            f"# {module}",
            "",
            summary.docstring.value.splitlines()[0] if summary.docstring else "",
            "",
        ]
        for name in names:
            found = package[f"{module.partition('.')[2]}.{name}".lstrip(".")]
            path = f"{module}.{name}"
            home = homes[found.canonical_path]
            if home != module:
                link = f"[`{home}.{name}`]({home.removeprefix('nepa_keras.')}.md#{home}.{name})"
                lines += [f"## `{name}` {{ #{path} }}", "", f"The same as {link}.", ""]
            elif path in CONSTANTS:
                lines += [f"## `{name}` {{ #{path} }}", "", CONSTANTS[path], ""]
            elif not found.has_docstring:
                raise PluginError(f"{path} is public and has no docstring")
            else:
                lines += [f"::: {path}", ""]
        pages[file] = "\n".join(lines)
        listed = ", ".join(f"[`{name}`]({file}#{module}.{name})" for name in names)
        rows.append(f"| [`{module}`]({file}) | {listed} |")
    pages["index.md"] = "\n".join(
        ["# API reference", "", "| module | public names |", "|---|---|", *rows]
    )
    return pages


# ---- what MkDocs calls


def on_config(config):
    """Put the pages of the reference where the navigation has a placeholder."""
    names = sorted(reference_pages())
    for entry in config.nav:
        if "Reference" in entry:
            entry["Reference"] = [
                f"api/{name}" for name in ["index.md", *(n for n in names if n != "index.md")]
            ]
    return config


def on_files(files: Files, config) -> Files:
    """Add the pages that lie in no file."""
    pages = {"index.md": home_page()}
    pages |= {f"api/{name}": text for name, text in reference_pages().items()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_post_build(config) -> None:
    """Fail where a public name has no entry, or a page fetches something from outside."""
    site = Path(config.site_dir)
    for module, names in public_modules().items():
        page = (site / "api" / f"{module.removeprefix('nepa_keras.')}.html").read_text(
            encoding="utf-8"
        )
        missing = [name for name in names if f'id="{module}.{name}"' not in page]
        if missing:
            raise PluginError(f"the reference of {module} lacks {', '.join(missing)}")
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+)"', text)
        fetched += re.findall(
            r'<link[^>]+rel="(?:stylesheet|preconnect)"[^>]+href="(https?:[^"]+)"', text
        )
        if fetched:
            raise PluginError(f"{path.name} fetches {fetched[0]}")
