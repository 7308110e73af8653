"""Implementations (sides) that `benchmark.py` measures, and the process that serves one."""

import os
import resource
import sys
import time

TOTAL_STEPS, WARMUP_STEPS = 100_000, 2_500


def random_batches(shape, batch_size, pixels=False, count=4):
    """`count` different batches of noise (B, height, width, channels), float32 or, with `pixels`, uint8."""
    import numpy as np

    noise = np.random.default_rng(0)
    if pixels:
        return [noise.integers(0, 256, (batch_size, *shape), "uint8") for _ in range(count)]
    return [noise.standard_normal((batch_size, *shape), "float32") for _ in range(count)]


class KerasSide:
    """Side with this library on the active Keras backend."""

    def __init__(self, options):
        import random

        import keras

        import nepa_keras

        # Imported from the package that has these functions in older versions too.
        from nepa_keras.evaluation import FeatureExtractor, forward_flops, training_flops
        from nepa_keras.training import WarmupCosine, adamw, scaled_learning_rate

        self.keras = keras
        self.batch_size = options["batch_size"]
        started = time.perf_counter()
        if options["dtype"] == "bfloat16":
            keras.config.set_dtype_policy("mixed_bfloat16")
        random.seed(
            1337
        )  # seeds the weights; keras.utils.set_random_seed would load TensorFlow too
        backbone = nepa_keras.NepaBackbone.from_preset(
            options["preset"], load_weights=False, **options.get("overrides", {})
        )
        self.model = nepa_keras.NepaPretrainer(backbone)
        rate = scaled_learning_rate(3e-4, options["batch_size"])
        schedule = WarmupCosine(rate, TOTAL_STEPS, warmup_steps=WARMUP_STEPS)
        jit = {"auto": "auto", "true": True, "false": False}[options["jit_compile"]]
        accumulation_steps = options.get("accumulation_steps", 1)
        optimizer = adamw(schedule, ema_decay=0.9999, accumulation_steps=accumulation_steps)
        self.model.compile(optimizer=optimizer, jit_compile=jit)
        self.extractor = FeatureExtractor(backbone) if options["inference"] else None
        pixels = options.get("pixels", False)
        if pixels:
            self.model.takes_pixels = True
        self.images = random_batches(backbone.image_shape, options["batch_size"], pixels)
        backend = keras.backend.backend()
        flops = forward_flops if options["inference"] else training_flops
        self.facts = {
            "name": " of ".join(["nepa_keras", *filter(None, [options.get("root")])])
            + f", {backend}",
            "versions": {"keras": keras.__version__, backend: sys.modules[backend].__version__},
            "build_seconds": time.perf_counter() - started,
            "parameters": self.model.count_params(),
            "step_flops": flops(backbone) * options["batch_size"],
            "config": backbone.get_config(),
        }

    def batches(self, steps):
        """Generator of exactly `steps` batches; if more are left, TensorFlow may wait at the end of `fit`."""
        for index in range(steps):
            yield (self.images[index % len(self.images)],)

    def run(self, steps):
        if self.extractor is not None:
            self.extractor.predict(self.batches(steps), verbose=0)
        else:
            self.model.fit(self.batches(steps), shuffle=False, verbose=0)

    def fit_overhead(self, steps):
        """Fraction of the loop of `fit` spent outside the steps, and seconds before and after the loop.

        Each step is waited for, so that it does not overlap with the work that follows.
        """
        step_function, spans = self.model.train_function, []

        def timed(*arguments):
            started = time.perf_counter()
            result = step_function(*arguments)
            self.keras.ops.convert_to_numpy(self.keras.tree.flatten(result)[0])
            spans.append((started, time.perf_counter()))
            return result

        self.model.train_function = timed
        started = time.perf_counter()
        self.run(steps)
        total = time.perf_counter() - started
        self.model.train_function = step_function
        loop = spans[-1][1] - spans[0][0]
        return 1.0 - sum(end - start for start, end in spans) / loop, total - loop

    def matmul_flops_per_second(self, dtype):
        """Highest rate in FLOP/s of several square matrix products of at least 0.1 s each."""
        from nepa_keras.evaluation import measured_peak

        return measured_peak(dtype, seconds=0.1)


class ReferenceSide:
    """Side with `torch_reference.py` on the same architecture."""

    def __init__(self, options):
        import torch
        from torch_reference import Architecture, Nepa, Trainer

        started = time.perf_counter()
        torch.set_num_threads(options["threads"])
        device = "cuda" if torch.cuda.is_available() else "cpu"
        config = options["config"]
        height, width, channels = config["image_shape"]
        if config["gated_mlp"] or height != width:
            raise ValueError("The PyTorch reference supports only square images and no gated MLP.")
        shared = "patch_size hidden_dim num_layers num_heads mlp_dim qk_norm_scale layer_scale"
        architecture = Architecture(height, channels, **{n: config[n] for n in shared.split()})
        torch.manual_seed(1337)
        bfloat16 = options["dtype"] == "bfloat16"
        model = Nepa(architecture).to(device)
        self.trainer = Trainer(
            torch.compile(model) if options.get("compiled") else model,
            3e-4 * options["batch_size"] / 256,
            TOTAL_STEPS,
            WARMUP_STEPS,
            bfloat16=bfloat16,
        )
        self.pixels = options.get("pixels", False)
        images = random_batches(config["image_shape"], options["batch_size"], self.pixels)
        self.images = [torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in images]
        self.device = device
        self.inference = options["inference"]
        self.facts = {
            "name": "plain PyTorch",
            "versions": {"torch": torch.__version__},
            "build_seconds": time.perf_counter() - started,
            "parameters": sum(p.numel() for p in self.trainer.parameters),
        }

    def run(self, steps):
        for index in range(steps):
            images = self.images[index % len(self.images)].to(self.device)
            if self.pixels:
                images = images.float() * (2 / 255) - 1
            if self.inference:
                result = self.trainer.features(images)
            else:
                result, _ = self.trainer.step(images)
        result.sum().item()  # waits for the device


def prepare(options):
    """Set up paths, backend and CPU cores before a framework is imported; options as for `serve`."""
    if options.get("root"):
        sys.path.insert(0, options["root"])
    if options.get("backend"):
        os.environ["KERAS_BACKEND"] = options["backend"]
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        sys.modules["tensorflow"] = None  # else Keras loads it (450 MB) when it serialises a layer
    if hasattr(os, "sched_setaffinity"):  # limits the threads of every framework
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options["threads"]])


def serve(side_class, options, pipe):
    """Main function of a side's process: build the side, then answer requests until None comes.

    Options: backend (default that of the environment), preset, overrides (arguments of the backbone),
    batch_size, accumulation_steps, dtype, jit_compile, inference, threads, pixels (uint8 batches), root
    (another checkout whose library is measured), and for the reference config and compiled.
    """
    prepare(options)
    side = side_class(options)
    pipe.send(side.facts)
    while request := pipe.recv():
        name, argument = request
        started = time.perf_counter()
        result = getattr(side, name)(argument)
        seconds = time.perf_counter() - started
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pipe.send((result, seconds, memory))
