"""The switches between papers and released code, checked when they are made. The book's method pages argue for each."""

from dataclasses import dataclass

from lib.errors import UserError, one_of

PART_METHODS = ("pca", "kmeans")
RATES = {"scaled": (5e-3, 5e-4), "published": (1e-4, 1e-5)}  # the first and the last learning rate
CHOICES = {
    "parts_by": ("both", *PART_METHODS),
    "information": ("released", "definition", "consistent"),
    "removal": ("dummy", "drop"),
    "foreground": ("default", "published", "keys_no_bias"),
    "spectral": ("class", "image"),
    "components": ("released", "largest", "all"),
    "candidates": ("intersection", "union"),
    "relevance": ("released", "paper", "none"),
    "matching": ("transport", "centred", "nearest", "top"),
    "group": ("label", "predicted"),
    "rank": ("product", "part", "descriptor", "given"),
    "start": ("whole", "parts"),
    "random_regions": ("shifted", "scattered"),
    "score": ("cosine", "probability"),
    "short": ("hold", "stop"),
    "correct": ("label", "predicted"),
    "rates": tuple(RATES),
    "prompt": ("auto", "paper", "has", "caption", "nameless"),
    "aggregate": ("similarities", "embeddings"),
}
FROM = dict.fromkeys(("parts", "per_part", "top", "steps", "nearest", "train_images"), 1)  # the least
FROM |= dict.fromkeys(("restart", "top_u", "train_limit", "inner", "checked", "keep", "step_images"), 0)
UP_TO = {"share": 1.0, "threshold": 1.0, "temperature": float("inf")}  # above 0, and at most


class Checked:
    """Raises UserError for a value that `CHOICES`, `FROM` or `UP_TO` does not allow."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in CHOICES:
                one_of(name, value, CHOICES[name])
            if name in FROM and (type(value) is not int or value < FROM[name]):
                raise UserError(f"{name} is {value!r}; give a whole number from {FROM[name]} on.")
            if name in UP_TO and not 0 < value <= UP_TO[name]:
                raise UserError(f"{name} is {value}; give a positive number, at most {UP_TO[name]:g}.")


@dataclass(frozen=True)
class Options(Checked):
    """How images are explained and what is counted; the defaults are the released notebook's, and the book's.

    parts_by: how parts are found, "both" ways beside each other. parts: visual concepts L. restart: 1, 2, ... are other
    random starts of K-means. per_part: descriptors a part. top_u: descriptors of a class M, 0 for the bank's default
    (`words.language_size`). information, removal: see `information`. foreground: where its features are read, see
    `foreground.setting_of`. spectral, components: see `parts.foreground`. candidates, relevance, matching, top: see
    `matching`. group: images that are decomposed together share their "label" (released code) or what the model
    "predicted" of them, which needs no labels. crf: cut the parts to the foreground's outline at pixel level.
    """

    parts_by: str = "both"
    parts: int = 5
    restart: int = 0
    per_part: int = 3
    top_u: int = 0
    information: str = "released"
    removal: str = "dummy"
    foreground: str = "default"
    spectral: str = "class"
    components: str = "released"
    candidates: str = "intersection"
    relevance: str = "released"
    matching: str = "transport"
    top: int = 500
    group: str = "label"
    crf: bool = False

    @property
    def methods(self) -> tuple[str, ...]:
        """The part methods that `parts_by` stands for."""
        return PART_METHODS if self.parts_by == "both" else (self.parts_by,)


DEFAULTS = Options()


@dataclass(frozen=True)
class MaskOptions(Options):
    """blur: width in pixels of the Gaussian that hides all but the foreground; 0 puts the mean colour there."""

    blur: int = 11

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blur < 0 or (self.blur and self.blur % 2 == 0):
            raise UserError(f"blur is {self.blur}; give an odd width in pixels, or 0 for the mean colour.")


@dataclass(frozen=True)
class StepOptions(Options):
    """step_images: on so many images, spread over the classes, the true parts are put in; 0 takes all."""

    step_images: int = 96


@dataclass(frozen=True)
class BankOptions(Checked):
    """prompt: the sentence of classification by description, of `boost.PROMPTS`, or "auto" (`boost.prompt_of`)."""

    prompt: str = "auto"


@dataclass(frozen=True)
class BoostOptions(BankOptions, Options):
    """How descriptors that were found are handed on to other classes (`boost`).

    aggregate: see `boost.classifier`. keep: descriptors that a class hands on, the most frequent, 0 for all. nearest:
    classes from which a class is given some. parts_by: "kmeans" or "pca". train_images: training images a class, for
    the variants that leave the evaluated images alone. share: of its descriptors, how many each class starts with.
    """

    aggregate: str = "similarities"
    keep: int = 5
    nearest: int = 2
    parts_by: str = "kmeans"
    train_images: int = 3
    share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("parts_by", self.parts_by, PART_METHODS)


@dataclass(frozen=True)
class Training(Checked):
    """How the bottlenecks are trained (`baselines`), and on what.

    foreground: where their patch features are read, see `foreground.setting_of`. train_data: a folder to train on, by
    default the dataset's own train split; train_limit: images of it, spread over the classes, 0 for all. rates: the
    "published" ones, or fifty times those, "scaled", for trainings of few `steps`. inner: q, 0 for the width of the
    joint space (512 for ViT-B/16, as published). temperature, hard: of MM-ProtoSim's Gumbel softmax.
    """

    foreground: str = "default"
    train_data: str = ""
    train_limit: int = 0
    steps: int = 6000
    rates: str = "scaled"
    inner: int = 0
    temperature: float = 1.0
    hard: bool = False


@dataclass(frozen=True)
class RegionOptions(Training, Options):
    """How explanations are turned into regions, blurred and revealed (`faithfulness`).

    rank, start, random_regions: see there. blur: width of the Gaussian kernel as a share of the image's side.
    threshold: attention and channels count where they reach this share of their range. checked: images on which other
    definitions are tried, 0 for all.
    """

    rank: str = "product"
    blur: float = 1.2
    start: str = "whole"
    threshold: float = 0.9
    random_regions: str = "shifted"
    checked: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.blur < 1.9:
            raise UserError(f"blur is {self.blur}; give the kernel's share of the image's side, between 0 and 1.9.")


@dataclass(frozen=True)
class Reading(Checked):
    """What is read from the curves of Table 1: see `faithfulness.measures`."""

    score: str = "cosine"
    short: str = "hold"
    correct: str = "label"
