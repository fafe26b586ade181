"""What is seen of a model of the zoo: which pictures of each split it names rightly."""

import pandas as pd

from lib.bestiary import SHIFTS
from lib.given import Given
from lib.models import heads


def accuracy(given: Given) -> pd.DataFrame:
    """A line a picture of val and of each shift: split, image (number in its split), class, predicted, top1 (100 or 0).

    A CLIP is asked by its zero-shot classifier, a classifier by its own head. Raises UserError.
    """
    model, lines = given.model, []
    weight, bias = heads.head(model, given.images)
    for split in ("val", *SHIFTS):
        images = given.open_images(split)
        logits = model.embed_images(images) @ weight.T + bias
        seen = {"split": split, "image": range(len(images)), "class": [images.classes[k] for k in images.labels]}
        seen["predicted"] = [images.classes[k] for k in heads.predict(logits).tolist()]
        seen["top1"] = 100.0 * heads.top_k_hits(logits, images.labels).cpu().numpy()
        lines.append(pd.DataFrame(seen))
    return pd.concat(lines, ignore_index=True)
