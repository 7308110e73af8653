"""Files about the project that must agree with each other."""

import re
import tomllib

import pytest

import nepa_keras
from tests.helpers import ROOT

pytestmark = pytest.mark.once


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    released = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    version = re.search(r'^version: "(.+)"$', citation, re.M)[1]
    assert nepa_keras.__version__ == project["version"] == version == released[1]
    assert re.search(r'^date-released: "(.+)"$', citation, re.M)[1] == released[2]


def test_each_dependency_has_a_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in wanted} - {"nepa_keras"}
    table = (ROOT / "BUILD.md").read_text().split("## Dependencies")[1].split("\n## ")[0]
    reasons = re.findall(r"^\| ([^|]+) \|", table, re.M)
    given = {name.strip() for names in reasons for name in re.split(r"[,;]", names)}
    assert {n for n in names if n not in given} <= {"tensorflow-cpu"}
