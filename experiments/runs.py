"""What a long run does around `fit_steps`: processes, its folder and flags, optimizer, exit status."""

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
_locks = []  # of this process, until it ends


def start_processes() -> Processes:
    """Join the processes and devices as --distribute and --mesh say; only the first goes on speaking.

    Raises:
        ValueError: see `nepa_keras.distribute`; or each process would name a folder of its own.
    """
    processes = nepa_keras.distribute(FLAGS.distribute, FLAGS.mesh)
    if processes.count > 1 and not FLAGS.run_dir:
        raise ValueError(
            "With several processes --run_dir names the folder that all of them share."
        )
    if processes.number:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  until the process ends
    return processes


def run_dir_of_flags(name: str) -> RunDir:
    """The folder of --run_dir, by default runs/NAME_TIME."""
    return RunDir(FLAGS.run_dir or f"runs/{name}_{time.strftime('%Y%m%d-%H%M%S')}")


def current_flags(run: RunDir) -> RunFlags:
    """All flags of the script, but for where it runs, as a flag file in a run's folder repeats them."""
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
    """Set the flags of a run again, from a folder with its flags.txt; those of this command line win.

    Raises:
        ValueError: the file is missing, or has flags that the script lacks.
    """
    file = RunDir(folder).flags
    if not file.is_file():
        raise ValueError(f"{file} is missing, which has the flags of the run.")
    try:
        FLAGS([sys.argv[0], f"--flagfile={file}", *sys.argv[1:]])
    except flags.Error as error:
        raise ValueError(f"{file}: {error}") from None


def end_if_finished(run: RunDir) -> None:
    """End the program, with status 0, where the folder holds a whole run of these flags that has ended."""
    before = run.read_flags()
    # The report is what a run writes last.
    ended = run.report.exists() and is_whole_archive(run.model)
    if ended and before is not None and set(before.lines) == set(current_flags(run).lines):
        _remember(run, finished_run.command_line())
        print(finished_run.sentence(run))
        sys.exit(0)


def _remember(run: RunDir, given: tuple[str, list[str]] | None) -> None:
    """Keep that the run of a command line is finished, for the next time it is given."""
    commands = [list(current_flags(run).lines)]
    if given is not None:
        commands.append(given[1])
    finished_run.remember(run, commands, [run.model, run.report])


def open_run_dir(run: RunDir, number: int = 0) -> None:
    """Make the folder of a run, or take up one of the same flags, and lock it for this process.

    Ends the program where the folder cannot be written to.

    Args:
        number: of this process; the folder is that of the first, which lets in the others.

    Raises:
        ValueError: it holds a run of other flags.
        BlockingIOError: another process has it.
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
        end(NOT_SAVED, f"--run_dir={run} cannot be made or written to ({why}); name another folder")
    if different := set(_without_places(before)) ^ set(_without_places(now)):
        raise ValueError(
            f"--run_dir={run} holds a run with other flags ({', '.join(sorted(different)[:4])}); name "
            f"another folder, or go on with --flagfile={run.flags}."
        )
    if before.command != now.command:
        print(f"begun as {before.command}; another backend draws other random numbers")


def _without_places(given: RunFlags) -> list[str]:
    """The lines of flags, of paths to data only what comes before them, such as --data=folder."""
    names = tuple(f"--{name}=" for name in OF_A_PLACE)
    return [line.partition(":")[0] if line.startswith(names) else line for line in given.lines]


def _identity(run: RunDir, sources: dict[str, data.ImageSource]) -> dict[str, str]:
    """What all processes of a run, and the run when it goes on, must have in common."""
    fingerprints = {name: data.fingerprint(source) for name, source in sources.items()}
    return {"flags": "\n".join(_without_places(current_flags(run))), **fingerprints}


def _note_places(run: RunDir) -> keras.callbacks.Callback:
    """A callback that writes to flags.txt where the data lies now, once a run has gone on with it."""

    def note(logs=None):
        before, lines = run.read_flags(), current_flags(run).lines
        if before is not None and before.lines != lines:
            run.write_flags(before._replace(lines=lines))

    return keras.callbacks.LambdaCallback(on_train_begin=note)


def bad_images(source, record: Path | None) -> data.BadImages:
    """The account of bad images that --bad_images asks for; they are named in the file `record`, if any."""
    share = FLAGS.bad_images_share if FLAGS.bad_images == "skip" else 0.0
    return data.BadImages(len(source), share, record)


def report_bad_images(account: data.BadImages, what: str, record: Path) -> None:
    """Say how many images were bad, if any were."""
    if account.lines:
        print(f"{len(account.lines)} {what}: {record}")


def adamw(schedule, *, accumulation_steps: int = 1, ema_decay: float | None = None):
    """The recipe's optimizer, of the flags."""
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
    """Compile with the recipe's optimizer at the scaled rate, and print what comes of the flags.

    Args:
        schedule_of: gives the schedule of a peak rate and a number of updates.

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
    model.takes_pixels = True  # of the scripts' own batches
    print(
        f"{describe_batch(batch_size, FLAGS.accumulation_steps, processes)}, {updates} updates, "
        f"peak learning rate {FLAGS.base_learning_rate:g} * {effective_batch} / 256 = {rate:.3g}\n\n"
        f"{optimizer.table(model)}\n"
    )
    return effective_batch


def jit_compile() -> bool | str:
    """--jit_compile as `compile` takes it."""
    return "auto" if FLAGS.jit_compile is None else FLAGS.jit_compile


def describe_batch(batch_size: int, accumulation_steps: int, processes: Processes) -> str:
    """The effective batch and what it is made of."""
    place = "1 process"
    if processes.devices > 1:
        more = "es" if processes.count > 1 else ""
        place = f"{processes.devices} devices of {processes.count} process{more}"
    batches = "1 batch" if accumulation_steps == 1 else f"{accumulation_steps} batches"
    return (
        f"effective batch {batch_size * accumulation_steps} ({batches} of {batch_size} images an update, "
        f"{place})"
    )


def describe_attention(backbone: nepa_keras.NepaBackbone) -> str:
    """Which formulation of attention training has on this device, as the words for a line."""
    if backbone.attention_dropout_rate:
        return "attention by explicit scores in one piece, for its dropout"
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
    """Train by `fit_steps`, then finish the run in the first process; ends the program where it cannot go on.

    Args:
        batches: `AugmentedBatches`; options["batches_from"] in place of its stream, if given.
        finish: called with the trained model, on one device.
        validation: images to validate with, which are part of what makes the run what it is.
        options: of `fit_steps`.
    """
    given = finished_run.command_line()  # now, as a flag file may change while the run goes on
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
