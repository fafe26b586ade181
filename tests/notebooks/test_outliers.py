"""The pages on the second paper: small runs, embeddings from elsewhere, and input that they must refuse."""

import json
import re

import nbformat
import numpy as np
import pytest

from lib.paths import ROOT
from tests.notebooks.running import run, small

PAGES = ("kurtosis", "privileged_directions", "concepts", "effective_robustness")
FLAT = np.random.default_rng(0).normal(size=(40, 12))
FLAT[:, 3] += 30


def shown(page):
    """All Markdown that the cells of a page show, as one text."""
    outputs = [o for c in json.loads(page.read_text())["cells"] if c["cell_type"] == "code" for o in c["outputs"]]
    text = "\n".join("".join(o["data"].get("text/markdown", "")) for o in outputs if "data" in o)
    return re.sub(r"<span class='interval'>([^<]*)</span>", r" \1", text)


@pytest.mark.slow
@pytest.mark.parametrize("exhibit", PAGES)
def test_a_page_runs_with_few_models_and_classes(exhibit, tmp_path):
    done, page = run(exhibit, tmp_path, **small(exhibit))
    assert done.returncode == 0, done.stderr[-2000:]
    text = shown(page)
    assert f":name: tab-{exhibit.replace('_', '-')}-claims" in text and "holds" in text + "holds"
    assert not re.search(r"has no column", page.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["RN50", "RN101"], ids=["with twins", "without"])
def test_twins_differ_in_k_and_a_model_without_twins_shows_the_reflection(model, tmp_path):
    done, page = run("outlier_twins", tmp_path, model=model, limit=4)
    assert done.returncode == 0, done.stderr[-2000:]
    text = shown(page)
    assert ("AdamW 2 |" in text) == ("(3 pairs)" in text) == (model == "RN50")
    assert ("these models have no trained twins" in text) == (model == "RN101")


@pytest.mark.slow
def test_a_reflection_is_shown_of_any_clip_and_images(tmp_path, make_folder):
    folder = make_folder({"cat": 3, "dog": 3, "bird": 3})
    done, page = run("outlier_twins", tmp_path, model="mini-RN50:random", dataset=str(folder))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| reflected |" in shown(page) and "these models have no trained twins" in shown(page)


@pytest.mark.parametrize("exhibit", [*PAGES, "outlier_twins"])
def test_cells_are_short_and_do_not_scroll(exhibit):
    cells = nbformat.read(ROOT / "notebooks" / f"{exhibit}.ipynb", as_version=4).cells
    code = [c.source.splitlines() for c in cells if c.cell_type == "code"]
    assert 8 <= len(code) <= 18 and np.median([len(lines) for lines in code]) <= 5
    assert max(map(len, code)) <= 15 and max(len(line) for lines in code for line in lines) <= 88
    prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    assert not re.search(r"\{(numref|cite|glue|doc|eq)", prose)


@pytest.mark.slow
def test_kurtosis_of_real_clip_from_a_file_without_any_model(real, tmp_path, monkeypatch):
    path = real("coco500_clip_vit_b16.npy")
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(path.parent))
    done, page = run("kurtosis", tmp_path, embeddings=path)
    assert done.returncode == 0, done.stderr[-2000:]
    text = shown(page)
    assert "| photographs | 87.2" in text and "| captions | 76.99" in text  # fetched by the page itself
    assert "| coco500_clip_vit_b16, set 1 | 87.24" in text and "8.61" in text and "4.38" in text
    cards = [json.loads(p.read_text()) for p in (tmp_path / "results").rglob("*.json")]
    assert cards and {request[0] for card in cards for request, _ in card["opened"]} == {"file"}


@pytest.mark.slow
def test_directions_of_saved_embeddings_under_a_saved_head(tmp_path):
    np.save(tmp_path / "rows.npy", FLAT)
    np.save(tmp_path / "head.npy", FLAT[:12] + 1)
    files = {"embeddings": tmp_path / "rows.npy", "head": tmp_path / "head.npy"}
    done, page = run("privileged_directions", tmp_path, **files)
    assert done.returncode == 0, done.stderr[-2000:]
    text = shown(page)
    assert re.search(r"\| rows \| importance \| -\d", text) and "saved embeddings come without labels" in text


SPOILED = np.where(np.arange(FLAT.size).reshape(FLAT.shape) == 29, np.nan, FLAT)
BAD = {
    "NaN": ("kurtosis", {"embeddings": SPOILED}, "1 rows of the embeddings hold NaN"),
    "wrong rank": ("kurtosis", {"embeddings": FLAT[0]}, r"shape \[12\]"),
    "no head": ("privileged_directions", {"embeddings": FLAT}, "Saved embeddings need a head"),
    "zero directions": (
        "privileged_directions",
        {"pruned": [0.0, 0.999], "model": "RN50", "limit": 4},
        "directions leaves 0",
    ),
    "too few positives": (
        "concepts",
        {"minimum": 1000, "model": "RN50", "limit": 1},
        r"None of \d+ concepts has 1000 images",
    ),
    "a strange axis": ("effective_robustness", {"axis": "log", "model": "RN50", "limit": 1}, "axis 'log' is unknown"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_bad_input_stops_the_page_with_one_sentence(case, tmp_path):
    exhibit, given, message = BAD[case]
    parameters = {}
    for name, value in given.items():
        parameters[name] = value
        if isinstance(value, np.ndarray):
            np.save(tmp_path / f"{name}.npy", value)
            parameters[name] = str(tmp_path / f"{name}.npy")
    done, _ = run(exhibit, tmp_path, **parameters)
    assert done.returncode != 0 and re.search(f"UserError: .*{message}", done.stderr), done.stderr[-1500:]
