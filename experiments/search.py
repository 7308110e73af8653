r"""Find the pictures most similar to a query, by the features that embed.py wrote.

    KERAS_BACKEND=jax python experiments/search.py --features=features.parquet --query=cat.jpg
    KERAS_BACKEND=jax python experiments/search.py --features=features.parquet --query=/path/to/images/1.jpg \
        --count=24 --output=nearest.png

--features and --query are required. The query is the name of an image in the file, or the end of it, such as
cats/1.jpg; or any other picture file, whose features are computed by the same model. The script prints names
and cosine similarities, the most similar first; --output draws the pictures.
"""

from pathlib import Path

import before_keras  # noqa: F401
import numpy as np
from absl import flags
from command_line import check_file_to_write, run, user_errors
from embedding import load_embedder
from given_model import MODEL, define_weights_flag, settle_model
from inputs import check_data, check_weights, say
from shared_flags import define_cache_flags

from nepa_keras import data, evaluation, visualization
from nepa_keras.data.decode import read_file
from nepa_keras.files import printable
from nepa_keras.packages import required_for
from nepa_keras.tables import text_table

FLAGS = flags.FLAGS
_SIDE = 240  # side of a picture on the sheet, in pixels
flags.DEFINE_string("features", None, "File of features that embed.py wrote.", required=True)
flags.DEFINE_string(
    "query",
    None,
    "Name of an image in the file of features, or the end of its name; or a picture file.",
    required=True,
)
flags.DEFINE_string(
    "model",
    None,
    f"Model that computed the features, if it has moved since; default as recorded: {MODEL}",
)
define_weights_flag()
flags.DEFINE_integer("count", 10, "Number of pictures to find.", lower_bound=1)
flags.DEFINE_string("output", None, "PNG file for a picture of the query and the pictures found.")
flags.DEFINE_string(
    "data",
    None,
    "Source of the images for --output, if they have moved since, such as folder:PATH; default as recorded.",
)
define_cache_flags()


def row_of(names: np.ndarray) -> int | None:
    """Row of the query in the file of features; None if the query is a picture file.

    Args:
        names: names of the images in the file.

    Raises:
        ValueError: several names end with the query, or none does and there is no such file.
    """
    query = FLAGS.query
    if len(rows := np.flatnonzero(names == printable(query))):
        return int(rows[0])
    if Path(query).expanduser().is_file():
        return None
    # Parts of a name are separated by "/", and by ", " between a shard and its record.
    whole = query.lstrip("/")
    ends = np.char.endswith(names, f"/{whole}") | np.char.endswith(names, f", {whole}")
    if not ends.any():
        raise ValueError(
            f"--query={query} is no picture file, and no image of {FLAGS.features} has that name; its first "
            f"is {names[0]}."
        )
    if ends.sum() > 1:
        first, second = names[ends][:2]
        raise ValueError(f"--query={query} may be {first} or {second}; give more of the name.")
    return int(ends.argmax())


def checked_model(record: dict):
    """Load the model that computed the features.

    Args:
        record: record of the file of features.

    Raises:
        ValueError: --model is another model, or the model is missing.
    """
    if FLAGS.model is None:
        FLAGS.model, FLAGS.weights = record["origin"]["model"], record["origin"]["weights"]
    given = settle_model()
    say(given.notes)
    check_weights("--model", FLAGS.model)
    dtype = record["dtype"]
    *size, _ = record["image_shape"]
    embedder = load_embedder(given, dtype if dtype == "float32" else f"mixed_{dtype}", tuple(size))
    found = evaluation.model_fingerprint(embedder.backbone)
    if found != record["model"]:
        raise ValueError(
            f"--features={FLAGS.features} was written with another model than --model={FLAGS.model} "
            f"({record['model']}, not {found}); write its features by embed.py, or leave out --model."
        )
    return embedder


def value_range_of(record: dict) -> tuple[float, float] | None:
    """Value range with which the images were read, or None."""
    return record["value_range"] and tuple(record["value_range"])


def class_of(found: evaluation.Features, row: int) -> list[str]:
    """List with the class of an image (its name, else its number); [] for features without labels."""
    if found.labels is None:
        return []
    label, names = int(found.labels[row]), found.record["class_names"]
    return ["" if label < 0 else printable(names[label]) if names else str(label)]


def features_of_picture(embedder, record: dict) -> tuple[np.ndarray, np.ndarray]:
    """Features (1, ...) and pixels of the query, a picture file."""
    *size, channels = embedder.backbone.image_shape
    try:
        content = read_file(Path(FLAGS.query).expanduser())
        pixels = data.decode_image(content, channels, value_range_of(record))
    except data.ImageError as error:
        raise ValueError(f"--query={FLAGS.query} is not a readable image: {error}") from None
    image = np.empty((1, *size, channels), "float32")
    embedder.transform(pixels, [], image[0])
    block = record["block"].removeprefix("block ")
    extractor = evaluation.FeatureExtractor(
        embedder.backbone,
        record["pool"],
        record["attention"] == "causal",
        evaluation.AFTER_NORM if block == "norm" else int(block),
    )
    return extractor.extract(image), pixels


def draw(found: evaluation.Features, rows: list[int], captions: list[str], query=None) -> None:
    """Draw the pictures found, and the query, to --output.

    Args:
        found: features.
        rows: rows of the pictures.
        captions: caption of each picture.
        query: pixels of the query, if it is a picture file.

    Raises:
        ValueError: the images are missing.
    """
    from PIL import Image

    origin = found.record["origin"]
    text = FLAGS.data or origin["data"]
    check_data("--data", text)
    try:
        source = data.open_source(text, origin["split"], **origin["options"])
    except ValueError as error:
        raise ValueError(
            f"{error} --output draws the images; say by --data where they are."
        ) from None
    pictures = [] if query is None else [query]
    channels = found.record["image_shape"][-1]
    for row in rows:
        index, name = int(found.indices[row]), found.names[row]
        if index >= len(source) or Path(printable(source.name(index))).name != Path(name).name:
            raise ValueError(f"{text} no longer holds {name}; give its present source by --data.")
        pictures.append(
            data.decode_image(source.read(index), channels, value_range_of(found.record))
        )
    small = []
    for pixels in pictures:
        image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
        image.thumbnail((_SIDE, _SIDE))
        array = np.asarray(image)
        small.append(array if array.ndim == 3 else array[..., None])
    visualization.plot_contact_sheet(small, captions, FLAGS.output, columns=min(6, len(small)))
    print(f"drawn: {FLAGS.output}")


def main():
    with user_errors():
        if FLAGS.output:
            with required_for("--output", "matplotlib"):
                import matplotlib  # noqa: F401, fails now, not after the search
            check_file_to_write("--output", FLAGS.output)
        found = evaluation.read_features(FLAGS.features)
        record, row = found.record, row_of(found.names)
        query = vector = None
        if FLAGS.model or row is None:
            embedder = checked_model(record)
        if row is None:
            vector, query = features_of_picture(embedder, record)
        else:
            vector = found.features[row : row + 1]
        # Features of single patches are averaged, as --pool=mean does.
        between = tuple(range(1, found.features.ndim - 1))
        features, vector = found.features.mean(axis=between), vector.mean(axis=between)
        rows, cosines = evaluation.nearest_features(features, vector[0], FLAGS.count + 1)
        kept = [i for i, each in enumerate(rows) if each != row][: FLAGS.count]
        rows, cosines = rows[kept].tolist(), cosines[kept]
        lines = [("cosine", "image", *(["class"] if found.labels is not None else []))]
        for each, cosine in zip(rows, cosines, strict=True):
            lines.append((f"{cosine:.4f}", found.names[each], *class_of(found, each)))
        asked = FLAGS.query if row is None else found.names[row]
        print(
            f"nearest to {asked}, by {record['pool']} of {record['block']} ({record['attention']})"
        )
        print(text_table(lines), flush=True)
        if FLAGS.output:
            captions = [f"{cosine:.3f}" for cosine in cosines]
            draw(found, rows if row is None else [row, *rows], ["query", *captions], query)


if __name__ == "__main__":
    run(main)
