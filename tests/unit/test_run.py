"""begin and measure: parameters read live, records by option, models that cannot be had. On the real miniature."""

import json
from dataclasses import dataclass

import nbformat
import numpy as np
import pandas as pd
import pytest

from lib import parameters, run, store
from lib.errors import UserError
from lib.run import begin
from lib.statistics import Estimate

NAMES = {
    "model": "RN50,RN101", "dataset": "bestiary", "limit": 2, "seed": 0, "device": "cpu", "precision": "auto",
    "weights": "published", "parts": 5, "scale": 1.0,
}  # fmt: skip
PARAMETERS = "\n".join(f"{name} = {value!r}  # a comment" for name, value in NAMES.items())
calls = []


@dataclass(frozen=True)
class Options:
    parts: int = 5


def look(given, options: Options):
    calls.append(given.name)
    images, clip = given.images, given.model
    table = pd.DataFrame({"image": range(len(images)), "x": float(options.parts), "width": clip.width})
    return store.Seen(table, {"labels": images.labels}, {"parts": options.parts})


def write_notebook(folder, *sources):
    cells = [nbformat.v4.new_code_cell(s) for s in sources]
    cells[0].metadata["tags"] = ["parameters"]
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), folder / "small.ipynb")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with notebooks/small.ipynb and results of its own."""
    write_notebook(tmp_path, PARAMETERS)
    monkeypatch.setattr(parameters, "NOTEBOOKS", tmp_path)
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path / "results"))
    monkeypatch.delenv("COMPANION_PAGE", raising=False)
    calls.clear()
    return tmp_path


def test_begin_takes_the_parameters_as_they_are(folder):
    found = begin("small", dict(NAMES))
    assert found.parameters == NAMES and found.is_default
    assert (found.dataset, found.limit, found.seed, found.device, found.scale) == ("bestiary", 2, 0, "cpu", "miniature")
    assert found.models == ["RN50", "RN101"] and found.precision == "fp32" and len(found.images()) == 16
    assert "miniature (bestiary, 16 images)" in found._repr_html_()


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"limit": -3}, "limit is -3; give a number of classes"),
        ({"seed": -1}, "seed is -1"),
        ({"limit": "many"}, "limit is 'many', but a whole number is expected"),
        ({"limit": 2.5}, "limit is 2.5"),
        ({"parts": True}, "parts is True, but a whole number"),
        ({"model": 5}, "model is 5, but a text"),
        ({"model": "ViT-L14"}, "Did you mean 'ViT-L-14'"),
        ({"dataset": "bestiari"}, "Did you mean 'bestiary'"),
        ({"dataset": "imagenet"}, "is not on disk"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"weights": "secret"}, "weights is 'secret'; choose one of published, random, small"),
        ({"precision": "fp8"}, "precision is 'fp8'; give one of auto, fp32, bf16"),
    ],
    ids=str,
)
def test_bad_values_are_refused_before_any_work(folder, monkeypatch, change, sentence):
    monkeypatch.setenv("COMPANION_DATASETS", str(folder / "none"))
    with pytest.raises(UserError, match=sentence):
        begin("small", NAMES | change)
    assert not (folder / "results").exists()


def test_an_unknown_parameter_is_refused_with_the_nearest_name(folder):
    with pytest.raises(UserError, match="no parameter 'modle'. Did you mean 'model'"):
        begin("small", {**NAMES, "In": ["", PARAMETERS, '# Parameters\nmodle = "x"\n'], "modle": "x"})
    begin("small", {**NAMES, "accuracy": 0.3, "In": ["", "accuracy = 0.3"]})  # the notebook's own names are fine


def test_a_whole_number_may_stand_for_a_number(folder):
    assert begin("small", NAMES | {"scale": 2}).parameters["scale"] == 2.0


def test_a_missing_parameter_and_a_missing_notebook(folder):
    with pytest.raises(UserError, match="lacks the parameter 'limit'"):
        begin("small", {k: v for k, v in NAMES.items() if k != "limit"})
    with pytest.raises(UserError, match="no notebook 'smal'.*'small'"):
        begin("smal", dict(NAMES))


def test_records_are_made_once_and_found_again(folder):
    found = begin("small", dict(NAMES)).measure(look, Options())
    assert calls == ["RN50", "RN101"] and list(found.table["x"].unique()) == [5.0] and len(found.table) == 32
    assert list(found.table.columns) == ["model", "title", "family", "image", "x", "width"]
    again = begin("small", dict(NAMES)).measure(look, Options())
    assert calls == ["RN50", "RN101"]
    pd.testing.assert_frame_equal(again.table, found.table)
    np.testing.assert_array_equal(again.tensors["RN101"]["labels"], found.tensors["RN101"]["labels"])
    assert again.notes == {"RN50": {"parts": 5}, "RN101": {"parts": 5}}


def test_a_cell_may_be_run_again_in_any_order_with_other_options_and_the_first_records_stay(folder):
    names = dict(NAMES)
    found = begin("small", names)
    first = found.measure(look, found.options(Options))
    before = {p: p.read_bytes() for p in (folder / "results").rglob("*") if p.is_file()}
    names["parts"] = 3  # as in a cell far down
    for _ in range(2):
        second = found.measure(look, found.options(Options))
        assert set(second.table["x"]) == {3.0} and found.parameters["parts"] == 3 and not found.is_default
        assert set(found.measure(look, Options(5)).table["x"]) == {5.0} == set(first.table["x"])
    assert calls == ["RN50", "RN101"] * 2  # each option once
    assert all(p.read_bytes() == content for p, content in before.items())


@dataclass(frozen=True)
class Listed:
    layers: tuple = ("layer3", "layer4")


def test_options_that_are_lists_are_found_again_as_json_has_them(folder):
    def count(given, options: Listed):
        calls.append(given.name)
        return pd.DataFrame({"x": [len(options.layers)]})

    for _ in range(2):
        assert begin("small", NAMES | {"model": "RN50"}).measure(count, Listed()).table["x"].tolist() == [2]
    assert calls == ["RN50"]


def test_another_model_in_a_later_cell_counts(folder):
    names = dict(NAMES)
    found = begin("small", names)
    names["model"] = "RN50"
    assert found.models == ["RN50"] and set(found.measure(look, Options()).table["model"]) == {"RN50"}


def test_a_model_that_cannot_run_does_not_stop_the_table(folder, capsys):
    found = begin("small", NAMES | {"model": "RN50"}).measure(look, Options(), models=["RN50", "RN101:lost.pt"])
    assert list(found.missing) == ["RN101:lost.pt"] and "no checkpoint lost.pt" in found.missing["RN101:lost.pt"]
    assert set(found.table["model"]) == {"RN50"} and "RN101:lost.pt was not run" in capsys.readouterr().err
    with pytest.raises(UserError, match="no checkpoint lost.pt"):
        begin("small", NAMES | {"model": "RN50"}).measure(look, Options(), models=["RN101:lost.pt"])


def test_an_interruption_keeps_the_finished_records(folder):
    def stopped(given, options):
        if given.name == "RN101":
            raise KeyboardInterrupt
        return look(given, options)

    with pytest.raises(KeyboardInterrupt):
        begin("small", dict(NAMES)).measure(stopped, Options())
    assert [p.name.split(".")[0] for p in (folder / "results").rglob("*.json")] == ["RN50"]


def test_what_belongs_to_no_model_is_measured_once(folder):
    def count(given):
        return pd.DataFrame({"x": [len(given.images)]})

    found = begin("small", dict(NAMES)).measure(count, once=True)
    assert found.table["x"].tolist() == [16] and list(found.notes) == [run.NO_MODEL]


@pytest.mark.parametrize("weights", ["random", "small"])
def test_a_rehearsal_has_a_banner_and_records_of_its_own(folder, weights):
    usual = begin("small", dict(NAMES))
    rehearsed = begin("small", NAMES | {"weights": weights})
    assert rehearsed.scale == "rehearsal" and not rehearsed.is_default and "mean nothing" in rehearsed._repr_html_()
    assert rehearsed.model().banner and not usual.model().banner
    keys = [{card["key"] for card in one.measure(look, Options()).cards} for one in (usual, rehearsed, usual)]
    assert not keys[0] & keys[1] and keys[0] == keys[2] and len(calls) == 4


def test_random_weights_are_a_rehearsal_and_leave_no_verdict(folder, monkeypatch):
    monkeypatch.setenv("COMPANION_PAGE", "small")
    monkeypatch.setattr(
        run.ledger, "claims", lambda exhibit=None: [{"id": "a", "statement": "A.", "direction": "positive"}]
    )
    found = begin("small", NAMES | {"model": "RN50:random"})
    assert found.scale == "rehearsal" and "Random weights" in found._repr_html_()
    found.defaults = found.parameters
    found.verdicts({"a": Estimate(1.0, 0.5, 1.5, 9)})
    assert not list((folder / "results").rglob("claims/*"))


def test_only_the_books_own_run_adds_to_the_ledger(folder, monkeypatch):
    monkeypatch.setattr(
        run.ledger, "claims", lambda exhibit=None: [{"id": "a", "statement": "A.", "direction": "positive"}]
    )
    kept = folder / "results" / "bestiary" / "claims" / "small.json"
    names = dict(NAMES)
    found = begin("small", names)
    assert "holds" in found.verdicts({"a": Estimate(1.0, 0.5, 1.5, 9)}).markdown() and not kept.exists()
    monkeypatch.setenv("COMPANION_PAGE", "small")
    names["parts"] = 3
    found.verdicts({"a": Estimate(1.0, 0.5, 1.5, 9)})
    assert not kept.exists()
    names["parts"] = 5
    found.verdicts({"a": Estimate(1.0, 0.5, 1.5, 9)})
    assert json.loads(kept.read_text())["claims"]["a"]["verdict"] == "holds"
