"""The API page, made from the docstrings: `python -m lib.book.api book/executed` writes api.md."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from lib.paths import ROOT

ROOMS = {  # in the order in which a reader meets them
    "": "The way of the data",
    "statistics": "Statistics",
    "data": "Images",
    "models": "Models",
    "mutual": "Mutual knowledge",
    "outliers": "Outlier features",
    "dissection": "CLIP-Dissect",
    "bestiary": "The miniature's world",
    "show": "Tables and figures",
    "book": "The book",
}


MARKDOWN = re.compile(r"([{}<>$*_\[\]|])")  # what would be read as markup in a docstring's first line


def page() -> str:
    """The whole page: a section a room, a heading a module, its public functions and classes with their docstrings."""
    lines = ["# What `lib` offers", "", "Made from the docstrings when the book was built.", ""]
    for room, title in ROOMS.items():
        lines += [f"## {title}", ""]
        for path in sorted((ROOT / "lib" / room).glob("*.py")):
            lines += module(path)
    return "\n".join(lines) + "\n"


def module(path: Path) -> list[str]:
    """The lines about one module; none where it has no public name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = list(public(tree.body))
    if not found:
        return []
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    lines = [f"### `{name}`", "", *_text(ast.get_docstring(tree) or "")]
    for signature, docstring in found:
        first, _, rest = docstring.partition("\n\n")
        lines += [f"`{signature}`", ": " + MARKDOWN.sub(r"\\\1", " ".join(first.split())), ""]
        lines += _text(rest, indent="  ")
    return lines


def public(body: list[ast.stmt], owner: str = "") -> Iterator[tuple[str, str]]:
    """(signature, docstring) of each public function, class and method that has a docstring."""
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        docstring = ast.get_docstring(node)
        if isinstance(node, ast.ClassDef):
            if docstring:
                yield f"class {node.name}", docstring
            yield from public(node.body, f"{node.name}.")
        elif docstring:
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            yield f"{owner}{node.name}({ast.unparse(node.args)}){returns}", docstring


def _text(words: str, indent: str = "") -> list[str]:
    """Words as they are written, in a block of text; nothing for none."""
    if not words.strip():
        return []
    return [indent + line for line in ("```text", *words.strip().splitlines(), "```", "")]


if __name__ == "__main__":
    Path(sys.argv[1], "api.md").write_text(page(), encoding="utf-8")
