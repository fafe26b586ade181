"""A run about one picture: whether a notebook's parameters ask for one, and the door that hands it out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.data import ImageDataset, picture
from lib.errors import UserError
from lib.given import Given

PARAMETERS = ("image", "classes", "descriptors")


@dataclass
class GivenPicture(Given):
    """The door of one record whose run has no images but a picture."""

    picture: ImageDataset | None = None

    def _images(self, dataset: str, split: str, limit: int, images: int) -> ImageDataset:
        if dataset != picture.NAME or self.picture is None:
            return super()._images(dataset, split, limit, images)
        if split != "val":
            raise UserError(f"A picture of one's own has no split '{split}'; give a dataset for this.")
        return self.picture


def asked(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of a run about one picture, which is then the whole dataset; {} where a dataset is asked for.

    Raises UserError for a part of such a wish without the rest, and beside a dataset.
    """
    if "descriptors" not in values:  # only the page of one image takes a picture
        return {}
    if not values["classes"]:
        if values["descriptors"]:
            raise UserError("descriptors go with the classes of a picture; name them: `-p classes 'cat, dog'`.")
        return {}
    if not isinstance(values["image"], str):
        given = "no image" if values["image"] is None else f"image {values['image']!r}"
        raise UserError(f"classes goes with a picture of yours, and {given} is given; add `-p image FILE`.")
    if values["dataset"] != defaults["dataset"]:
        raise UserError(
            f"dataset '{values['dataset']}' has classes of its own, and `classes` names others; give one of the two."
        )
    return {name: values[name] for name in PARAMETERS}


def loaded(values: Mapping[str, Any]) -> ImageDataset:
    """The picture that parameters ask for. Raises UserError."""
    return picture.load(*(values[name] for name in PARAMETERS))
