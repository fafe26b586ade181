"""The digest of code: what changes it, what does not, and what is refused."""

import importlib
import os
import sys
from functools import partial

import pytest

from lib import code
from lib.errors import UserError

FILES = {
    "lib/__init__.py": "",
    "lib/method.py": '''"""A method."""

from lib import tools
from lib.show import tables


def measure(x):
    """Twice what the tools make of x."""
    return 2 * tools.half(x)  # twice


class Held:
    """Holds one."""

    value = 1
''',
    "lib/tools/__init__.py": "from lib.tools.halves import half\n",
    "lib/tools/halves.py": "def half(x):\n    return x / 2\n",
    "lib/show/__init__.py": "",
    "lib/show/tables.py": "from lib import other\n",
    "lib/other.py": "x = 1\n",
    "lib/book/ledger.py": "x = 1\n",
    "lib/run.py": "x = 1\n",
}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A small lib of its own, in place of the real one: write(path, old, new) edits a file of it."""
    saved = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "lib"}
    for path, content in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    monkeypatch.setattr(code, "_loaded", {})
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in saved:
        del sys.modules[name]

    def write(path, old="", new=""):
        file = tmp_path / path
        before = file.stat()
        content = file.read_text()
        assert old in content
        file.write_text(content.replace(old, new) if old else content + new)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
        importlib.invalidate_caches()

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "lib"]:
        del sys.modules[name]
    sys.modules.update(saved)


def test_comments_and_docstrings_do_not_count(house):
    before = code.digest("lib.method")
    house("lib/method.py", "  # twice", "")
    house("lib/method.py", '"""A method."""', '"""Another\n\nword."""')
    house("lib/method.py", "Twice what", "Two times what")
    house("lib/method.py", '    """Holds one."""\n\n', "")
    house("lib/tools/halves.py", "x / 2", "x/2")
    assert code.digest("lib.method") == before


@pytest.mark.parametrize(
    "path, old, new",
    [
        ("lib/method.py", "2 * tools", "3 * tools"),
        ("lib/method.py", "value = 1", "value = 1.0"),
        ("lib/tools/halves.py", "x / 2", "x // 2"),  # two imports away
        ("lib/tools/__init__.py", "", "y = 1\n"),
    ],
)
def test_code_counts_also_that_which_is_imported(house, path, old, new):
    before = code.digest("lib.method")
    house(path, old, new)
    assert code.digest("lib.method") != before


def test_what_draws_and_arranges_is_left_out_with_all_that_it_imports(house):
    before = code.digest("lib.method")
    for path in ("lib/show/tables.py", "lib/book/ledger.py", "lib/run.py", "lib/other.py", "lib/__init__.py"):
        house(path, "", "y = 2\n")
    assert code.digest("lib.method") == before
    assert code.reached("lib.method") == {"lib.method", "lib.tools", "lib.tools.halves"}


def test_a_function_is_its_modules_code(house):
    import lib.method

    assert code.of(lib.method.measure) == code.digest("lib.method") == code.of(partial(lib.method.measure, 1))


def test_a_file_that_was_edited_after_loading_is_refused_until_it_is_loaded_again(house):
    import lib.method

    code.remember()
    house("lib/tools/halves.py", "", "# a remark\n")
    before = code.of(lib.method.measure)
    house("lib/tools/halves.py", "x / 2", "x / 3")
    with pytest.raises(UserError, match="halves.py was edited after this process had loaded it") as error:
        code.of(lib.method.measure)
    assert "restart the kernel" in str(error.value)
    importlib.reload(sys.modules["lib.tools.halves"])
    assert code.of(lib.method.measure) != before


def test_a_function_from_elsewhere_counts_with_its_own_source_and_all_of_lib(house):
    def one(x):
        return x + 1

    def two(x):
        return x + 2

    before = code.of(one)
    assert code.of(two) != before == code.of(one)
    typed = {"__name__": "__main__"}  # as a cell that was run by `exec`: there is no source to read
    exec("def f(x):\n    return x + 1\ndef g(x):\n    return x + 2\n", typed)
    assert code.of(typed["f"]) != code.of(typed["g"])
    house("lib/tools/halves.py", "x / 2", "x / 3")
    assert code.of(one) != before


def test_a_module_that_is_not_there(house):
    with pytest.raises(UserError, match="no module 'lib.nothing'"):
        code.digest("lib.nothing")
