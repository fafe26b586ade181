"""The page on time through papermill, small."""

import json

import pytest

from tests.notebooks.running import run, small


@pytest.mark.slow
def test_the_page_on_time_runs_and_shows_its_tables(tmp_path):
    done, page = run("dissection_timing", tmp_path, **small("dissection_timing"))
    assert done.returncode == 0, done.stderr[-2000:]
    outputs = [o for c in json.loads(page.read_text())["cells"] for o in c.get("outputs", [])]
    text = "\n".join("".join(o.get("data", {}).get("text/markdown", "")) for o in outputs)
    assert all(f":name: {name}" in text for name in ("tab-timing", "tab-timing-random", "tab-timing-published"))
    assert "SoftWPMI" in text and "ViT-B/32 supervised" in text
    assert len(list((tmp_path / "results").rglob("*.parquet"))) == 2
