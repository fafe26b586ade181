"""Where a number comes from: commit, versions, device, memory; and names that are safe as file names."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import Any

from lib import paths

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "numpy", "scipy", "scikit-learn", "pandas", "pillow")


def of_computation(device: str) -> dict[str, Any]:
    """What a record's card says of the machine and the code that made it."""
    return {
        "device": device_name(device),
        "peak_memory_mb": peak_memory_mb(device),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        **source(),
        "versions": versions(),
    }


def builds_the_book() -> bool:
    """Whether this process runs a page for the book (`lib.book.pages`): only such a run adds to the ledger."""
    return bool(os.environ.get("COMPANION_PAGE"))


def file_name(name: str) -> str:
    """`name` as one file name: what can't stand in one becomes "_", and a hash keeps such names apart."""
    slug = re.sub(r"[^\w.@+-]+", "_", name, flags=re.ASCII).lstrip(".")
    return name if slug == name else f"{slug[-80:]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def device_name(device: str) -> str:
    """The device in words: the GPU's name, or the CPU's architecture and its number of cores."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return f"{device}, {platform.machine()}, {os.cpu_count()} cores"


def peak_memory_mb(device: str) -> int:
    """Peak memory so far in MB: of the GPU if there is one in use, else of this process."""
    if str(device).startswith("cuda"):
        import torch

        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kibibytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


@cache
def source() -> dict[str, Any]:
    """Commit of the project and whether tracked files differ from it; "unknown" outside a git checkout."""
    return {"commit": _git("rev-parse", "HEAD") or "unknown", "dirty": bool(_git("status", "--porcelain", "-uno"))}


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(paths.ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
