"""Download from and upload to the Hugging Face hub."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from nepa_keras.packages import required_for
from nepa_keras.presets.folder import CONFIG, EMA, INDEX, PREPROCESSOR, STATE_DICT, WEIGHTS

SCHEME = "hf://"
_CONFIGS = [CONFIG, PREPROCESSOR]
# PyTorch's files are fetched only from a repository without safetensors.
_WEIGHTS = ["model*.safetensors", WEIGHTS + INDEX]
_STATE_DICTS = [STATE_DICT, "pytorch_model-*.bin", STATE_DICT + INDEX]


def download(handle: str, ema: bool = False, load_weights: bool = True) -> Path:
    """Download `hf://owner/name[@revision]` unless it is cached; return the local folder.

    Raises:
        ValueError: the handle is invalid.
        ImportError: huggingface_hub is not installed.
        OSError: there is no such repository or revision, or neither a connection nor a cached copy.
    """
    repository, revision = _parse(handle)
    with required_for(f"Fetching {handle}", "huggingface_hub"):
        from huggingface_hub import snapshot_download
    weights = [EMA] if ema else _WEIGHTS if load_weights else []
    try:
        fetch = functools.partial(snapshot_download, repository, revision=revision)
        folder = Path(fetch(allow_patterns=_CONFIGS + weights))
        if weights == _WEIGHTS and not any(folder.glob("model*.safetensors*")):
            folder = Path(fetch(allow_patterns=_CONFIGS + _STATE_DICTS))
        return folder
    except Exception as error:  # from the hub, its HTTP library or the system
        raise OSError(
            f"{handle} cannot be fetched ({_reason(error)}); check the name and the connection, or pass a "
            "local folder."
        ) from error


def _parse(handle: str) -> tuple[str, str | None]:
    """Split a handle into owner/name and the revision, if any."""
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", handle)
    if match is None:
        raise ValueError(
            f"{handle!r} is not of the form hf://owner/name or hf://owner/name@revision."
        )
    return match[1], match[2]


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def check_upload(handle: str) -> None:
    """Check the requirements of `upload` before any work: handle, huggingface_hub and a token.

    Raises:
        ValueError: the handle is invalid or has a revision, or there is no token.
        ImportError: huggingface_hub is not installed.
    """
    _, revision = _parse(handle)
    if revision is not None:
        raise ValueError(
            f"{handle} has a revision, but uploads go to the main one: use {handle.rpartition('@')[0]}."
        )
    with required_for(f"Uploading to {handle}", "huggingface_hub"):
        from huggingface_hub import get_token
    if get_token() is None:
        raise ValueError(
            f"Uploading to {handle} needs a hub token with write permission; run 'hf auth login', or set "
            "HF_TOKEN."
        )


def upload(folder: str | Path, handle: str, files: Sequence[str], private: bool = False) -> str:
    """Upload files of a folder to the hub in one commit; the repository is created if missing.

    The token is that of huggingface_hub: HF_TOKEN, or the one stored by `hf auth login`.

    Args:
        folder: folder with the files.
        handle: hf://owner/name.
        files: names of the files.
        private: create a private repository.

    Returns:
        The address of the repository.

    Raises:
        ValueError: as `check_upload`; or `private`, but the repository exists and is public.
        ImportError: huggingface_hub is not installed.
        OSError: the hub refuses, or there is no connection.
    """
    check_upload(handle)
    from huggingface_hub import CommitOperationAdd, HfApi

    api, (repository, _) = HfApi(), _parse(handle)
    added = [CommitOperationAdd(name, str(Path(folder).expanduser() / name)) for name in files]
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        is_private = api.model_info(repository).private
        if is_private or not private:
            api.create_commit(repository, added, commit_message="Upload by nepa_keras")
    except Exception as error:  # from the hub, its HTTP library or the system
        raise OSError(
            f"{handle} cannot be written to ({_reason(error)}); check the name, the connection, and that the "
            "token may write there."
        ) from error
    if private and not is_private:
        raise ValueError(
            f"{handle} already exists and is public, so nothing was uploaded; make it private in its "
            "settings, or use another name."
        )
    return str(url)
