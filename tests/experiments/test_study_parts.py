"""The parts of a study: fair tuning, ablations that change what they say, results that survive a stop."""

import json
from types import MappingProxyType, SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image
from study import ablations, dynamics, pictures
from study.finetuning import ATTENTION, LAYER_DECAY, PATCH_EMBEDDING, study_finetuning
from study.images import labelled_images
from study.kept_runs import POINTS, KeptRun
from study.length import study_length
from study.objectives import OBJECTIVES, objectives_table, study_objectives
from study.results import Results, ablations_table, accuracy_cell, labels_table
from study.tuning import tuned_comparison

from nepa_keras import visualization
from nepa_keras.evaluation import FewLabelTrial
from nepa_keras.skipped_steps import NonFiniteError
from tests.helpers import tiny

FAMILIES = {**ablations.ABLATIONS, **ablations.PARTS, **ablations.MASKING}

SETTINGS = [
    {"learning_rate": 3e-3, "layer_decay": None},
    {"learning_rate": 1e-9, "layer_decay": None},  # learns nothing
    {"learning_rate": 3e-3, "layer_decay": 0.5},
]


@pytest.fixture(scope="module")
def images():
    """Two classes that differ in brightness."""
    labels = np.arange(120, dtype="int32") % 2
    pixels = np.random.default_rng(0).integers(0, 90, (120, 8, 8, 1))
    pixels = (pixels + 150 * labels[:, None, None, None]).astype("uint8")
    return SimpleNamespace(
        train_images=pixels[:80],
        train_labels=labels[:80],
        test_images=pixels[80:],
        test_labels=labels[80:],
    )


@pytest.fixture(scope="module")
def found(images):
    backbone = tiny.backbone()
    tiny.spread_weights(backbone)
    runs = []

    def run(about, make):
        runs.append(about)
        return make()

    result = tuned_comparison(
        backbone, images, SETTINGS, seeds=[0, 1], tuning_seeds=[7], run=run,
        num_labels=12, steps=12, batch_size=6, augment=False,
    )  # fmt: skip
    return SimpleNamespace(result=result, runs=runs)


@pytest.mark.first_on("torch")
def test_every_setting_is_tried_for_either_start_and_the_best_is_counted(found):
    for start, of_start in found.result.items():
        scores = of_start["validation"]
        assert len(scores) == len(SETTINGS) and of_start["chosen"] == int(np.argmax(scores))
        assert of_start["chosen"] != 1
        assert len(of_start["test"]) == 2 and min(of_start["test"]) > 0.8
        mine = [run for run in found.runs if run["start"] == start]
        tuning = [run for run in mine if run["on"] == "validation"]
        counted = [run for run in mine if run["on"] == "test"]
        assert [r["learning_rate"] for r in tuning] == [s["learning_rate"] for s in SETTINGS]
        assert {r["seed"] for r in tuning} == {7} and [r["seed"] for r in counted] == [0, 1]
        chosen = SETTINGS[of_start["chosen"]]
        assert all(run["layer_decay"] == chosen["layer_decay"] for run in counted)


@pytest.mark.first_on("torch")
def test_the_test_images_choose_nothing(images, found):
    """Reversed test labels change neither the choice nor its validation accuracies."""
    backbone = tiny.backbone()
    tiny.spread_weights(backbone)
    wrong = SimpleNamespace(**{**vars(images), "test_labels": 1 - images.test_labels})
    again = tuned_comparison(
        backbone, wrong, SETTINGS, seeds=[0, 1], tuning_seeds=[7],
        num_labels=12, steps=12, batch_size=6, augment=False,
    )  # fmt: skip
    for start, of_start in again.items():
        assert of_start["validation"] == found.result[start]["validation"]
        assert of_start["chosen"] == found.result[start]["chosen"]
        expected = 1 - np.array(found.result[start]["test"])
        np.testing.assert_allclose(of_start["test"], expected, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"settings": []}, {"seeds": [7]}, {"seeds": []}])
def test_a_comparison_that_tunes_on_what_it_counts_is_refused(images, wrong):
    given = {"settings": SETTINGS, "seeds": [0], "tuning_seeds": [7], **wrong}
    with pytest.raises(ValueError, match="not among tuning_seeds"):
        tuned_comparison(tiny.backbone(), images, **given)


@pytest.mark.first_on("torch")
def test_each_ablation_changes_what_it_says_and_trains(images):
    base, x = tiny.backbone(), tiny.images(8)
    plain = ablations.ablated(ablations.ABLATIONS["NEPA"], base, seed=1)
    for ablation in FAMILIES.values():
        model = ablations.ablated(ablation, base, seed=1)
        for argument, value in ablation.objective.items():
            assert getattr(model, argument) == value
        config = model.backbone.get_config()
        assert {**config, **ablation.backbone} == config
        changed = {k for k, v in plain.backbone.get_config().items() if config[k] != v} - {"name"}
        assert changed - {"mlp_dim"} == set(ablation.backbone)
        tiny.compile_model(model, keras.optimizers.Adam(1e-3))
        before = tiny.weights(model)
        assert np.isfinite(model.fit(x, batch_size=4, verbose=0).history["loss"]).all()
        assert any((a != b).any() for a, b in zip(tiny.weights(model), before, strict=True))


def test_a_gated_mlp_has_as_many_weights():
    def count(name):
        base = tiny.backbone(mlp_dim=48)
        return ablations.ablated(ablations.ABLATIONS[name], base, seed=1).count_params()

    assert count("gated MLP") == pytest.approx(count("NEPA"), rel=0.03)


def test_ablations_start_at_the_same_weights():
    base = tiny.backbone(rope_rescale=2.0)

    def backbone(name):
        return ablations.ablated(ablations.ABLATIONS[name], base, seed=3).backbone

    plain = tiny.weights(backbone("NEPA"))
    for name in ("no RoPE", "no causal mask", "no shift"):
        for a, b in zip(tiny.weights(backbone(name)), plain, strict=True):
            np.testing.assert_array_equal(a, b)
    masked = backbone("40 % masked")
    rest = [v for v in masked.trainable_variables if "mask_token" not in v.path]
    for a, b in zip(rest, plain, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(a), b)


def test_a_brief_pretraining_makes_the_steps_it_is_told(images):
    model = ablations.ablated(ablations.ABLATIONS["NEPA"], tiny.backbone(), seed=1)
    loss = ablations.pretrain_briefly(model, images.train_images, 20, seed=1, batch_size=8)
    assert int(model.optimizer.iterations) == 20 and -1 < loss < 0.5
    with pytest.raises(ValueError, match="multiple of 10"):
        ablations.pretrain_briefly(model, images.train_images, 15, seed=1, batch_size=8)


def test_table_1b_is_built_up_part_by_part():
    """Rows go from learned positions alone to all four parts; one row alone has SwiGLU without QK-norm."""
    configs = [
        ablations.ablated(ablation, tiny.backbone(), seed=1).backbone.get_config()
        for ablation in ablations.PARTS.values()
    ]
    names = ("position_embedding", "layer_scale", "rope_theta", "gated_mlp", "qk_norm")
    plain, *_, whole = [tuple(bool(config[name]) for name in names) for config in configs]
    assert plain == (True, False, False, False, False)
    assert whole == (False, True, True, True, True)
    fails = [c["gated_mlp"] and not c["qk_norm"] for c in configs]
    assert fails == [False, False, False, True, False, False]
    ratios = [ablation.objective.get("masking_ratio", 0) for ablation in ablations.MASKING.values()]
    assert ratios == [0, 0.4, 0.6]


@pytest.mark.first_on("torch")
def test_an_ablation_that_diverges_is_a_result(images):
    few = {"num_labels": 12, "steps": 2, "batch_size": 6}
    reports = []
    for bias in (0.0, np.nan):
        no_qk_norm = ablations.ABLATIONS["no QK-norm"]
        model = ablations.ablated(no_qk_norm, tiny.backbone(), seed=1)
        model.backbone.patch_embedding.bias.assign_add(
            np.full(model.backbone.hidden_dim, bias, "float32")
        )
        reports.append(
            ablations.ablation_report(
                model, images, 40, seed=1, subsets=1, few=few, batch_size=8, base_learning_rate=8e-3
            )
        )
    assert set(reports[1]) == {"diverged"}
    assert 0 <= reports[0]["pretrained"] <= 1 and 0 <= reports[0]["scratch"] <= 1
    found = {"no QK-norm": reports, "no RoPE": reports[1:]}
    table = ablations_table(found, ablations.ABLATIONS)
    assert "no QK-norm (1 of 2 diverged)" in table and "no RoPE (1 of 1 diverged) | - |" in table


def test_the_report_of_features_tells_a_collapse(images):
    free, collapsed = tiny.backbone(), tiny.backbone()
    tiny.spread_weights(free)
    collapsed.patch_embedding.kernel.assign(np.zeros(collapsed.patch_embedding.kernel.shape))
    collapsed.patch_embedding.bias.assign(np.ones(collapsed.hidden_dim))
    found = ablations.features_report(free, images)
    assert 0.9 < found["linear_probe"] <= 1 and 0.9 < found["knn"] <= 1
    assert found["target_spread"] > 0.3 and found["target_effective_rank"] > 3
    report = ablations.features_report(collapsed, images)
    assert report["target_spread"] < 0.05 and report["target_effective_rank"] < 1.5


def test_results_are_made_once_and_survive_a_cut_line(tmp_path):
    path, said = tmp_path / "study" / "results.jsonl", []
    results = Results(path, said.append)
    about = {"part": "labels", "seed": 1, "setup": {"steps": 5, "changed": MappingProxyType({})}}
    assert results.of(about, lambda: 0.5) == 0.5
    assert results.of({**about, "seed": 2}, lambda: {"loss": -0.25}) == {"loss": -0.25}
    assert len(said) == 2 and "seed=1 -> 0.5" in said[0] and "steps" not in said[0]
    rows = path.read_text()
    path.write_text(rows + '{"about": {"part": "la')  # as a kill leaves it

    def never():
        raise AssertionError("made twice")

    again = Results(path, said.append)
    assert again.of(about, never) == 0.5 and again.of({**about, "seed": 2}, never)["loss"] == -0.25
    assert again.of({**about, "setup": {"steps": 6}}, lambda: 0.75) == 0.75  # depends on the setup
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["result"] for row in rows] == [0.5, {"loss": -0.25}, 0.75]
    assert {row["about"]["backend"] for row in rows} == {keras.backend.backend()}
    path.write_text(path.read_text().rstrip("\n"))  # cut just before the end of a line: made anew
    assert Results(path).of({**about, "setup": {"steps": 6}}, lambda: 1.0) == 1.0
    assert len(path.read_text().splitlines()) == 3
    assert Results(path).of(about, lambda: 0.25, again=True) == 0.25
    assert Results(path).of(about, never) == 0.25
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(ValueError, match="line 1 is no result"):
        Results(path)


@pytest.mark.first_on("torch")
def test_tables_and_picture(found, tmp_path):
    table = labels_table({12: found.result}, SETTINGS)
    gains = np.subtract(found.result["pretrained"]["test"], found.result["scratch"]["test"])
    assert f"{100 * gains.mean():+.1f} ± {100 * gains.std(ddof=1):.1f}" in table
    visualization.plot_label_counts({12: found.result}, tmp_path / "labels.png")
    assert (tmp_path / "labels.png").stat().st_size > 5000
    names = "effective_rank mean_cosine target_effective_rank target_spread knn linear_probe"
    run = dict.fromkeys(["loss", *names.split(), "pretrained", "scratch"], 0.5)
    runs = {"NEPA": [run, {**run, "knn": 0.7}], "no RoPE": [run]}
    table = ablations_table(runs, ablations.ABLATIONS)
    assert "60.0 ± 14.1" in table and "RoPE 80.2 against learned positions" in table


@pytest.mark.first_on("torch")
def test_objectives_are_tried_with_another_seed_and_counted_with_the_seeds(images, tmp_path):
    results = Results(tmp_path / "results.jsonl", str)
    config = tiny.backbone().get_config()
    how = {"steps": 10, "batch_size": 8, "base_learning_rate": 8e-3, "ema_decay": 0.9}
    seeds = {"rates": [1e-9, 8e-3], "seeds": [1, 2], "tuning_seed": 7}
    table = study_objectives(images, config, results, about={}, **seeds, **how)
    made = [json.loads(line) for line in results.path.read_text().splitlines()]
    tried = [row["about"] for row in made if row["about"]["kind"] == "tried"]
    assert {row["seed"] for row in tried} == {7} and len(tried) == 2 * (1 + 2)
    counted = [row["about"] for row in made if row["about"]["kind"] == "counted"]
    assert {row["seed"] for row in counted} == {1, 2}
    assert {row["name"] for row in counted if row["rate"] == 8e-3} == set(OBJECTIVES)
    assert len(table.splitlines()) == 2 + len(OBJECTIVES) + 2 and table.count("*, chosen") == 2
    accuracies = [row["result"] for row in made if row["about"]["kind"] == "counted"]
    assert all(0 <= run["block_linear"] <= 1 and -1 <= run["block"] <= 1 for run in accuracies)
    again = study_objectives(images, config, Results(results.path, str), about={}, **seeds, **how)
    assert again == table and len(results.path.read_text().splitlines()) == len(made)
    with pytest.raises(ValueError, match="must not be one of the reported seeds"):
        study_objectives(images, config, results, about={}, **{**seeds, "tuning_seed": 1}, **how)
    lost = objectives_table({"LeNEPA": [accuracies[0], {"diverged": 1}], "NEPA": [{"diverged": 1}]})
    assert "LeNEPA (1 of 2 diverged)" in lost and "NEPA (1 of 1 diverged) | - |" in lost


FEW = {"num_labels": 12, "steps": 3, "batch_size": 6, "augment": False}
RATES = [1e-9, 3e-3]


@pytest.mark.first_on("torch")
def test_eight_ways_to_fine_tune_are_compared_at_their_best_rates(images, tmp_path):
    backbone = tiny.backbone()
    tiny.spread_weights(backbone)
    results = Results(tmp_path / "results.jsonl", str)
    subsets = {"seeds": [0, 1], "tuning_seeds": [7], "validation_share": 0.2}
    text = study_finetuning(backbone, images, results, about={}, rates=RATES, **subsets, **FEW)
    ways, questions = text.split("\n\n")
    assert len(ways.splitlines()) == 2 + 8 and len(questions.splitlines()) == 2 + 3
    made = [json.loads(line)["about"] for line in results.path.read_text().splitlines()]
    assert len(made) == 8 * (2 + 2)
    for key, names in (
        ("patch", PATCH_EMBEDDING),
        ("attention", ATTENTION),
        ("decay", LAYER_DECAY),
    ):
        assert {about[key] for about in made} == set(names)
    again = Results(results.path, str)
    assert text == study_finetuning(
        backbone, images, again, about={}, rates=RATES, **subsets, **FEW
    )


def test_a_trial_freezes_and_pools_as_it_is_told(images):
    backbone = tiny.backbone()
    tiny.spread_weights(backbone)
    arrays = (images.train_images, images.train_labels, images.test_images, images.test_labels)
    rising = {"own_warmup": False, "final_layer_decay": 1.0, "layer_decay_course": "linear"}
    trial = FewLabelTrial(
        backbone,
        *arrays,
        layer_decay=0.35,
        layerwise=rising,
        classifier={"frozen": ("patch_embedding",), "pooling": "last", "use_causal_mask": True},
        **FEW,
    )
    before = keras.ops.convert_to_numpy(backbone.patch_embedding.kernel)
    first = trial.run(seed=1)
    kernel = trial.classifier.backbone.patch_embedding.kernel
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(kernel), before)
    assert trial.classifier.pooling == "last" and trial.classifier.use_causal_mask
    trial.run(seed=2, from_scratch=True)
    assert (keras.ops.convert_to_numpy(kernel) != before).any()
    assert trial.run(seed=1) == first
    with pytest.raises(ValueError, match="needs a layer_decay"):
        FewLabelTrial(backbone, *arrays, layerwise=rising, **FEW)


@pytest.mark.only_on("torch")
def test_a_fine_tuning_that_diverges_is_counted_and_never_chosen(images, monkeypatch):
    class Diverging:
        def __init__(self, *data, learning_rate, **options):
            self.learning_rate = learning_rate

        def run(self, seed, from_scratch):
            if self.learning_rate == 1.0 or seed == 1:
                raise NonFiniteError("diverged")
            return 0.5

    monkeypatch.setattr("study.tuning.FewLabelTrial", Diverging)
    settings = [{"learning_rate": 1.0}, {"learning_rate": 1e-3}]
    found = tuned_comparison(
        None, images, settings, starts=("pretrained",), seeds=[0, 1], tuning_seeds=[7]
    )["pretrained"]
    assert found["chosen"] == 1 and found["test"][0] == 0.5 and np.isnan(found["test"][1])
    assert accuracy_cell(found["test"]) == "50.0 (1 of 2 diverged)"


def kept_run(images, folder):
    """A pretraining of ten steps that keeps its checkpoints."""
    results = Results(folder / "results.jsonl", str)
    how = {"batch_size": 8, "base_learning_rate": 8e-3, "ema_decay": 0.9, "about": {}}
    config, nepa = tiny.backbone().get_config(), ablations.ABLATIONS["NEPA"]
    return KeptRun("NEPA", nepa, config, images, results, steps=10, seed=1, **how)


@pytest.mark.first_on("torch")
def test_length_and_dynamics_are_of_the_kept_checkpoints(images, tmp_path):
    run = kept_run(images, tmp_path)
    assert run.steps() == [2 * i for i in range(POINTS + 1)]
    assert kept_run(images, tmp_path).run.path == run.run.path  # found, not made again
    fresh, last = (tiny.weights(run.backbone(step)) for step in (0, 10))
    assert any((a != b).any() for a, b in zip(fresh, last, strict=True))
    results, drawn = Results(tmp_path / "results.jsonl", str), []
    length = {"rates": [3e-3], "validation_share": 0.2, "subsets": 1, "draw": drawn.append, **FEW}
    table = study_length([run], images, results, **length)
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [
        f"| {step}" for step in run.steps()
    ]
    pictures.plot_length(*drawn, tmp_path / "length.png")

    other = SimpleNamespace(diverged=False, curve=lambda column: run.curve(column) + 0.1)
    every = {name: [other, other] for name in dynamics.VARIANTS}
    every["NEPA"], every["no shift"] = [run], [SimpleNamespace(diverged=True)]
    table = dynamics.study_dynamics(
        every, images, results, lambda all_: pictures.plot_dynamics(all_, tmp_path / "dynamics.png")
    )
    assert "| no shift (1 of 1 diverged) | - | - |" in table
    assert len(table.splitlines()) == 2 + len(dynamics.VARIANTS)
    shown, query, maps = dynamics.attention_over_steps(run, images.test_images[:2])
    assert list(maps) == run.steps()
    for seen in maps.values():
        assert (seen.reshape(2, -1)[:, query + 1 :] == 0).all()
    pictures.plot_attention_over_steps(shown, maps, query, tmp_path / "attention.png")
    for name in ("length", "dynamics", "attention"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


@pytest.mark.first_on("torch")
def test_a_kept_run_that_diverges_is_a_row(images, tmp_path, monkeypatch):
    def diverge(*given, **options):
        raise NonFiniteError("the loss is not finite")

    monkeypatch.setattr("study.kept_runs.fit_steps", diverge)
    run = kept_run(images, tmp_path)
    assert run.diverged
    drawn = []
    length = {"rates": RATES, "validation_share": 0.2, "subsets": 1, "draw": drawn.append, **FEW}
    results = Results(tmp_path / "results.jsonl", str)
    assert len(study_length([run], images, results, **length).splitlines()) == 2


@pytest.mark.only_on("torch")
def test_images_of_folders_are_read_once_into_memory(tmp_path):
    """Cropped in the centre, the test set's classes numbered by name; or a fifth of each class kept back."""
    for split, names in (("train", "abc"), ("test", "cb")):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(5):
                wide = Image.new("RGB", (24, 14), (40 * "abc".index(name), 10 * i, 0))
                wide.paste((255, 255, 255), (0, 0, 5, 14))  # outside the centre
                wide.save(tmp_path / split / name / f"{i}.png")
    train, test = (f"folder:{tmp_path / split}" for split in ("train", "test"))
    found = labelled_images(train, test, None, (14, 14, 3))
    assert found.train_images.shape == (15, 14, 14, 3) and found.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(found.train_images[7, 0, 0], [40, 20, 0])
    assert sorted(found.test_labels) == [1] * 5 + [2] * 5
    assert (found.test_images[:, 0, 0, 0] == 40 * found.test_labels).all()
    alone = labelled_images(train, None, None, (7, 7, 1))
    assert len(alone.train_images) == 12 and sorted(alone.test_labels) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"would fill 4\.5 GB of memory at 10000x10000"):
        labelled_images(train, None, None, (10000, 10000, 3))
    with pytest.raises(ValueError, match="is a path; write --data=folder:"):
        labelled_images(str(tmp_path / "train"), None, None, (14, 14, 3))
