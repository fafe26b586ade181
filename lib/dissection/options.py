"""The switches of a dissection, checked once. Parameters of notebooks and of functions have these names."""

from dataclasses import dataclass

from lib.dissection import activations, matrix, similarity
from lib.errors import UserError, nearest

SHARE = 0.25  # of a probe that may be among a neuron's top images: small probes get a smaller top_k
TIES = ("first", "released")
ALIASES = {  # names of probes -> what they are in the miniature, and elsewhere
    "auto": ("val,web,habitat,sketch", "val"),
    "usual": ("web", "val"),
}


@dataclass(frozen=True)
class Options:
    """What is dissected, with what it is probed and in which words it is described; several names with commas.

    clip: the CLIP that names what it sees. judge: another, or the folder of a sentence encoder: a second text space for
    labels and names; "" for none. layers: "final" (the logits), "auto" (every stage or block), "last" (of these), or
    names of modules. pool: see `activations.collect`. probes: see `inputs.probe`; "usual" is the miniature's web and val
    elsewhere, "auto" those and in the miniature habitat and sketch. probe_images: images of each but the run's own, 0
    for all (of web 50 a class). concepts: see `inputs.concepts`; sets joined by "+" are one.
    prompt: with {} for the concept; the paper takes the bare words. similarities: names, or "all". top_k: top images of
    SoftWPMI, 0 for the paper's 100. prior, ties: see `similarity`. resamples: of the probe. per_class: images a class of
    ever larger probes.
    """

    clip: str = "ViT-B-16"
    judge: str = "ViT-L-14"
    layers: str = "final"
    pool: str = "released"
    probes: str = "auto"
    probe_images: int = 0
    concepts: str = "classes,descriptors,words"
    prompt: str = "{}"
    similarities: str = "all"
    top_k: int = 0
    prior: str = "layer"
    ties: str = "first"
    resamples: int = 30
    per_class: str = "3,6,12,25,50"

    def __post_init__(self) -> None:
        for name in listed(self.similarities) if self.similarities != "all" else ():
            _one_of("similarity", name, tuple(similarity.FUNCTIONS))
        _one_of("prior", self.prior, similarity.PRIORS)
        _one_of("ties", self.ties, TIES)
        _one_of("pool", self.pool, activations.POOLS)
        for field in ("probe_images", "top_k", "resamples"):
            if getattr(self, field) < 0:
                raise UserError(f"{field} is {getattr(self, field)}, but it must be 0 or more.")
        for field in ("clip", "layers", "probes", "concepts", "similarities"):
            if not listed(getattr(self, field)):
                raise UserError(f"{field} is empty; name at least one.")
        if "{}" not in self.prompt:
            raise UserError(f"The prompt '{self.prompt}' has no {{}}; write where the concept goes.")
        if not all(n.isdigit() and int(n) for n in listed(self.per_class)):
            raise UserError(f"per_class is '{self.per_class}'; give whole numbers above 0, with commas.")

    def probe_names(self, dataset: str) -> list[str]:
        """The probes by name, as they are called at a dataset."""
        place = 0 if dataset == "bestiary" else 1
        names = [ALIASES[name][place] if name in ALIASES else name for name in listed(self.probes)]
        return list(dict.fromkeys(listed(",".join(names))))

    def functions(self) -> list[str]:
        """The similarity functions by name."""
        return list(similarity.FUNCTIONS) if self.similarities == "all" else listed(self.similarities)

    def constants(self, name: str, n: int) -> dict[str, float]:
        """Constants of a similarity function for n probing images.

        The paper's, but with top images no more than a quarter of the probe, and two at least to put into an order.
        """
        if name == "rank_reorder":
            return {"top_fraction": max(0.05, 2.5 / n)}
        usual = {"wpmi": 28, "soft_wpmi": self.top_k or 100}.get(name)
        return {} if usual is None else {"top_k": max(1, min(usual, int(SHARE * n)))}


def listed(names: str) -> list[str]:
    """A parameter that names several things with commas."""
    return [name.strip() for name in names.split(",") if name.strip()]


def _one_of(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise UserError(f"{what} is '{given}', but it must be one of {', '.join(known)}.{nearest(given, known)}")
