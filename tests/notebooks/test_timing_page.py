"""The page on time through papermill, small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_page_on_time_runs_and_shows_its_tables(tmp_path):
    small = json.loads(Path("notebooks/dissection_timing.ipynb").read_text())["metadata"]["companion"]["small"]
    options = [x for name, value in small.items() for x in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", "notebooks/dissection_timing.ipynb", str(tmp_path / "page.ipynb")]
    places = {"COMPANION_RESULTS": str(tmp_path / "results")}
    done = subprocess.run(
        [*command, "--no-progress-bar", *options], env={**os.environ, **places}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outputs = [o for c in json.loads((tmp_path / "page.ipynb").read_text())["cells"] for o in c.get("outputs", [])]
    text = "\n".join("".join(o.get("data", {}).get("text/markdown", "")) for o in outputs)
    assert all(f":name: {name}" in text for name in ("tab-timing", "tab-timing-random", "tab-timing-published"))
    assert "SoftWPMI" in text and "ViT-B/32 supervised" in text
    assert len(list((tmp_path / "results").rglob("*.parquet"))) == 2
