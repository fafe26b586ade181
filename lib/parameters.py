"""The parameters of a notebook: what its `parameters` cell declares, and whether what was given fits."""

import ast
import json
from collections.abc import Iterable, Mapping
from typing import Any

from lib.errors import UserError, nearest
from lib.paths import ROOT

NOTEBOOKS = ROOT / "notebooks"
INJECTED = "# Parameters\n"  # papermill's first line of the cell that it adds
EVERY_EXHIBIT = ("model", "dataset", "limit", "seed", "device", "precision", "weights")
KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", list: "a list"}


def declared(exhibit: str) -> dict[str, Any]:
    """The names and defaults in the `parameters` cell of notebooks/<exhibit>.ipynb. Raises UserError."""
    cells = _content(exhibit)["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise UserError(f"{exhibit}.ipynb has {len(tagged)} cells tagged `parameters`; expected is one.")
    return assignments("".join(tagged[0]["source"]))


def kept(exhibit: str, name: str) -> dict[str, Any]:
    """The parameters that a notebook keeps under a name in its metadata: "small", "rehearsal". Raises UserError."""
    return dict(_content(exhibit)["metadata"].get("companion", {}).get(name, {}))


def _content(exhibit: str) -> dict[str, Any]:
    path = NOTEBOOKS / f"{exhibit}.ipynb"
    if not path.is_file():
        known = sorted(p.stem for p in NOTEBOOKS.glob("*.ipynb"))
        raise UserError(f"There is no notebook '{exhibit}' in {NOTEBOOKS}.{nearest(exhibit, known)}")
    return json.loads(path.read_text(encoding="utf-8"))


def assignments(source: str) -> dict[str, Any]:
    """The plain `name = literal` lines of Python source."""
    lines = ((n.targets[0], n.value) for n in ast.parse(source).body if isinstance(n, ast.Assign))
    return {target.id: ast.literal_eval(value) for target, value in lines if isinstance(target, ast.Name)}


def checked(exhibit: str, defaults: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a notebook's parameters have now, each of the type of its default.

    names: the notebook's globals, live, so that a value changed in a later cell counts. Raises UserError.
    """
    for name in injected(names):
        if name not in defaults:
            hint = nearest(name, defaults) or f" It has {', '.join(defaults)}."
            raise UserError(f"{exhibit}.ipynb has no parameter '{name}'.{hint}")
    for name in (*EVERY_EXHIBIT, *defaults):
        if name not in defaults or name not in names:
            raise UserError(f"{exhibit}.ipynb lacks the parameter '{name}' in its `parameters` cell.")
    values = {name: typed(name, names[name], default) for name, default in defaults.items()}
    if values["limit"] < 0:
        raise UserError(f"limit is {values['limit']}; give a number of classes, or 0 for all of them.")
    for name, value in values.items():
        if type(value) is type(defaults[name]) is int and value < 0 <= defaults[name]:
            raise UserError(f"{name} is {value}, but it must be 0 or more.")
    return values


def injected(names: Mapping[str, Any]) -> Iterable[str]:
    """Names set by the cell that papermill adds. The source of the cells run so far is in IPython's `In`."""
    cells = [source for source in names.get("In", []) if source.startswith(INJECTED)]
    return [name for source in cells for name in assignments(source)]


def typed(name: str, value: Any, default: Any) -> Any:
    """`value` if it is of the type of `default` (an int may stand for a float). Raises UserError."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is None or type(value) is type(default):
        return value
    raise UserError(f"{name} is {value!r}, but {KINDS.get(type(default), type(default).__name__)} is expected.")
