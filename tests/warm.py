"""What a warm process has loaded before it is forked (see `tests.processes`), and how it then runs as a program.

The libraries that pages import take seconds to load. Nothing is computed here, so that a fork has no threads to lose.
"""

import os
import runpy
import sys
from base64 import b64encode
from importlib import import_module
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbformat.v4 import new_output
from papermill.engines import Engine, papermill_engines

LIBRARIES = (
    *("lib.run", "lib.show.figures", "lib.show.pictures", "lib.show.published", "lib.show.words"),
    *("matplotlib.pyplot", "pandas", "papermill.cli", "pyarrow.parquet", "seaborn", "sklearn.linear_model"),
)
for library in LIBRARIES:
    import_module(library)


def encoded(content: Any) -> Any:
    """Pictures as a notebook's JSON holds them."""
    return b64encode(content).decode() if isinstance(content, bytes) else content


class Shell(InteractiveShell):
    """IPython without a terminal; an error is kept for the cell's outputs, as a kernel sends it."""

    def enable_gui(self, gui: str | None = None) -> None:
        """Figures are drawn into the page: there is no window to wait for."""

    def _showtraceback(self, etype: type, evalue: Any, stb: list[str]) -> None:
        self.error = new_output("error", ename=etype.__name__, evalue=str(evalue), traceback=stb)

    def outputs_of(self, source: str) -> list[Any]:
        """Run a cell: its outputs as a notebook has them, texts before pictures and tables."""
        self.error = None
        with self.display_trap, capture_output() as seen:
            self.run_cell(source, store_history=True)
        streams = {"stdout": seen.stdout, "stderr": seen.stderr}
        outputs = [new_output("stream", name=name, text=text) for name, text in streams.items() if text]
        for shown in seen.outputs:
            data = {kind: encoded(content) for kind, content in shown.data.items()}
            outputs.append(new_output("display_data", data=data, metadata=shown.metadata or {}))
        return outputs + ([self.error] if self.error else [])


class Here(Engine):
    """papermill's engine for warm processes: cells run in this process and not in a kernel that loads it all again."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
        shell = Shell.instance()
        shell.history_manager.enabled = False
        shell.run_line_magic("matplotlib", "inline")
        for index, cell in enumerate(nb_man.nb.cells):
            nb_man.cell_start(cell, index)
            if cell.cell_type == "code" and cell.source.strip():
                cell.outputs, cell.execution_count = shell.outputs_of(cell.source), shell.execution_count - 1
            if getattr(shell, "error", None):
                nb_man.cell_exception(cell, cell_index=index)
            nb_man.cell_complete(cell, cell_index=index)
            if getattr(shell, "error", None):
                break


papermill_engines.register(None, Here)


def become(program: str, arguments: list[str], folder: Path, environment: dict[str, str], written: list[Path]) -> None:
    """Run a module, or the file of a script with the `lib` beside it, as `python` would in a process of its own.

    written: files for what it writes to stdout and stderr.
    """
    for number, path in enumerate(written, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        _forget_lib()
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


def _forget_lib() -> None:
    """Let another copy of `lib` be loaded, but for the operators, which torch takes once only."""
    for name in list(sys.modules):
        if name.split(".")[0] == "lib" and name != "lib.models.operators":
            del sys.modules[name]
