"""The pictures of a run as TensorBoard images, beside the scalars of `training.callbacks.EventLog`."""

from pathlib import Path

import numpy as np

from nepa_keras.visualization.curves import read_panels

_SUFFIX = ".pictures"
_CURVES = "curves.png"  # TensorBoard draws the scalars itself


def log_pictures(run_dir: str | Path) -> list[str]:
    """Writes the PNG files of a run directory as images, named after their files, at the log's last step.

    They have an event file of their own that takes the place of an earlier one, so a finished run that is
    started again has them once.

    Args:
        run_dir: with the pictures; where the events go, too.

    Returns:
        The names of the images.

    Raises:
        ImportError: tensorboardX is missing.
        ValueError: a log without curves, see `plot_curves`.
    """
    from PIL import Image

    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ImportError(
            "TensorBoard events need tensorboardX: pip install tensorboardX."
        ) from None
    folder = Path(run_dir)
    pictures = sorted(path for path in folder.glob("*.png") if path.name != _CURVES)
    log = folder / "log.csv"
    step = int(read_panels(log)[1][-1]) if log.exists() else 0
    for earlier in folder.glob(f"events.out.*{_SUFFIX}"):
        earlier.unlink()
    if pictures:
        with SummaryWriter(str(folder), filename_suffix=_SUFFIX) as writer:
            for path in pictures:
                with Image.open(path) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
                writer.add_image(path.stem, pixels, step, dataformats="HWC")
    return [path.stem for path in pictures]
