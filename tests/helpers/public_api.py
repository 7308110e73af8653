"""Names, signatures, variables and flags, one a line: what tests/frozen/public_api.txt holds.

KERAS_BACKEND=jax python -m tests.helpers.public_api > tests/frozen/public_api.txt
"""

import importlib
import inspect
import re
import sys
import xml.etree.ElementTree as ElementTree

import keras

import nepa_keras
from tests.helpers import ROOT, scripts, tiny

MODULES = (
    "nepa_keras",
    "nepa_keras.backends",
    "nepa_keras.data",
    "nepa_keras.evaluation",
    "nepa_keras.interop",
    "nepa_keras.layers",
    "nepa_keras.performance",
    "nepa_keras.data.segmentation",
    "nepa_keras.data.sources",
    "nepa_keras.training",
    "nepa_keras.visualization",
)
SCRIPTS = sorted(
    path.name
    for folder in scripts.FOLDERS
    for path in folder.glob("*.py")
    if re.search(r"\brun\(main[),]", path.read_text())
)


def signature(callable_) -> str:
    """Parameters with their defaults, without annotations."""
    try:
        found = inspect.signature(callable_)
    except ValueError:  # of a class without a constructor of its own
        return "()"
    bare = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    return str(inspect.Signature(bare)).replace("(self, ", "(").replace("(self)", "()")


def members(cls) -> list[str]:
    """Public methods that this package defines, with those of its own base classes.

    Without those of `backends`: each backend has other methods of Keras' to fill.
    """
    lines = []
    for name in sorted(dir(cls)):
        value = inspect.getattr_static(cls, name)
        value = getattr(value, "__func__", value)
        module = getattr(value, "__module__", None) or ""
        ours = module.startswith("nepa_keras") and not module.startswith("nepa_keras.backends")
        if not name.startswith("_") and inspect.isfunction(value) and ours:
            lines.append(f"{name}{signature(value)}")
    return lines


def names() -> list[str]:
    lines = []
    for module in MODULES:
        module = importlib.import_module(module)
        for name in module.__all__:
            value, full = getattr(module, name), f"{module.__name__}.{name}"
            if module.__name__ == "nepa_keras.backends":  # whose arguments are each backend's own
                lines.append(full)
            elif inspect.isclass(value):
                lines.append(full + signature(value))
                lines += [f"{full}.{member}" for member in members(value)]
            else:
                lines.append(full + (signature(value) if callable(value) else ""))
    return lines


def registered() -> list[str]:
    """Names by which saved files know the classes and functions."""
    known = keras.saving.get_custom_objects()
    return sorted(f"registered {name}" for name in known if name.startswith("nepa_keras>"))


def flags() -> list[str]:
    """Name and default of each flag of each script."""
    lines = []
    for script in SCRIPTS:
        text = scripts.run_here(script, "--helpxml").stdout
        for flag in ElementTree.fromstring(text[text.index("<?xml") :]).iter("flag"):
            if flag.findtext("key") == "yes":
                lines.append(f"{script} --{flag.findtext('name')}={flag.findtext('default') or ''}")
    return lines


def variables() -> list[str]:
    """Variables of the models with most parts, in the order in which checkpoints number them."""
    every = dict(gated_mlp=True, qk_norm_scale=True, qk_norm_bias=True, use_mask_token=True)
    models = (
        nepa_keras.NepaPretrainer(tiny.backbone(**every), masking_ratio=0.4),
        nepa_keras.NepaImageClassifier(tiny.backbone(drop_path_rate=0.1), 3),
        nepa_keras.NepaImageSegmenter(tiny.backbone(), 3, channels=8, taps=(0, 1, 1, 1)),
    )
    lines = [
        f"{type(model).__name__} {i} {variable.path.partition('/')[2]} {variable.shape}"
        for model in models
        for i, variable in enumerate(model.variables)
    ]
    # Keras numbers seed generators in the order in which a process makes them.
    return [re.sub(r"seed_generator_\d+", "seed_generator", line) for line in lines]


def describe() -> list[str]:
    """All of it, without what differs between machines and runs."""
    lines = [*names(), *registered(), *variables(), *sorted(flags())]
    # Of an object that is a default its class counts, not the module or the place in memory.
    objects = re.compile(r"<[\w.]+\.(\w+) object at 0x[0-9a-f]+>")
    bare = [objects.sub(r"<\1 object>", line) for line in lines]
    return [re.sub(" at 0x[0-9a-f]+", "", line).replace(str(ROOT), "ROOT") for line in bare]


if __name__ == "__main__":
    sys.path[:0] = map(str, scripts.FOLDERS)  # as for a script there
    print("\n".join(describe()))
