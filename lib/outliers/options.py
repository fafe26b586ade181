"""What can be chosen about this wing's measurements; names and defaults are those of the notebooks' parameters."""

from dataclasses import dataclass, field

from lib.errors import UserError, one_of

# shares of the directions to prune; 0 and 0.8 (the paper's) are what tables compare
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
STREAMS = ("val", "web")


@dataclass(frozen=True)
class Saved:
    """Paths of files that take the place of a model, see `lib.outliers.saved`: embeddings ("": the model's), and a head
    for them."""

    embeddings: str = ""
    head: str = ""


@dataclass(frozen=True)
class Shifts:
    """shifts: names, with commas, of the bestiary's splits (by default all five), elsewhere paths of image folders."""

    shifts: str = ""

    @property
    def paths(self) -> list[str]:
        return [path.strip().rstrip("/") for path in self.shifts.split(",") if path.strip()]

    @property
    def names(self) -> list[str]:
        """What the shifts are called: of a path its last part."""
        return [path.rpartition("/")[2] for path in self.paths]


@dataclass(frozen=True)
class Pruning(Saved, Shifts):
    """pruned: shares of a head's directions that are taken away, from 0 to below 1."""

    pruned: list[float] = field(default_factory=lambda: list(SHARES))

    def __post_init__(self) -> None:
        bad = [s for s in self.pruned if not 0 <= s < 1]
        if bad or not self.pruned:
            what = f"holds {bad[0]:g}" if bad else "is empty"
            raise UserError(f"pruned {what}; give shares of the directions from 0 to below 1.")


@dataclass(frozen=True)
class Concepts:
    """threshold: average precision from which a concept is encoded. minimum: images that a concept needs with it, and
    without. negatives: draws of as many images without it as with it. concept_images: 0 for 2400 (Broden: all), or 50 a
    class with a limit. concept_stream: "val", or "web" for mixed styles."""

    threshold: float = 0.9
    minimum: int = 20
    negatives: int = 3
    concept_images: int = 0
    concept_stream: str = "val"

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("threshold", 0 < self.threshold <= 1, "an average precision above 0 and up to 1."),
            ("minimum", self.minimum >= 1, "1 or more."),
            ("negatives", self.negatives >= 1, "1 or more."),
            ("concept_images", self.concept_images >= 0, "a number of images, or 0."),
        ):
            if not good:
                raise UserError(f"{name} is {getattr(self, name)!r}; give {expected}")
        one_of("concept_stream", self.concept_stream, STREAMS)
