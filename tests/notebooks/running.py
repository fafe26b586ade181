"""A notebook run as a user types it."""

import os
import subprocess
import sys
from pathlib import Path

from lib import paths


def run(exhibit: str, folder: Path, **values: object) -> tuple[subprocess.CompletedProcess, Path]:
    """Run a notebook through papermill from another folder: (what happened, the page)."""
    page = folder / "page.ipynb"
    options = [text for name, value in values.items() for text in ("-p", name, str(value))]
    notebook = paths.ROOT / "notebooks" / f"{exhibit}.ipynb"
    command = [sys.executable, "-m", "papermill", notebook, page, "--no-progress-bar", *options]
    places = {"COMPANION_RESULTS": str(folder / "results"), "PYTHONPATH": str(paths.ROOT)}
    done = subprocess.run(command, cwd=folder, env=os.environ | places, capture_output=True, text=True, timeout=600)
    return done, page
