"""The switches between paper and released code, checked once. The book's page "method" says what each does."""

from dataclasses import dataclass

from lib.errors import UserError, one_of

CHOICES = {
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

    parts: visual concepts L. per_part: descriptors a part. top_u: descriptors of a class M, 0 for the bank's default
    (`explain.language_size`). information, removal: see `information`. foreground: where its features are read, see
    `foreground.setting_of`. spectral, components: see `parts.foreground`. candidates, relevance, matching, top: see
    `matching`. group: images that are decomposed together share their "label" (released code) or what the model
    "predicted" of them, which needs no labels. crf: cut the parts to the foreground's outline at pixel level (the
    released code does). Raises UserError for a value that is not among `CHOICES`, or a number that is too small.
    """

    parts: int = 5
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
        for name, least in {"parts": 1, "per_part": 1, "top_u": 0, "top": 1}.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UserError(f"{name} is {value!r}; give a whole number from {least} on.")
