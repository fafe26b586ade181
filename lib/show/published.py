"""What the papers published: the numbers in data/published/*.csv."""

import pandas as pd

from lib import paths
from lib.errors import UserError, nearest


def load(name: str, index: str | None = "model") -> pd.DataFrame:
    """A table of data/published, indexed by the paper's own model names. Raises UserError for an unknown table."""
    folder = paths.DATA / "published"
    known = sorted(p.stem for p in folder.glob("*.csv"))
    if name not in known:
        hint = nearest(name, known) or f" There are {', '.join(known)}."
        raise UserError(f"There is no published table '{name}'.{hint}")
    frame = pd.read_csv(folder / f"{name}.csv")
    return frame.set_index(index) if index else frame


def averaged(dataset: str = "imagenet") -> pd.DataFrame:
    """The published Table 3 of a dataset with `auc` and `mi`, empty where none was published.

    Of ImageNet's, against which the bestiary's claims are held, they are the means over PCA and K-means, as in
    Figure 3; those of Places365 and Food-101 come as one number, and by which method is not said.
    """
    if dataset not in ("bestiary", "imagenet"):
        there = (paths.DATA / "published" / f"mutual_knowledge_{dataset}.csv").is_file()
        return load(f"mutual_knowledge_{dataset}") if there else averaged().iloc[:0]
    table = load("mutual_knowledge_table3")
    average = {m: table[[f"{m}_pca", f"{m}_kmeans"]].mean(axis=1) for m in ("auc", "mi")}
    return table.assign(**average)
