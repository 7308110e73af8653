r"""Repeat the paper's experiments at a small scale, on images of 28x28 pixels or your own.

    KERAS_BACKEND=jax python experiments/study.py --run_dir=runs/study
    KERAS_BACKEND=jax python experiments/study.py --run_dir=runs/study_digits --data=digits \
        --label_counts=10,50,100,500 --parts=labels
    KERAS_BACKEND=jax python experiments/study.py --run_dir=runs/study_mine --data=folder:photos/train \
        --test_data=folder:photos/test --image_size=56 --label_counts=100,1000 --parts=parts,length

--run_dir is required. The default data are the 10 000 labelled images that ship with the library, and all
parts run. The table below lists the parts with the table or figure of the paper (arXiv 2512.16922 v2) they
repeat and their time in minutes on two CPU cores with default flags (estimated from shorter runs for parts,
masking, finetuning, length and dynamics):

    labels      pretrained and from scratch, by number of labels             40
    ablations   Table 1a, and each part of the model left out                20 per seed
    parts       Table 1b: parts added one by one to a plain ViT              18 per seed
    masking     Table 1c: 0, 40 and 60 % of the input masked, plain ViT       9 per seed
    finetuning  Tables 1d, 1e and 8: patch embedding, attention, layer decay 35
    length      Figure 4: accuracy by steps of pretraining                   15 per seed
    dynamics    Figures 3 and 7: curves, attention over a run                12 per seed
    objectives  other objectives than the paper's                            25

Each result is stored in `results.jsonl` with all the settings it depends on, so that the same command resumes
an interrupted study. The run's folder has tables (PART.md), pictures (PART.png) and `report.html`. Trainings
that diverge are counted in their row of a table.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from itertools import product

import before_keras  # noqa: F401
import finished_run
import keras
from absl import flags
from command_line import require_experiments_extra, run, user_errors
from label_flags import define_label_flags
from number_flags import BELOW_ONE, FACTOR, POSITIVE, RATE, define_number, list_of_numbers
from runs import current_flags
from shared_flags import define_cache_flags, define_data_dir_flag
from study import ablations, dynamics, pictures
from study.finetuning import study_finetuning
from study.images import labelled_images
from study.kept_runs import KeptRun
from study.length import study_length
from study.objectives import study_objectives
from study.results import Results, ablations_table, labels_table
from study.tuning import tuned_comparison

import nepa_keras
from nepa_keras import data, evaluation, interop, training, visualization

FLAGS = flags.FLAGS
# Patches of 7 pixels: few tokens per image, so that a study takes hours on two cores, not days.
PRESET = "nepa_micro_patch7_28"
PRESETS = {"digits": "nepa_micro_patch2_8"}
PARTS = (
    "labels",
    "ablations",
    "parts",
    "masking",
    "finetuning",
    "length",
    "dynamics",
    "objectives",
)
FAMILIES = {
    "ablations": ablations.ABLATIONS,
    "parts": ablations.PARTS,
    "masking": ablations.MASKING,
}
VALIDATION_SHARE = 0.2
SHOWN = 2  # number of test images whose attention is drawn

flags.DEFINE_string(
    "data",
    "embedded",
    "Labelled images, read into memory: embedded, digits, fashion_mnist, or a source as for --data of "
    "pretrain.py, such as folder:DIR with a folder for each class.",
)
flags.DEFINE_string(
    "test_data",
    None,
    "Labelled test images; default the test images of the data set, or a fifth of --data.",
)
define_cache_flags()
define_data_dir_flag()
define_label_flags()
flags.DEFINE_string(
    "preset",
    None,
    f"Name of the architecture; default {PRESET}, or {PRESETS['digits']} for --data=digits.",
)
flags.DEFINE_integer(
    "image_size",
    None,
    "Side in pixels to which images of a source are resized; default that of the architecture.",
    lower_bound=1,
)
flags.DEFINE_string(
    "run_dir",
    None,
    "Folder of the study; an unfinished study in it is resumed.",
    required=True,
)
flags.DEFINE_list("parts", list(PARTS), f"Parts to run, separated by commas: {', '.join(PARTS)}.")
flags.DEFINE_integer(
    "seed",
    1337,
    "Seed of pretraining; with several pretrainings the first of consecutive seeds.",
    lower_bound=0,
    upper_bound=10**6,
)

flags.DEFINE_integer("batch_size", 128, "Images per batch of pretraining.", lower_bound=1)
define_number(
    "base_learning_rate",
    8e-3,
    "Peak learning rate of pretraining for a batch of 256 images; scaled by the batch size.",
    RATE,
)
define_number(
    "ema_decay",
    0.99,
    "Decay per update of the exponential moving average (EMA) of the weights in pretraining.",
    BELOW_ONE,
)
flags.DEFINE_integer(
    "pretrain_steps",
    3200,
    "Steps of the pretraining for the parts labels and finetuning; a multiple of 10.",
    lower_bound=10,
)
flags.DEFINE_integer(
    "ablation_steps",
    600,
    "Steps of each pretraining in the parts ablations, parts and masking; a multiple of 10.",
    lower_bound=10,
)
flags.DEFINE_integer(
    "ablation_seeds",
    3,
    "Number of pretrainings, with different seeds, for each row of the parts ablations, parts, masking, "
    "length and dynamics.",
    lower_bound=1,
    upper_bound=1000,
)
flags.DEFINE_list(
    "ablations",
    list(ablations.ABLATIONS),
    f"Rows of the part ablations, separated by commas: {', '.join(ablations.ABLATIONS)}.",
)
flags.DEFINE_integer(
    "kept_steps",
    600,
    "Steps of each pretraining in the parts length and dynamics; a multiple of 10.",
    lower_bound=10,
)

flags.DEFINE_integer(
    "objective_steps",
    200,
    "Steps of each pretraining in the part objectives; a multiple of 10.",
    lower_bound=10,
)
flags.DEFINE_integer(
    "objective_seeds",
    3,
    "Number of pretrainings, with different seeds, for each objective.",
    lower_bound=1,
    upper_bound=1000,
)
flags.DEFINE_list(
    "objective_rates",
    ["4e-3", "8e-3", "1.6e-2"],
    "Peak learning rates tried in the part objectives, for a batch of 256 images.",
)

flags.DEFINE_list(
    "label_counts",
    ["10", "50", "100", "1000"],
    "Numbers of labels, over all classes, in the part labels.",
)
flags.DEFINE_integer("finetune_steps", 200, "Updates of each fine-tuning.", lower_bound=1)
flags.DEFINE_integer(
    "finetune_batch_size",
    50,
    "Images per batch of fine-tuning, at most the number of labels.",
    lower_bound=1,
)
flags.DEFINE_list(
    "learning_rates",
    ["5e-4", "2e-3", "5e-3"],
    "Peak learning rates of fine-tuning tried in the parts labels, finetuning and length.",
)
flags.DEFINE_list(
    "layer_decays",
    ["1", "0.75"],
    "Layer decays tried with each learning rate in the part labels; 1 means one rate and one warm-up for all "
    "blocks.",
)
flags.DEFINE_integer(
    "seeds",
    5,
    "Number of random subsets of labels whose results are reported in the parts labels and finetuning.",
    lower_bound=1,
    upper_bound=1000,
)
flags.DEFINE_integer(
    "tuning_seeds",
    2,
    "Number of other subsets of labels, on which the settings of the parts labels and finetuning are chosen.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "finetuning_labels",
    1000,
    "Number of labels to fine-tune on in the part finetuning.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "ablation_labels",
    100,
    "Number of labels to fine-tune on in the parts ablations, parts, masking and length.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "ablation_subsets",
    2,
    "Number of subsets of labels for each pretraining in the parts ablations, parts, masking and length.",
    lower_bound=1,
    upper_bound=99,
)
define_number(
    "ablation_learning_rate",
    2e-3,
    "Peak learning rate of fine-tuning in the parts ablations, parts and masking.",
    RATE,
)


def check_flags() -> None:
    """Check the flags before any image is read.

    Raises:
        ValueError: a flag is wrong.
    """
    for name, known in (("parts", PARTS), ("ablations", ablations.ABLATIONS)):
        given = FLAGS[name].value
        if not given or len(set(given)) < len(given) or not set(given) <= set(known):
            raise ValueError(
                f"--{name}={','.join(given)} must be some of {', '.join(known)}, each once."
            )
    for name in ("label_counts", "learning_rates", "layer_decays", "objective_rates"):
        if not FLAGS[name].value:
            raise ValueError(f"--{name} is empty; give at least one number.")
    for name in ("pretrain_steps", "ablation_steps", "kept_steps", "objective_steps"):
        if FLAGS[name].value % 10:
            raise ValueError(f"--{name}={FLAGS[name].value} must be a multiple of 10.")
    tried_settings()
    list_of_numbers("objective_rates", float, RATE)
    list_of_numbers("label_counts", int, POSITIVE)


def check_images(source) -> None:
    """Check at the start that there are enough labelled images for all parts.

    Raises:
        ValueError: there are too few.
    """
    left, _ = data.held_out(source.train_labels, VALIDATION_SHARE, seed=0)
    counts = {
        "labels": list_of_numbers("label_counts", int, POSITIVE),
        "finetuning": [FLAGS.finetuning_labels],
        "length": [FLAGS.ablation_labels],
    }
    for part, of_part in counts.items():
        for count in of_part if part in FLAGS.parts else ():
            evaluation.class_balanced_subset(source.train_labels[left], count, seed=0)
    evaluation.class_balanced_subset(source.train_labels, FLAGS.ablation_labels, seed=0)
    data.AugmentedBatches(source.train_images, FLAGS.batch_size, source.train_images.shape[1:3])


def architecture() -> nepa_keras.NepaBackbone:
    """Backbone of --preset for the images of --data."""
    preset = FLAGS.preset or PRESETS.get(FLAGS.data, PRESET)
    if preset not in nepa_keras.PRESETS:
        raise ValueError(
            f"--preset={preset} is no known architecture; known are {', '.join(nepa_keras.PRESETS)}."
        )
    build = partial(nepa_keras.NepaBackbone.from_preset, preset, load_weights=False)
    if FLAGS.data in data.sources.IN_MEMORY:
        if FLAGS.image_size:
            raise ValueError(f"--image_size is for images of a source, not --data={FLAGS.data}.")
        return build()
    if FLAGS.image_size:
        return build(image_shape=(FLAGS.image_size, FLAGS.image_size, 3))
    return build(image_shape=(*build().image_shape[:2], 3))


def data_setup() -> dict:
    """Flags of data and architecture that results depend on, without those left at their default."""
    names = ("test_data", "preset", "image_size", "image_column", "label_column", "nested_classes")
    chosen = {name: FLAGS[name].value for name in names}
    return {"data": FLAGS.data, **{name: value for name, value in chosen.items() if value}}


def pretraining() -> dict:
    """Arguments of `pretrain_briefly` from flags."""
    names = ("batch_size", "base_learning_rate", "ema_decay")
    return {name: FLAGS[name].value for name in names}


def few_labels(count: int) -> dict:
    """Arguments of `FewLabelTrial` for a number of labels."""
    batch_size = min(FLAGS.finetune_batch_size, count)
    return {
        "num_labels": count,
        "steps": FLAGS.finetune_steps,
        "batch_size": batch_size,
        "augment": False,
    }


def tried_settings() -> list[dict]:
    """Settings of fine-tuning to try, for pretrained and random weights alike."""
    return [
        {"learning_rate": rate, "layer_decay": None if decay == 1 else decay}
        for rate, decay in product(
            list_of_numbers("learning_rates", float, RATE),
            list_of_numbers("layer_decays", float, FACTOR),
        )
    ]


def pretrained_backbone(config: dict, source, results) -> tuple[nepa_keras.NepaBackbone, dict]:
    """Pretrain a backbone, or load the one of an earlier run; return it and the settings it depends on."""
    setup = {**data_setup(), "steps": FLAGS.pretrain_steps, "seed": FLAGS.seed, **pretraining()}
    about = {"part": "pretraining", "setup": setup}
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    folder = results.path.parent / f"pretrained_{keras.backend.backend()}_{name}"

    def train() -> dict:
        model = ablations.ablated(
            ablations.ABLATIONS["NEPA"], nepa_keras.NepaBackbone.from_config(config), FLAGS.seed
        )
        images, steps = source.train_images, FLAGS.pretrain_steps
        loss = ablations.pretrain_briefly(model, images, steps, seed=FLAGS.seed, **pretraining())
        with training.ema_weights(model):
            interop.replace_huggingface(model, folder)
            return {"loss": loss, **ablations.features_report(model.backbone, source)}

    results.of(about, train, again=not folder.exists())
    return nepa_keras.NepaBackbone.from_preset(str(folder)), setup


def study_labels(config: dict, source, results) -> str:
    """Run the part labels: pretrained and from scratch, by number of labels; return the table."""
    backbone, setup = pretrained_backbone(config, source, results)
    found = {}
    for count in list_of_numbers("label_counts", int, POSITIVE):
        few = few_labels(count)
        about = {"part": "labels", "num_labels": count, "setup": {**setup, "few": few}}
        found[count] = tuned_comparison(
            backbone,
            source,
            tried_settings(),
            **subsets(),
            run=lambda run, trial, about=about: results.of({**about, **run}, trial),
            **few,
        )
        visualization.plot_label_counts(found, results.path.parent / "labels.png")
    return labels_table(found, tried_settings())


def subsets() -> dict:
    """Arguments of `tuned_comparison`: seeds of the subsets to report and of those for tuning."""
    return {
        "seeds": range(FLAGS.seeds),
        "tuning_seeds": range(1000, 1000 + FLAGS.tuning_seeds),
        "validation_share": VALIDATION_SHARE,
    }


def seeds(count: int) -> range:
    """Consecutive seeds, from --seed."""
    return range(FLAGS.seed, FLAGS.seed + count)


def study_ablations(part: str, config: dict, source, results) -> str:
    """Run the part ablations, parts or masking: each row with each seed; return the table."""
    few = {**few_labels(FLAGS.ablation_labels), "learning_rate": FLAGS.ablation_learning_rate}
    how = {"steps": FLAGS.ablation_steps, "subsets": FLAGS.ablation_subsets, "few": few}
    names = FLAGS.ablations if part == "ablations" else FAMILIES[part]
    found: dict[str, list] = {name: [] for name in names}
    for seed, name in product(seeds(FLAGS.ablation_seeds), names):
        ablation = FAMILIES[part][name]

        def report(ablation=ablation, seed=seed) -> dict:
            backbone = nepa_keras.NepaBackbone.from_config(config)
            model = ablations.ablated(ablation, backbone, seed)
            return ablations.ablation_report(model, source, seed=seed, **how, **pretraining())

        changed = {"objective": ablation.objective, "backbone": ablation.backbone}
        setup = {**data_setup(), **how, **pretraining(), **changed}
        # The same key for all three parts, so that they share the results of the plain ViT.
        about = {"part": "ablations", "name": name, "seed": seed, "setup": setup}
        found[name].append(results.of(about, report))
    return ablations_table(found, FAMILIES[part])


def finetuning(config: dict, source, results) -> str:
    """Run the part finetuning: eight ways to fine-tune the pretrained weights; return the tables."""
    backbone, setup = pretrained_backbone(config, source, results)
    return study_finetuning(
        backbone,
        source,
        results,
        about=setup,
        rates=list_of_numbers("learning_rates", float, RATE),
        **subsets(),
        **few_labels(FLAGS.finetuning_labels),
    )


def kept_runs(name: str, config: dict, source, results) -> list[KeptRun]:
    """Pretrain one variant with each seed, keeping checkpoints."""
    return [
        KeptRun(
            name,
            dynamics.VARIANTS[name],
            config,
            source,
            results,
            steps=FLAGS.kept_steps,
            seed=seed,
            about=data_setup(),
            **pretraining(),
        )
        for seed in seeds(FLAGS.ablation_seeds)
    ]


def length(config: dict, source, results) -> str:
    """Run the part length: accuracy by steps of pretraining; draw length.png and return the table."""
    return study_length(
        kept_runs("NEPA", config, source, results),
        source,
        results,
        rates=list_of_numbers("learning_rates", float, RATE),
        validation_share=VALIDATION_SHARE,
        subsets=FLAGS.ablation_subsets,
        draw=partial(pictures.plot_length, png_path=results.path.parent / "length.png"),
        **few_labels(FLAGS.ablation_labels),
    )


def study_dynamics(config: dict, source, results) -> str:
    """Run the part dynamics: draw dynamics.png and attention.png, and return the table."""
    runs = {name: kept_runs(name, config, source, results) for name in dynamics.VARIANTS}
    draw = partial(pictures.plot_dynamics, png_path=results.path.parent / "dynamics.png")
    table = dynamics.study_dynamics(runs, source, results, draw)
    draw_attention(runs["NEPA"], source, results.path.parent / "attention.png")
    return table


def draw_attention(runs: Sequence[KeptRun], source, png_path) -> None:
    """Draw the attention of one patch over the checkpoints of the first run, on a few test images."""
    if whole := [each for each in runs if not each.diverged]:
        shown = source.test_images[:: max(1, len(source.test_images) // SHOWN)][:SHOWN]
        images, query, maps = dynamics.attention_over_steps(whole[0], shown)
        pictures.plot_attention_over_steps(images, maps, query, png_path)


def objectives(config: dict, source, results) -> str:
    """Run the part objectives: NEPA and other objectives; return the table."""
    return study_objectives(
        source,
        config,
        results,
        about=data_setup(),
        rates=list_of_numbers("objective_rates", float, RATE),
        seeds=seeds(FLAGS.objective_seeds),
        tuning_seed=FLAGS.seed + 1000,
        steps=FLAGS.objective_steps,
        **pretraining(),
    )


STUDIES = {
    "labels": study_labels,
    **{part: partial(study_ablations, part) for part in FAMILIES},
    "finetuning": finetuning,
    "length": length,
    "dynamics": study_dynamics,
    "objectives": objectives,
}


def main():
    with user_errors():
        require_experiments_extra()
        check_flags()
        backbone = architecture()
        source = labelled_images(FLAGS.data, FLAGS.test_data, FLAGS.data_dir, backbone.image_shape)
        check_images(source)
        config = {**backbone.get_config(), "image_shape": source.train_images.shape[1:]}
        run = training.RunDir(FLAGS.run_dir)
        results = Results(run.path / "results.jsonl", partial(print, flush=True))
        run.write_flags(current_flags(run))
    for part in FLAGS.parts:
        table = STUDIES[part](config, source, results)
        (run.path / f"{part}.md").write_text(table + "\n")
        print(f"\n{part}\n{table}\n", flush=True)
    visualization.write_report(run)
    if given := finished_run.command_line():
        # The figures depend on the backend, so that with another one there is more to do.
        names = ["results.jsonl", *(f"{part}.md" for part in FLAGS.parts)]
        files = [run.report, *(run.path / name for name in names)]
        finished_run.remember(run, [given[1]], files, keras.backend.backend())
    print(f"saved in {run}; total computing time {results.seconds / 60:.0f} minutes")


if __name__ == "__main__":
    run(main)
