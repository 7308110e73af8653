"""Convert checkpoints between formats and model classes, and verify the result.

    python experiments/convert.py --source=FOLDER --output=OURS
    python experiments/convert.py --source=hf://SixAILab/nepa-base-patch14-224 --ema --model=classifier \
        --num_classes=10 --to=huggingface --output=CLASSIFIER --image=cat.jpg
    python experiments/convert.py --source=runs/mine/checkpoint.keras --ema --to=huggingface --output=MINE
    python experiments/convert.py --source=CLASSIFIER --to=saved_model --output=SERVED
    python experiments/convert.py --source=CLASSIFIER --to=onnx --output=SERVED.onnx
    python experiments/convert.py --source=CLASSIFIER --to=keras --quantize=int8 --output=SMALL.keras

Sources are checkpoints of this library, of the authors' PyTorch code, and .keras files. The script prints how
many tensors were converted by which rule (with --verbose each tensor), and the largest difference between the
outputs of the source and of the result, read back from --output, for one image. KERAS_BACKEND selects the
backend that computes them.
"""

import os
from contextlib import ExitStack
from pathlib import Path

import before_keras  # noqa: F401
import keras
import numpy as np
from absl import flags
from command_line import end, run, user_errors
from given_model import MODEL, define_weights_flag, given_model
from inputs import check_weights, say
from shared_flags import define_image_size_flag

import nepa_keras
from nepa_keras import interop
from nepa_keras.files import is_whole_archive
from nepa_keras.presets import backbone_of

flags.DEFINE_string("source", None, f"Model to convert: a .keras file, {MODEL}", required=True)
define_weights_flag()
flags.DEFINE_string(
    "output", None, "Folder to write; for --to=onnx and --to=keras a file.", required=True
)
flags.DEFINE_enum(
    "to",
    "preset",
    ["preset", "huggingface", "saved_model", "onnx", "keras"],
    "Output format: this library's preset folder, the authors' Hugging Face layout, TensorFlow SavedModel, "
    "ONNX, or a .keras file.",
)
flags.DEFINE_enum(
    "model",
    "same",
    ["same", "backbone", "pretrainer", "classifier"],
    "Model class of the output; same keeps that of the source.",
)
define_image_size_flag("that of the source", "Image size of the output's input")
flags.DEFINE_integer(
    "num_classes",
    None,
    "Number of classes of a new classifier; default that of the source or of --class_names.",
    lower_bound=1,
)
flags.DEFINE_float(
    "drop_path",
    None,
    "Drop-path rate in the output's configuration, for further training; default that of the source.",
    lower_bound=0,
    upper_bound=0.99,
)
flags.DEFINE_string(
    "class_names", None, "Text file with one class name per line, in the order of the classes."
)
flags.DEFINE_bool(
    "ema", False, "Convert the averaged weights of the source; same as --weights=ema."
)
flags.DEFINE_bool(
    "fold_layer_scale", False, "Fold the factors of LayerScale into the dense layers before it."
)
flags.DEFINE_enum(
    "quantize",
    None,
    ["int8"],
    "Quantize the dense layers to 8-bit integers, a quarter of the size; for --to=keras.",
)
flags.DEFINE_bool("verbose", False, "Print the conversion of each tensor.")
flags.DEFINE_string(
    "image", None, "Picture on which source and result are compared; default random noise."
)
FLAGS = flags.FLAGS


def check_flags():
    if FLAGS.quantize and FLAGS.to != "keras":
        raise ValueError(
            f"--quantize is for --to=keras; --to={FLAGS.to} stores floating-point weights."
        )
    if FLAGS.to == "keras" and not FLAGS.output.endswith(".keras"):
        raise ValueError(
            f"--output={FLAGS.output} must end in .keras, as --to=keras writes one file."
        )


def overrides() -> dict:
    """Arguments of the output model that flags set."""
    given = {"num_classes": FLAGS.num_classes, "drop_path_rate": FLAGS.drop_path}
    given["image_size"] = FLAGS.image_size
    if FLAGS.class_names:
        lines = Path(FLAGS.class_names).expanduser().read_text(encoding="utf-8").splitlines()
        given["class_names"] = [line.strip() for line in lines if line.strip()]
    return {name: value for name, value in given.items() if value is not None}


def load(stack):
    """Load the source, and the model to write from it; averaged weights stay active until `stack` closes."""
    weights = "ema" if FLAGS.ema else FLAGS.weights
    if FLAGS.source.endswith(".keras"):
        if FLAGS.model != "same" or FLAGS.fold_layer_scale or FLAGS.quantize or overrides():
            raise ValueError(
                f"{FLAGS.source} can only be converted unchanged; convert it by --to=huggingface first, then "
                "change that folder."
            )
        if not is_whole_archive(FLAGS.source):
            raise ValueError(f"{FLAGS.source} is missing or no whole .keras file.")
        model = keras.saving.load_model(FLAGS.source)
        if weights == "ema":
            stack.enter_context(nepa_keras.training.ema_weights(model))
        return model, model
    given = given_model("--source", FLAGS.source, weights)
    say(given.notes)
    check_weights("--source", given.preset)
    chosen = {
        "backbone": nepa_keras.NepaBackbone,
        "pretrainer": nepa_keras.NepaPretrainer,
        "classifier": nepa_keras.NepaImageClassifier,
    }
    own_class = interop.model_class(given.preset)
    model_class = chosen.get(FLAGS.model, own_class)
    counted = FLAGS.num_classes or FLAGS.class_names or model_class is own_class
    if FLAGS.model == "classifier" and not counted:
        raise ValueError(
            f"{FLAGS.source} has no classes; give the number of classes by --num_classes or --class_names."
        )
    source = own_class.from_preset(given.preset, ema=given.ema)
    changed = overrides() or FLAGS.fold_layer_scale or FLAGS.quantize
    if model_class is own_class and not changed:
        return source, source
    result = model_class.from_preset(
        given.preset, ema=given.ema, fold_layer_scale=FLAGS.fold_layer_scale, **overrides()
    )
    if FLAGS.quantize:
        result.quantize(FLAGS.quantize)
    return source, result


def example(model):
    """Image (1, height, width, channels) on which source and result are compared."""
    height, width, channels = backbone_of(model).image_shape
    if FLAGS.image:
        return nepa_keras.NepaImageConverter((height, width), channels=channels)(FLAGS.image)
    return np.random.default_rng(0).standard_normal((1, height, width, channels), dtype="float32")


def write(model):
    """Write the model to --output in the format of --to."""
    if FLAGS.to == "preset":
        model.save_to_preset(FLAGS.output)
    elif FLAGS.to == "huggingface":
        interop.export_huggingface(model, FLAGS.output)
    elif FLAGS.to == "saved_model":
        interop.export_saved_model(model, FLAGS.output)
    elif FLAGS.to == "keras":
        model.save(FLAGS.output)
    else:
        interop.export_onnx(model, FLAGS.output)


def run_exported(images):
    """Outputs of the exported artefact at --output, computed without this library."""
    if FLAGS.to == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(FLAGS.output)
        return session.run(None, {session.get_inputs()[0].name: images})
    import tensorflow as tf

    artefact = tf.saved_model.load(FLAGS.output)
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), artefact.serve(images))


def differences(source, model, images):
    """Largest absolute difference of each compared pair of outputs, by a name of the pair."""

    def tokens(m):
        return backbone_of(m)(images, causal=False)["sequence_output"]

    found = {}
    if source is not model:
        found["final tokens of source and result"] = (tokens(source), tokens(model))
    if FLAGS.to in ("saved_model", "onnx"):
        outputs = keras.tree.flatten(model(images))
        artefact = keras.tree.flatten(run_exported(images))
        found["output of the model and of the artefact"] = (outputs, artefact)
    else:
        load = keras.saving.load_model if FLAGS.to == "keras" else type(model).from_preset
        again = load(FLAGS.output)
        found["output of the model and of --output read back"] = (model(images), again(images))
    return {name: interop.largest_difference(*pair) for name, pair in found.items()}


def main():
    with user_errors(), ExitStack() as stack:
        check_flags()
        FLAGS.source, FLAGS.output = map(os.path.expanduser, (FLAGS.source, FLAGS.output))
        source, model = load(stack)
        images = example(model)
        if report := getattr(model, "load_report", None):
            lines = str(report).splitlines()
            # Lines of single tensors are indented.
            print("\n".join(x for x in lines if FLAGS.verbose or not x.startswith("  ")))
        try:
            write(model)
        except NotImplementedError as error:
            end(1, error)
        print(
            f"written: {FLAGS.output} ({type(model).__name__}, {model.count_params():,} parameters)"
        )
        for name, difference in differences(source, model, images).items():
            print(f"largest difference, {name}: {difference:.3g}")


if __name__ == "__main__":
    run(main)
