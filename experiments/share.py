r"""Weights for others: a folder with a model card, and its upload to the Hugging Face hub.

    KERAS_BACKEND=jax python experiments/share.py --model=runs/mine --output=to_share
    KERAS_BACKEND=jax python experiments/share.py --model=runs/tuned --license=mit --push=hf://OWNER/NAME
    KERAS_BACKEND=jax python experiments/share.py --model=runs/tuned --push=hf://OWNER/NAME --private

The card, OUTPUT/README.md, says what the model is, on what data and with which flags its run trained it, what
came out, how it is loaded, and under which licence it is. One that is there already stays: write in it what
only you know, and give the command again. For --push `hf auth login` keeps a token, or HF_TOKEN holds it.
"""

import re
from pathlib import Path

import before_keras  # noqa: F401
from absl import flags
from command_line import run, user_errors
from given_model import MODEL, define_weights_flag, given_model
from inputs import check_weights, say

from nepa_keras import interop, training
from nepa_keras.interop.sharing import CARD

flags.DEFINE_string("model", None, f"What to share: {MODEL}", required=True)
define_weights_flag()
flags.DEFINE_string("output", None, "Folder to write; default shared/NAME.")
flags.DEFINE_string("push", None, "hf://OWNER/NAME, the repository of the hub to upload to.")
flags.DEFINE_boolean("private", False, "Make the repository private; for --push.")
flags.DEFINE_string(
    "license", None, "Licence of the weights, as the hub names it, such as apache-2.0 or cc-by-4.0."
)
FLAGS = flags.FLAGS


def check_flags():
    if FLAGS.push:
        interop.check_upload(FLAGS.push)
    elif FLAGS.private:
        raise ValueError("--private is for --push, which names the repository.")
    if FLAGS.license and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", FLAGS.license):
        raise ValueError(
            f"--license={FLAGS.license} is no identifier as the hub has them, such as apache-2.0, mit or "
            "cc-by-4.0."
        )


def run_of(folder: str) -> training.RunDir | None:
    """The run that a folder of weights is of: best/, ema/, trained/, or one of its checkpoints."""
    path = Path(folder).expanduser()
    for above in list(path.resolve().parents)[:2]:
        if (found := training.RunDir(above)).flags.is_file():
            return found
    return None


def main():
    with user_errors():
        check_flags()
        given = given_model("--model", FLAGS.model, FLAGS.weights)
        say(given.notes)
        check_weights("--model", given.preset)
        model = interop.model_class(given.preset).from_preset(given.preset, ema=given.ema)
        trained = run_of(given.preset)
        found = training.find_weights(FLAGS.model, FLAGS.weights)
        named = FLAGS.push or (str(trained) if trained else given.preset)
        name = named.rstrip("/").rpartition("/")[2]
        output = Path(FLAGS.output or f"shared/{name}").expanduser()
        kept = (output / CARD).exists()
        files = interop.write_to_share(
            model,
            output,
            FLAGS.push,
            trained,
            found.description if found else "",
            FLAGS.license,
        )
        print(f"written: {output} ({', '.join(files)})")
        if kept:
            print(f"{output / CARD} was there and stays; without it a new card is written.")
        elif not FLAGS.license:
            print("no --license is given, and the card says so")
        if FLAGS.push:
            print(f"uploaded: {interop.push_to_hub(output, FLAGS.push, files, FLAGS.private)}")


if __name__ == "__main__":
    run(main)
