"""Pages as the book runs them, and what is made of them: tidy cells, the status page, the API page."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lib import parameters, paths
from lib.book import api, pages, status

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(parameters, "NOTEBOOKS", tmp_path)
    return tmp_path


def write_notebook(folder, *sources):
    cells = [new_code_cell(s) for s in sources]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(new_notebook(cells=cells, metadata=KERNEL), folder / "small.ipynb")


@pytest.mark.slow
def test_a_page_shows_the_values_used_and_leaves_nothing_else(folder, capsys):
    write_notebook(folder, "limit = 0  # classes\nseed = 0", "print(limit + seed)")
    pages.main(["small", str(folder / "pages" / "small.ipynb"), "-p", "limit", "3", "--of", "22"])
    page = nbformat.read(folder / "pages" / "small.ipynb", as_version=4)
    assert page.cells[0].source == "limit = 3  # classes\nseed = 0"
    assert page.cells[1].outputs[0].text == "3\n" and len(page.cells) == 2
    assert [p.name for p in (folder / "pages").iterdir()] == ["small.ipynb"]
    assert "(1 of 22 pages)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_failed_run_keeps_the_last_good_page_and_says_one_sentence(folder):
    page = folder / "small-page.ipynb"
    page.write_text("the last good page")
    write_notebook(folder, "limit = 0", "from lib.errors import UserError\nraise UserError('What to do.')")
    with pytest.raises(SystemExit) as stop:
        pages.main(["small", str(page), "-p", "limit", "3"])
    assert stop.value.code == "small: UserError: What to do."
    assert page.read_text() == "the last good page"
    assert sorted(p.name for p in folder.glob("*.ipynb")) == ["small-page.ipynb", "small.ipynb"]


@pytest.mark.slow
def test_a_page_that_lacks_something_says_so_where_it_would_stand(folder, capsys):
    write_notebook(folder, "limit = 0", "from lib.errors import UserError\nraise UserError('No *images*.')")
    content = nbformat.read(folder / "small.ipynb", as_version=4)
    content.cells.insert(0, new_markdown_cell("# Small\n\nAs [there](../book/method.md)."))
    content.metadata["companion"] = {"rehearsal": {"limit": 2}}
    nbformat.write(content, folder / "small.ipynb")
    page = folder / "page.ipynb"
    pages.main(["small", str(page), "--or-card", "--set", "rehearsal"])
    (cell,) = nbformat.read(page, as_version=4).cells
    assert cell.source.startswith("# Small\n\nAs [there](../method.md).")
    assert "not run. No \\*images\\*." in cell.source
    assert "not run: No *images*." in capsys.readouterr().out
    write_notebook(folder, "limit = 0", "1 / 0")
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        pages.main(["small", str(page), "--or-card"])  # a fault of ours is no card


def test_bars_of_progress_go_and_plumbing_is_folded_and_links_fit_the_book():
    bar = new_output("stream", name="stderr", text="table3:  50%|#####     | 1/2 [00:01<00:01]\r")
    note = new_output("stream", name="stderr", text="RN50 was not run: no weights.\n")
    code = new_code_cell("run.card(found)", outputs=[bar, note], metadata={"tags": ["plumbing"]})
    words = new_markdown_cell("See [method](../book/method.md) and [Table 3](table3.ipynb).")
    page = pages.tidy(new_notebook(cells=[words, code]))
    assert page.cells[0].source == "See [method](../method.md) and [Table 3](table3.ipynb)."
    assert [o.text for o in page.cells[1].outputs] == [note.text]
    assert page.cells[1].metadata["tags"] == ["plumbing", "hide-input"]


def test_literals_of_the_command_line():
    given = ["3", "-1", "0.5", "True", "ViT-L-14", "a,b", "data/x", "01"]
    assert [pages.literal(t) for t in given] == [3, -1, 0.5, True, "ViT-L-14", "a,b", "data/x", "01"]


def card(model="RN50", dataset="bestiary", exhibit="table3", seconds=2.0):
    asked = {"function": "lib.mutual.observe.table3", "model": model, "dataset": dataset}
    about = {"exhibit": exhibit, "seconds": seconds, "peak_memory_mb": 100, "device": "cpu"}
    return {"asked": asked, **about, "commit": "c" * 40, "dirty": False}


def test_the_status_page_begins_with_what_was_not_run_and_sums_up_the_records():
    run = {"metadata": {"papermill": {"start_time": "2026-01-01T10:00:00", "duration": 90.0}}}
    text = status.status({"table3": run}, [card(), card("RN101"), card(dataset="imagenet")])
    assert text.startswith("## Not run") and "- Table 3 at `places365`: all models" in text
    missing = next(line for line in text.splitlines() if line.startswith("- Table 3 at `imagenet`"))
    assert "RN101" in missing and "RN50," not in missing
    assert "| bestiary | `mutual.observe.table3` | 2 | 4.0 | 100 | cpu | `cccccccc` |" in text.splitlines()
    assert (
        "| {doc}`executed/table3` | `.venv/bin/papermill notebooks/table3.ipynb out.ipynb` | 1.5 |"
        in status.exhibits({"table3": run})
    )


def test_the_api_page_has_every_room_and_the_docstrings_of_public_functions():
    text = api.page()
    assert "### `lib.statistics.estimates`" in text and "### `lib.store`" in text
    assert "`band(values: np.ndarray, cluster: ArrayLike | None=None, seed: int=0" in text and "\n`_" not in text
    rooms = {path.parent.name for path in (paths.ROOT / "lib").glob("*/__init__.py")}
    assert rooms == set(api.ROOMS) - {""}
