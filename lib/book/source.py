"""The source folder of a book that is not the miniature's: `python -m lib.book.source FOLDER [--banner TEXT]`.

The pages of prose, the contents and the settings are those of the repository; the executed notebooks lie there already,
in book/executed. The banner stands above every page.
"""

import argparse
import shutil
from pathlib import Path

import yaml

from lib.paths import ROOT

PARTS = ("*.md", "book/*.md", "book/*.bib", "book/_static/*", "book/mathjax/*")


def write(folder: Path, banner: str = "") -> None:
    """Put everything that the book is made of into `folder`, but the executed notebooks."""
    for part in PARTS:
        for path in sorted(ROOT.glob(part)):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    for part in contents["parts"]:  # a rehearsal of some pages lacks the others
        executed = [c for c in part["chapters"] if c["file"].startswith("book/executed/")]
        gone = [c for c in executed if not (folder / f"{c['file']}.ipynb").is_file()]
        part["chapters"] = [c for c in part["chapters"] if c not in gone]
    contents["parts"] = [part for part in contents["parts"] if part["chapters"]]
    (folder / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False), encoding="utf-8")
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    settings["sphinx"]["config"]["html_theme_options"]["announcement"] = banner
    (folder / "_config.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.book.source", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--banner", default="")
    given = parser.parse_args()
    write(given.folder, given.banner)


if __name__ == "__main__":
    main()
