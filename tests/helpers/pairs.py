"""Images with masks on disk, for tests."""

import numpy as np
from PIL import Image


def write(path, pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def ade_tree(root, train=6, val=2) -> None:
    """The layout of ADEChallengeData2016: JPEG images, PNG masks of 0 to 150, names of the classes."""
    draw = np.random.default_rng(0).integers
    for split, count in (("training", train), ("validation", val)):
        for i in range(count):
            size = (int(draw(40, 60)), int(draw(50, 80)))
            name = f"ADE_{split[:5]}_{i + 1:08d}"
            write(root / "images" / split / f"{name}.jpg", draw(0, 256, (*size, 3), np.uint8))
            write(root / "annotations" / split / f"{name}.png", draw(0, 151, size, np.uint8))
    rows = [f"{i + 1}\t0.1\t9\t9\tthing {i + 1}, another word" for i in range(150)]
    (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
