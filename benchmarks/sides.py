"""What `benchmark.py` measures, and the process that each of the two lives in."""

import os
import resource
import sys
import time

TOTAL_STEPS, WARMUP_STEPS = 100_000, 2_500


def random_batches(shape, batch_size, pixels=False, count=4):
    """`count` different batches (B, height, width, C) of noise, float32 or, with `pixels`, uint8."""
    import numpy as np

    noise = np.random.default_rng(0)
    if pixels:
        return [noise.integers(0, 256, (batch_size, *shape), "uint8") for _ in range(count)]
    return [noise.standard_normal((batch_size, *shape), "float32") for _ in range(count)]


class KerasSide:
    """The library on the active Keras backend."""

    def __init__(self, options):
        import random

        import keras

        import nepa_keras

        # Where other versions have these functions, too.
        from nepa_keras.evaluation import FeatureExtractor, forward_flops, training_flops
        from nepa_keras.training import WarmupCosine, adamw, scaled_learning_rate

        self.keras = keras
        self.batch_size = options["batch_size"]
        started = time.perf_counter()
        if options["dtype"] == "bfloat16":
            keras.config.set_dtype_policy("mixed_bfloat16")
        random.seed(1337)  # of the weights; Keras' own function would load TensorFlow too
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
        """A generator that ends with the steps: leaving `fit` earlier, TensorFlow may wait for seconds."""
        for index in range(steps):
            yield (self.images[index % len(self.images)],)

    def run(self, steps):
        if self.extractor is not None:
            self.extractor.predict(self.batches(steps), verbose=0)
        else:
            self.model.fit(self.batches(steps), shuffle=False, verbose=0)

    def fit_overhead(self, steps):
        """Share of the loop of `fit` that is spent outside the steps, and seconds before and after it.

        Waits for each step, so none overlaps with what comes next.
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
        """Best of several square products, each of a tenth of a second or more."""
        from nepa_keras.evaluation import measured_peak

        return measured_peak(dtype, seconds=0.1)


class ReferenceSide:
    """`torch_reference.py` on the same architecture."""

    def __init__(self, options):
        import torch
        from torch_reference import Architecture, Nepa, Trainer

        started = time.perf_counter()
        torch.set_num_threads(options["threads"])
        device = "cuda" if torch.cuda.is_available() else "cpu"
        config = options["config"]
        height, width, channels = config["image_shape"]
        if config["gated_mlp"] or height != width:
            raise ValueError("The PyTorch reference has no gated MLP and square images only.")
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
    """Set what is set before a framework is imported; the options are those of `serve`."""
    if options.get("root"):
        sys.path.insert(0, options["root"])
    if options.get("backend"):
        os.environ["KERAS_BACKEND"] = options["backend"]
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        sys.modules["tensorflow"] = None  # Keras loads it, 450 MB, whenever it serialises a layer
    if hasattr(os, "sched_setaffinity"):  # every framework, whatever its own flag is called
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options["threads"]])


def serve(side_class, options, pipe):
    """A side's process: builds it, then answers requests until it is told None.

    Options: backend (None: as the environment says), preset, overrides of its arguments, batch_size,
    accumulation_steps, dtype, jit_compile, inference, threads, pixels (batches are uint8), config and
    compiled for the reference, and root, another checkout whose library is measured.
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
