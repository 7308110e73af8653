"""Run the whole test suite: once per backend, then the tests that compare the backends.

    python tests/run.py                                      # what CI runs
    python tests/run.py --backends=jax tests/layers       # pytest's own arguments follow

Keras fixes its backend at import, so every backend gets a pytest process of its own. Tests marked
`once` compare the backends in processes of their own, or do not depend on the backend; they are part of
a complete run. A process keeps about one core busy, so two run at a time, the longest first. The exit
status is 0 only when every test ran and passed: a skipped test, or a process that ran no test, is a
failure, because a parity test that does not run proves nothing. The one exception is the report's page,
which is opened in a browser: without Debian's chromium and chromium-driver those tests are left out, and the
summary says so; where the environment has CI they are not.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

BACKENDS = ("jax", "tensorflow", "torch")
ROOT = Path(__file__).resolve().parent.parent
IN_BROWSER = "tests/visualization/test_report_in_browser.py"
NO_BROWSER = (
    f"{IN_BROWSER} is left out: it needs Debian's packages chromium and chromium-driver "
    "(apt-get install chromium chromium-driver)."
)


class Outcome(NamedTuple):
    """What one pytest process did."""

    name: str
    status: int
    ran: int
    failed: int
    skipped: int

    @property
    def good(self) -> bool:
        """True when tests ran, all passed and none was skipped."""
        return self.status == 0 and self.ran > 0 and self.failed == 0 and self.skipped == 0


def run_pytest(name: str, backend: str, arguments: list[str], threads: int) -> Outcome:
    """Run pytest under one backend and count from its own JUnit report; its lines begin with `name`."""
    environment = {**os.environ, "KERAS_BACKEND": backend}
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "--durations=12"]
        command += [f"--junitxml={report}", *arguments]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for line in process.stdout:
            print(f"{name:>10} | {line.decode(errors='replace')}", end="", flush=True)
        status = process.wait()
        if not report.exists():  # pytest stopped before it could count: a crash or a wrong argument
            return Outcome(name, status or 1, 0, 0, 0)
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))

    def total(key: str) -> int:
        return sum(int(suite.get(key, 0)) for suite in suites)

    skipped = total("skipped")
    failed = total("failures") + total("errors")
    return Outcome(name, status, total("tests") - skipped, failed, skipped)


def main() -> int:
    """Parse the command line, run the processes, print the sums; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backends",
        default=",".join(BACKENDS),
        help="comma-separated backends; the comparison of backends runs only with all three",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="processes at a time; one more than cores makes PyTorch's threads wait for each other",
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
    runs = [(backend, backend, ["-m", "not once", *pytest_arguments]) for backend in backends]
    if set(backends) == set(BACKENDS) and not pytest_arguments:
        once = ["-m", "once"]
        has_browser = shutil.which("chromium") and shutil.which("chromedriver")
        if not (has_browser or os.environ.get("CI")):
            once.append(f"--ignore={IN_BROWSER}")
            remarks.append(NO_BROWSER)
        runs.insert(0, ("once", "jax", once))
    for remark in remarks:
        print(remark, flush=True)
    # PyTorch's threads wait for each other in loops, and more of them than cores wait many times as long.
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(partial(run_pytest, threads=threads), *zip(*runs, strict=True)))

    print("\n=== summary ===")
    for outcome in outcomes:
        print(
            f"{outcome.name:>16}: {outcome.ran - outcome.failed} passed, {outcome.failed} failed, "
            f"{outcome.skipped} skipped, {'good' if outcome.good else 'NOT GOOD'}"
        )
    passed = sum(outcome.ran - outcome.failed for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    skipped = sum(outcome.skipped for outcome in outcomes)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    for remark in remarks:
        print(remark)
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
