"""A notebook run as a user types it."""

import json
import os
import subprocess
from pathlib import Path

from lib import paths
from tests.processes import Program


def small(exhibit: str) -> dict[str, object]:
    """The parameters of a notebook's small run."""
    content = json.loads((paths.ROOT / "notebooks" / f"{exhibit}.ipynb").read_text(encoding="utf-8"))
    return content["metadata"]["companion"]["small"]


def run(exhibit: str, folder: Path, **values: object) -> tuple[subprocess.CompletedProcess, Path]:
    """Run a notebook through papermill from another folder: (what happened, the page)."""
    page = folder / "page.ipynb"
    notebook = paths.ROOT / "notebooks" / f"{exhibit}.ipynb"
    options = ["--no-progress-bar", "-y", json.dumps(values, default=str)]  # `-p` takes no lists
    places = {"COMPANION_RESULTS": str(folder / "results"), "PYTHONPATH": str(paths.ROOT)}
    program = Program("papermill", notebook, page, *options, folder=folder, environment=os.environ | places)
    return program.finish(), page
