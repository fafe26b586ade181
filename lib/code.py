"""Which code decided a result: a digest of a module and of all modules of lib that it imports.

Comments and docstrings don't count. `lib.show` and `lib.book` don't either: they draw and arrange what was found, and
`lib.progress` says how far it is, `lib` itself only where its two doors stand.
"""

import ast
import hashlib
import inspect
import marshal
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from lib.errors import UserError
from lib.paths import ROOT

OUTSIDE = ("lib.show", "lib.book", "lib.run", "lib.progress")
PACKAGE = "lib"  # says only where `explain` and `dissect` stand, and everything imports it
_files: dict[tuple[Path, str], Path] = {}  # where modules stand: asked for thousands of times by one page
_loaded: dict[str, tuple[object, str]] = {}  # module -> what was loaded, and the digest of its file at that time


def of(function: Callable) -> str:
    """sha256 (hex) of the code that `function` runs: its module's and that of every lib module it imports.

    A function from elsewhere (a notebook) counts with its own source and the whole of lib. Raises UserError when a file
    was edited after this process had loaded it: what would run is no longer what is written.
    """
    while isinstance(function, partial):
        function = function.func
    if function.__module__.split(".")[0] != "lib":
        return _sha256(_source(function), *(digest(name) for name in everything()))
    return digest(function.__module__)


def _source(function: Callable) -> str:
    """A function's own source; where it has none (typed in, or run by `exec`), what it compiles to."""
    try:
        source = inspect.getsource(function)
    except OSError:
        return marshal.dumps(function.__code__).hex()
    try:
        return stripped(source)
    except SyntaxError:  # a lambda's line may be a part of a statement
        return source


def digest(module: str) -> str:
    """sha256 (hex) of a module of lib, by name, together with the lib modules that it imports. Raises as `of` does."""
    names = sorted(reached(module))
    return _sha256(*(f"{name} {_own(name)}" for name in names))


def reached(module: str) -> set[str]:
    """Names of the lib modules that a module needs, itself included, those of `OUTSIDE` left out."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in found and not _outside(name):
            found.add(name)
            waiting += _read(name)[1]
    return found


def everything() -> list[str]:
    """Names of all modules of lib but those of `OUTSIDE`."""
    parts = (path.relative_to(ROOT).with_suffix("").parts for path in sorted((ROOT / "lib").rglob("*.py")))
    names = (".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts)
    return [name for name in names if not _outside(name)]


def _outside(name: str) -> bool:
    return name == PACKAGE or name.startswith(OUTSIDE)


def remember() -> None:
    """Note what is written now for every module that is loaded, so that a later edit is noticed."""
    for name in list(sys.modules):
        if name.split(".")[0] == PACKAGE and not _outside(name) and _file(name):
            _own(name)


def _own(name: str) -> str:
    """Digest of one module's file. Raises UserError when it changed after the module was loaded."""
    written = _read(name)[0]
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None:  # not loaded: what is written is what will run
        return written
    known = _loaded.setdefault(name, (spec, written))
    if known[0] is not spec:  # reloaded since
        known = _loaded[name] = (spec, written)
    if known[1] != written:
        raise UserError(
            f"{_file(name)} was edited after this process had loaded it, so that what runs is not what is written; "
            "restart the kernel."
        )
    return written


def _read(name: str) -> tuple[str, list[str]]:
    path = _file(name)
    if path is None:
        raise UserError(f"There is no module '{name}' in {ROOT}.")
    about = path.stat()
    return _parsed(str(path), about.st_size, about.st_mtime_ns)


@cache
def _parsed(path: str, size: int, changed: int) -> tuple[str, list[str]]:
    source = Path(path).read_text(encoding="utf-8")
    return _sha256(stripped(source)), sorted(set(_imports(ast.parse(source))))


def stripped(source: str) -> str:
    """Python source in a normal form, without comments and docstrings."""
    tree = ast.parse(textwrap.dedent(source) if source[:1].isspace() else source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if node.body and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            wanted = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in wanted:
            if name.split(".")[0] == "lib" and _file(name):
                yield name


def _file(name: str) -> Path | None:
    if (ROOT, name) not in _files:
        stem = ROOT.joinpath(*name.split("."))
        found = [path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()]
        if not found:
            return None
        _files[ROOT, name] = found[0]
    return _files[ROOT, name]


def _sha256(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
