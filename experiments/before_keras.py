"""Import it before Keras, for quiet logs and one sentence for a wrong backend or for Ctrl-C."""

import functools
import logging
import os
import sys
import tempfile
from importlib.machinery import PathFinder
from pathlib import Path

STOPPED = 130  # the exit status, as of a process that Ctrl-C ended

_show = sys.excepthook


def _end(kind, error, trace):
    """Report an exception that nobody caught; Ctrl-C by a word and at once, whatever threads still do."""
    if not issubclass(kind, KeyboardInterrupt):
        _show(kind, error, trace)
        return
    sys.stdout.flush()
    print(f"\n{Path(sys.argv[0]).name}: stopped", file=sys.stderr, flush=True)
    os._exit(STOPPED)


class _QuietTensorFlow:
    """Finds TensorFlow, whoever imports it, and keeps back what its libraries print while they are loaded.

    No setting silences them ("All log messages before absl::InitializeLog()", "oneDNN custom operations are
    on"), as they write to the descriptor of stderr. Where the import fails, it is shown.
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


sys.excepthook = _end
sys.meta_path.insert(0, _QuietTensorFlow)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what is really wrong is raised
logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)  # no search for TPUs
for library in ("httpx", "httpx2"):  # of huggingface_hub: a line for each request
    logging.getLogger(library).setLevel(logging.WARNING)

try:
    import nepa_keras  # noqa: F401
except ImportError as error:
    sys.exit(f"{Path(sys.argv[0]).name}: {error}")
