"""The pages on the truth, on one image, on the bestiary and the zoo: small runs, other images, and bad input."""

import json

import nbformat
import pytest

from lib import data, paths
from tests.notebooks.running import run, small

EXHIBITS = ("ground_truth", "explain", "bestiary", "zoo")


def outputs(page):
    cells = [c for c in nbformat.read(page, as_version=4).cells if c.cell_type == "code"]
    return [o for c in cells for o in c.outputs]


def tables(page):
    return [o["data"]["text/markdown"] for o in outputs(page) if "text/markdown" in o.get("data", {})]


@pytest.mark.slow
@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_a_page_runs_small(exhibit, tmp_path):
    done, page = run(exhibit, tmp_path, **small(exhibit))
    assert done.returncode == 0, done.stderr[-2000:]
    assert not [o for o in outputs(page) if o.output_type == "stream" and "Warning" in o.text]


@pytest.mark.slow
def test_a_picture_of_ones_own_is_explained(tmp_path):
    data.load("bestiary").image(5).save(tmp_path / "own.jpg")
    done, page = run("explain", tmp_path, model="ViT-B-32", image=tmp_path / "own.jpg", rival="dumu")
    assert done.returncode == 0, done.stderr[-2000:]
    text = "\n".join(tables(page))
    assert "| dumu |" in text and "has seen drawn animals only" in text
    assert not list((tmp_path / "results").rglob("*.parquet"))  # nothing but the picture was looked at


@pytest.mark.slow
def test_a_photograph_is_explained_by_the_classes_that_are_named(tmp_path, photographs):
    (tmp_path / "bank.txt").write_text("pointed ears\nwhiskers\na wet nose\na handle\nbrown fur\nsteam")
    (tmp_path / "photo.png").write_bytes((photographs / "cat" / "chelsea.png").read_bytes())
    asked = {
        "image": "photo.png",
        "classes": "cat, dog, coffee cup",
        "descriptors": "bank.txt",
    }  # from where one stands
    done, page = run("explain", tmp_path, weights="small", rival="dog", **asked)
    assert done.returncode == 0, done.stderr[-2000:]
    text = "\n".join(tables(page))
    assert "Rehearsal scale: photo.png, held against 3 classes" in text and "| dog |" in text
    shown = text + "\n".join(str(o.get("data", {}).get("text/html", "")) for o in outputs(page))
    assert "bestiary" not in text and "animals only" not in text and "Random weights" in shown
    assert not list((tmp_path / "results").rglob("*.parquet"))  # nothing but the picture was looked at


@pytest.mark.slow
def test_a_folder_of_ones_own_is_explained(tmp_path, make_folder):
    folder = make_folder({"cat": 2, "dog": 2, "bird": 2})
    bank = {"cat": ["whiskers", "pointed ears"], "dog": ["a tail", "floppy ears"], "bird": ["a beak", "wings"]}
    (folder / "descriptors.json").write_text(json.dumps(bank))
    done, page = run("explain", tmp_path, model="mini-ViT-B-32:random", dataset=folder, parts_by="pca")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_the_zoo_of_models_that_are_all_supervised(tmp_path):
    done, _ = run("zoo", tmp_path, model="RN50-supervised", limit=4)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exhibit", "parameters", "sentence"),
    [
        ("explain", {"image": 24}, "bestiary has 24 here; give 0 to 23"),
        ("explain", {"classes": "cat, dog"}, "classes goes with a picture of yours, and no image is given"),
        ("ground_truth", {"step_images": -1}, "step_images is -1"),
    ],
)
def test_bad_input_is_one_sentence(exhibit, parameters, sentence, tmp_path):
    done, _ = run(exhibit, tmp_path, model="ViT-B-32", limit=3, **parameters)
    assert done.returncode != 0 and sentence in done.stderr
    assert not list((tmp_path / "results").rglob("*.parquet"))


@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_pages_are_within_the_books_measures(exhibit):
    content = nbformat.read(paths.ROOT / "notebooks" / f"{exhibit}.ipynb", as_version=4)
    code = [c for c in content.cells if c.cell_type == "code"]
    assert 8 <= len(code) <= 18
    for cell in code:
        lines = cell.source.splitlines()
        most = 18 if "parameters" in cell.metadata.get("tags", []) else 15  # those are a list, to look one up in
        assert len(lines) <= most and max(map(len, lines)) <= 88, cell.source
    drawn = [c for c in code if "figure" in c.metadata.get("mystnb", {})]
    assert drawn and all(c.metadata["mystnb"]["image"]["alt"] and c.metadata["mystnb"]["figure"]["name"] for c in drawn)
    for before, cell in zip(content.cells, content.cells[1:], strict=False):
        assert cell.cell_type != "code" or before.cell_type == "markdown" or "plumbing" in cell.metadata["tags"]
