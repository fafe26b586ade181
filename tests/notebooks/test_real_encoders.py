"""The page on real encoders: with the public files, with one of one's own beside them, and with none."""

import json
import re

import nbformat
import numpy as np
import pytest
import torch

from lib.paths import ROOT
from tests.notebooks.running import run


def shown(page):
    """All Markdown that the cells of a page show, as one text."""
    outputs = [o for c in json.loads(page.read_text())["cells"] if c["cell_type"] == "code" for o in c["outputs"]]
    assert not [o for o in outputs if o.get("name") == "stderr" and "column" in o["text"]]
    text = "\n".join("".join(o["data"].get("text/markdown", "")) for o in outputs if "data" in o)
    return re.sub(r"<span class='interval'>([^<]*)</span>", r" \1", text)


def test_cells_are_few_and_short():
    cells = nbformat.read(ROOT / "notebooks" / "real_encoders.ipynb", as_version=4).cells
    code = [c.source.splitlines() for c in cells if c.cell_type == "code"]
    assert 8 <= len(code) <= 16 and np.median([len(lines) for lines in code]) <= 6
    assert max(map(len, code)) <= 15 and max(len(line) for lines in code for line in lines) <= 88


@pytest.mark.slow
def test_the_page_shows_every_public_set_and_a_file_of_ones_own(real, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(real("clip_embeddings").parent))
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 24)))
    rows[:, 3] += 30
    torch.save(rows, tmp_path / "mine.pt")
    done, page = run("real_encoders", tmp_path, embeddings=tmp_path / "mine.pt")
    assert done.returncode == 0, done.stderr[-2000:]
    text = shown(page)
    assert "| OpenAI ViT-B/32, LVIS class names | 95.26 [" in text and "| 102.23 [" in text
    assert re.search(r"\| mine, your file \| 2\d\.\d\d \[.*\| 3 \| 40 \|", text)
    assert text.count("| holds |") == 4 and text.count("| fails |") == 1
    assert "(not run)" not in text and not list((tmp_path / "results").rglob("claims"))


@pytest.mark.slow
def test_without_any_file_the_page_stands_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(tmp_path / "none"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    done, page = run("real_encoders", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    text = shown(page)
    assert text.count("could not be fetched") >= 24 and str(tmp_path) not in text and "(not run)" in text
