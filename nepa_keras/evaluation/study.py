"""Results of a study that survive it being stopped, and its tables.

Accuracies in tables are per cent, mean ± sample standard deviation.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from nepa_keras.evaluation.ablations import ABLATIONS


class Results:
    """Results by what they depend on, a line of JSON each, so that a study goes on where it was stopped.

    Args:
        path: file; made with its folder if missing.
        say: what is called with a line for each new result.

    Attributes:
        seconds: that the results asked for so far took when they were made.

    Raises:
        ValueError: a line other than the last, which a kill may have cut, is not a result.
    """

    def __init__(self, path: str | Path, say: Callable[[str], None] = print):
        self.path, self.say, self.seconds = Path(path), say, 0.0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._known, lines = {}, []
        if self.path.exists():
            lines = self.path.read_text().split("\n")
        for number, line in enumerate(lines, 1):
            try:
                if line:
                    row = json.loads(line)
                    self._known[_key(row["about"])] = row
            except (ValueError, KeyError, TypeError):
                if number < len(lines):
                    raise ValueError(
                        f"{self.path}, line {number} is no result; remove the line."
                    ) from None
                self.path.write_text("".join(f"{whole}\n" for whole in lines[:-1]))

    def of(self, about: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """The result kept for `about` and this backend, or the one that `make` returns, which is kept.

        Args:
            about: all that the result depends on, for JSON; "setup", which others share, is not said.
            make: returns a number, or numbers by name.
        """
        about = {"backend": keras.backend.backend(), **about}
        row = self._known.get(_key(about))
        if row is None:
            started = time.time()
            result = make()
            row = {"about": about, "result": result, "seconds": round(time.time() - started, 1)}
            self._known[_key(about)] = row
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
            words = " ".join(f"{name}={about[name]}" for name in about if name != "setup")
            self.say(f"{words} -> {_rounded(result)} ({row['seconds']:.0f} s)")
        self.seconds += row["seconds"]
        return row["result"]


def labels_table(found: Mapping[int, Mapping[str, dict]], settings: Sequence[Mapping]) -> str:
    """Pretrained against from scratch by number of labels, in Markdown.

    Args:
        found: of `tuned_comparison` by number of labels.
        settings: given to it.
    """
    rows = [["labels", "from scratch", "pretrained", "gain, same subset", "settings chosen"]]
    for count, starts in found.items():
        scratch, pretrained = (np.array(starts[s]["test"]) for s in ("scratch", "pretrained"))
        chosen = (_setting(settings[starts[s]["chosen"]]) for s in ("scratch", "pretrained"))
        values = _spread(scratch), _spread(pretrained), _spread(pretrained - scratch, "+")
        rows.append([str(count), *values, "; ".join(chosen)])
    return _markdown(rows)


def ablations_table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Ablations of the paper, in Markdown.

    Args:
        found: by the names of `ABLATIONS`, for each pretraining "loss", those of `features_report`, and the
            accuracies "pretrained" and "scratch".
    """
    numbers = {
        "loss": "loss",
        "effective_rank": "effective rank",
        "mean_cosine": "mean cosine",
        "target_effective_rank": "rank of targets",
        "target_spread": "spread of targets",
    }
    accuracies = {"knn": "k-NN", "linear_probe": "linear probe", "pretrained": "fine-tuned"}
    head = ["", *numbers.values(), *accuracies.values(), "the same from scratch", "the paper"]
    rows = [head]
    for name, runs in found.items():
        cells = [_spread([run[key] for run in runs], scale=1, digits=2) for key in numbers]
        cells += [_spread([run[key] for run in runs]) for key in (*accuracies, "scratch")]
        rows.append([name, *cells, ABLATIONS[name].paper])
    return _markdown(rows)


def _key(about: Mapping) -> str:
    return json.dumps(about, sort_keys=True)


def _rounded(result):
    if isinstance(result, Mapping):
        return ", ".join(f"{name} {value:.4g}" for name, value in result.items())
    return f"{result:.4g}"


def _setting(setting: Mapping) -> str:
    decay = setting["layer_decay"]
    return f"{setting['learning_rate']:g}" + ("" if decay is None else f", decay {decay:g}")


def _spread(values, sign: str = "", scale: float = 100, digits: int = 1) -> str:
    values = scale * np.asarray(values, "float64")
    mean = f"{values.mean():{sign}.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):.{digits}f}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])
