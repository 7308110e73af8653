"""What is NEPA worth on small real images? Pretrained against from scratch, and the paper's ablations.

    KERAS_BACKEND=jax python experiments/study.py --run_dir=runs/study
    KERAS_BACKEND=jax python experiments/study.py --run_dir=runs/study_digits --data=digits

The first takes about an hour on two CPU cores. Every result is kept in `results.jsonl` with all that it
depends on, and the same command goes on where it was stopped. At the end `study.md` has the tables, and
`labels.png` the picture of the first.
"""

import time
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from absl import app, flags
from command_line import one_sentence, require_experiments_extra

import nepa_keras
from nepa_keras import data, evaluation, interop, training, visualization

FLAGS = flags.FLAGS
PRESETS = {"embedded": "nepa_micro_patch7_28", "fashion_mnist": "nepa_micro_patch7_28"}
PRESETS["digits"] = "nepa_micro_patch2_8"
PARTS = ("labels", "ablations")

flags.DEFINE_enum("data", "embedded", list(PRESETS), "Labelled images.")
flags.DEFINE_string("data_dir", None, "Of fashion_mnist's four .gz files.")
flags.DEFINE_string("run_dir", None, "Folder; one with results goes on.", required=True)
flags.DEFINE_list("parts", list(PARTS), f"Of {', '.join(PARTS)}.")
flags.DEFINE_integer("seed", 1337, "Of pretraining; later ablations count from it.")

flags.DEFINE_integer("batch_size", 128, "Images of a step of pretraining.", lower_bound=1)
flags.DEFINE_float("base_learning_rate", 8e-3, "Of pretraining, for 256 images.")
flags.DEFINE_float("ema_decay", 0.99, "Of the weight average of pretraining.")
flags.DEFINE_integer("pretrain_steps", 3200, "Of the model of the part labels.", lower_bound=1)
flags.DEFINE_integer("ablation_steps", 600, "Of pretraining an ablation.", lower_bound=1)
flags.DEFINE_integer("ablation_seeds", 2, "Pretrainings of each ablation.", lower_bound=1)
flags.DEFINE_list("ablations", list(evaluation.ABLATIONS), "Which.")

flags.DEFINE_list("label_counts", ["10", "50", "100", "1000"], "Labels in all.")
flags.DEFINE_integer("finetune_steps", 200, "Of each fine-tuning.", lower_bound=1)
flags.DEFINE_integer("finetune_batch_size", 50, "Or all the labels.", lower_bound=1)
flags.DEFINE_list("learning_rates", ["5e-4", "2e-3", "5e-3"], "Peaks tried for either start.")
flags.DEFINE_list("layer_decays", ["1", "0.75"], "Tried with each; 1 is one rate and warm-up.")
flags.DEFINE_integer("seeds", 5, "Subsets of labels that count.", lower_bound=1)
flags.DEFINE_integer("tuning_seeds", 1, "Others that choose the setting.", lower_bound=1)
flags.DEFINE_integer("ablation_labels", 100, "To fine-tune an ablation on.", lower_bound=1)
flags.DEFINE_integer("ablation_subsets", 2, "Of labels, for each pretraining.", lower_bound=1)
flags.DEFINE_float("ablation_learning_rate", 2e-3, "Peak of that fine-tuning.")


def numbers(name: str, kind=float) -> list:
    """The values of a list flag."""
    try:
        values = [kind(value) for value in FLAGS[name].value]
    except ValueError:
        values = []
    if not values or min(values) <= 0:
        raise ValueError(f"--{name}={','.join(FLAGS[name].value)} must be numbers above 0.")
    return values


def pretraining(steps: int) -> dict:
    """What a pretraining depends on, beside the seed."""
    names = ("data", "batch_size", "base_learning_rate", "ema_decay")
    return {"steps": steps, **{name: FLAGS[name].value for name in names}}


def pretrain(model, images, steps: int, seed: int) -> float:
    """Trains a model and returns the loss of the last tenth of the steps."""
    model.compile(
        optimizer=training.adamw(
            training.WarmupCosine(
                training.scaled_learning_rate(FLAGS.base_learning_rate, FLAGS.batch_size),
                steps,
                0.1,
            ),
            weight_decay=0.05,
            beta_2=0.95,
            clip_norm=1.0,
            ema_decay=FLAGS.ema_decay,
        )
    )
    size = model.backbone.image_shape[:2]
    stream = data.AugmentedBatches(images, FLAGS.batch_size, size, seed=seed).endless()
    row = -(-steps // 10)
    epochs = -(-steps // row)
    fitted = model.fit(stream, steps_per_epoch=row, epochs=epochs, shuffle=False, verbose=0)
    return fitted.history["loss"][-1]


def pretrained_backbone(source, results) -> nepa_keras.NepaBackbone:
    """Of the part labels: trained now, or by an earlier run of the same command."""
    about = {"part": "pretraining", "seed": FLAGS.seed, "setup": pretraining(FLAGS.pretrain_steps)}
    folder = Path(FLAGS.run_dir).expanduser() / f"pretrained_{FLAGS.pretrain_steps}_{FLAGS.seed}"

    def train() -> dict:
        model = evaluation.ablated("NEPA", fresh_backbone(source), FLAGS.seed)
        started = time.time()
        loss = pretrain(model, source.train_images, FLAGS.pretrain_steps, FLAGS.seed)
        seconds = time.time() - started
        with training.ema_weights(model):
            interop.replace_huggingface(model, folder)
            report = evaluation.features_report(model.backbone, source)
        return {"loss": loss, "seconds": seconds, **report}

    results.of(about, train)
    return nepa_keras.NepaBackbone.from_preset(str(folder))


def fresh_backbone(source) -> nepa_keras.NepaBackbone:
    return nepa_keras.NepaBackbone.from_preset(
        PRESETS[FLAGS.data], load_weights=False, image_shape=(*source.train_images.shape[1:],)
    )


def tried_settings() -> list[dict]:
    """Of the fine-tuning, for either start."""
    return [
        {"learning_rate": rate, "layer_decay": None if decay == 1 else decay}
        for rate, decay in product(numbers("learning_rates"), numbers("layer_decays"))
    ]


def study_labels(source, results) -> dict[int, dict]:
    """Comparisons by number of labels."""
    backbone = pretrained_backbone(source, results)
    found = {}
    for count in numbers("label_counts", int):
        batch_size = min(FLAGS.finetune_batch_size, count)
        setup = {
            **pretraining(FLAGS.pretrain_steps),
            "pretraining_seed": FLAGS.seed,
            "finetune_steps": FLAGS.finetune_steps,
            "finetune_batch_size": batch_size,
        }
        about = {"part": "labels", "num_labels": count, "setup": setup}
        found[count] = evaluation.tuned_comparison(
            backbone,
            source,
            tried_settings(),
            seeds=range(FLAGS.seeds),
            tuning_seeds=range(1000, 1000 + FLAGS.tuning_seeds),
            run=lambda run, trial, about=about: results.of({**about, **run}, trial),
            num_labels=count,
            steps=FLAGS.finetune_steps,
            batch_size=batch_size,
            augment=False,
        )
    return found


def study_ablation(name: str, seed: int, source) -> dict[str, float]:
    """One pretraining with one thing changed, and what is there then."""
    model = evaluation.ablated(name, fresh_backbone(source), seed)
    loss = pretrain(model, source.train_images, FLAGS.ablation_steps, seed)
    with training.ema_weights(model):
        report = evaluation.features_report(model.backbone, source)
        few = evaluation.few_label_comparison(
            model.backbone,
            source,
            seeds=[seed * 100 + i for i in range(FLAGS.ablation_subsets)],
            num_labels=FLAGS.ablation_labels,
            steps=FLAGS.finetune_steps,
            batch_size=min(FLAGS.finetune_batch_size, FLAGS.ablation_labels),
            learning_rate=FLAGS.ablation_learning_rate,
            augment=False,
        )
    accuracies = {start: float(np.mean(values)) for start, values in few.items()}
    return {"loss": loss, **report, **accuracies}


def study_ablations(source, results) -> dict[str, list[dict]]:
    """What each ablation gave, a row for each pretraining."""
    found = {name: [] for name in FLAGS.ablations}
    for seed in range(FLAGS.seed, FLAGS.seed + FLAGS.ablation_seeds):
        for name in FLAGS.ablations:
            setup = {
                **pretraining(FLAGS.ablation_steps),
                "num_labels": FLAGS.ablation_labels,
                "subsets": FLAGS.ablation_subsets,
                "finetune_steps": FLAGS.finetune_steps,
                "finetune_batch_size": FLAGS.finetune_batch_size,
                "learning_rate": FLAGS.ablation_learning_rate,
            }
            about = {"part": "ablations", "name": name, "seed": seed, "setup": setup}
            found[name].append(
                results.of(about, lambda name=name, seed=seed: study_ablation(name, seed, source))
            )
    return found


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Flags start with --; this does not: {argv[1]}")
    with one_sentence():
        require_experiments_extra()
        for name, known in (("parts", PARTS), ("ablations", evaluation.ABLATIONS)):
            if unknown := set(FLAGS[name].value) - set(known):
                raise ValueError(f"--{name} has no {unknown.pop()!r}; it knows {', '.join(known)}.")
        source = data.load(FLAGS.data, FLAGS.data_dir)
        for count in [*numbers("label_counts", int), FLAGS.ablation_labels]:
            evaluation.class_balanced_subset(source.train_labels, count, seed=0)
        tried_settings()
        folder = Path(FLAGS.run_dir).expanduser()
        results = evaluation.Results(folder / "results.jsonl", partial(print, flush=True))
    texts = []
    if "labels" in FLAGS.parts:
        found = study_labels(source, results)
        texts.append(evaluation.labels_table(found, tried_settings()))
        visualization.plot_label_counts(found, folder / "labels.png")
    if "ablations" in FLAGS.parts:
        texts.append(evaluation.ablations_table(study_ablations(source, results)))
    text = "\n\n".join(texts)
    (folder / "study.md").write_text(text + "\n")
    print(f"\n{text}\n\nkept in {folder}; {results.seconds / 60:.0f} minutes of work in all")


if __name__ == "__main__":
    app.run(main)
