r"""Compare runs on one HTML page.

    python experiments/compare.py runs/first runs/second --output=compare.html

The page shows the flags that differ, the results, the curves over each other and the pictures side by side.
It is one file that fetches nothing. Runs of different scripts have curves and tables of their own; a run that
is still training is shown as far as it is.
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
