"""The pages on Table 3, Figure 3, sensitivity, foreground and matching: small runs, other images, and bad input."""

import ast
import json
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import data, parameters, paths
from lib.mutual.options import Options
from tests.notebooks.running import run, small

EXHIBITS = ("table3", "figure3", "sensitivity", "foreground", "matching")


def content(exhibit):
    return nbformat.read(paths.ROOT / "notebooks" / f"{exhibit}.ipynb", as_version=4)


def outputs(page):
    cells = [c for c in nbformat.read(page, as_version=4).cells if c.cell_type == "code"]
    return [o for c in cells for o in c.outputs]


def tables(page):
    return "\n".join(o["data"]["text/markdown"] for o in outputs(page) if "text/markdown" in o.get("data", {}))


@pytest.mark.slow
@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_a_page_runs_small(exhibit, tmp_path):
    done, page = run(exhibit, tmp_path, **small(exhibit))
    assert done.returncode == 0, done.stderr[-2000:]
    assert not [o for o in outputs(page) if o.output_type == "stream" and "Warning" in o.text]


@pytest.mark.slow
def test_the_worked_example_comes_to_the_numbers_of_the_measurement(tmp_path):
    done, page = run("table3", tmp_path, model="RN50", limit=3)
    assert done.returncode == 0, done.stderr[-2000:]
    texts = [o["data"]["text/plain"] for o in outputs(page) if "text/plain" in o.get("data", {})]
    n, m, k = next(ast.literal_eval(t) for t in texts if re.fullmatch(r"\(\d+, \d+, \d+\)", t))
    cards = [json.loads(path.read_text()) for path in tmp_path.glob("results/bestiary/mutual.table3/RN50.*.json")]
    (card,) = [card for card in cards if card["asked"]["options"]["information"] == "released"]
    table = pd.read_parquet(tmp_path / "results" / "bestiary" / "mutual.table3" / card["files"]["table"]["name"])
    table = table.query("parts == 'kmeans' and against == 'predicted class'")
    images = data.load("bestiary", limit=3)
    line = table[table["image"] == np.flatnonzero(images.labels == np.unique(images.labels)[2])[0]].iloc[0]
    assert (line["descriptors"], line["matches"]) == (n, k) and k > 0
    assert line["mi"] == pytest.approx(np.log(n * m * k))


@pytest.fixture
def described(make_folder):
    """A folder with descriptors: three classes of two images."""
    folder = make_folder({"cat": 2, "dog": 2, "bird": 2})
    bank = {"cat": ["whiskers", "pointed ears"], "dog": ["a tail", "floppy ears"], "bird": ["a beak", "wings"]}
    (folder / "descriptors.json").write_text(json.dumps(bank))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_a_folder_of_ones_own_runs(exhibit, described, tmp_path):
    done, page = run(exhibit, tmp_path, model="mini-ViT-B-32:random", dataset=described)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Rehearsal scale: " in tables(page) and "6 images" in tables(page)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["places365", "food101"])
def test_table_3_runs_on_the_papers_other_datasets(dataset, real, tmp_path, monkeypatch):
    """Folders that look like Places365 and Food-101, with the real banks: one picture a class."""
    bank = json.loads(real(f"descriptors_{dataset}.json").read_text())
    monkeypatch.setenv("COMPANION_DATASETS", str(tmp_path))
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(real(f"descriptors_{dataset}.json").parent))
    entry = data.entries()[dataset]
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
    done, page = run("table3", tmp_path, model="mini-ViT-B-32:random", dataset=dataset, limit=3)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "AUC, mean" in tables(page)
    assert f"of a bank of {len({text for texts in bank.values() for text in texts})}" in tables(page)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exhibit", "values", "sentence"),
    [
        ("table3", {"matching": "sinkhorn"}, "matching is 'sinkhorn'; choose one of transport"),
        ("table3", {"modle": "ViT-L-14"}, "has no parameter 'modle'. Did you mean 'model'"),
        ("figure3", {"removal": "pop"}, "removal is 'pop'; choose one of dummy, drop"),
        ("matching", {"unit": "shannons"}, "unit is 'shannons'; choose one of nats, bits"),
        ("foreground", {"blur": 4}, "blur is 4; give an odd width"),
        ("sensitivity", {"classes": -1}, "classes is -1, but it must be 0 or more"),
    ],
)
def test_bad_input_is_one_sentence_before_any_record(exhibit, values, sentence, tmp_path):
    done, _ = run(exhibit, tmp_path, **{"model": "ViT-B-32", "limit": 2} | values)
    assert done.returncode != 0 and sentence in done.stderr
    assert not list((tmp_path / "results").rglob("*.parquet"))


@pytest.mark.slow
@pytest.mark.parametrize("exhibit", ["table3", "matching", "sensitivity"])
def test_a_folder_without_descriptors_is_refused(exhibit, make_folder, tmp_path):
    folder = make_folder({"cat": 2, "dog": 2})
    done, _ = run(exhibit, tmp_path, model="mini-ViT-B-32:random", dataset=folder)
    assert done.returncode != 0 and "have no descriptors" in done.stderr


@pytest.mark.parametrize("exhibit", ["table3", "figure3"])
def test_a_record_made_on_the_command_line_is_the_one_that_the_page_finds(exhibit):
    """`python -m lib.run mutual.table3` takes default options; so must the page's parameters be."""
    declared = parameters.declared(exhibit)
    known = {name: value for name, value in declared.items() if name in Options.__dataclass_fields__}
    assert Options(**known) == Options()
    assert {k: declared[k] for k in ("limit", "seed", "precision", "on_error")} == {
        "limit": 0,
        "seed": 0,
        "precision": "auto",
        "on_error": "raise",
    }


@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_pages_are_within_the_books_measures(exhibit):
    code = [c for c in content(exhibit).cells if c.cell_type == "code"]
    assert 8 <= len(code) <= (18 if exhibit == "table3" else 16)  # which shows every step of the method
    shown = [c.source.splitlines() for c in code if not {"plumbing", "parameters"} & set(c.metadata.get("tags", []))]
    assert max(map(len, shown)) <= 15 and np.median([len(lines) for lines in shown]) <= 5
    assert max(len(line) for c in code for line in c.source.splitlines()) <= 88
    drawn = [c.metadata["mystnb"] for c in code if "figure" in c.metadata.get("mystnb", {})]
    assert drawn and all(about["image"]["alt"] and about["figure"]["name"] for about in drawn)
    cells = content(exhibit).cells
    for before, cell in zip(cells, cells[1:], strict=False):
        assert cell.cell_type != "code" or before.cell_type == "markdown" or "plumbing" in cell.metadata["tags"]


@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_no_cell_sets_a_parameter_anew(exhibit):
    """Records are asked for by the values that parameters have then: a cell that set one would change them."""
    names = set(parameters.declared(exhibit))
    for cell in content(exhibit).cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            of = [n for statement in ast.parse(cell.source).body for n in _assigned(statement)]
            assert not names & set(of), cell.source


def _assigned(statement):
    """Names that a statement of a cell sets in the notebook; those of comprehensions are their own."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name for alias in statement.names]
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    inner = [n for part in getattr(statement, "body", []) for n in _assigned(part)]
    return inner + [n.id for t in targets if t for n in ast.walk(t) if isinstance(n, ast.Name)]
