"""Records: one JSON file per exhibit, model and dataset, with everything that a sceptic would ask.

A record is written to a temporary name and moved into place, so it is whole or it is not there. Its arrays
stand beside it in a safetensors file with a part of its own sha256 in its name, so that a record never meets
the arrays of another run.
"""

import hashlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from functools import cache
from html import escape
from importlib import metadata
from pathlib import Path

import numpy as np

from lib import paths
from lib.errors import UserError

CLAIMS = "claims.json"
PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "numpy", "scipy", "scikit-learn", "pillow")


def path(dataset, exhibit, model, variant=None):
    """Where a record belongs: results/<dataset>/<exhibit>/<model>.json.

    variant: dict of what makes a run another than the book's (limit, options); it adds a short hash to the
    name, so that a trial never overwrites a row of the book.
    """
    suffix = f".{key(variant)[:8]}" if variant else ""
    return Path(paths.results_folder(file_name(dataset))) / exhibit / f"{file_name(model)}{suffix}.json"


def claims_path(dataset, exhibit):
    """Where an exhibit's verdicts on its claims stand: results/<dataset>/<exhibit>/claims.json."""
    return Path(paths.results_folder(file_name(dataset))) / exhibit / CLAIMS


def file_name(name):
    """`name` as one file name: what can't stand in one becomes "_", and a hash keeps such names apart."""
    slug = re.sub(r"[^\w.@+-]+", "_", name)
    return name if slug == name else f"{slug[-80:]}-{key(name)[:8]}"


def key(decides):
    """sha256 of the canonical JSON of everything that decides a result."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()


def write(path, result, decides, context, clip, data, seconds):
    """Write the record of one model and return it.

    result: {"metrics": {name: x, [images] or (x, low, high, n)}} and, where there are any, "arrays": {name:
    ndarray}, "notes": {} and "batch_size". A metric given image by image is averaged, gets its bootstrap
    interval, and is kept among the arrays under its name. decides: dict hashed to the key; context: exhibit,
    model, dataset, split and scale; seconds: wall time of the computation.
    """
    metrics, kept = summary(result["metrics"], decides["parameters"]["seed"])
    kept |= result.get("arrays", {})
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {
        **context,
        "title": clip.title,
        "family": clip.family,
        "banner": clip.banner,
        "images": len(data),
        "classes": len(data.classes),
        "metrics": metrics,
        "notes": result.get("notes", {}),
        "key": key(decides),
        "decided_by": decides,
        "device": device_name(clip.device),
        "precision": str(clip.precision),
        "batch_size": result.get("batch_size"),
        "wall_seconds": round(seconds, 2),
        "peak_memory_mb": peak_memory_mb(clip.device),
        "sha256": {
            "weights": clip.weights_sha256,
            "data": data.fingerprint,
            "classes": key(data.classes),
            "templates": key(data.templates),
            "descriptors": key(data.descriptors),
        },
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        **source(),
        "versions": versions(),
        "arrays": None,
    }
    if kept:
        entry["arrays"] = _write_arrays(path, kept)
    replace(path, json.dumps(entry, indent=1, default=_plain, allow_nan=False).encode())
    for old in path.parent.glob(f"{path.stem}.????????????.safetensors"):
        if old.name != entry["arrays"]:
            old.unlink(missing_ok=True)
    return {**entry, "folder": path.parent}


def read(path):
    """The record at `path`, or None where there is none; a damaged one counts as none and is named."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry["arrays"] and not _intact(path.parent / entry["arrays"]):
            raise ValueError("its arrays are missing or changed")
        entry["metrics"], entry["key"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as reason:
        print(f"The record {path.name} is damaged ({reason}) and is computed again.", file=sys.stderr)
        return None
    return {**entry, "folder": path.parent}


def read_all(dataset, exhibit=None):
    """All records of the book's own runs of a dataset, in the order of their files, without trials."""
    folder = Path(paths.results_folder(file_name(dataset)))
    found = sorted(folder.glob(f"{exhibit or '*'}/*.json"))
    records = [read(p) for p in found if p.name != CLAIMS and not re.search(r"\.[0-9a-f]{8}$", p.stem)]
    return [r for r in records if r]


def arrays(entry):
    """The arrays of a record, a dict of ndarrays."""
    from safetensors.numpy import load_file

    return load_file(entry["folder"] / entry["arrays"]) if entry["arrays"] else {}


def of_run(run, exhibit):
    """The records of an exhibit that a run has found or made: dict of model to record."""
    return {r["model"]: r for r in [*run.records.values(), *run.further] if r["exhibit"] == exhibit}


def arrays_of_run(run, exhibit):
    """The arrays of an exhibit's records: dict of model to dict of ndarrays."""
    return {model: arrays(r) for model, r in of_run(run, exhibit).items()}


def if_possible(run, function, **parameters):
    """`run.rows`, or no rows where none can be had: a page goes on without what lies on nobody's disk."""
    try:
        return run.rows(function, **parameters)
    except UserError as error:
        print(f"Left out: {error}")
        return run.rows(function, **parameters | {"models": []})


def summary(metrics, seed):
    """Metrics as they stand in a record, and those that were given image by image, as arrays: two dicts."""
    from lib.report import statistics  # with scipy, which a process that only starts a notebook can do without

    by_image = {name: np.asarray(x) for name, x in metrics.items() if np.ndim(x) and not isinstance(x, tuple)}
    averaged = {}
    for n in {len(x) for x in by_image.values()}:  # numbers of as many images share their draws
        names = [name for name, x in by_image.items() if len(x) == n]
        averaged |= zip(names, statistics.intervals([by_image[name] for name in names], seed), strict=True)
    found = {name: metric(averaged.get(name, x)) for name, x in metrics.items()}
    return found, {name: x.astype(np.float32) for name, x in by_image.items()}


def metric(value):
    """A metric as it stands in a record: {"value", "low", "high", "n"}, None where unknown or not finite."""
    value, low, high, n = value if isinstance(value, tuple) else (value, None, None, None)
    value, low, high = map(_finite, (value, low, high))
    return {"value": value, "low": low, "high": high, "n": None if n is None else int(n)}


def row(entry):
    """A record as a row of a table: title, family, each metric with _low, _high and _n, an empty reason."""
    flat = {"title": entry["title"], "family": entry["family"]}
    for name, m in entry["metrics"].items():
        flat[name] = math.nan if m["value"] is None else m["value"]
        flat |= {f"{name}_{k}": math.nan if m[k] is None else m[k] for k in ("low", "high", "n")}
    return {**flat, "reason": ""}


def device_name(device):
    """The device in words: the GPU's name, or the CPU's architecture and its number of cores."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return f"{device}, {platform.machine()}, {os.cpu_count()} cores"


def peak_memory_mb(device):
    """Peak memory so far in MB: of the GPU if there is one in use, else of this process."""
    if str(device).startswith("cuda"):
        import torch

        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kibibytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


@cache
def source():
    """Commit of the project and whether tracked files differ from it; "unknown" outside a git checkout."""
    return {
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain", "-uno")),
    }


@cache
def versions():
    """Versions of Python and of the packages that numbers depend on."""
    found = {name: metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def card(records, exhibit, seconds):
    """The provenance of a run as HTML. records: those that its rows came from. seconds: the run so far."""
    records = list(records)
    facts = {
        "Exhibit": exhibit,
        "Commit": source()["commit"][:12] + (" with uncommitted changes" if source()["dirty"] else ""),
        "Versions": ", ".join(f"{k} {v}" for k, v in versions().items()),
        "This run": f"{seconds:.0f} s, {peak_memory_mb('cpu')} MB at its peak",
    }
    for record in records[:1]:
        facts["Data"] = f"{record['dataset']} {record['split']}, sha256 {record['sha256']['data'][:12]}"
        facts["Scale"] = record["scale"]
    cells = "".join(f"<dt>{k}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    head = (
        "exhibit",
        "model",
        "images",
        "seed",
        "device",
        "precision",
        "seconds",
        "MB",
        "weights",
        "commit",
        "written",
    )
    body = "".join("<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in _card_row(r)) + "</tr>" for r in records)
    table = f"<table><tr>{''.join(f'<th>{h}</th>' for h in head)}</tr>{body}</table>" if records else ""
    return f'<div class="run-card"><dl>{cells}</dl>{table}</div>'


def _card_row(r):
    seed, weights = r["decided_by"]["parameters"]["seed"], str(r["sha256"]["weights"])[:12]
    commit = r["commit"][:8] + ("*" if r["dirty"] else "")
    run = (r["device"], r["precision"], r["wall_seconds"], r["peak_memory_mb"])
    return (r["exhibit"], r["model"], r["images"], seed, *run, weights, commit, r["written"])


def _write_arrays(path, arrays):
    from safetensors.numpy import save

    content = save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
    name = f"{path.stem}.{hashlib.sha256(content).hexdigest()[:12]}.safetensors"
    replace(path.parent / name, content)
    return name


def _intact(path):
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()[:12] == path.name.split(".")[-2]


def replace(path, content):
    """Put bytes at `path` whole or not at all: what stood there stays until the new file is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _finite(x):
    return None if x is None or not math.isfinite(x) else float(x)


def _plain(x):
    return x.item() if isinstance(x, np.generic) else x.tolist() if isinstance(x, np.ndarray) else str(x)


def _git(*arguments):
    command = ["git", "-C", str(paths.ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
