"""Curves from a CSVLogger file: also one row, missing columns, NA."""

import pytest

from nepa_keras.visualization import plot_curves

pytestmark = pytest.mark.once

PNG = b"\x89PNG\r\n\x1a\n"
FULL = "epoch,gradient_norm,learning_rate,loss,prediction_spread,skipped_steps,target_spread"


def _write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    "lines",
    [
        (FULL, "0,1.5,0.001,-0.2,0.9,0,0.95", "1,1.1,0.0005,-0.4,0.8,0,0.9"),
        (FULL, "0,1.5,0.001,-0.2,0.9,0,0.95"),
        ("step,loss,val_loss", "100,-0.2,NA", "200,-0.3,-0.25"),
        ("epoch,loss", "0,nan"),
    ],
    ids=["full", "one row", "NA and steps", "not finite"],
)
def test_a_picture_is_written(tmp_path, lines):
    png = tmp_path / "new" / "curves.png"
    plot_curves(_write(tmp_path / "log.csv", *lines), png)
    assert png.read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    "lines, message",
    [((FULL,), "has no rows"), (("epoch,accuracy", "0,0.5"), "none of loss, val_loss")],
)
def test_a_log_without_curves_is_named(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        plot_curves(_write(tmp_path / "log.csv", *lines), tmp_path / "curves.png")
