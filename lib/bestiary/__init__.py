"""The bestiary: a small world of invented animals whose truth is known."""

from lib.bestiary.world import (
    ADVERSARIAL,
    HABITATS,
    SHIFTS,
    SPECIES,
    SPLITS,
    Bestiary,
    Plan,
    circled,
    plan,
    rendered,
)

__all__ = ["ADVERSARIAL", "HABITATS", "SHIFTS", "SPECIES", "SPLITS", "Bestiary", "Plan", "circled", "plan", "rendered"]
