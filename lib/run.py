"""A run of a notebook: its checked parameters, what it opens, and `measure`, which finds or makes its records.

A record belongs to a function, a model and everything else that decides it: options, code, seed, limit, precision, and
every model, image set and file that the function opened through what `measure` hands it. Nothing is remembered in a
`Run`: a cell may be run again, with other options, in any order.
"""

import dataclasses
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch

from lib import code, data, given_picture, models, parameters, paths, provenance, store
from lib.book import ledger
from lib.data import picture
from lib.errors import UserError, note
from lib.found import Found, gathered
from lib.given import Given
from lib.models import Vision
from lib.progress import progress
from lib.show import cards, tables
from lib.statistics import Estimate
from lib.store import Seen

Options = TypeVar("Options")
Observe = Callable[..., Seen | pd.DataFrame]
KNOWN_SCALES = {"bestiary": "miniature", "imagenet": "papers", "places365": "papers", "food101": "papers"}
NO_MODEL = "all"  # what a record is called that belongs to no single model


def begin(exhibit: str, names: dict[str, Any], models: str = "mutual") -> "Run":
    """Check a notebook's parameters, set the seeds and return the `Run` that the rest of the notebook uses.

    exhibit: name of a file of notebooks/, without its ending. names: the notebook's globals(). models: the sets of
    data/models.csv that `model = "all"` stands for.
    Raises UserError for an unknown, missing or ill-typed parameter, model, dataset, device or precision.
    """
    run = Run(exhibit, names, parameters.declared(exhibit), models)
    seed = run.seed
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 for other people's code that draws from it
    torch.manual_seed(seed)
    run.device, run.precision, run.models, run.scale, run.images()  # refused here, not after an hour
    code.remember()
    return run


class Run:
    """One run of one notebook. Its parameters are read from the notebook each time, so that changed ones count."""

    def __init__(self, exhibit: str, names: dict[str, Any], defaults: dict[str, Any], sets: str):
        self.exhibit, self.names, self.defaults, self.sets = exhibit, names, defaults, sets
        self.started = time.time()

    @property
    def parameters(self) -> dict[str, Any]:
        return parameters.checked(self.exhibit, self.defaults, self.names)

    @property
    def dataset(self) -> str:
        """The dataset's name; "picture" where the run is about one picture (see `given_picture`)."""
        return picture.NAME if self.about_picture else self.parameters["dataset"]

    @property
    def about_picture(self) -> bool:
        return bool(given_picture.asked(self.parameters, self.defaults))

    @property
    def limit(self) -> int:
        return self.parameters["limit"]

    @property
    def seed(self) -> int:
        return self.parameters["seed"]

    @property
    def device(self) -> str:
        return str(models.find_device(self.parameters["device"]))

    @property
    def precision(self) -> str:
        """ "fp32" or "bf16": what "auto" comes to on this device."""
        return models.find_precision(self.parameters["precision"], self.device)

    @property
    def models(self) -> list[str]:
        """Names of the models that the run is about."""
        return models.resolve(self.parameters["model"], self.dataset, self.sets)

    @property
    def scale(self) -> str:
        """ "miniature", "rehearsal" (random weights), "papers", "own images" or "one picture"."""
        weights = self.parameters["weights"]
        if any(models.choose(name, self.dataset, weights).kind == "random" for name in self.models):
            return "rehearsal"
        return "one picture" if self.about_picture else KNOWN_SCALES.get(self.dataset, "own images")

    @property
    def is_default(self) -> bool:
        """Whether every parameter that decides a result is as the notebook has it; the dataset may be another."""
        return all(v == self.defaults[k] for k, v in self.parameters.items() if k not in ("dataset", "device"))

    def model(self, name: str | None = None) -> Vision:
        """A model, opened: by default the first of the run."""
        p = self.parameters
        opening = (p["device"], p["seed"], p["precision"], p["weights"])
        return models.load(name or self.models[0], self.dataset, *opening)

    def images(self, split: str = "val") -> data.ImageDataset:
        """The images of the run, after `limit`, `seed` and, where it is a parameter, `on_error`."""
        return self.given("").open_images(split)

    def given(self, name: str) -> Given:
        """What `measure` hands to a function for the model `name`; with it a function can be tried by hand."""
        p = self.parameters
        opening = {k: p[k] for k in ("limit", "seed", "device", "precision", "weights")}
        opening |= {"dataset": self.dataset, "on_error": p.get("on_error", "raise")}
        if self.about_picture:
            return given_picture.GivenPicture(name, **opening, picture=given_picture.loaded(p))
        return Given(name, **opening)

    def options(self, kind: type[Options], **changed: Any) -> Options:
        """The options of a wing, from the notebook's parameters of the same names, some of them `changed`."""
        values, names = self.parameters, [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
        return kind(**{name: values[name] for name in names if name in values} | changed)

    def measure(
        self,
        function: Observe,
        options: Any = None,
        models: Sequence[str] | None = None,
        once: bool = False,
        limit: int | None = None,
    ) -> Found:
        """What `function` sees of each model: found among the records, or computed now and kept at once.

        function(given, options), or function(given) without options; `given` is a `Given` and the only door to models,
        images and files. Returns a `Seen` or its table. options: a frozen dataclass. models: names, by default the
        run's. once: the function is about no single model and runs once. limit: of classes, by default the run's.
        With a single model its UserError is raised; with several it is the model's entry in `missing`.
        """
        names = [NO_MODEL] if once else list(self.models if models is None else models)
        found, missing = {}, {}
        for name in progress(names, function.__name__):
            try:
                found[name] = self._record(function, options, name, self.limit if limit is None else limit)
            except UserError as error:
                if len(names) == 1:
                    raise
                note(f"{name} was not run: {error}")
                missing[name] = str(error)
        if missing and not found:
            raise UserError(next(iter(missing.values())))
        return gathered(found, missing)

    def _record(self, function: Observe, options: Any, name: str, limit: int) -> tuple[dict, Seen]:
        asked = self._asked(function, options, name, limit)
        path = record_path(self.dataset, function, name, asked)
        written_by = code.of(function)
        found = self._kept(path, asked, written_by)
        if found:
            return found
        with store.alone(store.digest([str(path), written_by]), f"{function.__name__} of {name}") as waited:
            found = self._kept(path, asked, written_by) if waited else None
            return found or self._computed(function, options, path, asked, written_by)

    def _asked(self, function: Observe, options: Any, name: str, limit: int) -> dict:
        p = self.parameters
        return {
            "function": f"{function.__module__}.{function.__qualname__}",
            "options": dataclasses.asdict(options) if options is not None else {},
            "model": name,
            "dataset": self.dataset,
            "limit": limit,
            "seed": self.seed,
            "precision": self.precision,
            "weights": p["weights"],
            "on_error": p.get("on_error", "raise"),
            **given_picture.asked(p, self.defaults),
        }

    def _kept(self, path: Path, asked: dict, written_by: str) -> tuple[dict, Seen] | None:
        card = store.read_card(path)
        if not card or store.digest(card["asked"]) != store.digest(asked) or card["code"] != written_by:
            return None
        given = self.given(asked["model"])
        if any(given.identity(request) != sha for request, sha in card["opened"]):
            return None
        return store.read_record(path)

    def _computed(self, function: Observe, options: Any, path: Path, asked: dict, written_by: str) -> tuple[dict, Seen]:
        name, began = asked["model"], time.perf_counter()
        given = dataclasses.replace(self.given(name), limit=asked["limit"])
        with store.measuring(function.__qualname__):
            seen = function(given) if options is None else function(given, options)
        seen = seen if isinstance(seen, Seen) else Seen(seen)
        opened = sorted([list(request), sha] for request, sha in given.opened.items())
        card = {
            "asked": asked,
            "code": written_by,
            "opened": opened,
            "key": store.digest([asked, written_by, opened]),
            "exhibit": self.exhibit,
            "scale": self.scale,
            "seconds": round(time.perf_counter() - began, 2),
            **provenance.of_computation(self.device),
        }
        try:
            return store.write_record(path, seen, card), seen
        except OSError as error:
            note(f"The record of {name} is not kept: {path.parent} cannot be written ({error.strerror}).")
            return {**card, "notes": seen.notes, "files": {}}, seen

    def verdicts(self, found: dict[str, Estimate], of: str = "") -> tables.Table:
        """The verdicts on the exhibit's claims, as a table; those of the book's own run are kept for its ledger.

        found: claim (its id in data/claims.toml) to its statistic. of: the claims' `of`, in place of the run's dataset.
        Raises UserError for a claim that the exhibit does not have, or one of its claims left out.
        """
        entries = ledger.judged(self.exhibit, found)
        known = any(entry["value"] is not None for entry in entries.values())  # else nothing was run
        if known and provenance.builds_the_book() and self.is_default and self.scale in ("miniature", "papers"):
            ledger.keep(of or self.dataset, self.exhibit, entries)
        caption = "The claims that this page tests; one holds if its whole interval has its sign"
        caption = f"{caption}. About {of}." if of else self.caption(caption)
        name = f"tab-{self.exhibit.replace('_', '-')}-claims"
        return tables.Table(ledger.lines(self.exhibit, entries), name, caption)

    def caption(self, text: str) -> str:
        """A caption that ends with the scale: dataset and number of images, or the picture that the run is about."""
        scale = {"one picture": ""}.get(self.scale, f"{self.scale.capitalize()} scale: ")
        return f"{text.rstrip('. ')}. {scale}{self._on()}."

    def _on(self) -> str:
        """What the run looks at, in words."""
        images = self.images()
        if self.about_picture:
            return f"{Path(self.parameters['image']).name}, held against {len(images.classes)} classes"
        return f"{self.dataset}, {len(images)} images"

    def card(self, *found: Found) -> cards.Card:
        """What a sceptic asks: commit, data, weights, seed, device, versions, time and memory of these records."""
        records = {card["key"]: card for one in found for card in one.cards}  # each once
        return cards.of_records(list(records.values()), self.exhibit, time.time() - self.started)

    def _repr_html_(self) -> str:
        banner = models.BANNER if self.scale == "rehearsal" else ""
        facts = {
            "Scale": f"{self.scale} ({self._on()})",
            "Models": ", ".join(self.models),
            "Device": f"{self.device}, {self.precision}",
            "Parameters": ", ".join(f"{k} = {v!r}" for k, v in self.parameters.items() if k != "model"),
        }
        return cards.of_facts(facts, banner).html


def record_path(dataset: str, function: Observe, name: str, asked: dict) -> Path:
    """Where a record's card stands: results/<dataset>/<wing>.<function>/<model>.<hash of what was asked>.json."""
    module = function.__module__.removeprefix("lib.").removesuffix(".observe")
    folder = paths.results_folder(provenance.file_name(dataset)) / f"{module}.{function.__name__}"
    return folder / f"{provenance.file_name(name)}.{store.digest(asked)[:12]}.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: make the record of one observe function and model, as a page with default options would."""
    import argparse
    import importlib
    import typing

    parser = argparse.ArgumentParser(prog="python -m lib.run", description=main.__doc__)
    parser.add_argument("function", help="such as mutual.table3: a function of lib/<wing>/observe.py")
    parser.add_argument("--model", default="all")
    parser.add_argument("--dataset", default="bestiary")
    parser.add_argument("--weights", default="published")
    parser.add_argument("--limit", type=int, default=0)
    given = parser.parse_args(arguments)
    wing, _, name = given.function.rpartition(".")
    function = getattr(importlib.import_module(f"lib.{wing}.observe"), name)
    kind = typing.get_type_hints(function).get("options")
    defaults = {"model": "all", "dataset": "bestiary", "limit": 0, "seed": 0}
    defaults |= {"device": "auto", "precision": "auto", "weights": "published"}
    names = defaults | {"model": given.model, "dataset": given.dataset, "weights": given.weights, "limit": given.limit}
    try:
        code.remember()
        began = time.perf_counter()
        Run(given.function, names, defaults, "mutual").measure(function, kind() if kind else None)
        print(given.function, given.model, f"{time.perf_counter() - began:.0f} s", flush=True)
    except UserError as error:
        sys.exit(f"{given.function}: UserError: {error}")


if __name__ == "__main__":
    main()
