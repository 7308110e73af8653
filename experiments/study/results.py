"""Persistent store of a study's results, so that an interrupted study resumes, and its tables.

Accuracies in tables are in per cent, mean ± sample standard deviation.
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
    """Store of results by the settings they depend on, in a file with a line of JSON each.

    An incomplete last line, left by a killed process, is removed.

    Args:
        path: file; created with its folder if missing.
        say: function called with a line of text for each new result.

    Attributes:
        seconds: total computing time of the results requested so far.

    Raises:
        ValueError: a line of the file is not a result.
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
                    f"{self.path}, line {number} is no result of a study; remove the line."
                ) from None
            self._known[_key(about)] = row

    def of(self, about: Mapping[str, Any], make: Callable[[], Any], again: bool = False) -> Any:
        """Return the stored result for these settings and this backend, or compute and store it.

        Args:
            about: settings that the result depends on, as JSON; the entry "setup", shared by many results, is
                not printed.
            make: function that computes the result, a number or numbers by name.
            again: compute the result even if one is stored, because other files that it wrote are missing.
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
    """Table of pretrained and from scratch by number of labels, in Markdown.

    A star marks a chosen rate that is the smallest or largest one tried: a rate beyond it may be better.

    Args:
        found: results of `tuned_comparison` by number of labels.
        settings: settings that were tried.
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
    """Table of ablations in Markdown, with the results of the paper.

    Each ablation has a task of its own, so losses of different rows cannot be compared.

    Args:
        found: `ablation_report` of each pretraining, by name of the ablation.
        ablations: ablations by name.
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
    """Title of a row, with the number of its diverged runs, if any."""
    return f"{title} ({lost} of {count} diverged)" if lost else title


def accuracy_cell(accuracies: Sequence[float]) -> str:
    """Cell of accuracies in [0, 1] in per cent; runs that diverged (NaN) are counted separately."""
    values = np.asarray(accuracies, "float64")
    kept = values[np.isfinite(values)]
    return diverged(_spread(kept), len(values) - len(kept), len(values))


def _key(about: Mapping) -> str:
    return _json(about, sort_keys=True)


def _json(value, **options) -> str:
    """JSON text of a value; any mapping becomes an object."""
    return json.dumps(value, default=dict, **options)


def _rounded(result):
    if isinstance(result, Mapping):
        return ", ".join(f"{name} {value:.4g}" for name, value in result.items())
    return f"{result:.4g}"


def _spread(values, sign: str = "", scale: float = 100, digits: int = 1) -> str:
    return mean_and_std(scale * np.asarray(values, "float64"), sign, digits)
