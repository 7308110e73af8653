"""Which weights --model and --weights name: those of a run, of a checkpoint, or others."""

from typing import NamedTuple

from absl import flags
from inputs import check_averages

from nepa_keras import training
from nepa_keras.presets.names import PRESETS

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # key flags of the script that calls, not of this module

MODEL = (
    "a folder of weights; the folder of a run (its best/, else ema/, else trained/, and before its end the "
    "newest whole checkpoint); one of its checkpoints, RUN_DIR/checkpoints/step-XXXXXXXX; a preset's name; "
    "or hf://owner/name."
)
WEIGHTS = (
    "Trained or averaged weights (ema): those at the end of a run, of one of its checkpoints, or of a folder "
    "that has both (model.safetensors, pytorch_model_ema.bin). Default what a run recommends, of a "
    "checkpoint the averages where the run keeps them, of other folders the trained ones."
)


class GivenModel(NamedTuple):
    """Weights for `from_preset(preset, ema=ema)`.

    Attributes:
        preset: a folder, a preset's name or hf://owner/name.
        ema: whether its averaged weights are meant.
        notes: what the user should know: which weights of a run they are.
    """

    preset: str
    ema: bool
    notes: tuple[str, ...] = ()


def define_weights_flag() -> None:
    """The choice between trained and averaged weights."""
    flags.DEFINE_enum("weights", None, ["trained", "ema"], WEIGHTS)


def given_model(flag: str, name: str, weights: str | None) -> GivenModel:
    """The weights that a name stands for.

    Args:
        flag: that the name was given by.
        name: see `MODEL`.
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
    """The weights of --model and --weights, which from now on name their folder, as flags.txt is to do.

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
            FLAGS.weights = None  # what the folder is taken for anyway
    return given
