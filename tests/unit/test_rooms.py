"""The plan of the house: which room may know which."""

import ast
from graphlib import TopologicalSorter

import pytest

from lib import code
from lib.paths import ROOT

ROOMS = [name for name in code.everything() if name.startswith(("lib.data", "lib.models"))]


def test_models_know_data_and_never_the_reverse():
    assert "lib.data.dataset" in code.reached("lib.models")
    assert not any(name.startswith("lib.models") for name in code.reached("lib.data"))


def test_no_module_of_the_rooms_needs_itself_by_way_of_others():
    # the packages' own files come last: they only pass on what the modules have
    modules = [name for name in ROOMS if name not in ("lib.data", "lib.models")]
    direct = {name: set(code._read(name)[1]) & set(modules) for name in modules}
    assert list(TopologicalSorter(direct).static_order())  # raises CycleError


@pytest.mark.parametrize("name", ROOMS)
def test_no_import_of_ours_hides_in_a_function(name):
    file = code._file(name)
    functions = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef)]
    hidden = [n for f in functions for n in ast.walk(f) if isinstance(n, ast.ImportFrom | ast.Import)]
    assert not [n.lineno for n in hidden if ast.unparse(n).split()[1].startswith("lib")], file.relative_to(ROOT)


@pytest.mark.parametrize("name", ROOMS)
def test_weights_and_files_are_read_without_running_them(name):
    text = code._file(name).read_text()
    assert "weights_only=False" not in text and "pickle" not in text
