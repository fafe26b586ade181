"""What the notebooks of Table 2, the appendix, the truth and the explanations do with other images and bad input."""

import json

import nbformat
import numpy as np
import pytest
from PIL import Image

from lib import notebook, paths
from lib.data import entries
from lib.data import load as load_images
from lib.errors import UserError
from lib.report import record

EXHIBITS = ("table2", "foreground", "matching", "ground_truth", "explain", "sensitivity")


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def test_a_picture_of_ones_own_is_explained(results, tmp_path):
    load_images("bestiary").image(5).save(tmp_path / "own.jpg")
    page = tmp_path / "page.ipynb"
    notebook.execute("explain", page, model="ViT-B-32", limit=12, image=str(tmp_path / "own.jpg"), rival="dumu")
    cells = [c for c in nbformat.read(page, as_version=4).cells if c.cell_type == "code"]
    assert not [o for c in cells for o in c.outputs if o.output_type == "stream" and o.name == "stderr"]
    assert sum("image/png" in o.get("data", {}) for c in cells for o in c.outputs) == 4
    (path,) = results.rglob("explain/*.json")
    found = record.read(path)
    assert found["notes"]["rival"] == "dumu" and found["notes"]["label"] is None
    assert len(found["decided_by"]["parameters"]["content"]) == 64  # another picture in the file is another record


@pytest.mark.parametrize(
    ("exhibit", "parameters", "sentence"),
    [
        ("explain", {"image": "/nowhere.png"}, "There is no file /nowhere.png"),
        ("explain", {"image": 24}, "bestiary has 24 here; give 0 to 23"),
        ("explain", {"rival": "dumm"}, "Did you mean 'dumu'"),
        ("explain", {"information": "bits"}, "choose one of released, definition, consistent"),
        ("table2", {"prompt": "waffle"}, "The prompt 'waffle' is unknown"),
        ("table2", {"keep": -1}, "keep = -1"),
        ("table2", {"aggregate": "max"}, "aggregated by 'max'"),
        ("matching", {"unit": "shannons"}, "choose 'nats' or 'bits'"),
        ("foreground", {"blur": 4}, "blur = 4"),
        ("sensitivity", {"classes": -1}, "classes = -1"),
        ("ground_truth", {"parts": 0}, "parts = 0"),
    ],
)
def test_bad_input_is_one_sentence(exhibit, parameters, sentence, results):
    with pytest.raises(UserError, match=sentence):
        notebook.compute(exhibit, model="ViT-B-32", limit=3, **parameters)
    assert not list(results.rglob(f"{exhibit}/*.json")) or exhibit == "foreground"


def test_no_picture_is_refused(results, tmp_path):
    (tmp_path / "own.png").write_text("no picture")
    with pytest.raises(UserError, match="is not a picture that can be read"):
        notebook.compute("explain", model="ViT-B-32", limit=3, image=str(tmp_path / "own.png"))


@pytest.fixture
def described(make_folder):
    """A folder with descriptors: three classes of two images."""
    folder = make_folder({"cat": 2, "dog": 2, "bird": 2})
    bank = {"cat": ["whiskers", "pointed ears"], "dog": ["a tail", "floppy ears"], "bird": ["a beak", "wings"]}
    (folder / "descriptors.json").write_text(json.dumps(bank))
    return folder


def test_a_folder_without_the_truth_is_refused_where_the_truth_is_asked(described, results):
    with pytest.raises(UserError, match="only 'bestiary' knows them"):
        notebook.compute("ground_truth", model="mini-ViT-B-32:random", dataset=str(described))


@pytest.mark.parametrize("exhibit", ["table2", "foreground", "matching", "explain", "sensitivity"])
def test_a_folder_of_ones_own_runs(exhibit, described, results):
    notebook.compute(exhibit, model="mini-ViT-B-32:random", dataset=str(described))
    found = [record.read(p) for p in results.rglob("*.json")]
    assert exhibit in {r["exhibit"] for r in found} and all(r["images"] == 6 for r in found)


@pytest.mark.parametrize("exhibit", ["table2", "matching", "explain", "sensitivity"])
def test_a_folder_without_descriptors_is_refused(exhibit, make_folder, results):
    with pytest.raises(UserError, match="have no descriptors"):
        notebook.compute(exhibit, model="mini-ViT-B-32:random", dataset=str(make_folder({"cat": 2, "dog": 2})))


def test_classes_without_descriptors_are_named_where_every_class_needs_some(described, results):
    bank = json.loads((described / "descriptors.json").read_text())
    (described / "descriptors.json").write_text(json.dumps({"cat": bank["cat"]}))
    with pytest.raises(UserError, match="2 of 3 classes of 'photos' have no descriptors"):
        notebook.compute("table2", model="mini-ViT-B-32:random", dataset=str(described))


@pytest.mark.parametrize("dataset", ["places365", "food101"])
def test_table_3_runs_on_the_papers_other_datasets(dataset, real, results, tmp_path, monkeypatch):
    """Folders that look like Places365 and Food-101, with the real banks: one picture a class."""
    bank = json.loads(real(f"descriptors_{dataset}.json").read_text())
    monkeypatch.setenv("COMPANION_DATASETS", str(tmp_path))
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(real(f"descriptors_{dataset}.json").parent))
    entry = entries()[dataset]
    root = tmp_path / entry["folder"] / entry["images"].format(split=entry["splits"]["val"])
    names = [name.replace("/", "-").replace(" ", "_") for name in bank]
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    for name in names:
        (root / name).mkdir(parents=True)
        picture.save(root / name / "0.jpg")
    if "list" in entry:
        listed = tmp_path / entry["folder"] / entry["list"].format(split=entry["splits"]["val"])
        listed.parent.mkdir()
        listed.write_text("\n".join(f"{name}/0" for name in names))
    page = tmp_path / "page.ipynb"
    notebook.execute("table3", page, model="mini-ViT-B-32:random", dataset=dataset, limit=3, seed_models="none")
    text = page.read_text()
    assert "AUC, mean, published" in text and "AUC, mean, ours" in text
    (path,) = results.rglob("table3/*.json")
    assert record.read(path)["notes"]["bank"] == len({text for texts in bank.values() for text in texts})


@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_pages_are_within_the_books_measures(exhibit):
    content = nbformat.read(paths.ROOT / "notebooks" / f"{exhibit}.ipynb", as_version=4)
    code = [c for c in content.cells if c.cell_type == "code"]
    assert 8 <= len(code) <= 16
    drawn = [c for c in code if c.source.rstrip().endswith(";")]
    assert all(c.metadata["mystnb"]["image"]["alt"] and c.metadata["mystnb"]["figure"]["name"] for c in drawn)
    for before, cell in zip(content.cells, content.cells[1:], strict=False):
        assert cell.cell_type != "code" or before.cell_type == "markdown"
