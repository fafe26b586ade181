"""A companion to three papers on what CLIP knows: data, models, methods and reports."""

from importlib import import_module
from typing import Any

DOORS = {  # what one call does -> where it stands; loaded when it is asked for
    "dissect": "lib.dissection.door",
    "explain": "lib.explained",
}


def __getattr__(name: str) -> Any:
    if name not in DOORS:
        raise AttributeError(f"module 'lib' has no attribute '{name}'")
    return getattr(import_module(DOORS[name]), name)
