"""Long runs around `fit_steps`: processes, the run's folder and flags, optimizer, exit status."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import finished_run
import keras
from absl import flags
from command_line import NOT_SAVED, by_command, end, exit_with_status, user_errors
from finished_run import OF_A_START
from shared_flags import OF_A_PLACE

import nepa_keras
from nepa_keras import backends, data, training, visualization
from nepa_keras.distribution import Processes
from nepa_keras.files import is_whole_archive
from nepa_keras.training import RunDir
from nepa_keras.training.run_dir import RunFlags
from nepa_keras.visualization.report.run_facts import flags_of_folder

FLAGS = flags.FLAGS
_locks = []  # held until the process ends


def start_processes() -> Processes:
    """Set up distribution by --distribute and --mesh, and silence all processes but the first.

    Raises:
        ValueError: as `nepa_keras.distribute`, or several processes lack a common --run_dir.
    """
    processes = nepa_keras.distribute(FLAGS.distribute, FLAGS.mesh)
    if processes.count > 1 and not FLAGS.run_dir:
        raise ValueError("Several processes need --run_dir, a folder that all of them share.")
    if processes.number:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  until the process ends
    return processes


def run_dir_of_flags(name: str) -> RunDir:
    """Folder of --run_dir, by default runs/NAME_TIME."""
    return RunDir(FLAGS.run_dir or f"runs/{name}_{time.strftime('%Y%m%d-%H%M%S')}")


def current_flags(run: RunDir) -> RunFlags:
    """Flags of the script for flags.txt in the run's folder, without those in `OF_A_START`."""
    backend = keras.backend.backend()
    keys = FLAGS.get_key_flags_for_module(sys.argv[0])
    script = by_command(sys.argv[0]) or ["python", sys.argv[0]]
    return RunFlags(
        f"KERAS_BACKEND={backend} {shlex.join([*script, f'--flagfile={run.flags}'])}",
        f"keras {keras.__version__}, {backend} {_version(backend)}",
        tuple(f.serialize() for f in keys if f.name not in OF_A_START and f.value is not None),
    )


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"


def repeat_flags(folder: str | Path) -> None:
    """Set the flags of a run from a folder with its flags.txt; flags of this command line override them.

    Raises:
        ValueError: the file is missing, or has flags that the script lacks.
    """
    file = RunDir(folder).flags
    if not file.is_file():
        raise ValueError(f"{file}, the file with the flags of the run, is missing.")
    try:
        FLAGS([sys.argv[0], f"--flagfile={file}", *sys.argv[1:]])
    except flags.Error as error:
        raise ValueError(f"{file}: {error}") from None


def end_if_finished(run: RunDir) -> None:
    """End the program with status 0 if the folder holds a finished run with these flags."""
    before = run.read_flags()
    # A run writes the report last.
    ended = run.report.exists() and is_whole_archive(run.model)
    if ended and before is not None and set(before.lines) == set(current_flags(run).lines):
        _remember(run, finished_run.command_line())
        print(finished_run.sentence(run))
        sys.exit(0)


def _remember(run: RunDir, given: tuple[str, list[str]] | None) -> None:
    """Record that the run of a command line is finished, in case the command is repeated."""
    commands = [list(current_flags(run).lines)]
    if given is not None:
        commands.append(given[1])
    finished_run.remember(run, commands, [run.model, run.report])


def open_run_dir(run: RunDir, number: int = 0) -> None:
    """Create the folder of a run, or reopen one with the same flags, and lock it for this process.

    A folder that cannot be written to ends the program.

    Args:
        run: folder of the run.
        number: number of this process; only process 0 writes and locks.

    Raises:
        ValueError: the folder holds a run with other flags.
        BlockingIOError: another process holds the lock.
    """
    try:
        os.makedirs(run, exist_ok=True)
        if number:
            return
        _locks.append(training.RunLock(run))
        before, now = run.read_flags(), current_flags(run)
        if before is None:
            run.write_flags(now)
            return
    except BlockingIOError:
        raise
    except OSError as error:
        is_link = run.path.is_symlink() and not run.path.exists()
        why = "a link to nothing" if is_link else error.strerror or error
        end(
            NOT_SAVED,
            f"--run_dir={run} cannot be created or written to ({why}); give another folder",
        )
    if different := set(_without_places(before)) ^ set(_without_places(now)):
        raise ValueError(
            f"--run_dir={run} holds a run with other flags ({', '.join(sorted(different)[:4])}); give "
            f"another folder, or resume that run with --flagfile={run.flags}."
        )
    if before.command != now.command:
        print(f"started as {before.command}; another backend draws other random numbers")


def _without_places(given: RunFlags) -> list[str]:
    """Lines of flags, with paths of data reduced to the kind, such as --data=folder."""
    names = tuple(f"--{name}=" for name in OF_A_PLACE)
    return [line.partition(":")[0] if line.startswith(names) else line for line in given.lines]


def _identity(run: RunDir, sources: dict[str, data.ImageSource]) -> dict[str, str]:
    """Flags and fingerprints of data that all processes of a run, and a resumed run, must share."""
    fingerprints = {name: data.fingerprint(source) for name, source in sources.items()}
    return {"flags": "\n".join(_without_places(current_flags(run))), **fingerprints}


def _note_places(run: RunDir) -> keras.callbacks.Callback:
    """Callback that updates the paths of data in flags.txt once a resumed run trains."""

    def note(logs=None):
        before, lines = run.read_flags(), current_flags(run).lines
        if before is not None and before.lines != lines:
            run.write_flags(before._replace(lines=lines))

    return keras.callbacks.LambdaCallback(on_train_begin=note)


def bad_images(source, record: Path | None) -> data.BadImages:
    """Record of bad images by the flags --bad_images and --bad_images_share.

    Args:
        source: images.
        record: file that lists bad images, or None.
    """
    share = FLAGS.bad_images_share if FLAGS.bad_images == "skip" else 0.0
    return data.BadImages(len(source), share, record)


def report_bad_images(account: data.BadImages, what: str, record: Path) -> None:
    """Print the number of bad images, if there are any, and the file that lists them."""
    if account.lines:
        print(f"{len(account.lines)} {what}: {record}")


def adamw(schedule, *, accumulation_steps: int = 1, ema_decay: float | None = None):
    """Optimizer of the recipe, from the flags."""
    return training.adamw(
        schedule,
        weight_decay=FLAGS.weight_decay,
        beta_2=FLAGS.beta_2,
        clip_norm=FLAGS.clip_norm or None,
        ema_decay=ema_decay,
        accumulation_steps=accumulation_steps,
    )


def compile_and_describe(
    model, schedule_of: Callable, batch_size: int, updates: int, processes, loss=None
) -> int:
    """Compile with the recipe's optimizer at the scaled learning rate, and print batch, length and rates.

    Args:
        model: model to compile.
        schedule_of: function from a peak rate and a number of updates to a schedule.
        batch_size: images per batch.
        updates: length of the training.
        processes: processes and devices.
        loss: loss of the model, or None.

    Returns:
        The effective batch size.
    """
    effective_batch = batch_size * FLAGS.accumulation_steps
    rate = training.scaled_learning_rate(FLAGS.base_learning_rate, effective_batch)
    optimizer = adamw(
        schedule_of(rate, updates),
        accumulation_steps=FLAGS.accumulation_steps,
        ema_decay=FLAGS.ema_decay,
    )
    model.compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile())
    model.takes_pixels = True  # the batches of the scripts are uint8
    print(
        f"{describe_batch(batch_size, FLAGS.accumulation_steps, processes)}, {updates} updates, "
        f"peak learning rate {FLAGS.base_learning_rate:g} * {effective_batch} / 256 = {rate:.3g}\n\n"
        f"{optimizer.table(model)}\n"
    )
    return effective_batch


def jit_compile() -> bool | str:
    """Value of --jit_compile for `compile`."""
    return "auto" if FLAGS.jit_compile is None else FLAGS.jit_compile


def describe_batch(batch_size: int, accumulation_steps: int, processes: Processes) -> str:
    """Description of the effective batch: batches per update, images per batch, devices, processes."""
    place = "1 process"
    if processes.devices > 1:
        more = "es" if processes.count > 1 else ""
        place = f"{processes.devices} devices of {processes.count} process{more}"
    batches = "1 batch" if accumulation_steps == 1 else f"{accumulation_steps} batches"
    return (
        f"effective batch {batch_size * accumulation_steps} ({batches} of {batch_size} images per update, "
        f"{place})"
    )


def describe_attention(backbone: nepa_keras.NepaBackbone) -> str:
    """Description of the attention implementation used in training on this device."""
    if backbone.attention_dropout_rate:
        return "attention by explicit scores, because of its dropout"
    tokens = backbone.patch_embedding.compute_output_shape((None, *backbone.image_shape))[1]
    width = backbone.hidden_dim // backbone.num_heads
    form = backends.attention_form(tokens, width, backbone.compute_dtype, backbone.use_causal_mask)
    return f"attention {form}"


def train(
    model,
    batches,
    steps: int,
    batch_size: int,
    run: RunDir,
    processes,
    finish: Callable,
    validation: data.ImageSource | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **options,
) -> None:
    """Train by `fit_steps`, then finish the run in the first process; end the program if that fails.

    Args:
        model: compiled model.
        batches: `AugmentedBatches`; options["batches_from"] replaces their stream, if given.
        steps: number of batches.
        batch_size: images per batch.
        run: folder of the run.
        processes: processes and devices.
        finish: function called with the trained model on one device.
        validation: validation images, part of the run's identity when it resumes.
        callbacks: more callbacks.
        options: more arguments of `fit_steps`.
    """
    given = finished_run.command_line()  # now, as a flag file may change during the run
    options = {"batches_from": lambda step: batches.seek(step).endless(), **options}
    sources = {"data": batches.source}
    if validation is not None:
        sources["validation data"] = validation
    trackers = []
    if processes.number == 0:
        callbacks = [*callbacks, _note_places(run)]
        trackers = FLAGS.tracker
    with user_errors():
        tracker = training.open_trackers(trackers, run, dict(flags_of_folder(run)))
    with exit_with_status(batches), tracker:
        training.fit_steps(
            model,
            steps=steps,
            batch_size=batch_size,
            run_dir=run.path,
            seconds_waited=lambda: batches.seconds_waited,
            keep_last=FLAGS.keep_last,
            keep_every=FLAGS.keep_every,
            describe_batch=batches.describe,
            callbacks=callbacks,
            identity=_identity(run, sources),
            tracker=tracker,
            **options,
        )
        with training.on_one_device(model) as whole:
            if processes.number == 0:
                finish(whole)
                visualization.log_pictures(run, tracker)
                _remember(run, given)
