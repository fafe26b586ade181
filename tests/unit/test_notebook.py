"""begin, rows and execute on a small notebook of the test's own, with a stand-in for models and data."""

import json
import sys
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest

import lib
from lib import notebook
from lib.errors import UserError
from lib.notebook import begin
from lib.report import record

NAMES = {
    "model": "all",
    "dataset": "bestiary",
    "limit": 0,
    "seed": 0,
    "device": "auto",
    "parts": 5,
    "scale": 1.0,
}
PARAMETERS = "\n".join(f"{name} = {value!r}  # a comment" for name, value in NAMES.items())
VERSION = 1
calls = []


def measure(clip, data, seed, parts):
    calls.append(clip.name)
    per_image = np.arange(len(data), dtype=np.float32)
    return {
        "metrics": {"auc": (parts, 1.0, 9.0, len(data)), "top1": np.float64(0.5)},
        "arrays": {"auc": per_image},
    }


def load_clip(name, dataset, device, seed):
    if name == "lost":
        raise UserError("The weights of lost cannot be had.")
    about = {"title": name.upper(), "family": "ViT", "device": "cpu", "precision": "fp32", "banner": None}
    return SimpleNamespace(name=name, weights_sha256="0" * 64, identity={"weights": name, "precision": "fp32"}, **about)


def load_data(name, split, limit, seed, **options):
    class Data(list):
        fingerprint, classes, templates, descriptors = f"{split}-{limit}", ["a"], ("{}",), [["b"]]

    return Data(range(limit or 4))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with notebooks/small.ipynb, results that go to the folder, and the stand-ins."""
    small_notebook(tmp_path, PARAMETERS)
    models = SimpleNamespace(
        resolve=lambda model, dataset, which: ["one", "two"] if model == "all" else model.split(","),
        find_device=lambda device: "cpu",
        load=load_clip,
        choose=lambda name, dataset: SimpleNamespace(kind="file"),
        BANNER="",
    )
    for name, stand_in in {"models": models, "data": SimpleNamespace(load=load_data)}.items():
        monkeypatch.setitem(sys.modules, f"lib.{name}", stand_in)
        monkeypatch.setattr(lib, name, stand_in, raising=False)
    monkeypatch.setattr(notebook, "NOTEBOOKS", tmp_path)
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path / "results"))
    calls.clear()
    return tmp_path


def test_begin_takes_the_parameters_as_they_are(folder):
    run = begin("small", NAMES)
    assert run.parameters == NAMES
    assert (run.dataset, run.limit, run.seed, run.device, run.scale) == ("bestiary", 0, 0, "cpu", "miniature")
    assert run.model_names == ["one", "two"] and run.is_default
    assert "640" not in run._repr_html_() and "4 images" in run._repr_html_()


def test_an_unknown_parameter_is_refused_with_the_nearest_name(folder):
    with pytest.raises(UserError, match="no parameter 'modle'. Did you mean 'model'"):
        begin("small", {**NAMES, "In": ["", PARAMETERS, '# Parameters\nmodle = "x"\n'], "modle": "x"})


def test_names_that_the_notebook_itself_made_are_not_parameters(folder):
    begin("small", {**NAMES, "accuracy": 0.3, "In": ["", "accuracy = 0.3"]})


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"limit": -3}, "limit is -3, but it must be 0 or more"),
        ({"seed": -1}, "seed is -1"),
        ({"limit": "many"}, "limit is 'many', but a int like 0"),
        ({"limit": 2.5}, "limit is 2.5"),
        ({"parts": True}, "parts is True"),
        ({"model": 5}, "model is 5"),
    ],
)
def test_ill_typed_values_are_refused(folder, change, sentence):
    with pytest.raises(UserError, match=sentence):
        begin("small", NAMES | change)


def test_an_int_may_stand_for_a_float(folder):
    assert begin("small", NAMES | {"scale": 2}).parameters["scale"] == 2.0


def test_a_missing_parameter_and_a_missing_notebook(folder):
    with pytest.raises(UserError, match="lacks the parameter 'limit'"):
        begin("small", {k: v for k, v in NAMES.items() if k != "limit"})
    with pytest.raises(UserError, match="no notebook 'smal'.*'small'"):
        begin("smal", NAMES)


def test_rows_are_computed_once_and_found_again(folder):
    rows = begin("small", NAMES).rows(measure, parts=5)
    assert calls == ["one", "two"]
    assert list(rows["auc"]) == [5, 5] and list(rows["auc_low"]) == [1, 1] and list(rows["reason"]) == ["", ""]
    again = begin("small", NAMES)
    assert again.rows(measure, parts=5).equals(rows)
    assert calls == ["one", "two"]
    np.testing.assert_array_equal(again.arrays("two")["auc"], [0, 1, 2, 3])
    assert "ONE" not in calls and "fp32" in again.card()._repr_html_()


def test_further_rows_leave_the_records_of_the_first(folder):
    run = begin("small", NAMES)
    run.rows(measure, parts=5)
    second = run.rows(measure, exhibit="other", models=["two"], parts=6)
    assert list(second.index) == ["two"] and list(second["auc"]) == [6]
    assert {r["exhibit"] for r in run.records.values()} == {"small"} and "other" in run.card()._repr_html_()
    assert len(run.rows(measure, models=[], parts=5)) == 0


def test_other_options_and_a_new_version_are_computed_again(folder, monkeypatch):
    begin("small", NAMES).rows(measure, parts=5)
    begin("small", NAMES).rows(measure, parts=6)
    monkeypatch.setattr(sys.modules[__name__], "VERSION", 2)
    begin("small", NAMES).rows(measure, parts=6)
    assert calls == ["one", "two"] * 3


def test_a_trial_never_overwrites_a_row_of_the_book(folder):
    begin("small", NAMES).rows(measure, parts=5)
    book = folder / "results/bestiary/small/one.json"
    before = book.read_bytes()
    begin("small", NAMES | {"limit": 2}).rows(measure, parts=5)
    begin("small", NAMES | {"parts": 6}).rows(measure, parts=6)
    assert book.read_bytes() == before
    assert len(list(book.parent.glob("one*.json"))) == 3
    assert [r["model"] for r in record.read_all("bestiary", "small")] == ["one", "two"]


def test_a_row_that_cannot_run_does_not_stop_the_table(folder, capsys):
    rows = begin("small", NAMES | {"model": "one,lost"}).rows(measure, parts=5)
    assert rows.loc["lost", "reason"] == "The weights of lost cannot be had."
    assert np.isnan(rows.loc["lost", "auc"]) and rows.loc["one", "auc"] == 5
    with pytest.raises(UserError, match="weights of lost"):
        begin("small", NAMES | {"model": "lost"}).rows(measure, parts=5)


def test_an_interruption_keeps_the_finished_rows(folder):
    def stopped(clip, data, seed, parts):
        if clip.name == "two":
            raise KeyboardInterrupt
        return measure(clip, data, seed, parts)

    with pytest.raises(KeyboardInterrupt):
        begin("small", NAMES).rows(stopped, parts=5)
    assert json.loads((folder / "results/bestiary/small/one.json").read_text())["model"] == "one"
    assert not (folder / "results/bestiary/small/two.json").exists()


def small_notebook(folder, *sources):
    cells = [nbformat.v4.new_code_cell(s) for s in sources]
    cells[0].metadata["tags"] = ["parameters"]
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), folder / "small.ipynb")


def test_execute_shows_the_values_used_and_leaves_nothing_else(folder):
    small_notebook(folder, "limit = 0  # images\nseed = 0", "print(limit + seed)")
    notebook.execute("small", folder / "pages" / "small.ipynb", limit=3)
    page = nbformat.read(folder / "pages" / "small.ipynb", as_version=4)
    assert page.cells[0].source == "limit = 3  # images\nseed = 0"
    assert page.cells[1].outputs[0].text == "3\n" and len(page.cells) == 2
    assert [p.name for p in (folder / "pages").iterdir()] == ["small.ipynb"]


def test_without_a_page_only_the_rows_are_computed(folder, capsys):
    rows = "from lib.notebook import begin\nrun = begin('small', globals())\nprint(run.limit)  # run.rows(f)"
    small_notebook(folder, PARAMETERS, rows, "raise AssertionError('not reached')")
    notebook.main(["small", "-p", "limit", "2"])
    assert capsys.readouterr().out.startswith("2\nsmall 2 ")
    with pytest.raises(SystemExit, match="no parameter 'limt'. Did you mean 'limit'"):
        notebook.main(["small", "-p", "limt", "2"])


def test_a_failed_run_keeps_the_last_good_page(folder, capsys):
    page = folder / "small-page.ipynb"
    page.write_text("the last good page")
    small_notebook(folder, "limit = 0", "from lib.errors import UserError\nraise UserError('What to do.')")
    with pytest.raises(SystemExit) as stop:
        notebook.main(["small", str(page), "-p", "limit", "3"])
    assert "UserError: What to do." in stop.value.code
    assert page.read_text() == "the last good page"
    assert sorted(p.name for p in folder.glob("*.ipynb")) == ["small-page.ipynb", "small.ipynb"]


def test_literals_of_the_command_line():
    given = ["3", "-1", "0.5", "True", "ViT-L-14", "a,b", "data/x", "01"]
    assert [notebook.literal(t) for t in given] == [3, -1, 0.5, True, "ViT-L-14", "a,b", "data/x", "01"]
