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
from tests.processes import Program

NOTEBOOKS = sorted((paths.ROOT / "notebooks").glob("*.ipynb"))
ROLES = ("{numref}`", "{cite:t}`", "{glue:text}`", "{doc}`", "{eq}`")  # what only the book understands


def book_page(path, **values):
    """`python -m lib.book.pages table3 path -p name value ...` from another folder."""
    options = [x for name, value in values.items() for x in ("-p", name, value)]
    places = {"COMPANION_RESULTS": str(path.parent / "results"), "PYTHONPATH": str(paths.ROOT)}
    return Program(
        "lib.book.pages", "table3", path, *options, folder=path.parent, environment=os.environ | places
    ).finish()


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
    """All of it as a user has it, the kernel too."""
    command = [sys.executable, "-m", "papermill", paths.ROOT / "notebooks" / "table3.ipynb", "out.ipynb"]
    places = os.environ | {"PYTHONPATH": str(paths.ROOT)}
    given = ["-p", "modle", "ViT-L-14"]
    done = subprocess.run([*command, *given], cwd=tmp_path, env=places, capture_output=True, text=True, timeout=600)
    assert done.returncode != 0 and "Did you mean 'model'" in done.stderr


@pytest.mark.slow
def test_a_bad_name_stops_a_page_with_one_sentence_and_keeps_the_last_good_one(tmp_path):
    path = tmp_path / "page.ipynb"
    path.write_text("the last good page")
    done = book_page(path, model="ViT-L14")
    assert done.returncode != 0 and "Did you mean 'ViT-L-14'" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "UserError" in line]) == 1
    assert path.read_text() == "the last good page" and not list(tmp_path.rglob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_stopped_run_leaves_the_last_good_page_and_whole_records(how, tmp_path):
    path = tmp_path / "page.ipynb"
    path.write_text("the last good page")
    command = [sys.executable, "-m", "lib.book.pages", "table3", str(path), "-p", "limit", "4", "-p", "model"]
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
    assert path.read_text() == "the last good page"
    cards = list((tmp_path / "results").rglob("*.json"))
    assert cards and all(store.read_record(card) for card in cards)
    before = {card: card.stat().st_mtime_ns for card in cards}
    again = book_page(path, model="ViT-B-32", limit=4)
    assert again.returncode == 0, again.stderr[-2000:]
    assert all(card.stat().st_mtime_ns == then for card, then in before.items())  # found, not computed again
    assert json.loads(path.read_text())["cells"] and not list(Path(tmp_path).rglob("claims"))
