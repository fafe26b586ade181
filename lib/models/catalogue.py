"""The models of the book, and what a model's name stands for. Nothing is loaded here."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
import pandas as pd
import timm
import torchvision

from lib.errors import UserError, nearest, one_of, some
from lib.paths import DATA

MINIATURE = DATA / "bestiary"
LIBRARIES = ("torchvision/", "timm/")  # a name that starts so is an image classifier of that library
LEARNED_HEAD = ("finetuned", "supervised")  # objectives whose models have a head of their own and no text tower
WEIGHTS = ("published", "random", "small")
# what stands for a model at `weights` "small": of a CLIP's kind one with few layers, but with images of 224 pixels and
# texts of 77 tokens (data/rehearsal/configs); of a classifier a small one of its library
SMALL = {"ViT": "small-ViT", "RN": "small-RN", "convnext": "small-convnext"}
SMALL |= {"torchvision/": "torchvision/resnet18", "torchvision/vit": "torchvision/vit_b_32"}
SMALL |= {"timm/": "timm/vit_tiny_patch16_224"}


@dataclass(frozen=True)
class Choice:
    """What a model's name stands for. kind: "tag" (source: open_clip's tag), "file" (a path) or "random"."""

    name: str
    architecture: str
    kind: str
    source: str
    row: dict[str, str]

    @property
    def has_head(self) -> bool:
        """Whether it is a classifier with a head of its own, and no CLIP."""
        return self.architecture.startswith(LIBRARIES) or self.row.get("objective") in LEARNED_HEAD

    @property
    def miniature(self) -> bool:
        return self.architecture.startswith("mini-")


def catalogue(which: str | None = None) -> pd.DataFrame:
    """data/models.csv: the models of the book, index `name`.

    which: names of sets, e.g. "grid comparison", for the rows that belong to one of them (column `sets`).
    Raises UserError for an unknown set.
    """
    path = DATA / "models.csv"
    rows = _rows(path, path.stat().st_mtime_ns).copy()
    if which is None:
        return rows
    wanted, members = which.split(), rows["sets"].str.split()
    for name in wanted:
        if not members.map(lambda s, name=name: name in s).any():
            known = sorted({s for sets in members for s in sets})
            raise UserError(f"data/models.csv has no set of models '{name}'; it has {', '.join(known)}.")
    return rows[members.map(lambda sets: any(name in sets for name in wanted))]


@lru_cache
def _rows(path: Path, changed: int) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False).set_index("name")


def resolve(model: str, dataset: str = "bestiary", which: str = "mutual") -> list[str]:
    """Names of the models that a parameter asks for: "all", one, or several with commas.

    which: the sets of data/models.csv that "all" stands for; of these the models that exist for the dataset. Raises
    UserError for an unknown name, with the nearest known ones.
    """
    if model == "all":
        rows = catalogue(which)
        there = rows["backbone"] if dataset == "bestiary" else rows["openclip_model"] + rows["vision"]
        return list(rows.index[there != ""])
    names = [name.strip() for name in str(model).split(",") if name.strip()]
    if not names:
        raise UserError("No model is given; name a row of data/models.csv, several with commas, or 'all'.")
    for name in names:
        choose(name, dataset)
    return list(dict.fromkeys(names))


def choose(name: str, dataset: str = "bestiary", weights: str = "published") -> Choice:
    """The Choice that a name stands for: where its architecture and weights come from. Loads nothing.

    weights: "published"; "random", for a rehearsal: the same architecture untrained, whatever the name says; "small":
    untrained too, and where it is no miniature the architecture of `SMALL` that stands for its kind.
    """
    one_of("weights", weights, WEIGHTS)
    choice = _named(name, dataset)
    if weights == "published":
        return choice
    architecture = choice.architecture
    if weights == "small" and not choice.miniature:
        kinds = [kind for kind in SMALL if architecture.startswith(kind)]
        architecture = SMALL[max(kinds, key=len)] if kinds else architecture
    return replace(choice, architecture=architecture, kind="random", source="random")


def _named(name: str, dataset: str) -> Choice:
    """The Choice that a name stands for when nothing is rehearsed.

    name: a row of data/models.csv (at dataset "bestiary" its miniature, else the real pair), "ARCH/tag" (an
    open_clip pair), "ARCH:path" (a local checkpoint) or "ARCH:random"; ARCH may be a row. The activation of a
    local checkpoint is the architecture's: OpenAI's files need "ViT-B-32-quickgelu", not "ViT-B-32".
    Raises UserError for an unknown name.
    """
    register_miniatures()
    rows = catalogue()
    stem, colon, source = str(name).partition(":")
    row = {str(k): str(v) for k, v in rows.loc[stem].items()} if stem in rows.index else {}
    if row and dataset == "bestiary":
        path = source or str(MINIATURE / "zoo" / f"{stem}.safetensors")
        return Choice(name, f"mini-{row['backbone']}", "random" if source == "random" else "file", path, row)
    if row.get("vision") and not colon:
        return Choice(name, row["vision"], "tag", "pretrained", row)
    if row and not row["openclip_model"]:
        raise UserError(f"{stem} exists in the miniature only: nobody has published such weights for '{dataset}'.")
    if stem.startswith(LIBRARIES):
        _check_classifier(stem)
        kind = "random" if source == "random" else "file" if colon else "tag"
        return Choice(name, stem, kind, source or "pretrained", row)
    if row and not colon:
        architecture, _ = pair(row["openclip_model"], row["openclip_pretrained"])
        return Choice(name, architecture, "tag", row["openclip_pretrained"], row)
    if colon and (row or stem in open_clip.list_models()):
        architecture = row.get("openclip_model", stem)
        return Choice(name, architecture, "random" if source == "random" else "file", source, row)
    architecture, slash, tag = stem.rpartition("/")
    if slash and not colon and architecture in open_clip.list_models():
        architecture, _ = pair(architecture, tag)
        return Choice(name, architecture, "tag", tag, row)
    raise UserError(_unknown(name, stem, rows))


def _unknown(name: str, stem: str, rows: pd.DataFrame) -> str:
    tags = open_clip.list_pretrained_tags_by_model(stem)
    if tags:
        return f"'{name}' is an architecture without weights; give '{stem}/TAG' with one of {some(tags, 12)}."
    pairs = [f"{architecture}/{tag}" for architecture, tag in open_clip.list_pretrained()]
    hint = nearest(name, rows.index) or nearest(name, pairs)
    return (
        f"Model '{name}' is unknown; give a row of data/models.csv, an open_clip pair 'ARCH/tag', a classifier "
        f"'torchvision/NAME' or 'timm/NAME', a checkpoint 'ARCH:path' or 'ARCH:random'.{hint}"
    )


def pair(architecture: str, tag: str) -> tuple[str, dict[str, Any]]:
    """An open_clip pair with the activation that it was trained with: (architecture, settings of the tag).

    open_clip only warns when QuickGELU does not match, and points of accuracy are lost. Raises UserError for
    an unknown tag and for an architecture with the wrong activation.
    """
    plain = architecture.removesuffix("-quickgelu")
    config = open_clip.get_pretrained_cfg(architecture, tag) or open_clip.get_pretrained_cfg(plain, tag)
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise UserError(
            f"open_clip has no weights '{tag}' for {architecture}; it has {some(tags, 12)}.{nearest(tag, tags)}"
        )
    trained = bool(config.get("quick_gelu"))
    if trained and not _quick_gelu(architecture):
        architecture = f"{plain}-quickgelu"
    if architecture.endswith("-quickgelu") and not trained:
        raise UserError(f"'{tag}' was not trained with the QuickGELU of {architecture}; use '{plain}/{tag}'.")
    if trained and not _quick_gelu(architecture):
        raise UserError(f"'{tag}' was trained with QuickGELU, and open_clip has no such variant of {plain}.")
    return architecture, config


def _quick_gelu(architecture: str) -> bool:
    return bool((open_clip.get_model_config(architecture) or {}).get("quick_gelu", False))


@lru_cache
def register_miniatures() -> None:
    """Tell open_clip of the miniatures' architectures, and of those that stand for others at a rehearsal."""
    open_clip.add_model_config(MINIATURE / "configs")
    open_clip.add_model_config(DATA / "rehearsal" / "configs")


def _check_classifier(name: str) -> None:
    library, _, stem = name.partition("/")
    known = timm.list_models() if library == "timm" else torchvision.models.list_models(module=torchvision.models)
    if stem.partition(".")[0] not in known:
        raise UserError(f"{library} has no classifier '{stem}'.{nearest(stem, known)}")
