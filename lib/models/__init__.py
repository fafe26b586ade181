"""CLIP models and image classifiers, at every scale, behind one interface."""

from lib.models import operators  # noqa: F401  isort: skip  before torchvision, open_clip and timm are imported

from lib.models.catalogue import LEARNED_HEAD, LIBRARIES, Choice, catalogue, choose, pair, resolve
from lib.models.classifiers import Classifier
from lib.models.clip import Clip
from lib.models.features import FEATURES
from lib.models.loading import find_device, find_precision, identify, load
from lib.models.vision import BANNER, Vision, to_pixels

__all__ = [
    "BANNER",
    "FEATURES",
    "LEARNED_HEAD",
    "LIBRARIES",
    "Choice",
    "Classifier",
    "Clip",
    "Vision",
    "catalogue",
    "choose",
    "find_device",
    "find_precision",
    "identify",
    "load",
    "pair",
    "resolve",
    "to_pixels",
]
