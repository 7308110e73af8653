"""The pictures of a run as TensorBoard images, beside the scalars of `training.callbacks.EventLog`."""

from os import PathLike

import numpy as np

from nepa_keras.packages import required_for
from nepa_keras.training import RunDir
from nepa_keras.visualization.curves import read_panels
from nepa_keras.visualization.report.run_facts import files_of_folder

_SUFFIX = ".pictures"


def log_pictures(run_dir: str | PathLike) -> list[str]:
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

    with required_for("Writing TensorBoard events", "tensorboardX"):
        from tensorboardX import SummaryWriter
    run = RunDir(run_dir)
    # TensorBoard draws the scalars itself.
    pictures = [path for path in files_of_folder(run, "*.png") if path != run.curves]
    step = int(read_panels(run.log)[1][-1]) if run.log.exists() else 0
    for earlier in run.path.glob(f"events.out.*{_SUFFIX}"):
        earlier.unlink()
    if pictures:
        with SummaryWriter(str(run), filename_suffix=_SUFFIX) as writer:
            for path in pictures:
                with Image.open(path) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
                writer.add_image(path.stem, pixels, step, dataformats="HWC")
    return [path.stem for path in pictures]
