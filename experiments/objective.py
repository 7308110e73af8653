"""What pretrain.py trains for: --objective and the flags that belong to it."""

from absl import flags
from number_flags import BELOW_ONE, NOT_NEGATIVE, define_number

import nepa_keras
from nepa_keras.objectives import LeNepaPretrainer, PatchNepaPretrainer

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # key flags of the script that calls, not of this module
OBJECTIVES = {
    "nepa": nepa_keras.NepaPretrainer,
    "nepa_patches": PatchNepaPretrainer,
    "lenepa": LeNepaPretrainer,
}


def define_flags() -> None:
    """The objective, its parts, and what the paper leaves out of it."""
    flags.DEFINE_enum(
        "objective",
        None,
        list(OBJECTIVES),
        "nepa, the paper's, is the default; nepa_patches predicts nothing from CLS; lenepa is squared error "
        "in a projector that is thrown away, with SIGReg in place of the stop-gradient (arXiv 2607.00958).",
    )
    define_number(
        "sigreg_weight", None, "Of SIGReg in --objective=lenepa; default 20.", NOT_NEGATIVE
    )
    flags.DEFINE_enum(
        "sigreg_over",
        None,
        ["image", "batch"],
        "Whose patches SIGReg takes together in --objective=lenepa: each image's (default) or the batch's.",
    )
    flags.DEFINE_boolean("shift", True, "Predict the next patch; --noshift: the same one.")
    flags.DEFINE_boolean("causal", True, "Causal attention; --nocausal: every patch sees all.")
    flags.DEFINE_boolean(
        "stop_gradient", True, "Stop-gradient on the targets; without it, training collapses."
    )
    define_number("masking_ratio", 0.0, "Fraction of input patches hidden in training.", BELOW_ONE)


def pretrainer(backbone: nepa_keras.NepaBackbone, seed: int) -> nepa_keras.NepaPretrainer:
    """The backbone with the objective of the flags.

    Raises:
        ValueError: a flag is given that the objective has no use for, or the backbone does not fit it.
    """
    of_lenepa = {"sigreg_weight": FLAGS.sigreg_weight, "sigreg_over": FLAGS.sigreg_over}
    options = {name: value for name, value in of_lenepa.items() if value is not None}
    if FLAGS.objective != "lenepa":
        if options:
            raise ValueError(f"--{next(iter(options))} is for --objective=lenepa.")
        options["stop_gradient"] = FLAGS.stop_gradient
    elif not FLAGS.stop_gradient:
        raise ValueError("--objective=lenepa has no stop-gradient; leave out --nostop_gradient.")
    return OBJECTIVES[FLAGS.objective or "nepa"](
        backbone, shift=FLAGS.shift, masking_ratio=FLAGS.masking_ratio, seed=seed, **options
    )
