"""Training objective of pretrain.py: --objective and the flags that belong to it."""

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
    """Define --objective, and flags that change parts of it for ablations."""
    flags.DEFINE_enum(
        "objective",
        None,
        list(OBJECTIVES),
        "Training objective: nepa (default) is the paper's; nepa_patches makes no prediction from CLS; "
        "lenepa is the squared error after a projector, which is discarded after training, with SIGReg in "
        "place of the stop-gradient (arXiv 2607.00958).",
    )
    define_number(
        "sigreg_weight",
        None,
        "Weight of the SIGReg loss in --objective=lenepa; default 20.",
        NOT_NEGATIVE,
    )
    flags.DEFINE_enum(
        "sigreg_over",
        None,
        ["image", "batch"],
        "Set of patch embeddings that SIGReg regularises in --objective=lenepa: those of each image "
        "(default) or of the whole batch.",
    )
    flags.DEFINE_boolean(
        "shift", True, "Predict the next patch; with --noshift the same patch (ablation)."
    )
    flags.DEFINE_boolean(
        "causal",
        True,
        "Causal attention; with --nocausal every patch attends to all patches (ablation).",
    )
    flags.DEFINE_boolean(
        "stop_gradient",
        True,
        "Stop the gradient at the targets; with --nostop_gradient training collapses (ablation).",
    )
    define_number(
        "masking_ratio",
        0.0,
        "Fraction of input patches replaced by a mask token in training (ablation); 0 masks none.",
        BELOW_ONE,
    )


def pretrainer(backbone: nepa_keras.NepaBackbone, seed: int) -> nepa_keras.NepaPretrainer:
    """Build the pretrainer of --objective.

    Args:
        backbone: model to pretrain.
        seed: seed of masks and random projections.

    Raises:
        ValueError: a flag does not apply to the objective, or the backbone does not fit it.
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
