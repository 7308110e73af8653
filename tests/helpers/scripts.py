"""Run scripts and modules as a user does (a process each), or read their refusals in this process."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path

from absl import flags

from tests.helpers import ROOT

FOLDERS = (ROOT / "experiments", ROOT / "benchmarks")
SECONDS = 600  # longest run of a process before it counts as hung


def environment(**variables: str) -> dict[str, str]:
    """The environment of a child process that imports this checkout; the backend is inherited."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2", **variables}


def path_of(script: str) -> Path:
    """The file of a script by its name, which is one of a kind among the folders of scripts."""
    (path,) = (folder / script for folder in FOLDERS if (folder / script).is_file())
    return path


def start(script: str, *flags, cwd: Path = ROOT, **variables: str) -> subprocess.Popen:
    """Start a script in a process.

    Args:
        script: name of its file, such as pretrain.py.
        flags: command-line arguments.
        variables: of the environment, such as KERAS_BACKEND.
    """
    return subprocess.Popen(
        [sys.executable, str(path_of(script)), *map(str, flags)],
        env=environment(**variables),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, *flags, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
    """Run a script in a process to its end; see `start`."""
    process = start(script, *flags, cwd=cwd, **variables)
    try:
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run_python(
    *arguments, cwd: Path = ROOT, timeout: float | None = SECONDS, **variables: str
) -> subprocess.CompletedProcess:
    """Run `python` with arguments, such as "-m", "tests.helpers.lives", in a process to its end."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment(**variables),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def run_here(script: str, *arguments) -> subprocess.CompletedProcess:
    """Run the `main` of a script in this process, with flags of its own.

    Saves the seconds that a process takes to start, where a script only refuses what it is given. An
    exception that the script does not turn into a sentence is raised, where a process prints a traceback.
    """
    command = [str(path_of(script)), *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv, status = sys.argv, command, 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        status = end.code
    finally:
        sys.argv = before
        _forget_flags()
    if isinstance(status, str):  # as Python does at the end of a process
        err.write(f"{status}\n")
        status = 1
    return subprocess.CompletedProcess(command, status or 0, out.getvalue(), err.getvalue())


def flag_values(script: str, *arguments) -> dict[str, object]:
    """The values of all flags of a script, by name, as it would read its arguments; its `main` does not run.

    Raises:
        absl.flags.Error: it would refuse them.
    """
    path = path_of(script)
    try:
        # Not under its own name, which the folder of modules beside it may have, too (study).
        runpy.run_path(str(path), run_name=f"script_{path.stem}")
        flags.FLAGS([str(path), *map(str, arguments)])
        return flags.FLAGS.flag_values_dict()
    finally:
        _forget_flags()


def _forget_flags() -> None:
    """Remove the flags that a script defined, so that the next one can define them again."""
    defined = flags.FLAGS.flags_by_module_dict()
    for flag in [f for module, of in defined.items() if not module.startswith("absl.") for f in of]:
        delattr(flags.FLAGS, flag.name)
    flags.FLAGS.unparse_flags()


def refusal(script: str, *arguments) -> str:
    """The sentence with which a script refuses its flags; see `run_here`."""
    result = run_here(script, *arguments)
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stderr
