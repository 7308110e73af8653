"""Flag --blocks: the block whose frozen features a script uses."""

from collections.abc import Sequence

from absl import flags

from nepa_keras import evaluation

AUTO = "auto"
flags.disclaim_key_flags()  # key flags of the script that calls, not of this module


def define_block_flag(default: str | None, what: str) -> None:
    """Define --blocks for a script that uses the features of one block.

    Args:
        default: default of the flag; None for the final norm.
        what: use of the features, for the help text.
    """
    flags.DEFINE_string(
        "blocks",
        default,
        f"Block whose features {what}: a number from 0, norm (the final norm after the last block), or auto, "
        "the best block on held-out labelled training images. Default norm.",
    )


def given_blocks(texts: Sequence[str], num_layers: int | None = None) -> tuple[int, ...]:
    """Parse values of --blocks.

    Args:
        texts: values, each a number or "norm".
        num_layers: number of the model's blocks, if known.

    Raises:
        ValueError: a value is neither a number nor norm, or the model lacks the block.
    """
    if not all(text == "norm" or text.isdecimal() for text in texts):
        raise ValueError(f"--blocks={','.join(texts)} must be numbers from 0, norm or auto.")
    blocks = tuple(evaluation.AFTER_NORM if text == "norm" else int(text) for text in texts)
    if num_layers is not None and max(blocks, default=0) >= num_layers:
        raise ValueError(
            f"--blocks={','.join(texts)}: this model has blocks 0 to {num_layers - 1}; name one of these."
        )
    return blocks
