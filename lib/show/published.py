"""What the papers published: the numbers in data/published/*.csv."""

import pandas as pd

from lib import paths
from lib.errors import UserError, nearest


def load(name: str, index: str | list[str] | None = "model") -> pd.DataFrame:
    """A table of data/published, indexed by the paper's own model names. Raises UserError for an unknown table."""
    folder = paths.DATA / "published"
    known = sorted(p.stem for p in folder.glob("*.csv"))
    if name not in known:
        hint = nearest(name, known) or f" There are {', '.join(known)}."
        raise UserError(f"There is no published table '{name}'.{hint}")
    frame = pd.read_csv(folder / f"{name}.csv")
    return frame.set_index(index) if index else frame


def averaged(name: str = "mutual_knowledge_table3") -> pd.DataFrame:
    """The published Table 3 with `auc` and `mi`, its PCA and K-means columns averaged, as in Figure 3."""
    table = load(name)
    average = {m: table[[f"{m}_pca", f"{m}_kmeans"]].mean(axis=1) for m in ("auc", "mi")}
    return table.assign(**average)
