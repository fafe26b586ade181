"""The switches of Tables 1, 2 and 5, checked once; the book's pages on their methods say what each does."""

from dataclasses import dataclass

from lib.errors import UserError, one_of
from lib.mutual import boost, faithfulness
from lib.mutual.options import CHOICES, Options

RATES = {"scaled": (5e-3, 5e-4), "published": (1e-4, 1e-5)}  # the first and the last learning rate


@dataclass(frozen=True)
class Training:
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

    def __post_init__(self) -> None:
        one_of("foreground", self.foreground, CHOICES["foreground"])
        one_of("rates", self.rates, RATES)
        _from("steps", self.steps, 1)
        _from("train_limit", self.train_limit)
        _from("inner", self.inner)
        if not self.temperature > 0:
            raise UserError(f"temperature = {self.temperature} was given; expected a positive number.")


@dataclass(frozen=True)
class RegionOptions(Training, Options):
    """How explanations are turned into regions, blurred and revealed (`faithfulness`).

    rank, start, random_regions: see `faithfulness.CHOICES`. blur: width of the Gaussian kernel as a share of the
    image's side. threshold: attention and channels count where they reach this share of their range. checked: images
    on which other definitions are tried, 0 for all.
    """

    rank: str = "product"
    blur: float = 1.2
    start: str = "whole"
    threshold: float = 0.9
    random_regions: str = "shifted"
    checked: int = 48

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        Training.__post_init__(self)
        faithfulness.require(rank=self.rank, start=self.start, random_regions=self.random_regions)
        faithfulness.kernel_width(1, self.blur)
        _from("checked", self.checked)
        if not 0 < self.threshold <= 1:
            raise UserError(f"threshold = {self.threshold} was given; expected more than 0, at most 1.")


@dataclass(frozen=True)
class BoostOptions(Options):
    """How descriptors that were found are handed on to other classes (`boost`).

    prompt, aggregate: see `boost.prompt_of`, `boost.classifier`. keep: descriptors that a class hands on, the most
    frequent, 0 for all. nearest: classes from which a class is given some. parts_by: "kmeans" or "pca". train_images:
    training images a class, for the variants that leave the evaluated images alone. share: of the bank's descriptors
    that each class has to begin with.
    """

    prompt: str = "auto"
    aggregate: str = "similarities"
    keep: int = 5
    nearest: int = 2
    parts_by: str = "kmeans"
    train_images: int = 3
    share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        boost.prompt_of("", self.prompt)
        one_of("aggregate", self.aggregate, boost.AGGREGATIONS)
        one_of("parts_by", self.parts_by, ("kmeans", "pca"))
        _from("keep", self.keep)
        _from("nearest", self.nearest, 1)
        _from("train_images", self.train_images, 1)
        boost.own_sets([], [], self.share)


def _from(name: str, value: int, least: int = 0) -> None:
    if value < least:
        raise UserError(f"{name} = {value} was given; expected {least} or more.")
