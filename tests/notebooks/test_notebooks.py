"""Each notebook through papermill with few images, and what it does with bad parameters."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from lib import notebook, paths
from lib.errors import UserError
from lib.report import record

NOTEBOOKS = sorted((paths.ROOT / "notebooks").glob("*.ipynb"))
SMALL = {"model": "ViT-B-32,RN50", "limit": 8}


def run(module, *arguments, folder, **parameters):
    """`python -m module arguments -p name value ...` from another folder, as a user types it."""
    options = [x for name, value in parameters.items() for x in ("-p", name, str(value))]
    places = {"COMPANION_RESULTS": str(folder / "results"), "COMPANION_DATASETS": str(folder / "none")}
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments), *options],
        cwd=folder,
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_and_records_what_it_declares(file, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path / "results"))
    about = json.loads(file.read_text())["metadata"].get("companion", {})
    small = SMALL | about.get("small", {})  # a notebook may name other models or more images
    done = run("papermill", file, "page.ipynb", "--no-progress-bar", folder=tmp_path, **small)
    assert done.returncode == 0, done.stderr[-2000:]
    declared = about.get("metrics", {})
    records = [record.read(p) for p in sorted(Path(tmp_path / "results").rglob("*.json"))]
    assert {entry["exhibit"] for entry in records} == set(declared)
    for entry in records:
        found = entry["metrics"]
        assert all(found[name]["value"] is not None for name in declared[entry["exhibit"]])


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_committed_without_outputs_and_with_a_parameters_cell(file):
    content = nbformat.read(file, as_version=4)
    code = [c for c in content.cells if c.cell_type == "code"]
    assert not any(c.outputs or c.execution_count for c in code)
    assert sum("parameters" in c.metadata.get("tags", []) for c in code) == 1
    assert content.metadata.kernelspec.language == "python"


def test_a_bad_parameter_stops_the_run_with_one_sentence(tmp_path):
    page = tmp_path / "page.ipynb"
    page.write_text("the last good page")
    done = run("lib.notebook", "table3", page, folder=tmp_path, model="ViT-L14")
    assert done.returncode != 0 and "Did you mean 'ViT-L-14'" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "UserError" in line]) == 1
    assert page.read_text() == "the last good page" and not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    "parameters, sentence",
    [
        ({"modle": "ViT-L-14"}, "has no parameter 'modle'. Did you mean 'model'"),
        ({"dataset": "bestiari"}, "Did you mean 'bestiary'"),
        ({"dataset": "imagenet"}, "is not on disk"),
        ({"limit": -1}, "limit is -1"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_a_bad_parameter_is_refused_before_any_work(parameters, sentence, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("COMPANION_DATASETS", str(tmp_path / "none"))
    with pytest.raises(UserError, match=sentence):
        notebook.compute("table3", **parameters)
    assert not list(tmp_path.rglob("*.json"))


def test_the_zoo_of_models_that_are_all_supervised(tmp_path):
    done = run("lib.notebook", "zoo", tmp_path / "page.ipynb", folder=tmp_path, model="RN50-supervised", limit=8)
    assert done.returncode == 0, done.stderr[-2000:]


def test_papermill_itself_fails_on_an_unknown_parameter(tmp_path):
    file = paths.ROOT / "notebooks" / "table3.ipynb"
    done = run("papermill", file, "out.ipynb", folder=tmp_path, modle="ViT-L-14")
    assert done.returncode != 0 and "Did you mean 'model'" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_stopped_run_leaves_the_last_good_page_and_whole_records(how, tmp_path):
    page = tmp_path / "page.ipynb"
    page.write_text("the last good page")
    command = [sys.executable, "-m", "lib.notebook", "table3", str(page), "-p", "limit", "6", "-p", "model"]
    places = {"COMPANION_RESULTS": str(tmp_path / "results")}
    running = subprocess.Popen(
        [*command, "ViT-B-32,ViT-B-16,ViT-L-14"],
        env={**os.environ, **places},
        start_new_session=True,  # as in a terminal, the kernel gets the signal too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job would ignore it
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 300
    while not list(tmp_path.rglob("ViT-B-32*.json")) and time.monotonic() < deadline:
        assert running.poll() is None, running.stderr.read().decode()[-2000:]
        time.sleep(0.2)
    os.killpg(running.pid, how)
    running.communicate(timeout=60)
    assert running.returncode != 0
    assert page.read_text() == "the last good page"
    finished = list((tmp_path / "results").rglob("*.json"))
    assert [record.read(path)["model"] for path in finished if path.stem.startswith("ViT-B-32")] == ["ViT-B-32"]
    assert all(record.read(path) for path in finished)
    before = {path: path.stat().st_mtime_ns for path in finished}
    again = run("lib.notebook", "table3", page, folder=tmp_path, model="ViT-B-32", limit=6)
    assert again.returncode == 0, again.stderr[-2000:]
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())  # found, not computed again
    assert json.loads(page.read_text())["cells"]
