r"""Compare several runs on one HTML page.

    python experiments/compare.py runs/first runs/second --output=compare.html

The arguments are the folders of two or more runs. The page shows the flags that differ, the results, the
curves in one diagram and the pictures side by side. It is a single file that loads nothing from the network.
Runs of different scripts get separate curves and tables; a run that is still training is shown as it is now.
"""

import before_keras  # noqa: F401
import command_line
from absl import flags
from command_line import user_errors

from nepa_keras import visualization

FLAGS = flags.FLAGS
FLAGS.set_gnu_getopt(True)  # flags may follow the folders

flags.DEFINE_string("output", "compare.html", "HTML file to write.")


def main(run_dirs: list[str]):
    with user_errors():
        page = visualization.write_comparison(run_dirs, FLAGS.output)
    print(f"{len(run_dirs)} runs compared in {page}")


if __name__ == "__main__":
    command_line.run(main, names="RUN RUN...")
