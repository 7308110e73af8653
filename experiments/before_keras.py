"""Set-up of a process to import before Keras.

It silences start-up logs, ends with one sentence on Ctrl-C or a wrong backend, and ends at once if the
command is that of a finished run.
"""

import functools
import logging
import os
import sys
import tempfile
import warnings
from importlib.machinery import PathFinder
from pathlib import Path

import finished_run

STOPPED = 130  # exit status of a process ended by Ctrl-C (128 + SIGINT)

_show, _format = sys.excepthook, warnings.formatwarning


def _end(kind, error, trace):
    """Report an uncaught exception; on Ctrl-C end at once, without waiting for threads."""
    if not issubclass(kind, KeyboardInterrupt):
        _show(kind, error, trace)
        return
    sys.stdout.flush()
    print(f"\n{Path(sys.argv[0]).name}: stopped", file=sys.stderr, flush=True)
    os._exit(STOPPED)


class _QuietTensorFlow:
    """Import finder that hides what TensorFlow's libraries print while they are loaded.

    No setting silences them ("All log messages before absl::InitializeLog()", "oneDNN custom operations are
    on"), as they write to the file descriptor of stderr. The output is shown if the import fails.
    """

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "tensorflow":
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = functools.partial(_quietly, spec.loader.exec_module)
        return spec


def _quietly(execute, module):
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            execute(module)
        except Exception:
            said.seek(0)
            os.write(stderr, said.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _one_line(message, category, *of_code, **line):
    """A UserWarning as a sentence of the script; others, which are for programmers, as before."""
    if category is UserWarning:
        return f"{Path(sys.argv[0]).name}: {message}\n"
    return _format(message, category, *of_code, **line)


sys.excepthook = _end
warnings.formatwarning = _one_line
finished_run.end_if_given_again()
sys.meta_path.insert(0, _QuietTensorFlow)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # real errors are raised as exceptions
logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)  # hides the search for TPUs
for library in ("httpx", "httpx2"):  # used by huggingface_hub, which would log a line per request
    logging.getLogger(library).setLevel(logging.WARNING)

try:
    import nepa_keras  # noqa: F401
except ImportError as error:
    sys.exit(f"{Path(sys.argv[0]).name}: {error}")
