"""Checkpoints from the Hugging Face hub."""

import re
from pathlib import Path

from nepa_keras.packages import required_for
from nepa_keras.presets.folder import CONFIG, EMA, INDEX, PREPROCESSOR

SCHEME = "hf://"
_FILES = [CONFIG, PREPROCESSOR, "model*.safetensors", INDEX]


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
    files = _FILES if load_weights else _FILES[:2]
    if ema:
        files = [*_FILES[:2], EMA]
    try:
        return Path(snapshot_download(match[1], revision=match[2], allow_patterns=files))
    except Exception as error:  # of the hub, its HTTP library or the system
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(
            f"{handle} cannot be fetched ({reason}); check the name and the connection, or pass a "
            "local folder."
        ) from error
