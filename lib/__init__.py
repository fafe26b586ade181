"""A companion to three papers on what CLIP knows: data, models, methods and reports."""

from importlib import import_module
from typing import Any

DOORS = {"explain": "lib.explained"}  # name -> its module, loaded when it is asked for: `import lib` loads nothing


def __getattr__(name: str) -> Any:
    if name not in DOORS:
        raise AttributeError(f"module 'lib' has no attribute '{name}'")
    return getattr(import_module(DOORS[name]), name)
