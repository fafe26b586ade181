"""The switches between paper and released code, checked once. The book's page "method" says what each does."""

from dataclasses import dataclass

from lib.errors import UserError, one_of

PART_METHODS = ("pca", "kmeans")
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
}


@dataclass(frozen=True)
class Options:
    """How images are explained and what is counted; the defaults are the released notebook's, and the book's.

    parts_by: how parts are found, "both" ways beside each other. parts: visual concepts L. restart: 1, 2, ... are other
    random starts of K-means. per_part: descriptors a part. top_u: descriptors of a class M, 0 for the bank's default
    (`explain.language_size`). information, removal: see `information`. foreground: where its features are read, see
    `foreground.setting_of`. spectral, components: see `parts.foreground`. candidates, relevance, matching, top: see
    `matching`. group: images that are decomposed together share their "label" (released code) or what the model
    "predicted" of them, which needs no labels. crf: cut the parts to the foreground's outline at pixel level (the
    released code does). Raises UserError for a value that is not among `CHOICES`, or a number that is too small.
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

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            one_of(name, getattr(self, name), known)
        for name, least in {"parts": 1, "restart": 0, "per_part": 1, "top_u": 0, "top": 1}.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UserError(f"{name} is {value!r}; give a whole number from {least} on.")

    @property
    def methods(self) -> tuple[str, ...]:
        """The part methods that `parts_by` stands for."""
        return PART_METHODS if self.parts_by == "both" else (self.parts_by,)


DEFAULTS = Options()  # the book's


@dataclass(frozen=True)
class MaskOptions(Options):
    """What is done to a picture outside its foreground: `blur`, the width of a Gaussian in pixels; 0: mean colour."""

    blur: int = 11

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blur < 0 or (self.blur and self.blur % 2 == 0):
            raise UserError(f"blur is {self.blur}; give an odd width in pixels, or 0 for the mean colour.")


@dataclass(frozen=True)
class BankOptions:
    """The sentence of classification by description, `prompt`: see `boost.prompt_of`."""

    prompt: str = "auto"
