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

from nepa_keras.tables import markdown_table, mean_and_std
from study.ablations import Ablation


class Results:
    """Results by what they depend on, a line of JSON each, so that a study goes on where it was stopped.

    Args:
        path: file; made with its folder if missing.
        say: what is called with a line for each new result.

    Attributes:
        seconds: that the results asked for so far took when they were made.

    Raises:
        ValueError: a line is not a result. One without its end, which a kill has cut, is removed.
    """

    def __init__(self, path: str | Path, say: Callable[[str], None] = print):
        self.path, self.say, self.seconds = Path(path), say, 0.0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._known = {}
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = json.loads(line)
                about, _, _ = (row[name] for name in ("about", "result", "seconds"))
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{self.path}, line {number} is no result; remove the line."
                ) from None
            self._known[_key(about)] = row

    def of(self, about: Mapping[str, Any], make: Callable[[], Any], again: bool = False) -> Any:
        """The result kept for `about` and this backend, or the one that `make` returns, which is kept.

        Args:
            about: what the result depends on beside the code, for JSON; "setup", which others share, is not
                said.
            make: returns a number, or numbers by name.
            again: make it even if there is one, as what else it left is gone.
        """
        about = {"backend": keras.backend.backend(), **about}
        row = self._known.get(_key(about))
        if row is None or again:
            started = time.time()
            result = make()
            row = {
                "about": about,
                "result": result,
                "seconds": round(time.time() - started, 1),
                "keras": keras.__version__,
                "date": time.strftime("%Y-%m-%d"),
            }
            self._known[_key(about)] = row
            with open(self.path, "a") as file:
                file.write(_json(row) + "\n")
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
        settings: given to it. A chosen rate that is the smallest or largest has a star: one beyond it may be
            better.
    """
    starts = "scratch", "pretrained"
    head = ["labels", "from scratch", "pretrained", "gain, same subset"]
    head += ["chosen from scratch (validation)", "chosen pretrained (validation)"]
    rows = [head]
    for count, of_count in found.items():
        scratch, pretrained = (np.array(of_count[start]["test"]) for start in starts)
        values = _spread(scratch), _spread(pretrained), _spread(pretrained - scratch, "+")
        chosen = [_chosen(of_count[start], settings) for start in starts]
        rows.append([str(count), *values, *chosen])
    return markdown_table(rows)


def _chosen(of_start: Mapping, settings: Sequence[Mapping]) -> str:
    setting = settings[of_start["chosen"]]
    rates = [s["learning_rate"] for s in settings]
    star = "*" if setting["learning_rate"] in (min(rates), max(rates)) else ""
    decay = "" if setting["layer_decay"] is None else f", decay {setting['layer_decay']:g}"
    accuracy = 100 * of_start["validation"][of_start["chosen"]]
    return f"{setting['learning_rate']:g}{star}{decay} ({accuracy:.1f})"


def ablations_table(
    found: Mapping[str, Sequence[Mapping[str, float]]], ablations: Mapping[str, Ablation]
) -> str:
    """Ablations, with what the paper says of each, in Markdown.

    Losses are of each ablation's own task, so they say nothing across rows.

    Args:
        found: `ablation_report` of each pretraining, by the names of the ablations.
        ablations: by name.
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
    for name, all_runs in found.items():
        runs = [run for run in all_runs if "diverged" not in run]
        cells = [_spread([run[key] for run in runs], scale=1, digits=2) for key in numbers]
        cells += [_spread([run[key] for run in runs]) for key in (*accuracies, "scratch")]
        lost = len(all_runs) - len(runs)
        rows.append([diverged(name, lost, len(all_runs)), *cells, ablations[name].paper])
    return markdown_table(rows)


def diverged(title: str, lost: int, count: int) -> str:
    """A row's title, with how many of its runs diverged if any did."""
    return f"{title} ({lost} of {count} diverged)" if lost else title


def accuracy_cell(accuracies: Sequence[float]) -> str:
    """Accuracies in [0, 1] in per cent, NaN of runs that diverged counted beside the mean of the others."""
    values = np.asarray(accuracies, "float64")
    kept = values[np.isfinite(values)]
    return diverged(_spread(kept), len(values) - len(kept), len(values))


def _key(about: Mapping) -> str:
    return _json(about, sort_keys=True)


def _json(value, **options) -> str:
    """JSON of a value, in which mappings of any kind are objects."""
    return json.dumps(value, default=dict, **options)


def _rounded(result):
    if isinstance(result, Mapping):
        return ", ".join(f"{name} {value:.4g}" for name, value in result.items())
    return f"{result:.4g}"


def _spread(values, sign: str = "", scale: float = 100, digits: int = 1) -> str:
    return mean_and_std(scale * np.asarray(values, "float64"), sign, digits)
