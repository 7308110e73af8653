"""How good a classifier is, on any labelled images.

    KERAS_BACKEND=jax python experiments/evaluate.py --model=runs/mine/best --data=embedded --split=test
    KERAS_BACKEND=jax python experiments/evaluate.py --model=hf://SixAILab/nepa-base-patch14-224-sft \\
        --weights=raw --weights=ema --data=imagenet:/data --split=val --confusion=confusion.png

Several models, separated by commas, are compared in one table. Images are prepared as the model's
preprocessor_config.json says.
"""

import json

import keras
from absl import app, flags
from command_line import one_sentence, open_labelled

FLAGS = flags.FLAGS
flags.DEFINE_list("model", None, "Folders, presets' names or hf://owner/name.", required=True)
flags.DEFINE_multi_enum(
    "weights",
    ["raw"],
    ["raw", "ema"],
    "ema: the averaged weights of pytorch_model_ema.bin; twice: both.",
)
flags.DEFINE_string("data", "embedded", "As of pretrain.py, with labels.")
flags.DEFINE_string("split", "test", "Of sources that have several.")
flags.DEFINE_string("data_dir", None, "As of pretrain.py.")
flags.DEFINE_integer("batch_size", 128, "Images at a time.", lower_bound=1)
flags.DEFINE_string("dtype", "float32", "float32, mixed_bfloat16 or mixed_float16.")
flags.DEFINE_float("bad_images_share", 0.001, "Of all.", lower_bound=0, upper_bound=1)
flags.DEFINE_string("confusion", None, "Picture to draw, of the last model.")
flags.DEFINE_string("json", None, "File to write the figures of all models to.")


def evaluate(preset: str, weights: str, source):
    """The report of one model."""
    import nepa_keras
    from nepa_keras import data, evaluation

    model = nepa_keras.NepaImageClassifier.from_preset(
        preset, ema=weights == "ema", dtype=FLAGS.dtype
    )
    *size, channels = model.backbone.image_shape
    batches = data.OrderedBatches(
        source,
        min(FLAGS.batch_size, len(source)),
        tuple(size),
        data.NepaImageConverter.from_preset(preset).transform(),
        channels,
        bad_images=data.BadImages(len(source), FLAGS.bad_images_share),
    )
    logits, indices = evaluation.predict_batches(model, batches)
    for reason in batches.bad_images.reasons.values():
        print(f"left out: {reason}")
    names = model.class_names or source.class_names
    if names and len(names) != model.num_classes:
        names = None
    return evaluation.classification_report(logits, source.labels[indices], names)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; all settings are flags.")
    with one_sentence():
        from nepa_keras import visualization

        source = open_labelled("--data", FLAGS.data, FLAGS.split, FLAGS.data_dir)
        reports = {}
        for preset in FLAGS.model:
            for weights in dict.fromkeys(FLAGS.weights):
                name = preset if weights == "raw" else f"{preset} (ema)"
                reports[name] = report = evaluate(preset, weights, source)
                print(
                    f"{keras.backend.backend()}: {name} on {FLAGS.data}, {FLAGS.split}\n{report}\n",
                    flush=True,
                )
        if len(reports) > 1:
            print(f"{'model':<48}{'top-1':>8}{'top-5':>8}{'ECE':>8}")
            for name, report in reports.items():
                figures = (report.top1, report.top5, report.calibration_error)
                print(f"{name:<48}" + "".join(f"{100 * value:>7.2f}%" for value in figures))
        if FLAGS.confusion:
            visualization.plot_confusion(report.confusion, report.class_names, FLAGS.confusion)
            print(f"drawn: {FLAGS.confusion}")
        if FLAGS.json:
            with open(FLAGS.json, "w") as file:
                json.dump(
                    {name: report.figures() for name, report in reports.items()}, file, indent=1
                )


if __name__ == "__main__":
    app.run(main)
