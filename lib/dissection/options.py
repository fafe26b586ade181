"""The switches of a dissection, checked once. Parameters of notebooks and of functions have these names."""

from dataclasses import dataclass

from lib.dissection import activations
from lib.dissection.constants import CHOICES, PUBLISHED
from lib.errors import UserError, one_of

ALIASES = {  # names of probes -> what they are in the miniature, and elsewhere
    "auto": ("val,web,habitat,sketch", "val"),
    "usual": ("web", "val"),
}
KNOWN = {"pool": activations.POOLS, "channels": activations.CHANNELS, **CHOICES}


@dataclass(frozen=True)
class Options:
    """What is dissected, with what it is probed and in which words it is described; several names with commas.

    clip: the CLIP that names what it sees. judge: another, or the folder of a sentence encoder: a second text space for
    labels and names; "" for none. layers: "final" (the logits), "auto" (every stage or block), "last" (of these), or
    names of modules. pool, channels: see `activations.collect`. probes: see `inputs.probe`; "usual" is the miniature's
    web and elsewhere val, "auto" all that the book shows. probe_images: images of each but the run's own, 0 for all (of
    web 50 a class). concepts: see `inputs.concepts`; sets joined by "+" are one. prompt: with {} for the concept; the
    paper takes the bare words. similarities: names, or "all". top_k: top images of SoftWPMI, 0 for the paper's 100.
    prior, ties: see `constants.Constants`. resamples: of the probe. per_class: images a class of ever larger probes.
    """

    clip: str = "ViT-B-16"
    judge: str = "ViT-L-14"
    layers: str = "final"
    pool: str = "released"
    channels: str = "auto"
    probes: str = "auto"
    probe_images: int = 0
    concepts: str = "classes,descriptors,words"
    prompt: str = "{}"
    similarities: str = "all"
    top_k: int = 0
    prior: str = "released"
    ties: str = "first"
    resamples: int = 30
    per_class: str = "3,6,12,25,50"

    def __post_init__(self) -> None:
        for name in self.functions():
            one_of("similarity", name, PUBLISHED)
        for name, known in KNOWN.items():
            one_of(name, getattr(self, name), known)
        for name in ("probe_images", "top_k", "resamples"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}, but it must be 0 or more.")
        for name in ("clip", "layers", "probes", "concepts", "similarities"):
            if not listed(getattr(self, name)):
                raise UserError(f"{name} is empty; name at least one.")
        if "{}" not in self.prompt:
            raise UserError(f"The prompt '{self.prompt}' has no {{}}; write where the concept goes.")
        if not all(n.isdigit() and int(n) for n in listed(self.per_class)):
            raise UserError(f"per_class is '{self.per_class}'; give whole numbers above 0, with commas.")

    def functions(self) -> list[str]:
        """The similarity functions by name."""
        return list(PUBLISHED) if self.similarities == "all" else listed(self.similarities)

    def probe_names(self, dataset: str) -> list[str]:
        """The probes by name, as they are called at a dataset."""
        return listed(",".join(plain_name(name, dataset) for name in listed(self.probes)))

    def constants(self, name: str) -> dict[str, int | str]:
        """What of these options is a constant of a similarity function, and not the published one."""
        top_k = {"top_k": self.top_k} if name == "soft_wpmi" and self.top_k else {}
        return {"prior": self.prior, "ties": self.ties, **top_k}


def plain_name(probe: str, dataset: str) -> str:
    """A probe by the name that it has at a dataset."""
    return ALIASES[probe][0 if dataset == "bestiary" else 1] if probe in ALIASES else probe


def listed(names: str) -> list[str]:
    """A parameter that names several things with commas, each once."""
    return list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
