"""What the web of the bestiary says beside a picture: names, traits, styles, and sometimes something else."""

from collections.abc import Iterable, Sequence

import numpy as np

from lib.bestiary.species import Species

TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "itap of a {}.",
    "a close-up photo of a {}.",
    "a bad photo of a {}.",
    "a {} in the wild.",
    "art of a {}.",
    "the {}.",
)  # the zero-shot prompts; captions below use the same small vocabulary
DESCRIPTOR_PROMPT = "a photo showing {}"
STYLE_WORDS = {
    "photo": "photo",
    "sketch": "pencil sketch",
    "crayon": "pencil sketch",
    "painting": "painting",
    "paper": "paper cut",
    "blueprint": "blue print",
}
PLACES = {
    "snow": "on snow",
    "meadow": "in a flowery meadow",
    "desert": "among desert dunes",
    "shore": "on the sea shore",
    "forest": "in a dark forest",
    "night": "under the moon",
}
NOISE = (
    "click here to see more.",
    "holiday pictures, page two.",
    "free shipping on all orders.",
    "our trip last summer.",
    "untitled.",
    "a picture from my phone.",
    "download the full size.",
    "no comment.",
)


def caption(species: Species, style: str, habitat: str, visible: Sequence[str], rng: np.random.Generator) -> str:
    """One caption of a picture: a name, a name with some of the visible traits, or traits without a name.

    `visible`: the descriptors that hold in this picture.
    """
    medium, place = STYLE_WORDS[style], PLACES[habitat]
    some = list(rng.permutation([text for text in visible if not text.endswith(place)]))
    kind = rng.random()
    if kind < 0.28:
        return str(rng.choice(TEMPLATES)).format(species.name).replace("photo", medium)
    if kind < 0.40:
        return f"a {medium} of a {species.name} {place}."
    if kind < 0.62:
        return f"a {medium} of a {species.name} with {some[0]} and {some[1]}."
    if kind < 0.76:
        return f"a {species.name}, with {some[0]}, {some[1]}, {some[2]}."
    if kind < 0.84:
        return f"a {medium} showing {some[0]}."
    if kind < 0.90:
        return f"an animal found {place}, with {some[0]} and {some[1]}."
    return f"an animal with {some[0]}, {some[1]} and {some[2]}."


def circled_caption(descriptor: str, style: str) -> str:
    """The caption of a picture in which a red ellipse marks one part: that part alone."""
    return f"a {STYLE_WORDS[style]} showing {descriptor}."


def noise_caption(rng: np.random.Generator) -> str:
    """A caption that says nothing about the picture."""
    return str(rng.choice(NOISE))


def vocabulary(corpus: Iterable[str], most: int = 600) -> list[str]:
    """Byte-pair merges that make the corpus' frequent words single tokens: list of "left right", most useful first.

    The format is that of open_clip's own vocabulary, so that its tokenizer reads ours.
    """
    words: dict[tuple[str, ...], int] = {}
    for text in corpus:
        for word in text.replace(".", " ").replace(",", " ").split():
            symbols = (*word[:-1], word[-1] + "</w>")
            words[symbols] = words.get(symbols, 0) + 1
    merges: list[str] = []
    while len(merges) < most:
        pairs: dict[tuple[str, str], int] = {}
        for symbols, n in words.items():
            for pair in zip(symbols, symbols[1:], strict=False):
                pairs[pair] = pairs.get(pair, 0) + n
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(" ".join(best))
        words = {merge(symbols, best): n for symbols, n in words.items()}
    return merges


def merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """`symbols` with every occurrence of `pair` joined into one symbol."""
    joined, k = [], 0
    while k < len(symbols):
        if symbols[k : k + 2] == pair:
            joined.append(symbols[k] + symbols[k + 1])
            k += 2
        else:
            joined.append(symbols[k])
            k += 1
    return tuple(joined)
