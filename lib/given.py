"""What an observe function is handed: the only door to models, images and files, which notes what was opened."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib import data, models, store
from lib.data import broden, downloads
from lib.data.digests import sha256
from lib.errors import UserError
from lib.paths import ROOT

ABSENT = "absent"  # the identity of what cannot be had; once it can, a record made without it is out of date


@dataclass
class Given:
    """The door of one record.

    name: of the model that the record is about. dataset, limit, seed, device, precision, weights, on_error: the run's.
    opened: identity of everything opened so far, by request.
    """

    name: str
    dataset: str = "bestiary"
    limit: int = 0
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    weights: str = "published"
    on_error: str = "raise"
    opened: dict[tuple, str] = field(default_factory=dict)

    @property
    def model(self) -> Any:
        """The model that the record is about, opened: `Clip` or `Classifier`."""
        return self.open_model(self.name)

    @property
    def images(self) -> data.ImageDataset:
        """The images of the run, opened."""
        return self.open_images()

    def open_model(self, name: str) -> Any:
        """A model by name, as `models.load` gives it: `Clip` or `Classifier`. Raises UserError."""
        self._note("model", name)
        with store.measuring(None):
            return models.load(name, self.dataset, self.device, self.seed, self.precision, self.weights)

    def open_images(
        self, split: str = "val", dataset: str = "", limit: int | None = None, images: int = 0
    ) -> data.ImageDataset:
        """An image set: a split of the run's dataset, or of another.

        limit: classes, by default the run's. images: so many of theirs, spread over the classes; 0 for all.
        """
        request = ("images", dataset or self.dataset, split, self.limit if limit is None else limit, images)
        self._note(*request)
        return self._images(*request[1:])

    def open_broden(self, images: int = 0) -> data.ImageDataset:
        """Broden as it lies on disk (see `lib.data.broden`): so many of its images, 0 for all. Raises UserError."""
        self._note("broden", images)
        with store.measuring(None):
            return broden.load(images, self.seed)

    def open_file(self, name: str) -> Path:
        """Path of a file of data/downloads.csv, by name, or of any other file or folder, by path. Raises UserError.

        A path that does not exist from where one stands is one from the project's folder.
        """
        self._note("file", name)
        return _file(name)

    def identity(self, request: Sequence[Any]) -> str:
        """Digest of what a request stands for now; "absent" where it cannot be had."""
        kind, *what = request
        try:
            if kind == "model":
                how = (self.seed, self.precision, self.device, self.weights)
                return store.digest(models.identify(what[0], self.dataset, *how))
            if kind == "images":
                return store.digest(self._images(*what).identity)
            if kind == "broden":
                with store.measuring(None):
                    return store.digest(broden.load(what[0], self.seed).identity)
            return _content(_file(what[0]))
        except (UserError, OSError):
            return ABSENT

    def _note(self, *request: Any) -> None:
        if request not in self.opened:
            self.opened[request] = self.identity(request)

    def _images(self, dataset: str, split: str, limit: int, images: int) -> data.ImageDataset:
        with store.measuring(None):
            return data.load(dataset, split, limit, self.seed, self.on_error, images)


def _file(name: str) -> Path:
    if name in downloads.rows():
        return downloads.download(name)
    path = Path(name).expanduser()
    return path if path.exists() else ROOT / path


def _content(path: Path) -> str:
    """sha256 of a file, or of all files of a folder with their names."""
    if not path.is_dir():
        return sha256(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return store.digest([[str(p.relative_to(path)), sha256(p)] for p in files])
