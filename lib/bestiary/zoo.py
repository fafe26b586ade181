"""What has been trained for the miniature zoo: the records beside the weights. `scripts/train_zoo.py` writes both."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from lib.data.digests import sha256
from lib.paths import DATA

FOLDER = DATA / "bestiary"


def records(names: Iterable[str] | None = None, folder: Path = FOLDER) -> dict[str, dict]:
    """The training records that exist, in the order of the recipes: dict of name to record. `names`: only these."""
    known = pd.read_csv(FOLDER / "recipes.csv")["name"]
    wanted = list(known if names is None else names)
    pages = {name: Path(folder) / "training" / f"{name}.json" for name in known if name in wanted}
    return {name: json.loads(page.read_text()) for name, page in pages.items() if page.exists()}


def shipped(found: dict[str, dict], folder: Path = FOLDER) -> pd.DataFrame:
    """Size, checksum, machine and seed of each training's weights. `found` as from `records`."""
    lines = []
    for name, record in found.items():
        path = Path(folder) / "zoo" / f"{name}.safetensors"
        about = {"machine": record["machine"], "torch": record["torch"], "seed": record["seed"]}
        size, sha = path.stat().st_size / 1e6, sha256(path)[:16]
        lines.append({"model": name, "MB": size, "sha256 (first 16)": sha, **about})
    return pd.DataFrame(lines)


def summary(found: dict[str, dict]) -> pd.DataFrame:
    """One line a training: what was trained on, for how long, how well. `found` as from `records`."""
    columns: dict[str, Callable[[dict], Any]] = {
        "model": lambda r: r["model"],
        "objective": lambda r: r["recipe"]["objective"],
        "image": lambda r: f"{r['image_size']} px",
        "parameters (M)": lambda r: r["parameters"] / 1e6,
        "pairs": lambda r: r["pairs"],
        "wrong captions (%)": lambda r: 100 * r["wrong_captions"],
        "epochs": lambda r: r["recipe"]["epochs"],
        "from": lambda r: r["recipe"]["start"] or "scratch",
        "filter": lambda r: r["recipe"]["filter"] or "–",
        "loss": lambda r: r["history"][-1]["loss"],
        "top-1 (%)": lambda r: 100 * r["top1"],
        "minutes": lambda r: r["history"][-1]["seconds"] / 60,
    }
    # column by column, so that no training still has the columns
    return pd.DataFrame({heading: [of(record) for record in found.values()] for heading, of in columns.items()})
