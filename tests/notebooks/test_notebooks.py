"""What all notebooks have in common: how they are committed, what stops them, and what a killed run leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from lib import parameters, paths, store

NOTEBOOKS = sorted((paths.ROOT / "notebooks").glob("*.ipynb"))
ROLES = ("{numref}`", "{cite:t}`", "{glue:text}`", "{doc}`", "{eq}`")  # what only the book understands


def run(module, *arguments, folder, **values):
    """`python -m module arguments -p name value ...` from another folder, as a user types it."""
    options = [x for name, value in values.items() for x in ("-p", name, str(value))]
    places = {"COMPANION_RESULTS": str(folder / "results"), "PYTHONPATH": str(paths.ROOT)}
    command = [sys.executable, "-m", module, *map(str, arguments), *options]
    return subprocess.run(command, cwd=folder, env=os.environ | places, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_committed_without_outputs_and_reads_in_plain_jupyter(file):
    content = nbformat.read(file, as_version=4)
    code = [c for c in content.cells if c.cell_type == "code"]
    words = "".join(c.source for c in content.cells if c.cell_type == "markdown")
    assert not any(c.outputs or c.execution_count for c in code)
    assert sum("parameters" in c.metadata.get("tags", []) for c in code) == 1
    assert set(parameters.EVERY_EXHIBIT) <= set(parameters.declared(file.stem))
    assert content.metadata.kernelspec.language == "python" and content.metadata.companion.get("small")
    assert not [role for role in ROLES if role in words]
    assert not [c.source for c in code if c.source.lstrip().startswith(("def ", "class "))]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda p: p.stem)
def test_links_of_a_notebook_lead_to_pages_that_exist(file):
    content = nbformat.read(file, as_version=4)
    words = "".join(c.source for c in content.cells if c.cell_type == "markdown")
    targets = [part.split(")")[0] for part in words.split("](")[1:]]
    assert not [t for t in targets if not t.startswith("https://") and not (file.parent / t.split("#")[0]).is_file()]


@pytest.mark.slow
def test_papermill_itself_fails_on_an_unknown_parameter(tmp_path):
    done = run("papermill", paths.ROOT / "notebooks" / "table3.ipynb", "out.ipynb", folder=tmp_path, modle="ViT-L-14")
    assert done.returncode != 0 and "Did you mean 'model'" in done.stderr


@pytest.mark.slow
def test_a_bad_name_stops_a_page_with_one_sentence_and_keeps_the_last_good_one(tmp_path):
    page = tmp_path / "page.ipynb"
    page.write_text("the last good page")
    done = run("lib.book.pages", "table3", page, folder=tmp_path, model="ViT-L14")
    assert done.returncode != 0 and "Did you mean 'ViT-L-14'" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "UserError" in line]) == 1
    assert page.read_text() == "the last good page" and not list(tmp_path.rglob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_stopped_run_leaves_the_last_good_page_and_whole_records(how, tmp_path):
    page = tmp_path / "page.ipynb"
    page.write_text("the last good page")
    command = [sys.executable, "-m", "lib.book.pages", "table3", str(page), "-p", "limit", "4", "-p", "model"]
    running = subprocess.Popen(
        [*command, "ViT-B-32,ViT-B-16,ViT-L-14"],
        env={**os.environ, "COMPANION_RESULTS": str(tmp_path / "results"), "PYTHONPATH": str(paths.ROOT)},
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
    cards = list((tmp_path / "results").rglob("*.json"))
    assert cards and all(store.read_record(path) for path in cards)
    before = {path: path.stat().st_mtime_ns for path in cards}
    again = run("lib.book.pages", "table3", page, folder=tmp_path, model="ViT-B-32", limit=4)
    assert again.returncode == 0, again.stderr[-2000:]
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())  # found, not computed again
    assert json.loads(page.read_text())["cells"] and not list(Path(tmp_path).rglob("claims"))
