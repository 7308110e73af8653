r"""What is NEPA worth on small real images? Pretrained against from scratch, and ablations like the paper's.

    KERAS_BACKEND=jax python experiments/study.py --run_dir=runs/study
    KERAS_BACKEND=jax python experiments/study.py --run_dir=runs/study_digits --data=digits \
        --label_counts=10,50,100,500 --parts=labels

On two CPU cores the part labels takes about 40 minutes, the ablations 20 for each of their seeds, the part
objectives (those beside the paper's) 25. Every result is kept in `results.jsonl` with what it depends on
beside the code, and the same command goes on where it was stopped. `labels.md` with `labels.png`,
`ablations.md` and `objectives.md` hold the tables; `report.html` shows them.
"""

import hashlib
import json
from functools import partial
from itertools import product

import before_keras  # noqa: F401
import keras
from absl import flags
from command_line import one_sentence, require_experiments_extra, run
from number_flags import BELOW_ONE, FACTOR, POSITIVE, RATE, define_number, list_of_numbers
from runs import current_flags
from shared_flags import define_data_dir_flag
from study import ablations
from study.objectives import study_objectives
from study.results import Results, ablations_table, labels_table
from study.tuning import tuned_comparison

import nepa_keras
from nepa_keras import data, evaluation, interop, training, visualization

FLAGS = flags.FLAGS
# Of Fashion-MNIST the patches with a third of the tokens, for hours on two cores.
PRESETS = {"embedded": "nepa_micro_patch7_28", "fashion_mnist": "nepa_micro_patch7_28"}
PRESETS["digits"] = "nepa_micro_patch2_8"
PARTS = ("labels", "ablations", "objectives")
VALIDATION_SHARE = 0.2

flags.DEFINE_enum("data", "embedded", list(PRESETS), "Labelled images.")
define_data_dir_flag()
flags.DEFINE_string("run_dir", None, "Folder; one with results goes on.", required=True)
flags.DEFINE_list("parts", list(PARTS), f"Of {', '.join(PARTS)}.")
flags.DEFINE_integer(
    "seed", 1337, "Of pretraining; of ablations the first.", lower_bound=0, upper_bound=10**6
)

flags.DEFINE_integer("batch_size", 128, "Images of a step of pretraining.", lower_bound=1)
define_number("base_learning_rate", 8e-3, "Of pretraining, for 256 images.", RATE)
define_number("ema_decay", 0.99, "Of the average of pretraining.", BELOW_ONE)
flags.DEFINE_integer("pretrain_steps", 3200, "For the part labels; tens.", lower_bound=10)
flags.DEFINE_integer("ablation_steps", 600, "For an ablation; tens.", lower_bound=10)
flags.DEFINE_integer("ablation_seeds", 3, "Pretrainings of each ablation.", lower_bound=1)
flags.DEFINE_list("ablations", list(ablations.ABLATIONS), "Which.")

flags.DEFINE_integer("objective_steps", 200, "For an objective; tens.", lower_bound=10)
flags.DEFINE_integer(
    "objective_seeds", 3, "Pretrainings of each objective.", lower_bound=1, upper_bound=1000
)
flags.DEFINE_list("objective_rates", ["4e-3", "8e-3", "1.6e-2"], "Tried for 256 images.")

flags.DEFINE_list("label_counts", ["10", "50", "100", "1000"], "Labels in all.")
flags.DEFINE_integer("finetune_steps", 200, "Of each fine-tuning.", lower_bound=1)
flags.DEFINE_integer("finetune_batch_size", 50, "Or all the labels.", lower_bound=1)
flags.DEFINE_list("learning_rates", ["5e-4", "2e-3", "5e-3"], "Peaks tried for either start.")
flags.DEFINE_list("layer_decays", ["1", "0.75"], "Tried with each; 1 is one rate and warm-up.")
flags.DEFINE_integer("seeds", 5, "Subsets that count.", lower_bound=1, upper_bound=1000)
flags.DEFINE_integer("tuning_seeds", 2, "Others that choose the setting.", lower_bound=1)
flags.DEFINE_integer("ablation_labels", 100, "To fine-tune an ablation on.", lower_bound=1)
flags.DEFINE_integer(
    "ablation_subsets", 2, "Of labels, a pretraining.", lower_bound=1, upper_bound=100
)
define_number("ablation_learning_rate", 2e-3, "Peak of that fine-tuning.", RATE)


def check_flags(source) -> None:
    """Notices now what would end the study after hours.

    Raises:
        ValueError: what is wrong.
    """
    for name, known in (("parts", PARTS), ("ablations", ablations.ABLATIONS)):
        given = FLAGS[name].value
        if not given or len(set(given)) < len(given) or not set(given) <= set(known):
            raise ValueError(
                f"--{name}={','.join(given)}: take some of {', '.join(known)}, each once."
            )
    for name in ("label_counts", "learning_rates", "layer_decays", "objective_rates"):
        if not FLAGS[name].value:
            raise ValueError(f"--{name} is empty; give at least one number.")
    for name in ("pretrain_steps", "ablation_steps", "objective_steps"):
        if FLAGS[name].value % 10:
            raise ValueError(f"--{name}={FLAGS[name].value} must be a multiple of 10.")
    tried_settings()
    list_of_numbers("objective_rates", float, RATE)
    left, _ = data.held_out(source.train_labels, VALIDATION_SHARE, seed=0)
    for count in list_of_numbers("label_counts", int, POSITIVE):
        evaluation.class_balanced_subset(source.train_labels[left], count, seed=0)
    evaluation.class_balanced_subset(source.train_labels, FLAGS.ablation_labels, seed=0)
    data.AugmentedBatches(source.train_images, FLAGS.batch_size, source.train_images.shape[1:3])


def fresh_backbone(source) -> nepa_keras.NepaBackbone:
    return nepa_keras.NepaBackbone.from_preset(
        PRESETS[FLAGS.data], load_weights=False, image_shape=source.train_images.shape[1:]
    )


def pretraining() -> dict:
    """Arguments of `pretrain_briefly`."""
    names = ("batch_size", "base_learning_rate", "ema_decay")
    return {name: FLAGS[name].value for name in names}


def few_labels(count: int) -> dict:
    """Arguments of `FewLabelTrial`."""
    batch_size = min(FLAGS.finetune_batch_size, count)
    return {
        "num_labels": count,
        "steps": FLAGS.finetune_steps,
        "batch_size": batch_size,
        "augment": False,
    }


def tried_settings() -> list[dict]:
    """Of the fine-tuning, for either start."""
    return [
        {"learning_rate": rate, "layer_decay": None if decay == 1 else decay}
        for rate, decay in product(
            list_of_numbers("learning_rates", float, RATE),
            list_of_numbers("layer_decays", float, FACTOR),
        )
    ]


def pretrained_backbone(source, results, about: dict) -> nepa_keras.NepaBackbone:
    """Trained now, or by an earlier run of the same command."""
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    folder = results.path.parent / f"pretrained_{keras.backend.backend()}_{name}"

    def train() -> dict:
        model = ablations.ablated("NEPA", fresh_backbone(source), FLAGS.seed)
        images, steps = source.train_images, FLAGS.pretrain_steps
        loss = ablations.pretrain_briefly(model, images, steps, seed=FLAGS.seed, **pretraining())
        with training.ema_weights(model):
            interop.replace_huggingface(model, folder)
            return {"loss": loss, **ablations.features_report(model.backbone, source)}

    results.of(about, train, again=not folder.exists())
    return nepa_keras.NepaBackbone.from_preset(str(folder))


def study_labels(source, results) -> str:
    """Pretrained against from scratch by number of labels; the table."""
    setup = {"data": FLAGS.data, "steps": FLAGS.pretrain_steps, "seed": FLAGS.seed, **pretraining()}
    backbone = pretrained_backbone(source, results, {"part": "pretraining", "setup": setup})
    found = {}
    for count in list_of_numbers("label_counts", int, POSITIVE):
        few = few_labels(count)
        about = {"part": "labels", "num_labels": count, "setup": {**setup, "few": few}}
        found[count] = tuned_comparison(
            backbone,
            source,
            tried_settings(),
            seeds=range(FLAGS.seeds),
            tuning_seeds=range(1000, 1000 + FLAGS.tuning_seeds),
            validation_share=VALIDATION_SHARE,
            run=lambda run, trial, about=about: results.of({**about, **run}, trial),
            **few,
        )
        visualization.plot_label_counts(found, results.path.parent / "labels.png")
    return labels_table(found, tried_settings())


def study_ablations(source, results) -> str:
    """Each ablation with each seed; the table."""
    few = {**few_labels(FLAGS.ablation_labels), "learning_rate": FLAGS.ablation_learning_rate}
    how = {"steps": FLAGS.ablation_steps, "subsets": FLAGS.ablation_subsets, "few": few}
    found = {name: [] for name in FLAGS.ablations}
    for seed in range(FLAGS.seed, FLAGS.seed + FLAGS.ablation_seeds):
        for name in FLAGS.ablations:

            def report(name=name, seed=seed) -> dict:
                model = ablations.ablated(name, fresh_backbone(source), seed)
                return ablations.ablation_report(model, source, seed=seed, **how, **pretraining())

            changed = ablations.ABLATIONS[name]._asdict()
            setup = {"data": FLAGS.data, **how, **pretraining(), **changed}
            about = {"part": "ablations", "name": name, "seed": seed, "setup": setup}
            found[name].append(results.of(about, report))
    return ablations_table(found)


def objectives(source, results) -> str:
    """NEPA and the objectives beside it; the table."""
    seeds = range(FLAGS.seed, FLAGS.seed + FLAGS.objective_seeds)
    return study_objectives(
        source,
        fresh_backbone(source).get_config(),
        results,
        about={"data": FLAGS.data},
        rates=list_of_numbers("objective_rates", float, RATE),
        seeds=seeds,
        tuning_seed=FLAGS.seed + 1000,
        steps=FLAGS.objective_steps,
        **pretraining(),
    )


def main():
    with one_sentence():
        require_experiments_extra()
        source = data.load(FLAGS.data, FLAGS.data_dir)
        check_flags(source)
        run = training.RunDir(FLAGS.run_dir)
        results = Results(run.path / "results.jsonl", partial(print, flush=True))
        run.write_flags(current_flags(run))
    studies = {"labels": study_labels, "ablations": study_ablations, "objectives": objectives}
    for part in FLAGS.parts:
        table = studies[part](source, results)
        (run.path / f"{part}.md").write_text(table + "\n")
        print(f"\n{table}\n", flush=True)
    visualization.write_report(run)
    print(f"kept in {run}; made in {results.seconds / 60:.0f} minutes")


if __name__ == "__main__":
    run(main)
