"""What every notebook shares: checked parameters, one row a model, records, and the page in the book.

A notebook calls `begin` right after its `parameters` cell. `python -m lib.notebook table3 out.ipynb` runs a
notebook as `make book` does: the page is replaced only when the run succeeded.
"""

import ast
import json
import logging
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from lib import paths
from lib.errors import UserError, nearest
from lib.report import record

NOTEBOOKS = paths.ROOT / "notebooks"
INJECTED = "# Parameters\n"  # papermill's first line of the cell that it adds
EVERY_EXHIBIT = ("model", "dataset", "limit", "seed", "device")
NOT_DECISIVE = ("model", "dataset", "device")  # these have a place of their own in a record's path, or none


def begin(exhibit, names, models="mutual"):
    """Check a notebook's parameters, set the seeds and return the `Run` that the rest of the notebook uses.

    exhibit: name of a file of notebooks/, without its ending. names: the notebook's globals(). models: the sets
    of data/models.csv that `model = "all"` stands for.
    Raises UserError for an unknown, missing or ill-typed parameter, model, dataset or device.
    """
    import torch

    from lib.models import resolve

    defaults = declared(exhibit)
    parameters = checked(exhibit, defaults, names)
    # a kernel that is told to stop may log that its own sockets are gone; nothing is wrong then
    logging.getLogger("tornado.general").setLevel(logging.CRITICAL)
    random.seed(parameters["seed"])
    np.random.seed(parameters["seed"])  # noqa: NPY002 for other people's code that draws from it
    torch.manual_seed(parameters["seed"])
    run = Run(exhibit, parameters, defaults, resolve(parameters["model"], parameters["dataset"], models))
    run.device, run.data()  # no such device, no such images: refused here, not after an hour
    return run


def declared(exhibit):
    """The names and defaults in the `parameters` cell of notebooks/<exhibit>.ipynb, as a dict."""
    tagged = [c for c in _notebook(exhibit)["cells"] if "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise UserError(f"{exhibit}.ipynb has {len(tagged)} cells tagged `parameters`; expected is one.")
    return assignments("".join(tagged[0]["source"]))


def _notebook(exhibit):
    path = NOTEBOOKS / f"{exhibit}.ipynb"
    if not path.is_file():
        known = sorted(p.stem for p in NOTEBOOKS.glob("*.ipynb"))
        raise UserError(f"There is no notebook '{exhibit}' in {NOTEBOOKS}.{nearest(exhibit, known)}")
    return json.loads(path.read_text(encoding="utf-8"))


def assignments(source):
    """The plain `name = literal` lines of Python source, as a dict."""
    lines = [n for n in ast.parse(source).body if isinstance(n, ast.Assign)]
    return {n.targets[0].id: ast.literal_eval(n.value) for n in lines}


def checked(exhibit, defaults, names):
    """The effective parameters of a notebook, each of the type of its default. Raises UserError."""
    for name in injected(names):
        if name not in defaults:
            hint = nearest(name, defaults) or f" It has {', '.join(defaults)}."
            raise UserError(f"{exhibit}.ipynb has no parameter '{name}'.{hint}")
    for name in (*EVERY_EXHIBIT, *defaults):
        if name not in defaults or name not in names:
            raise UserError(f"{exhibit}.ipynb lacks the parameter '{name}' in its `parameters` cell.")
    values = {name: typed(name, names[name], default) for name, default in defaults.items()}
    for name in ("limit", "seed"):
        if values[name] < 0:
            meaning = " (0 takes all classes)" if name == "limit" else ""
            raise UserError(f"{name} is {values[name]}, but it must be 0 or more{meaning}.")
    return values


def injected(names):
    """Names set by the cell that papermill adds. The source of the cells run so far is in IPython's `In`."""
    cells = [source for source in names.get("In", []) if source.startswith(INJECTED)]
    return [name for source in cells for name in assignments(source)]


def typed(name, value, default):
    """`value` if it is of the type of `default` (an int may stand for a float). Raises UserError."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is None or type(value) is type(default):
        return value
    raise UserError(f"{name} is {value!r}, but a {type(default).__name__} like {default!r} is expected.")


@dataclass
class Run:
    """One run of one notebook: its checked parameters, its data, its models and its records."""

    exhibit: str
    parameters: dict
    defaults: dict
    model_names: list
    started: float = field(default_factory=time.time)
    records: dict = field(default_factory=dict)  # model name -> record of the first `rows`
    further: list = field(default_factory=list)  # records of later ones, for the card
    _data: dict = field(default_factory=dict)

    @property
    def dataset(self):
        return self.parameters["dataset"]

    @property
    def limit(self):
        return self.parameters["limit"]

    @property
    def seed(self):
        return self.parameters["seed"]

    @property
    def device(self):
        from lib import models

        return str(models.find_device(self.parameters["device"]))

    @property
    def scale(self):
        """The scale: "miniature" for the embedded bestiary, "paper" for real models and photographs."""
        return "miniature" if self.dataset == "bestiary" else "paper"

    @property
    def is_default(self):
        """Whether everything that decides a result is as the notebook has it."""
        return all(v == self.defaults[k] for k, v in self.parameters.items() if k not in NOT_DECISIVE)

    def data(self, split="val"):
        """The images of the run, an ImageDataset after `limit`, `seed` and, if declared, `on_error`."""
        from lib.data import load as load_images

        if split not in self._data:
            on_error = self.parameters.get("on_error", "raise")
            self._data[split] = load_images(
                self.dataset, split=split, limit=self.limit, seed=self.seed, on_error=on_error
            )
        return self._data[split]

    def clips(self):
        """The models of the run, loaded one at a time."""
        for name in self.model_names:
            yield self._load(name)

    def rows(self, function, exhibit=None, models=None, split="val", **parameters):
        """One row a model: found among the records, or computed by `function` and recorded at once.

        function(clip, data, seed=..., **parameters) returns {"metrics": {name: x or [images]}} and, where
        there are any, "arrays" and "notes" (see `report.record.write`); raise the constant VERSION of its
        module when its results change. exhibit: whose records to use (default: this one's). models: some of
        the run's names (default: all).

        Returns a DataFrame indexed by model name: title, family, each metric with _low, _high and _n, and
        `reason`, empty unless the model could not run. With a single model its UserError is raised; with
        several it becomes the row's reason.
        """
        import pandas as pd

        models = self.model_names if models is None else models
        rows, found = {}, {}
        for name in models:
            try:
                found[name] = self._row(name, function, exhibit or self.exhibit, split, parameters)
                rows[name] = record.row(found[name])
            except UserError as error:
                if len(models) == 1:
                    raise
                print(f"{name} was not run: {error}", file=sys.stderr)
                rows[name] = {"title": name, "reason": str(error)}
        if models and not found:
            raise UserError(next(iter(rows.values()))["reason"])
        if self.records:
            self.further += found.values()
        else:
            self.records = found
        empty = {"title": [], "family": [], "reason": []}
        frame = pd.DataFrame.from_dict(rows, orient="index") if rows else pd.DataFrame(empty)
        return frame.rename_axis("model")

    def arrays(self, model_name):
        """The arrays of a model's record (that of the first `rows`), a dict of ndarrays."""
        return record.arrays(self.records[model_name])

    def _load(self, name):
        from lib import models

        return models.load(name, dataset=self.dataset, device=self.parameters["device"], seed=self.seed)

    def _row(self, name, function, exhibit, split, parameters):
        data, clip = self.data(split), self._load(name)
        decides = {
            "exhibit": exhibit,
            "function": f"{function.__module__}.{function.__qualname__}",
            "version": getattr(sys.modules[function.__module__], "VERSION", 1),
            "parameters": {**parameters, "limit": self.limit, "seed": self.seed},
            "data": data.fingerprint,
            # a row counts wherever it was computed; the record says on what, and in which precision
            "model": {k: v for k, v in clip.identity.items() if k != "precision"},
        }
        variant = None if self.is_default else {"split": split, **decides["parameters"]}
        path = record.path(self.dataset, exhibit, name, variant)
        found = record.read(path)
        if found and found["key"] == record.key(decides):
            return found
        started = time.perf_counter()
        result = function(clip, data, seed=self.seed, **parameters)
        seconds = time.perf_counter() - started
        context = {"exhibit": exhibit, "model": name, "dataset": self.dataset}
        context |= {"split": split, "scale": self.scale}
        return record.write(path, result, decides, context, clip, data, seconds)

    def verdicts(self, found):
        """The verdicts on the exhibit's claims, as a table; those of the book's own run are kept for its ledger.

        found: dict of claim (its id in data/claims.toml) to (value, low, high, n), n the number of images or
        models. Raises UserError for a claim that the exhibit does not have, or one of its claims left out.
        """
        import pandas as pd

        from lib.report import published, tables

        claims = {c["id"]: c for c in published.claims(self.exhibit)}
        for name in found.keys() ^ claims.keys():
            raise UserError(f"The claims of {self.exhibit} are {', '.join(claims)}; '{name}' is not in both.")
        entries = {}
        for name, claim in claims.items():
            value, low, high, n = found[name]
            verdict = published.verdict(low, high, claim["direction"])
            entries[name] = {**record.metric((value, low, high, n)), "verdict": verdict}
        if self.is_default and self.parameters["model"] == self.defaults["model"]:
            content = {"exhibit": self.exhibit, "dataset": self.dataset, "claims": entries, **record.source()}
            path = record.claims_path(self.dataset, self.exhibit)
            record.replace(path, json.dumps(content, indent=1).encode())
        lines = [
            {
                "claim": claim["statement"],
                "statistic": tables.cell(pd.Series({"x": e["value"], "x_low": e["low"], "x_high": e["high"]}), "x"),
                "n": str(e["n"] or "–"),
                "verdict": e["verdict"],
            }
            for claim, e in zip(claims.values(), entries.values(), strict=True)
        ]
        caption = self.caption("The claims that this page tests; a claim holds if its whole interval has its sign")
        return tables.Table(pd.DataFrame(lines), f"tab-{self.exhibit.replace('_', '-')}-claims", caption)

    def caption(self, text):
        """A caption that ends with the scale: dataset and number of images."""
        where = f"{self.scale.capitalize()} scale: {self.dataset}, {len(self.data())} images."
        return f"{text.rstrip('. ')}. {where}"

    def card(self):
        """What a sceptic asks: commit, data, weights, seed, device, versions, time and memory, as HTML."""
        return Card(record.card([*self.records.values(), *self.further], self.exhibit, time.time() - self.started))

    def _repr_html_(self):
        from lib import models

        facts = {
            "Scale": f"{self.scale} ({self.dataset}, {len(self.data())} images)",
            "Models": ", ".join(self.model_names),
            "Device": self.device,
            "Parameters": ", ".join(f"{k} = {v!r}" for k, v in self.parameters.items() if k != "model"),
        }
        kinds = [models.choose(name, self.dataset).kind for name in self.model_names]
        banner = f'<p class="banner">{escape(models.BANNER)}</p>' if "random" in kinds else ""
        cells = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
        return f'<div class="run-card">{banner}<dl>{cells}</dl></div>'


@dataclass
class Card:
    """A piece of HTML that a notebook shows."""

    html: str

    def _repr_html_(self):
        return self.html


def execute(exhibit, page, **parameters):
    """Run notebooks/<exhibit>.ipynb and put the result at `page`; a failed run leaves `page` alone.

    Raises papermill's PapermillExecutionError when a cell fails.
    """
    import nbformat
    import papermill
    from traitlets.config import Config

    with tempfile.TemporaryDirectory() as folder:
        # kernels side by side can pick the same TCP ports; sockets in a folder of their own can't collide
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"} if os.name == "posix" else {}
        draft = f"{folder}/{exhibit}.ipynb"
        papermill.execute_notebook(
            NOTEBOOKS / f"{exhibit}.ipynb",
            draft,
            parameters=parameters,
            progress_bar=False,
            config=Config(KernelManager=sockets),
        )
        executed = nbformat.read(draft, as_version=4)
    record.replace(Path(page), nbformat.writes(tidy(executed)).encode())


def compute(exhibit, **parameters):
    """Run a notebook's cells up to its last `run.rows` in this process: records, but no kernel, no page."""
    cells = [c for c in _notebook(exhibit)["cells"] if c["cell_type"] == "code"]
    sources = ["".join(c["source"]) for c in cells]
    last = max((i for i, source in enumerate(sources) if "run.rows(" in source), default=-1)
    names = {"__name__": "__main__"}
    for cell, source in zip(cells[: last + 1], sources, strict=False):
        exec(source, names)
        if "parameters" in cell["metadata"].get("tags", []):
            lines = [f"{name} = {value!r}" for name, value in parameters.items()]
            names |= parameters | {"In": [INJECTED + "\n".join(lines)]}


def tidy(notebook):
    """Fold papermill's injected cell into the `parameters` cell, which then shows the values used."""
    injected_cells = [c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
    values = {k: v for cell in injected_cells for k, v in assignments(cell.source).items()}
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = "\n".join(_with_value(line, values) for line in cell.source.splitlines())
    notebook.cells = [c for c in notebook.cells if c not in injected_cells]
    return notebook


def _with_value(line, values):
    name = line.split("=")[0].strip()
    if name not in values:
        return line
    _, hash_sign, comment = line.partition("#")
    return f"{name} = {values[name]!r}" + (f"  # {comment.strip()}" if hash_sign else "")


def literal(text):
    """The Python literal that `text` spells, or `text` itself: "3" is 3, "ViT-L-14" is a name."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main(arguments=None):
    """Command line: exhibit, optional page, and papermill's `-p name value`."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m lib.notebook", description=__doc__)
    parser.add_argument("exhibit")
    parser.add_argument("page", nargs="?", help="the executed notebook; without it, only records")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    try:
        parameters = {name: literal(value) for name, value in options.p}
        if options.page:
            execute(options.exhibit, options.page, **parameters)
        else:
            compute(options.exhibit, **parameters)
        seconds = time.perf_counter() - started
        print(options.exhibit, *(value for _, value in options.p), f"{seconds:.0f} s")
    except UserError as error:
        sys.exit(f"{options.exhibit}: UserError: {error}")
    except Exception as error:
        if not hasattr(error, "ename"):  # only papermill's has: its package is loaded for pages, not for records
            raise
        sys.exit(f"{options.exhibit}: {error.ename}: {error.evalue}")


if __name__ == "__main__":
    main()
