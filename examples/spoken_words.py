"""NEPA on what is no image: spoken words, a few mel frames a token, on voices that training never heard.

    pip install espeakng-loader
    KERAS_BACKEND=jax python examples/spoken_words.py

A speech synthesiser says the ten digits with 62 speakers in 5 accents. 40 speakers are for training, 10
for choosing settings (--speakers=validation), 12 for the result, and nobody is in two parts. The model is
pretrained on the clips of the training speakers without labels, and then has few labels to learn from.

What the objective rewards is what lasts from token to token. In a recording that is the loudness and the
noise of the room before it is the word: without taking the mean of each clip away, pretraining made
fine-tuning on few labels worse. BUILD.md has the figures.
"""

import argparse

import keras
import numpy as np
from speech import ACCENTS, HOP, SPEAKERS, Synthesizer, log_mel

import nepa_keras
from nepa_keras import evaluation, training

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FRAMES, BANDS, FRAMES_PER_TOKEN, WIDTH = 64, 32, 4, 64  # 0.75 s; a token is 46 ms


def spoken(speakers, seed: int, takes: int) -> tuple[np.ndarray, np.ndarray]:
    """Each word by each speaker in each accent: float32 (N, FRAMES, BANDS), the words' numbers (N,).

    Speed, pitch, begin and noise of a take are drawn, so that no two clips are the same.
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
    # What is constant in a band of a clip, loudness and noise, says nothing of the word.
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
    """The loss of the model and of three who need no model, on the tokens that have one before them."""
    out = model.predict(clips, batch_size=256, verbose=0)  # both (N, T, D)
    guesses = {
        "NEPA": out["predictions"][:, 1:],
        "the mean embedding": unit(out["targets"]).mean(axis=(0, 1)),
        "the mean embedding of its place": unit(out["targets"]).mean(axis=0)[1:],
        "the embedding before, copied": out["targets"][:, :-1],
    }
    truth = unit(out["targets"])[:, 1:]
    return {name: -float(np.mean(np.sum(unit(g) * truth, -1))) for name, g in guesses.items()}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def few_labels_accuracy(backbone, rate: float, train, test, steps: int) -> float:
    """All of a classifier is trained on the few labels. It stays causal, which is better here."""
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
    parser.add_argument("--epochs", type=int, default=10, help="of pretraining, 63 steps each")
    parser.add_argument("--rope_extent", type=float, default=1.0, help="4 is as good")
    parser.add_argument("--speakers", choices=("test", "validation"), default="test")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and labels")
    options = parser.parse_args()

    parts = np.split(np.random.default_rng(0).permutation(SPEAKERS), [40, 50])
    clips, words = spoken(parts[0], seed=0, takes=2)
    seed = ("validation", "test").index(options.speakers) + 1
    others, other_words = spoken(parts[seed], seed, takes=1)
    scale = clips.std(axis=(0, 1))  # of each band, of the training speakers alone
    clips, others = clips / scale, others / scale
    print(f"{len(clips)} clips of 40 speakers, {len(others)} of {len(parts[seed])} others")

    keras.utils.set_random_seed(options.seed)
    fresh = make_backbone(options.rope_extent)
    model = nepa_keras.NepaPretrainer(nepa_keras.clone_backbone(fresh))
    steps = options.epochs * -(-len(clips) // 64)
    model.compile(optimizer=training.adamw(training.WarmupCosine(3e-3, steps, 0.05)))
    model.fit(clips, batch_size=64, epochs=options.epochs, verbose=2)

    print("\nLoss on the voices that were not heard, -1 is perfect")
    for name, loss in baselines(model, others).items():
        print(f"  {name:<33} {loss:.3f}")

    few = evaluation.class_balanced_subset(words, 5 * len(WORDS), options.seed)
    many = evaluation.class_balanced_subset(words, 50 * len(WORDS), options.seed)
    print("\nWords of these voices that are recognised, %   pretrained   from scratch")
    rows = {
        "fine-tuned on 5 labels a word": [],
        "linear probe, 50 labels a word": [],
        "1-NN, 50": [],
    }
    for backbone, rate in ((model.backbone, 3e-3), (fresh, 6e-3)):  # the best for each
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
