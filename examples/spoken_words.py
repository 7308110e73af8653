"""NEPA on speech: spoken words as mel spectrograms, evaluated on voices not heard in training.

    pip install espeakng-loader
    KERAS_BACKEND=jax python examples/spoken_words.py

A speech synthesiser says the ten digits with 62 speakers in 5 accents. 40 speakers are for training, 10 for
choosing settings (--speakers=validation) and 12 for the result; no speaker is in two parts. The model is
pretrained on the unlabelled clips of the training speakers, then fine-tuned with few labels. The script
prints the loss on unheard voices next to simple baselines, and the accuracy of recognition from pretrained
and random weights.

The objective favours features that persist from token to token. In a recording these are first the loudness
and the noise of the room: without subtracting the mean of each clip, pretraining made few-label fine-tuning
worse. docs/results.md, "The objective on speech", has the figures.
"""

import argparse

import keras
import numpy as np
from speech import ACCENTS, HOP, SPEAKERS, Synthesizer, log_mel

import nepa_keras
from nepa_keras import evaluation, training

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FRAMES, BANDS, FRAMES_PER_TOKEN, WIDTH = 64, 32, 4, 64  # clips of 0.75 s, tokens of 46 ms


def spoken(speakers, seed: int, takes: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips of each word by each speaker in each accent, and their labels.

    Speed, pitch, start and noise are random, so that no two clips are the same.

    Args:
        speakers: names of speakers.
        seed: seed of the random variation.
        takes: number of clips of each word, speaker and accent.

    Returns:
        Clips (B, FRAMES, BANDS) float32, and numbers of the words (B,).
    """
    draw, synthesizer = np.random.default_rng(seed), Synthesizer()
    clips, labels = [], []
    for voice in [f"{accent}+{speaker}" for speaker in speakers for accent in ACCENTS] * takes:
        for label, word in enumerate(WORDS):
            speed, pitch = int(draw.integers(130, 220)), int(draw.integers(20, 80))
            samples = synthesizer.say(word, voice, speed, pitch)
            samples = np.concatenate([np.zeros(draw.integers(0, 10 * HOP)), samples])
            clip = draw.normal(size=FRAMES * HOP) * 10 ** draw.uniform(-3.0, -1.5)
            clip[: len(samples)] += samples[: len(clip)]
            clips.append(log_mel(clip, FRAMES, BANDS))
            labels.append(label)
    clips = np.stack(clips)
    # The constant part of a band in a clip is loudness and noise, which do not depend on the word.
    return clips - clips.mean(axis=1, keepdims=True), np.array(labels)


def make_backbone(rope_extent: float) -> nepa_keras.NepaBackbone:
    return nepa_keras.NepaBackbone(
        image_shape=(FRAMES, BANDS),
        embedding=keras.layers.Conv1D(WIDTH, FRAMES_PER_TOKEN, strides=FRAMES_PER_TOKEN),
        hidden_dim=WIDTH,
        num_layers=3,
        num_heads=4,
        mlp_dim=4 * WIDTH,
        layer_scale=0.1,
        rope_extent=rope_extent,
    )


def baselines(model, clips) -> dict[str, float]:
    """Loss of the model and of three baselines without a model, on all tokens but the first."""
    out = model.predict(clips, batch_size=256, verbose=0)  # both (B, T, D)
    guesses = {
        "NEPA": out["predictions"][:, 1:],
        "mean embedding": unit(out["targets"]).mean(axis=(0, 1)),
        "mean embedding of the position": unit(out["targets"]).mean(axis=0)[1:],
        "copy of the previous embedding": out["targets"][:, :-1],
    }
    truth = unit(out["targets"])[:, 1:]
    return {name: -float(np.mean(np.sum(unit(g) * truth, -1))) for name, g in guesses.items()}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def few_labels_accuracy(backbone, rate: float, train, test, steps: int) -> float:
    """Test accuracy after fine-tuning all weights on few labels, with causal attention (better here)."""
    classifier = nepa_keras.NepaImageClassifier(backbone, len(WORDS), use_causal_mask=True)
    classifier.compile(
        optimizer=training.adamw(training.WarmupCosine(rate, steps, 0.1), beta_2=0.999),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    classifier.fit(*train, batch_size=25, epochs=25 * steps // len(train[0]), verbose=0)
    return classifier.evaluate(*test, batch_size=256, verbose=0, return_dict=True)["accuracy"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--epochs", type=int, default=10, help="length of pretraining in epochs of 63 steps"
    )
    parser.add_argument(
        "--rope_extent",
        type=float,
        default=1.0,
        help="range of the positions in RoPE; 4 gives the same accuracy",
    )
    parser.add_argument(
        "--speakers",
        choices=("test", "validation"),
        default="test",
        help="speakers to evaluate on; use validation to choose settings",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of weights, batches and choice of labels"
    )
    options = parser.parse_args()

    parts = np.split(np.random.default_rng(0).permutation(SPEAKERS), [40, 50])
    clips, words = spoken(parts[0], seed=0, takes=2)
    seed = ("validation", "test").index(options.speakers) + 1
    others, other_words = spoken(parts[seed], seed, takes=1)
    scale = clips.std(axis=(0, 1))  # for each band, from the training speakers only
    clips, others = clips / scale, others / scale
    print(
        f"{len(clips)} clips of 40 training speakers, {len(others)} clips of {len(parts[seed])} others"
    )

    keras.utils.set_random_seed(options.seed)
    fresh = make_backbone(options.rope_extent)
    model = nepa_keras.NepaPretrainer(nepa_keras.clone_backbone(fresh))
    steps = options.epochs * -(-len(clips) // 64)
    model.compile(optimizer=training.adamw(training.WarmupCosine(3e-3, steps, 0.05)))
    model.fit(clips, batch_size=64, epochs=options.epochs, verbose=2)

    print("\nLoss on voices not heard in training (-1 is perfect)")
    for name, loss in baselines(model, others).items():
        print(f"  {name:<33} {loss:.3f}")

    few = evaluation.class_balanced_subset(words, 5 * len(WORDS), options.seed)
    many = evaluation.class_balanced_subset(words, 50 * len(WORDS), options.seed)
    print("\nAccuracy on these voices in %                  pretrained   from scratch")
    rows = {
        "fine-tuned on 5 labels per word": [],
        "linear probe, 50 labels per word": [],
        "1-NN, 50 labels per word": [],
    }
    for backbone, rate in ((model.backbone, 3e-3), (fresh, 6e-3)):  # the best rate for each
        features = [evaluation.extract_features(backbone, x) for x in (clips[many], others)]
        known = (features[0], words[many], features[1], other_words)
        tuned = few_labels_accuracy(
            nepa_keras.clone_backbone(backbone),
            rate,
            (clips[few], words[few]),
            (others, other_words),
            30 * options.epochs,
        )
        scores = (
            tuned,
            evaluation.linear_probe_accuracy(*known),
            evaluation.knn_accuracy(*known, k=1),
        )
        for row, score in zip(rows.values(), scores, strict=True):
            row.append(100 * score)
    for name, scores in rows.items():
        print(f"  {name:<43} {scores[0]:10.1f} {scores[1]:14.1f}")


if __name__ == "__main__":
    main()
