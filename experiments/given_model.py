"""Resolution of --model and --weights to a folder of weights, a preset or a hub address."""

from typing import NamedTuple

from absl import flags
from inputs import check_averages

from nepa_keras import training
from nepa_keras.presets.names import PRESETS

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # key flags of the script that calls, not of this module

MODEL = (
    "a folder of weights; the folder of a run (uses best/, else ema/, else trained/, or during the run its "
    "newest complete checkpoint); a checkpoint, RUN_DIR/checkpoints/step-XXXXXXXX; a preset's name; or "
    "hf://owner/name."
)
WEIGHTS = (
    "Weights to use: trained, or averaged (ema), of a run, a checkpoint, or a folder that holds both "
    "(model.safetensors, pytorch_model_ema.bin). Default for a run its best, for a checkpoint the averaged "
    "weights if it has them, for other folders the trained weights."
)


class GivenModel(NamedTuple):
    """Weights for `from_preset(preset, ema=ema)`.

    Attributes:
        preset: folder, preset's name or hf://owner/name.
        ema: whether to load the averaged weights.
        notes: lines to print, such as which weights of a run were chosen.
    """

    preset: str
    ema: bool
    notes: tuple[str, ...] = ()


def define_weights_flag() -> None:
    """Define --weights, the choice between trained and averaged weights."""
    flags.DEFINE_enum("weights", None, ["trained", "ema"], WEIGHTS)


def given_model(flag: str, name: str, weights: str | None) -> GivenModel:
    """Resolve a name to weights.

    Args:
        flag: name of the flag, for messages.
        name: value of the flag, see `MODEL`.
        weights: "trained", "ema", or None for the default.

    Raises:
        ValueError: there are no such weights.
    """
    try:
        found = None if name in PRESETS else training.find_weights(name, weights)
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from None
    if found is None:
        if weights == "ema":
            check_averages("--weights=ema", name)
        return GivenModel(name, weights == "ema")
    where = "" if str(found.folder) == name else f", {found.folder}"
    notes = (*found.damaged, f"{flag}={name}: {found.description}{where}")
    return GivenModel(str(found.folder), found.ema, notes)


def settle_model() -> GivenModel:
    """Resolve --model and --weights, and set the flags to the result, so that flags.txt records it.

    Raises:
        ValueError: as `given_model`.
    """
    if not FLAGS.model:
        return GivenModel("", ema=False)
    given = given_model("--model", FLAGS.model, FLAGS.weights)
    if given.preset != FLAGS.model:
        FLAGS.model = given.preset
        again = training.find_weights(given.preset)
        if again is None or again.ema == given.ema:
            FLAGS.weights = None  # the default of that folder
    return given
