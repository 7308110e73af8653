"""Run the test suite: once per backend, and once for what does not depend on the backend.

    python tests/run.py                                   # the first tier: before every landing
    python tests/run.py --full                            # and the second: nightly, before a release
    python tests/run.py --backends=jax tests/layers       # pytest's own arguments follow

Keras fixes its backend at import, so every backend gets pytest processes of its own: as many workers as there
are cores share its files. Tests marked `once` do not depend on the backend, or compare the backends in
processes of their own; they are part of a complete run. Tests marked `full` are the second tier.

The exit status is 0 only if every test ran and passed and no process took more than 6 GB. A skipped test, or
a backend that ran no test, is a failure, because a parity test that does not run proves nothing. The one
exception is the report's page, which is opened in a browser: without Debian's chromium and chromium-driver
those tests are left out, and the summary says so; where the environment has CI they are not.

JUnit reports stay in the folder --reports; the table at the end is made of them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

BACKENDS = ("jax", "tensorflow", "torch")
ROOT = Path(__file__).resolve().parent.parent
IN_BROWSER = "tests/visualization/report/test_report_in_browser.py"
NO_BROWSER = (
    f"{IN_BROWSER} is left out: it needs Debian's packages chromium and chromium-driver "
    "(apt-get install chromium chromium-driver)."
)
MOST_MB = 6 * 1024  # of any process
SHOWN_FROM = 10  # seconds that a file takes in all; shorter ones share a line of the table


class Suite:
    """The tests of one backend, or those that run once: what was done and what it cost.

    Attributes:
        seconds, interpreters: by test file; seconds of processes that work side by side add up.
        peaks: MB by process, and of the largest process that the tests started as "child".
        wall: seconds from start to end.
    """

    def __init__(self, name: str, backend: str, arguments: list[str]):
        self.name, self.backend, self.arguments = name, backend, arguments
        self.status, self.wall = 1, 0.0
        self.passed = self.failed = self.skipped = 0
        self.seconds, self.interpreters = Counter(), Counter()
        self.peaks = defaultdict(int)

    def run(self, report: Path, jobs: int, environment: dict[str, str]) -> None:
        """Runs pytest, whose lines begin with the suite's name, and reads its report."""
        command = [sys.executable, "-m", "pytest", "-q", "--durations=12", f"--junitxml={report}"]
        if jobs > 1:
            # Whole files, so that what a module sets up is made once; see tests/conftest.py.
            command += ["-n", str(jobs), "--dist=loadfile", "--no-loadscope-reorder"]
        report.unlink(missing_ok=True)
        began = time.monotonic()
        process = subprocess.Popen(
            [*command, *self.arguments],
            cwd=ROOT,
            env={**environment, "KERAS_BACKEND": self.backend},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for line in process.stdout:
            print(f"{self.name:>10} | {line.decode(errors='replace')}", end="", flush=True)
        self.status = process.wait()
        self.wall = time.monotonic() - began
        if report.exists():
            # Else pytest stopped before it could count: a crash or a wrong argument.
            self._read(ElementTree.parse(report).getroot())

    def _read(self, root: ElementTree.Element) -> None:
        for suite in root.iter("testsuite"):
            self.skipped += int(suite.get("skipped", 0))
            self.failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            self.passed += int(suite.get("tests", 0))
        self.passed -= self.skipped + self.failed
        for case in root.iter("testcase"):
            file = _file_of(case.get("classname", ""))
            self.seconds[file] += float(case.get("time", 0))
            costs = {p.get("name"): p.get("value") for p in case.iter("property")}
            self.interpreters[file] += int(costs.get("interpreters", 0))
            if "process" in costs:
                self._keep_peak(costs["process"], costs["peak_mb"])
                self._keep_peak("child", costs["child_peak_mb"])

    def _keep_peak(self, process: str, megabytes: str) -> None:
        self.peaks[process] = max(self.peaks[process], int(megabytes))

    @property
    def good(self) -> bool:
        """True when tests ran, all passed, none was skipped and no process was too large."""
        tested = self.status == 0 and self.passed > 0 and not self.failed and not self.skipped
        return tested and max(self.peaks.values(), default=0) <= MOST_MB


def _file_of(classname: str) -> str:
    """The file of a test from JUnit's class name: tests.layers.test_upernet -> layers/test_upernet.py."""
    parts = classname.removeprefix("tests.").split(".")
    return "/".join(parts) + ".py"


def costs_table(suites: list[Suite]) -> list[str]:
    """Seconds and interpreter starts of each test file as a Markdown table, the longest first."""
    total = sum((suite.seconds for suite in suites), Counter())
    starts = sum((suite.interpreters for suite in suites), Counter())
    names = [suite.name for suite in suites]
    lines = [
        f"| seconds in | {' | '.join(names)} | all | processes started |",
        f"|---|{'---|' * (len(names) + 2)}",
    ]

    def add(name: str, files: list[str]) -> None:
        each = [sum(suite.seconds[file] for file in files) for suite in suites]
        started = sum(starts[file] for file in files)
        cells = [f"{value:.0f}" if value else "" for value in each]
        lines.append(f"| {name} | {' | '.join(cells)} | {sum(each):.0f} | {started or ''} |")

    long = [file for file, seconds in total.most_common() if seconds >= SHOWN_FROM]
    for file in long:
        add(file, [file])
    add(f"{len(total) - len(long)} shorter files", [file for file in total if file not in long])
    add("all", list(total))
    wall = [f"{suite.wall:.0f}" for suite in suites]
    lines.append(
        f"| by the clock | {' | '.join(wall)} | {sum(suite.wall for suite in suites):.0f} | |"
    )
    return lines


def summary(suites: list[Suite]) -> list[str]:
    """A line for each suite: what passed, and the peak memory of its processes."""
    lines = []
    for suite in suites:
        peaks = {name: value for name, value in suite.peaks.items() if name != "child"}
        workers = ", ".join(f"{value:,}" for value in sorted(peaks.values(), reverse=True))
        lines.append(
            f"{suite.name:>10}: {suite.passed} passed, {suite.failed} failed, {suite.skipped} skipped, "
            f"{'good' if suite.good else 'NOT GOOD'}; peak memory {workers} MB, of a process that a test "
            f"started {suite.peaks['child']:,} MB (at most {MOST_MB:,})"
        )
    return lines


def main() -> int:
    """Parse the command line, run the suites, print the totals; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backends",
        default=",".join(BACKENDS),
        help="comma-separated backends; the comparison of backends runs only with all three",
    )
    parser.add_argument("--full", action="store_true", help="run the second tier, too")
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="pytest workers; more than cores make PyTorch's threads wait for each other",
    )
    parser.add_argument(
        "--reports",
        type=Path,
        default=ROOT / "build" / "tests",
        help="folder for the JUnit reports and the table of costs",
    )
    options, pytest_arguments = parser.parse_known_args()
    backends = options.backends.split(",")
    for backend in backends:
        if backend not in BACKENDS:
            parser.error(f"--backends names {backend!r}; known are {', '.join(BACKENDS)}.")
        if find_spec(backend) is None:
            parser.error(
                f"the backend {backend} is not installed here and its tests may not be left out; "
                "install '.[all,test]' or name fewer backends with --backends."
            )

    remarks = []
    tier = "" if options.full else " and not full"
    suites = [Suite(b, b, ["-m", f"not once{tier}", *pytest_arguments]) for b in backends]
    if set(backends) == set(BACKENDS) and not pytest_arguments:
        # PyTorch compiles nothing; the second tier has JAX, whose compiled steps most users train with.
        once = Suite("once", "jax" if options.full else "torch", ["-m", f"once{tier}"])
        has_browser = shutil.which("chromium") and shutil.which("chromedriver")
        if not (has_browser or os.environ.get("CI")):
            once.arguments.append(f"--ignore={IN_BROWSER}")
            remarks.append(NO_BROWSER)
        suites.insert(0, once)
    for remark in remarks:
        print(remark, flush=True)

    options.reports.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nepa_keras_compiled_") as compiled:
        environment = {
            # With more threads than cores PyTorch's wait for each other, many times as long.
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // options.jobs)),
            # One for all processes of the run; see tests/conftest.py.
            "JAX_COMPILATION_CACHE_DIR": compiled,
            **os.environ,
        }
        for suite in suites:
            suite.run(options.reports / f"{suite.name}.xml", options.jobs, environment)

    lines = ["", *costs_table(suites), "", *summary(suites), *remarks]
    print("\n".join(lines))
    (options.reports / "costs.md").write_text("\n".join(lines) + "\n")
    return 0 if all(suite.good for suite in suites) else 1


if __name__ == "__main__":
    sys.exit(main())
