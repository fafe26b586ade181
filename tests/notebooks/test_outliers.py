"""The pages on the second paper with embeddings from elsewhere, and with input that they must refuse."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from lib import notebook
from lib.errors import UserError

FLAT = np.random.default_rng(0).normal(size=(40, 12))
FLAT[:, 3] += 30


def run(exhibit, folder, **parameters):
    """`python -m lib.notebook exhibit page -p name value ...`: the finished process and the page's text."""
    options = [x for name, value in parameters.items() for x in ("-p", name, str(value))]
    page = folder / "page.ipynb"
    done = subprocess.run(
        [sys.executable, "-m", "lib.notebook", exhibit, str(page), *options],
        cwd=folder,
        env={**os.environ, "COMPANION_RESULTS": str(folder / "results")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done, page.read_text() if page.exists() else ""


def shown(page):
    """Everything that the cells of a page show, as one text; nothing on stderr."""
    outputs = [o for c in json.loads(page)["cells"] if c["cell_type"] == "code" for o in c["outputs"]]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    text = "\n".join("".join(o["data"].get("text/markdown", "")) for o in outputs if "data" in o)
    return re.sub(r"<span class='interval'>([^<]*)</span>", r" \1", text)


def test_kurtosis_of_real_clip_from_a_file_without_any_model(real, tmp_path, monkeypatch):
    path = real("coco500_clip_vit_b16.npy")
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(path.parent))
    done, page = run("kurtosis", tmp_path, embeddings=path)
    assert done.returncode == 0, done.stderr[-2000:]
    text = shown(page)
    for line in ("| photographs | 87.2 ", "| captions | 77.0 "):  # fetched by the page itself
        assert line in text
    assert "| coco500_clip_vit_b16 [0] | 87.24" in text and "8.61" in text and "4.38" in text
    assert not list((tmp_path / "results").rglob("*.json"))  # no row of a model


def test_directions_of_saved_embeddings_under_a_saved_head(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path / "results"))
    np.save(tmp_path / "rows.npy", FLAT)
    np.save(tmp_path / "head.npy", FLAT[:12] + 1)
    notebook.compute("privileged_directions", embeddings=f"{tmp_path}/rows.npy", head=f"{tmp_path}/head.npy")
    assert not list((tmp_path / "results").rglob("*.json")) and not capsys.readouterr().err


SPOILED = np.where(np.arange(FLAT.size).reshape(FLAT.shape) == 29, np.nan, FLAT)
BAD = {
    "NaN": ("kurtosis", {"embeddings": SPOILED}, "1 rows of the embeddings hold NaN"),
    "all zero": ("kurtosis", {"embeddings": FLAT * 0}, "40 rows of the embeddings are all zero"),
    "wrong rank": ("kurtosis", {"embeddings": FLAT[0]}, r"shape \[12\]"),
    "one coordinate": ("kurtosis", {"embeddings": FLAT[:, :1]}, "single coordinate"),
    "no head": ("privileged_directions", {"embeddings": FLAT}, "Saved embeddings need a head"),
    "another width": (
        "privileged_directions",
        {"embeddings": FLAT, "head": FLAT[:8, :6]},
        "The head has 6 coordinates and the embeddings have 12",
    ),
    "zero directions": (
        "privileged_directions",
        {"pruned": [0.0, 0.999], "model": "RN50", "limit": 6},
        "directions leaves 0",
    ),
    "too few positives": (
        "concepts",
        {"minimum": 1000, "model": "RN50", "limit": 2},
        r"None of \d+ concepts has 1000 images",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_stops_the_page_with_one_sentence(case, tmp_path, monkeypatch):
    exhibit, given, message = BAD[case]
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path / "results"))
    parameters = {}
    for name, value in given.items():
        parameters[name] = value
        if isinstance(value, np.ndarray):
            np.save(tmp_path / f"{name}.npy", value)
            parameters[name] = str(tmp_path / f"{name}.npy")
    with pytest.raises(UserError, match=message):
        notebook.compute(exhibit, **parameters)
    assert not list(tmp_path.rglob("*.json"))
