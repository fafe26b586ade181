"""Insertion and deletion of Table 1's explanations: in batches, against one image and one step at a time, in one run.

    python benchmarks/faithfulness.py --model ViT-B-16 --limit 6

Both sides get the same ranked regions and return, for each image, explanation and step, the score of the predicted
class and the class that wins. The plain side goes through images, explanations and steps in turn: it puts the image and
its blurred copy together by the region's mask, embeds the result and compares it with the classes. The batched side is
`observe_regions.walk`: it finds out which steps of an image differ, and embeds those of many images together.
Regions are found and class names embedded before the clock starts. The sides take turns and the best of `--repeats`
counts. Exits with 1 when the scores differ by more than the blur's rounding can explain.
"""

import argparse
import sys
import time

import cv2
import numpy as np
import torch

from lib.given import Given
from lib.models import heads
from lib.mutual import faithfulness, observe_regions, regions, words
from lib.mutual.options import RegionOptions

TARGET = 5.0


def one_at_a_time(clip, data, masks, blur):
    """Scores and winners [explanations, 2 directions, n, L + 1], step by step."""
    weights = heads.classifier(clip, data.classes, data.templates)
    targets, kernel = words.predictions(clip, data), faithfulness.kernel_width(clip.image_size, blur)
    count = 1 + next(iter(masks.values())).shape[1]
    scores, winners = np.zeros((2, len(masks), 2, len(data), count))
    for i in range(len(data)):
        image = clip.pixels([data.image(i)])[0].permute(1, 2, 0).numpy()
        soft = cv2.GaussianBlur(image, (kernel, kernel), 0)
        for e, of in enumerate(masks.values()):
            for step in range(count):
                covered = of[i, :step].any(0).numpy() if step else np.zeros(of.shape[2:], bool)
                size = image.shape[1::-1]
                mask = cv2.resize(covered.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)[:, :, None] > 0
                for direction in range(2):
                    shown = np.where(mask, soft, image) if direction == 0 else np.where(mask, image, soft)
                    pixels = torch.from_numpy(shown).permute(2, 0, 1)[None].contiguous()
                    cosines = (clip.embed_pixels(pixels) @ weights.T)[0]
                    scores[e, direction, i, step] = faithfulness.SCORE_SCALE * float(cosines[targets[i]])
                    winners[e, direction, i, step] = int(cosines.argmax())
    return scores, winners


def batched(clip, data, masks, blur):
    """The same by `observe_regions.walk`."""
    found = observe_regions.walk(clip, data, {name: [of] for name, of in masks.items()}, ["whole"], blur)
    shape = (len(data), len(masks), 2, -1)
    return tuple(np.moveaxis(found[name].reshape(shape), 0, 2) for name in ("score", "winner"))


def timed(function, *arguments):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--dataset", default="bestiary")
    parser.add_argument("--limit", type=int, default=6, help="classes, with all their images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--blur", type=float, default=1.2)
    parser.add_argument("--train-limit", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    given = Given(arguments.model, arguments.dataset, arguments.limit, device=arguments.device)
    explainer = regions.prepare(given, RegionOptions(blur=arguments.blur, train_limit=arguments.train_limit))
    clip, data = explainer.clip, explainer.images
    masks = explainer.masks(range(len(data)))
    del masks[regions.WHOLE]  # a control of one step
    batched(clip, data.subset(range(4)), {k: v[:4] for k, v in masks.items()}, arguments.blur)  # warms up

    plain_seconds, batch_seconds = [], []
    for _ in range(arguments.repeats):
        ours, seconds = timed(batched, clip, data, masks, arguments.blur)
        batch_seconds.append(seconds)
        theirs, seconds = timed(one_at_a_time, clip, data, masks, arguments.blur)
        plain_seconds.append(seconds)
    difference = np.abs(ours[0] - theirs[0]).max()
    same = (ours[1] == theirs[1]).mean()
    steps = theirs[0].size
    print(f"{arguments.model}, {len(data)} images, {len(masks)} explanations, {steps} steps, {clip.device}, ", end="")
    print(f"{torch.get_num_threads()} threads")
    print(f"one image and step at a time  {min(plain_seconds):8.2f} s")
    print(f"batched                       {min(batch_seconds):8.2f} s")
    print(f"ratio                         {min(plain_seconds) / min(batch_seconds):8.1f}     (target {TARGET:g})")
    print(f"largest difference of a score {difference:8.4f}     same winner {same:.2%}")
    return 0 if difference < 0.05 and same > 0.99 else 1


if __name__ == "__main__":
    sys.exit(main())
