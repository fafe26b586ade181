"""pyproject.toml, requirements.lock and environment.yml say the same."""

import re
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from lib import paths

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
LOCK = dict(line.split("==") for line in (paths.ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
LOCK = {canonicalize_name(name): version for name, version in LOCK.items()}
WANTED = [Requirement(r) for r in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"])]


@pytest.mark.parametrize("requirement", WANTED, ids=str)
def test_the_lock_meets_every_requirement(requirement):
    assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)])


def test_the_lock_is_exact_and_belongs_to_no_machine():
    lines = (paths.ROOT / "requirements.lock").read_text().split("\n")
    wrong = [line for line in lines if line and not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line)]
    assert not wrong


def test_this_environment_is_the_locked_one():
    installed = {r.name: Version(metadata.version(r.name)).public for r in WANTED}
    different = {n: v for n, v in installed.items() if LOCK[canonicalize_name(n)] != v}
    assert not different, f"Run `make` again, or `make lock` after a change of pyproject.toml: {different}"


def test_conda_installs_the_same():
    wanted = yaml.safe_load((paths.ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(d["pip"] for d in wanted if isinstance(d, dict))
    assert pip == ["--constraint requirements.lock", "--editable .[dev]"]
    python = next(d for d in wanted if str(d).startswith("python=")).removeprefix("python=")
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{python}.0")
