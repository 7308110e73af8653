"""Folder for sharing a model: weights, configuration, model card, curves of the run."""

import shutil
from pathlib import Path

import keras

from nepa_keras.files import replacing
from nepa_keras.interop.export import export_huggingface, preprocessor_config_of
from nepa_keras.interop.model_card import model_card
from nepa_keras.presets import backbone_of
from nepa_keras.presets.folder import CONFIG, PREPROCESSOR, WEIGHTS, write_preprocessor
from nepa_keras.training import RunDir

CARD = "README.md"  # the hub's name for the model card


def write_to_share(
    model: keras.Model,
    folder: str | Path,
    handle: str | None = None,
    run: RunDir | None = None,
    weights: str = "",
    license_name: str | None = None,
) -> list[str]:
    """Write a folder for `from_preset` with a model card, and return the names of its files.

    The layout is the authors', or that of `save_to_preset` for a model that theirs cannot hold. An existing
    README.md is kept, as it may have been edited.

    Args:
        model: a backbone, pretrainer, classifier or segmenter.
        folder: created if missing.
        handle: hf://owner/name of the planned repository; default the folder.
        run, weights, license_name: see `model_card`.

    Example:
        >>> files = write_to_share(backbone, "shared")
    """
    folder = Path(folder).expanduser()
    files = [CONFIG, WEIGHTS, CARD]
    is_of_pictures = len(backbone_of(model).image_shape) == 3
    if _has_official_layout(model):
        export_huggingface(model, folder)
    else:
        model.save_to_preset(folder)
        if is_of_pictures:
            write_preprocessor(preprocessor_config_of(model), folder)
    if is_of_pictures:
        files.append(PREPROCESSOR)
    curves = None
    if run is not None and run.curves.is_file():
        curves = run.curves.name
        files.append(curves)
        with replacing(folder / curves) as unfinished:
            shutil.copyfile(run.curves, unfinished)
    if not (folder / CARD).exists():
        text = model_card(model, handle or str(folder), run, weights, license_name, curves)
        with replacing(folder / CARD) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return files


def _has_official_layout(model: keras.Model) -> bool:
    """Tell whether the authors' code can compute the same function from an export; see `official_config`."""
    ours = backbone_of(model).get_config()
    patches_with_rope = ours["embedding"] is None and ours["rope_theta"] is not None
    theirs = ours["rope_extent"] == 1.0 and ours["position_embedding"] is None
    return model.official_architecture is not None and patches_with_rope and theirs
