"""Examples in docstrings run, and each public class has one.

The names an example may use without making them are those of `namespace`; all else it makes itself.
"""

import doctest
import functools
import importlib
import inspect

import keras
import numpy as np
import pytest

import nepa_keras

PACKAGES = (
    "nepa_keras",
    "nepa_keras.data",
    "nepa_keras.data.segmentation",
    "nepa_keras.evaluation",
    "nepa_keras.interop",
    "nepa_keras.layers",
    "nepa_keras.objectives",
    "nepa_keras.performance",
    "nepa_keras.training",
    "nepa_keras.visualization",
)
CHECKS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public_objects() -> dict[str, object]:
    """Classes and functions of all `__all__`s by full name, each once, and methods with examples."""
    found: dict[int, tuple[str, object]] = {}
    for package in map(importlib.import_module, PACKAGES):
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found.setdefault(id(value), (f"{package.__name__}.{name}", value))
            if inspect.isclass(value):
                for method in filter(inspect.isfunction, vars(value).values()):
                    if ">>>" in (getattr(method, "__doc__", None) or ""):
                        where = f"{package.__name__}.{name}.{method.__name__}"
                        found.setdefault(id(method), (where, method))
    return dict(found.values())


OBJECTS = public_objects()
EXAMPLES = [name for name, value in OBJECTS.items() if ">>>" in (value.__doc__ or "")]


@functools.cache
def small_data():
    arrays = nepa_keras.data.load("embedded")
    return type(arrays)(
        arrays.train_images[:64],
        arrays.train_labels[:64],
        arrays.test_images[:32],
        arrays.test_labels[:32],
        arrays.class_names,
    )


def namespace(folder) -> dict[str, object]:
    """Packages; `images` (16, 28, 28, 1) in [-1, 1] and their `labels`; a `backbone` and models of it.

    The current folder has `pictures/`: eight PNG files, four in each of the folders `cats` and `dogs`.
    """
    arrays = small_data()
    for index, image in enumerate(arrays.train_images[:8]):
        path = folder / "pictures" / ("cats", "dogs")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(path, image, scale=False)
    backbone = nepa_keras.NepaBackbone(
        image_shape=(28, 28, 1), patch_size=4, hidden_dim=32, num_layers=4, num_heads=2, mlp_dim=64
    )
    model = nepa_keras.NepaPretrainer(backbone)
    model.compile(optimizer=nepa_keras.training.adamw(1e-3, ema_decay=0.9))
    return {
        **{name.rpartition(".")[2]: importlib.import_module(name) for name in PACKAGES},
        "keras": keras,
        "np": np,
        "arrays": arrays,
        "images": nepa_keras.data.normalize(arrays.train_images[:16]),
        "labels": arrays.train_labels[:16],
        "backbone": backbone,
        "model": model,
        "classifier": nepa_keras.NepaImageClassifier(backbone, num_classes=10),
        "segmenter": nepa_keras.NepaImageSegmenter(backbone, num_classes=10, channels=8),
    }


@pytest.mark.first_on("torch")
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = OBJECTS[name]
    module = importlib.import_module(value.__module__)
    names = {**vars(module), **namespace(tmp_path)}
    example = doctest.DocTestParser().get_doctest(
        inspect.getdoc(value), names, name, inspect.getsourcefile(value), 0
    )
    lines: list[str] = []
    results = doctest.DocTestRunner(optionflags=CHECKS, verbose=False).run(
        example, out=lines.append
    )
    assert not results.failed, "".join(lines)


@pytest.mark.once
def test_each_public_class_has_an_example():
    without = [
        name
        for name, value in OBJECTS.items()
        if inspect.isclass(value) and not issubclass(value, Exception) and name not in EXAMPLES
    ]
    assert without == []
