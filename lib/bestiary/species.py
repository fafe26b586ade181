"""The species of the bestiary: which parts each has, and how a naturalist would describe them.

A species is a choice of one value for each trait. A value that a describer would mention has a descriptor;
one that nobody mentions (a plain coat, no ornament on the back) has none. Half of the species are siblings of
the other half: they differ in two traits only, so that a classifier has to look at parts.
"""

from dataclasses import dataclass

import numpy as np

from lib.errors import UserError

# trait -> {value: descriptor or None}. The order of traits is the order of a species' descriptors.
TRAITS: dict[str, dict[str, str | None]] = {
    "colour": {
        "red": "a red coat",
        "orange": "an orange coat",
        "yellow": "a yellow coat",
        "green": "a green coat",
        "blue": "a blue coat",
        "purple": "a purple coat",
        "white": "a white coat",
        "brown": "a brown coat",
    },
    "shape": {
        "slender": "a long slender body",
        "round": "a round plump body",
        "boxy": "a heavy square body",
        "pear": "a body wide at the hips",
    },
    "pattern": {
        "plain": None,
        "stripes": "dark stripes",
        "spots": "pale spots",
        "belly": "a pale belly",
        "patches": "large dark patches",
    },
    "ears": {
        "pointed": "pointed ears",
        "round": "big round ears",
        "floppy": "long floppy ears",
        "horns": "two curved horns",
        "antlers": "branching antlers",
        "unicorn": "a single straight horn",
        "none": None,
    },
    "mouth": {
        "red_beak": "a long red beak",
        "yellow_beak": "a short yellow beak",
        "snout": "a broad pink snout",
        "teeth": "sharp white teeth",
        "tusks": "ivory tusks",
        "trunk": "a long trunk",
    },
    "tail": {
        "fan": "a fan-shaped tail",
        "bushy": "a bushy tail",
        "curled": "a curled tail",
        "forked": "a forked tail",
        "club": "a club at the end of the tail",
        "none": None,
    },
    "legs": {
        "thin": "long thin legs",
        "stout": "short stout legs",
        "webbed": "webbed orange feet",
        "hooves": "dark hooves",
        "six": "six legs",
    },
    "back": {
        "none": None,
        "spikes": "a row of spikes along the back",
        "hump": "a hump",
        "wings": "folded wings",
        "shell": "a domed shell",
        "sail": "a tall sail on the back",
    },
    "eyes": {"small": None, "big": "large yellow eyes", "one": "one huge eye", "red": "glowing red eyes"},
    "neck": {"short": None, "long": "a long neck", "mane": "a shaggy mane", "collar": "a white collar"},
    "habitat": {
        "snow": "found on snow",
        "meadow": "found in a flowery meadow",
        "desert": "found among desert dunes",
        "shore": "found on the sea shore",
        "forest": "found in a dark forest",
        "night": "found under the moon",
    },
}

# Where a trait shows: the part of the mask that a descriptor of this trait is true of.
PART_OF_TRAIT = {
    "colour": "body",
    "shape": "body",
    "pattern": "body",
    "ears": "ears",
    "mouth": "mouth",
    "tail": "tail",
    "legs": "legs",
    "back": "back",
    "eyes": "eyes",
    "neck": "neck",
    "habitat": "background",
}
PARTS = ("background", "body", "head", "ears", "eyes", "mouth", "neck", "legs", "tail", "back")

NAMES = (
    "dumu quiwen brasp tolvik fenaro gluppet mirrow zaskin ortle pibbin havroc lunoss cravel windup snorb tessik "
    "yalder bomint farquil grendle hollim ixtow jubarn kessop larvin moxeed nubbit ossel prindle quorth rivenk "
    "sulmar tharn ublix vemmet wocken xanfer yuttle zembra arvost bicklow corvane dapple ermund flisk gorram "
    "huldra innig"
).split()


@dataclass(frozen=True)
class Species:
    """One invented animal: a name and one value for each trait."""

    name: str
    traits: dict[str, str]

    @property
    def descriptors(self) -> list[str]:
        """What a naturalist would write, list of strings in the order of `TRAITS`."""
        described = (TRAITS[trait][value] for trait, value in self.traits.items())
        return [text for text in described if text]


def all_species(count: int = 48, seed: int = 7) -> list[Species]:
    """The species in a fixed order, siblings next to each other: list of `Species`, all different.

    `count` must be even and at most the number of names.
    """
    if count % 2 or not 0 < count <= len(NAMES):
        raise UserError(f"The number of species was {count}; expected an even number from 2 to {len(NAMES)}.")
    rng = np.random.default_rng([seed, 1])
    species: list[Species] = []
    seen: set[tuple[str, ...]] = set()
    while len(species) < count:
        traits = {trait: str(rng.choice(list(values))) for trait, values in TRAITS.items()}
        sibling = dict(traits)
        # Siblings share colour, shape and habitat: what tells them apart is a part, not the overall look.
        for trait in rng.choice(["pattern", "ears", "mouth", "tail", "legs", "back", "eyes", "neck"], 2, replace=False):
            others = [value for value in TRAITS[trait] if value != traits[trait]]
            sibling[trait] = str(rng.choice(others))
        pair = [traits, sibling]
        if any(tuple(t.values()) in seen for t in pair):
            continue
        for t in pair:
            seen.add(tuple(t.values()))
            species.append(Species(NAMES[len(species)], t))
    return species
