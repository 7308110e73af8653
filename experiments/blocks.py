"""The flag that says of which block frozen features are, the same in each script that takes them."""

from collections.abc import Sequence

from absl import flags

from nepa_keras import evaluation

AUTO = "auto"
flags.disclaim_key_flags()  # key flags of the script that calls, not of this module


def define_block_flag(default: str | None, what: str) -> None:
    """The flag of a script that takes the features of one block.

    Args:
        default: None for the norm.
        what: uses them.
    """
    flags.DEFINE_string(
        "blocks",
        default,
        f"Block whose features {what}: a number from 0, norm (after the last), or auto, the best of all on "
        "training images held out, by their labels. Default norm.",
    )


def given_blocks(texts: Sequence[str], num_layers: int | None = None) -> tuple[int, ...]:
    """The blocks that a flag names.

    Args:
        num_layers: of the model, where it is known.

    Raises:
        ValueError: one is neither a number nor norm, or the model lacks it.
    """
    if not all(text == "norm" or text.isdecimal() for text in texts):
        raise ValueError(f"--blocks={','.join(texts)}: numbers, norm or auto.")
    blocks = tuple(evaluation.AFTER_NORM if text == "norm" else int(text) for text in texts)
    if num_layers is not None and max(blocks, default=0) >= num_layers:
        raise ValueError(f"--blocks: this model has those from 0 to {num_layers - 1}.")
    return blocks
