"""Runs a notebook as the book does: `python -m lib.book.pages table3 out.ipynb -p model ViT-L-14`.

The page is replaced only when the run succeeded. What a reader of the book doesn't need is taken out or folded: the
cell that papermill adds, bars of progress, imports. Links between notebooks and pages are made to fit the book.
"""

import argparse
import ast
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib import parameters
from lib.store import replace

BAR = re.compile(r"\r|\d+%\||\x1b\[A")  # what a bar of progress writes
PLUMBING = "plumbing"  # tag of cells that the book folds


def execute(exhibit: str, page: str | Path, or_card: bool = False, **values: Any) -> str:
    """Run notebooks/<exhibit>.ipynb and put the result at `page`; a failed run leaves `page` alone.

    or_card: where the page stops with a UserError, because something that it needs cannot be had, a page with this
    sentence takes its place, and the sentence is returned. Raises papermill's PapermillExecutionError when a cell
    fails.
    """
    import nbformat
    import papermill
    from traitlets.config import Config

    with tempfile.TemporaryDirectory() as folder:
        # kernels side by side can pick the same TCP ports; sockets in a folder of their own can't collide
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"} if os.name == "posix" else {}
        draft = f"{folder}/{exhibit}.ipynb"
        os.environ["COMPANION_PAGE"] = exhibit  # for the kernel, which inherits it
        missing = ""
        try:
            papermill.execute_notebook(
                parameters.NOTEBOOKS / f"{exhibit}.ipynb",
                draft,
                parameters=values,
                progress_bar=False,
                stderr_file=sys.stderr,
                config=Config(KernelManager=sockets),
            )
        except papermill.exceptions.PapermillExecutionError as error:
            if not (or_card and error.ename == "UserError"):
                raise
            missing = str(error.evalue)
        finally:
            del os.environ["COMPANION_PAGE"]
        executed = nbformat.read(draft, as_version=4)
    replace(Path(page), nbformat.writes(card(executed, missing) if missing else tidy(executed)).encode())
    return missing


def card(notebook: Any, missing: str) -> Any:
    """In place of a page that cannot be run: its title and first words, and what is missing."""
    first = next(c for c in notebook.cells if c.cell_type == "markdown" and c.source.startswith("# "))
    said = re.sub(r"([\\`*_{}\[\]<>$])", r"\\\1", missing)  # as it is, not as Markdown
    first.source = first.source.replace("](../book/", "](../")
    first.source += f"\n\n```{{warning}}\nThis page was not run. {said}\n```"
    notebook.cells = [first]
    return notebook


def tidy(notebook: Any) -> Any:
    """The executed notebook as a page of the book."""
    added = [c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
    values = {k: v for cell in added for k, v in parameters.assignments(cell.source).items()}
    notebook.cells = [c for c in notebook.cells if c not in added]
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "parameters" in tags:
            cell.source = "\n".join(_with_value(line, values) for line in cell.source.splitlines())
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_bar(output)]
            if PLUMBING in tags:
                cell.metadata["tags"] = [*tags, "hide-input"]
        else:
            cell.source = cell.source.replace("](../book/", "](../")
    return notebook


def _is_bar(output: Any) -> bool:
    if output.output_type != "stream" or output.name != "stderr":
        return False
    return not output.text.strip() or bool(BAR.search(output.text))


def _with_value(line: str, values: dict[str, Any]) -> str:
    name = line.split("=")[0].strip()
    if name not in values:
        return line
    _, hash_sign, comment = line.partition("#")
    return f"{name} = {values[name]!r}" + (f"  # {comment.strip()}" if hash_sign else "")


def literal(text: str) -> Any:
    """The Python literal that `text` spells, or `text` itself: "3" is 3, "ViT-L-14" is a name."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: exhibit, page, and papermill's `-p name value`."""
    parser = argparse.ArgumentParser(prog="python -m lib.book.pages", description=__doc__)
    parser.add_argument("exhibit")
    parser.add_argument("page", help="where the executed notebook is put")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--set", help="parameters that the notebook's metadata has under this name, e.g. rehearsal")
    parser.add_argument("--or-card", action="store_true", help="a page that lacks something it needs says so")
    parser.add_argument("--of", type=int, default=0, metavar="PAGES", help="say how many pages of the book are there")
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    try:
        values = parameters.kept(given.exhibit, given.set) if given.set else {}
        values |= {name: literal(value) for name, value in given.p}
        missing = execute(given.exhibit, given.page, given.or_card, **values)
        there = len(list(Path(given.page).parent.glob("*.ipynb")))
        count = f" ({there} of {given.of} pages)" if given.of else ""
        seconds = f"{time.perf_counter() - began:.0f} s{count}"
        print(
            given.exhibit, *(value for _, value in given.p), seconds, f"not run: {missing}" * bool(missing), flush=True
        )
    except Exception as error:
        name, words = (getattr(error, k, None) for k in ("ename", "evalue"))  # papermill's, of the failed cell
        sentence = f"{name}: {words}" if name else f"{type(error).__name__}: {error}"
        sys.exit(f"{given.exhibit}: {sentence}")


if __name__ == "__main__":
    main()
