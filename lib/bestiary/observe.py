"""What is seen of a model of the zoo: which pictures of each split it names rightly."""

import numpy as np
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
        names = np.array(images.classes)
        seen = pd.DataFrame({"split": split, "image": np.arange(len(images)), "class": names[images.labels]})
        predicted, hits = heads.predict(logits).cpu().numpy(), heads.top_k_hits(logits, images.labels).cpu().numpy()
        lines.append(seen.assign(predicted=names[predicted], top1=100.0 * hits))
    return pd.concat(lines, ignore_index=True)
