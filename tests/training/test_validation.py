"""Validation in `fit`: both kinds of weights measured, training not disturbed, the best kept."""

import keras
import numpy as np

import nepa_keras
from nepa_keras import training
from tests.helpers import tiny


def classifier():
    keras.utils.set_random_seed(0)
    model = nepa_keras.NepaImageClassifier(tiny.backbone(), 3)
    tiny.compile_model(
        model,
        training.adamw(1e-2, ema_decay=0.5),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def examples():
    generator = np.random.default_rng(0)
    images = generator.standard_normal((24, 8, 8, 1)).astype("float32")
    return images, generator.integers(0, 3, 24)


def values(model) -> list:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.trainable_variables]


def fit(callbacks=(), epochs: int = 3):
    model = classifier()
    history = model.fit(
        *examples(),
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )
    return model, history.history


def test_validation_measures_both_weights_and_leaves_training_unchanged():
    seen, kept = [], []

    def measure(model):
        seen.append(values(model))
        return {"accuracy": [0.1, 0.5, 0.2, 0.9, 0.3, 0.4][len(seen) - 1]}

    validate = training.Validation(measure, save_best=lambda model: kept.append(values(model)))
    model, history = fit([validate])
    plain, _ = fit()
    for a, b in zip(values(model), values(plain), strict=True):
        np.testing.assert_array_equal(a, b)
    assert history["val_accuracy"] == [0.1, 0.2, 0.3]
    assert history["ema_val_accuracy"] == [0.5, 0.9, 0.4]
    assert validate.best["ema_val_accuracy"] == 0.9 and validate.best["val_accuracy"] == 0.2
    assert validate.last == {"val_accuracy": 0.3, "ema_val_accuracy": 0.4} and len(kept) == 2
    # The trained weights first, then the averages, which are what is kept.
    for average, held in zip(model.optimizer.ema_values(), seen[5], strict=True):
        np.testing.assert_array_equal(average, held)
    for a, b in zip(seen[4], values(model), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(kept[-1], seen[3], strict=True):
        np.testing.assert_array_equal(a, b)


def test_results_are_in_the_log_of_a_recorded_run(tmp_path):
    model = classifier()
    images, labels = examples()

    def batches():
        while True:
            yield images[:8], labels[:8]

    validate = training.Validation(lambda model: {"accuracy": 0.25})
    training.fit_steps(model, lambda step: batches(), 4, 8, tmp_path, callbacks=[validate])
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    column = header.split(",").index("ema_val_accuracy")
    assert len(rows) == 4 and all(float(row.split(",")[column]) == 0.25 for row in rows)


def test_before_the_first_update_averages_are_nan_and_the_column_is_there(tmp_path):
    """A row of the log has at least one update; without a good one there is no best."""
    model = classifier()
    model.optimizer.accumulation_steps = 4
    images, labels = examples()

    def batches():
        while True:
            yield images[:8], labels[:8]

    validate = training.Validation(lambda model: {"accuracy": 0.25})
    training.fit_steps(model, lambda step: batches(), 8, 8, tmp_path, callbacks=[validate])
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert len(rows) == 2 and "ema_val_accuracy" in header

    broken = classifier()
    validate = training.Validation(lambda model: {"accuracy": 0.25})
    broken.fit(np.full_like(images, np.nan), labels, verbose=0, callbacks=[validate])
    assert validate.best is None and np.isnan(validate.last["ema_val_accuracy"])


def test_the_better_of_trained_and_averaged_weights_is_kept():
    results = iter([0.6, 0.5, 0.55, 0.6, 0.3, 0.65])  # trained, averaged
    kept, validate = [], None

    def keep(model):
        kept.append((values(model), validate.best_weights, validate.best_result))

    validate = training.Validation(lambda model: {"accuracy": next(results)}, save_best=keep)
    model, _ = fit([validate])
    assert [of[1:] for of in kept] == [("trained", 0.6), ("averaged", 0.65)]
    for average, held in zip(model.optimizer.ema_values(), kept[1][0], strict=True):
        np.testing.assert_array_equal(average, held)
    again = training.Validation(lambda model: {})
    again.load_state_dict(validate.state_dict())
    assert again.best_weights == "averaged" and again.best_result == 0.65


def test_a_result_that_is_not_finite_is_never_the_best():
    results = iter([0.1, np.nan, 0.1, 0.3, 0.1, np.nan])
    validate = training.Validation(lambda model: {"accuracy": next(results)})
    fit([validate])
    assert validate.best["ema_val_accuracy"] == 0.3


def test_validation_is_repeated_in_the_rows_between_measurements():
    results = iter([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])  # trained, averaged
    validate = training.Validation(lambda model: {"accuracy": next(results)}, times=2)
    _, history = fit([validate], epochs=6)
    assert history["val_accuracy"] == [0.1, 0.1, 0.1, 0.3, 0.3, 0.5]
    assert history["ema_val_accuracy"] == [0.2, 0.2, 0.2, 0.4, 0.4, 0.6]
    assert validate.best["ema_val_accuracy"] == 0.6 and next(results, None) is None
