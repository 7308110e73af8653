r"""Prepare weights for sharing, with a model card, and upload them to the Hugging Face hub.

    KERAS_BACKEND=jax python experiments/share.py --model=runs/mine --output=to_share
    KERAS_BACKEND=jax python experiments/share.py --model=runs/tuned --license=mit --push=hf://OWNER/NAME
    KERAS_BACKEND=jax python experiments/share.py --model=runs/tuned --push=hf://OWNER/NAME --private

--model is required. The script writes the weights and a model card, OUTPUT/README.md, with the architecture,
the data, the flags and the results of the run, how to load the model, and its licence. An existing card is
kept: add what only you know, and repeat the command. --push needs a token, stored by `hf auth login` or in
the variable HF_TOKEN.
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

flags.DEFINE_string("model", None, f"Weights to share: {MODEL}", required=True)
define_weights_flag()
flags.DEFINE_string(
    "output", None, "Folder to write; default shared/NAME, named after the model or repository."
)
flags.DEFINE_string(
    "push", None, "Repository of the hub to upload to, hf://OWNER/NAME; default none."
)
flags.DEFINE_boolean("private", False, "Make the repository of --push private.")
flags.DEFINE_string(
    "license",
    None,
    "Identifier of the licence of the weights on the hub, such as apache-2.0 or cc-by-4.0.",
)
FLAGS = flags.FLAGS


def check_flags():
    if FLAGS.push:
        interop.check_upload(FLAGS.push)
    elif FLAGS.private:
        raise ValueError("--private applies to an upload; give --push=hf://OWNER/NAME too.")
    if FLAGS.license and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", FLAGS.license):
        raise ValueError(
            f"--license={FLAGS.license} is no licence identifier of the hub, such as apache-2.0, mit or "
            "cc-by-4.0."
        )


def run_of(folder: str) -> training.RunDir | None:
    """Run that a folder of weights (best/, ema/, trained/ or a checkpoint) belongs to, or None."""
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
            print(f"{output / CARD} existed and is kept; delete it to get a new card.")
        elif not FLAGS.license:
            print("no --license is given; the card says so")
        if FLAGS.push:
            print(f"uploaded: {interop.push_to_hub(output, FLAGS.push, files, FLAGS.private)}")


if __name__ == "__main__":
    run(main)
