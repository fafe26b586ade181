"""The pages on Tables 1, 2 and 5: small runs, other images, and bad input."""

import json
import re

import nbformat
import pytest

from lib import paths
from tests.notebooks.running import run, small

EXHIBITS = ("table1", "table2", "table5")


def outputs(page):
    cells = [c for c in nbformat.read(page, as_version=4).cells if c.cell_type == "code"]
    return [o for c in cells for o in c.outputs]


def numbers(page, start):
    """The numbers with a point in the first output that begins so."""
    texts = [o["data"]["text/plain"] for o in outputs(page) if "text/plain" in o.get("data", {})]
    return [float(n) for n in re.findall(r"-?\d+\.\d+", next(t for t in texts if t.lstrip().startswith(start)))]


@pytest.mark.slow
@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_a_page_runs_small(exhibit, tmp_path):
    done, page = run(exhibit, tmp_path, **small(exhibit))
    assert done.returncode == 0, done.stderr[-2000:]
    assert not [o for o in outputs(page) if o.output_type == "stream" and "Warning" in o.text]
    if exhibit == "table1":  # the worked example comes to the numbers of the measurement
        assert numbers(page, "deletion   ") == pytest.approx(numbers(page, "deletion  insertion  acc_drop"), abs=1e-3)


@pytest.fixture
def described(make_folder):
    """A folder with descriptors: three classes of eight images."""
    folder = make_folder({"cat": 8, "dog": 8, "bird": 8})
    bank = {"cat": ["whiskers", "pointed ears"], "dog": ["a tail", "floppy ears"], "bird": ["a beak", "wings"]}
    (folder / "descriptors.json").write_text(json.dumps(bank))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exhibit", "parameters"),
    [("table1", {"checked": 3, "parts": 2}), ("table2", {"nearest": 1}), ("table5", {"steps": 2})],
)
def test_a_folder_of_ones_own_runs(exhibit, parameters, described, tmp_path):
    if exhibit != "table2":  # which goes without training images
        parameters = parameters | {"train_data": described}
    done, page = run(exhibit, tmp_path, model="mini-ViT-B-32:random", dataset=described, **parameters)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "24 images" in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exhibit", "parameters", "sentence"),
    [
        ("table1", {"score": "logit"}, "score is 'logit'; choose one of cosine, probability"),
        ("table1", {"rank": "size"}, "choose one of product, part, descriptor, given"),
        ("table2", {"prompt": "waffle"}, "prompt is 'waffle'; choose one of auto, paper"),
        ("table5", {"rates": "high"}, "choose one of scaled, published"),
    ],
)
def test_bad_input_is_one_sentence_before_any_record(exhibit, parameters, sentence, tmp_path):
    done, _ = run(exhibit, tmp_path, model="ViT-B-32", limit=3, **parameters)
    assert done.returncode != 0 and sentence in done.stderr
    assert not list((tmp_path / "results").rglob("*.parquet"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("described_classes", "sentence"),
    [(["cat"], "2 of 3 classes of 'photos' have no descriptors"), ([], "have no descriptors")],
)
def test_classes_without_descriptors_are_named_where_every_class_needs_some(
    described_classes, sentence, described, tmp_path
):
    bank = described / "descriptors.json"
    few = {name: texts for name, texts in json.loads(bank.read_text()).items() if name in described_classes}
    bank.write_text(json.dumps(few)) if few else bank.unlink()
    done, _ = run("table2", tmp_path, model="mini-ViT-B-32:random", dataset=described)
    assert done.returncode != 0 and sentence in done.stderr


@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_pages_are_within_the_books_measures(exhibit):
    content = nbformat.read(paths.ROOT / "notebooks" / f"{exhibit}.ipynb", as_version=4)
    code = [c for c in content.cells if c.cell_type == "code"]
    assert 8 <= len(code) <= 16
    for cell in code:
        lines = cell.source.splitlines()
        assert max(map(len, lines)) <= 88
        folded = {"parameters", "plumbing"} & set(cell.metadata.get("tags", []))
        assert folded or len(lines) <= 15
        assert not any(line.startswith(("def ", "class ")) for line in lines)
        if cell.source.rstrip().endswith(";"):
            assert cell.metadata["mystnb"]["image"]["alt"] and cell.metadata["mystnb"]["figure"]["name"]
    assert "{cite" not in str(content) and "{numref" not in str(content) and "{doc}" not in str(content)
    for before, cell in zip(content.cells, content.cells[1:], strict=False):
        plumbing = "plumbing" in cell.metadata.get("tags", [])
        assert cell.cell_type != "code" or before.cell_type == "markdown" or plumbing
