"""Pictures and tables of a run for its trackers, beside the scalars."""

from os import PathLike

import numpy as np

from nepa_keras.training import RunDir, TensorBoardTracker, Tracker, Trackers
from nepa_keras.visualization.curves import read_panels
from nepa_keras.visualization.report.run_facts import files_of_folder


def log_pictures(run_dir: str | PathLike, tracker: Tracker | None = None) -> list[str]:
    """Record the PNG files of a run directory, by their names, and its results, at the last step.

    Args:
        run_dir: with the pictures and results.json.
        tracker: that takes them, and that the caller finishes; default TensorBoard's events in `run_dir`.

    Returns:
        The names of the pictures.

    Raises:
        ImportError: no `tracker` is given, and tensorboardX is missing.
        ValueError: a log without curves, see `plot_curves`; or a damaged results.json.

    Example:
        >>> visualization.plot_similarity(model, images[:1], "run/similarity.png")
        >>> visualization.log_pictures("run")  # to TensorBoard's events in the folder
        ['similarity']
    """
    from PIL import Image

    run = RunDir(run_dir)
    if tracker is None:
        with Trackers([TensorBoardTracker(run)]) as tensorboard:
            return log_pictures(run, tensorboard)
    # Trackers draw the scalars themselves.
    pictures = [path for path in files_of_folder(run, "*.png") if path != run.curves]
    step = int(read_panels(run.log)[1][-1]) if run.log.exists() else 0
    for path in pictures:
        with Image.open(path) as picture:
            tracker.picture(path.stem, np.asarray(picture.convert("RGB")), step)
    for title, rows in run.read_results().items():
        tracker.table(title, rows, step)
    return [path.stem for path in pictures]
