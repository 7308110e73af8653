"""Checkpoints from the Hugging Face hub."""

import functools
import re
from pathlib import Path

from nepa_keras.packages import required_for
from nepa_keras.presets.folder import CONFIG, EMA, INDEX, PREPROCESSOR, STATE_DICT, WEIGHTS

SCHEME = "hf://"
_CONFIGS = [CONFIG, PREPROCESSOR]
# Where a repository has both, PyTorch's files are not fetched.
_WEIGHTS = ["model*.safetensors", WEIGHTS + INDEX]
_STATE_DICTS = [STATE_DICT, "pytorch_model-*.bin", STATE_DICT + INDEX]


def download(handle: str, ema: bool = False, load_weights: bool = True) -> Path:
    """The local copy of `hf://owner/name[@revision]`, fetched unless it is there already.

    Raises:
        ValueError: the handle is none.
        ImportError: huggingface_hub is not installed.
        OSError: there is no such repository or revision, or no connection and no copy.
    """
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", handle)
    if match is None:
        raise ValueError(
            f"{handle!r} is not of the form hf://owner/name or hf://owner/name@revision."
        )
    with required_for(f"Fetching {handle}", "huggingface_hub"):
        from huggingface_hub import snapshot_download
    weights = [EMA] if ema else _WEIGHTS if load_weights else []
    try:
        fetch = functools.partial(snapshot_download, match[1], revision=match[2])
        folder = Path(fetch(allow_patterns=_CONFIGS + weights))
        if weights == _WEIGHTS and not any(folder.glob("model*.safetensors*")):
            folder = Path(fetch(allow_patterns=_CONFIGS + _STATE_DICTS))
        return folder
    except Exception as error:  # of the hub, its HTTP library or the system
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(
            f"{handle} cannot be fetched ({reason}); check the name and the connection, or pass a "
            "local folder."
        ) from error
