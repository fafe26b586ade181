"""A copy of the house in which a test may change code, weights and pictures, and a small wing of its own to measure."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from lib.paths import ROOT
from tests.processes import Program

METHOD = '''"""A method."""


def score(images, others):
    """Cosine of two embeddings of each image."""
    # a comment
    return (images * others).sum(1)
'''
OBSERVE = '''"""What is seen."""

from dataclasses import dataclass

import pandas as pd

from lib.store import Seen
from lib.trial.method import score


@dataclass(frozen=True)
class Options:
    factor: float = 1.0


def likeness(given, options: Options):
    images = given.images
    one, two = (m.embed_images(images) for m in (given.model, given.open_model("RN50")))
    width = min(one.shape[1], two.shape[1])
    found = options.factor * score(one[:, :width], two[:, :width])
    return Seen(pd.DataFrame({"image": range(len(images)), "class": images.labels, "x": found.numpy()}))


def hidden(given, options: Options):
    from lib import models

    models.load("RN50")
    return Seen(pd.DataFrame({"x": [1.0]}))
'''
MEASURE = """
import json, sys, time
from dataclasses import replace
from lib.run import Run
from lib.trial import observe

given = json.loads(sys.argv[1])
names = {"model": "RN101", "dataset": "bestiary", "limit": 2, "seed": 0, "device": "cpu"}
names |= {"precision": "auto", "weights": "published"}
options = observe.Options(**given.pop("options", {}))
function = getattr(observe, given.pop("function", "likeness"))
models = given.pop("models", None)
names.update(given)
run = Run("trial", names, dict(names), "mutual")
found = run.measure(function, options, models=models)
print(json.dumps({"written": [c["written"] + c["key"] for c in found.cards], "mean": float(found.table["x"].mean()),
                  "models": sorted(set(found.table["model"]))}))
"""


@dataclass
class House:
    """root: a copy of lib with a wing `trial`, and links to data and notebooks; results: where its records lie."""

    root: Path
    results: Path

    def environment(self) -> dict[str, str]:
        places = {"COMPANION_CACHE": str(self.root / "cache"), "COMPANION_RESULTS": str(self.results)}
        return {**os.environ, **places, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1", "COMPANION_QUIET": "1"}

    def start(self, **given: object) -> Program:
        script = self.root / "measure.py"
        return Program(str(script), json.dumps(given), folder=self.root, environment=self.environment())

    def measure(self, **given: object) -> dict:
        """Measure in a process of its own: when each record was written, with its key, and the mean of what is seen."""
        done = self.start(**given).finish()
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        return {**json.loads(done.stdout.splitlines()[-1]), "said": done.stderr}

    def edit(self, file: str, before: str, after: str) -> None:
        path = self.root / "lib" / file
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    def empty(self) -> None:
        """Take records and cache away, as before the first run."""
        for folder in (self.results, self.root / "cache"):
            shutil.rmtree(folder, ignore_errors=True)

    def cards(self) -> list[Path]:
        return sorted(self.results.rglob("*.json"))


@pytest.fixture
def house(tmp_path: Path) -> House:
    root = tmp_path / "house"
    shutil.copytree(ROOT / "lib", root / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "lib" / "trial").mkdir()
    for name, text in {"__init__": '"""A wing on trial."""\n', "method": METHOD, "observe": OBSERVE}.items():
        (root / "lib" / "trial" / f"{name}.py").write_text(text)
    (root / "measure.py").write_text(MEASURE)
    (root / "notebooks").symlink_to(ROOT / "notebooks")
    data = root / "data"
    data.mkdir()
    for entry in (ROOT / "data").iterdir():
        if entry.name not in ("bestiary", "cache", "results"):
            (data / entry.name).symlink_to(entry)
    (data / "bestiary").mkdir()
    for entry in (ROOT / "data" / "bestiary").iterdir():
        if entry.name != "zoo":
            (data / "bestiary" / entry.name).symlink_to(entry)
    (data / "bestiary" / "zoo").mkdir()
    for name in ("RN50", "RN101", "ViT-B-32"):
        shutil.copy(ROOT / "data" / "bestiary" / "zoo" / f"{name}.safetensors", data / "bestiary" / "zoo")
    return House(root, tmp_path / "results")
