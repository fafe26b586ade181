"""The papers' datasets in miniature: laid out exactly as they are distributed, with a few drawn pictures a class.

`python scripts/rehearsal_data.py [FOLDER]` writes ImageNet (val, some of train, boxes), ImageNet-V2, -R, -A, -Sketch,
ObjectNet, Places365, Food-101, Broden and CIFAR-100 in about a minute; COMPANION_DATASETS then points there. What it
is for: that every page's way at the papers' scale runs before anyone has the images. Its numbers mean nothing.

Some files are odd, as in the real sets: grey, CMYK and EXIF-turned JPEGs and a PNG that calls itself JPEG (ImageNet),
a red border (ObjectNet), and one file that ends too early (Places365). Where the folder of downloads has photos/, with
photographs named by synset, these are among ImageNet's validation images.
"""

import argparse
import csv
import json
import re
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lib import seeds
from lib.data import download
from lib.data.folders import entries
from lib.data.shifts import synsets
from lib.errors import UserError, note
from lib.paths import DATA, download_folder

SIZES = ((120, 90), (90, 120), (112, 112))  # width and height in turn
RED = (255, 0, 0)
LEFT = 0.75  # share of the damaged file that is left: its header, and most of its picture
MAPPED, DOUBLE = 113, 6  # classes of ObjectNet that are ImageNet's, and how many of these are two of them
CIFAR = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel
streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm""".split()
Box = tuple[int, int, int, int]


# --- pictures


def picture(label: int, k: int, seed: int = 0, size: tuple[int, int] | None = None) -> tuple[Image.Image, Box]:
    """Picture k of class `label`: an animal-like thing of the class's colours before a ground; and its box."""
    look, here = seeds.rng(seed, "class", label), seeds.rng(seed, "picture", label, k)
    width, height = size or SIZES[k % len(SIZES)]
    colours = [tuple(map(int, look.integers(30, 226, 3))) for _ in range(4)]
    across = np.linspace(0, 60, width)[None, :, None] * here.uniform(-1, 1, 3)
    ground = np.array(colours[0]) / 2 + 60 + across + here.normal(0, 9, (height, width, 3))
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    pen, side = ImageDraw.Draw(image), min(width, height)
    x, y = int(here.integers(0, width - side * 0.7)), int(here.integers(0, height - side * 0.7))
    w, h = (int(side * here.uniform(0.5, 0.7)) for _ in range(2))
    pen.ellipse((x, y, x + w, y + h), fill=colours[1])
    for _ in range(int(look.integers(2, 6))):  # spots that the class has, at its own places
        a, b, r = x + w * look.uniform(0.2, 0.8), y + h * look.uniform(0.2, 0.8), side * look.uniform(0.05, 0.12)
        pen.ellipse((a - r, b - r, a + r, b + r), fill=colours[2])
    pen.rectangle((x + w // 3, y, x + w // 2, y + h // 4), fill=colours[3])
    return image, (x, y, x + w, y + h)


def put(path: Path, image: Image.Image, **options: object) -> None:
    """Save a picture; a PNG where the name says so, else a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "PNG" if path.suffix == ".png" else "JPEG", **{"quality": 85, **options})


def put_odd(path: Path, image: Image.Image, kind: int) -> None:
    """Save a picture as one of ImageNet's odd files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == 0:
        image.convert("L").save(path, "JPEG")
    elif kind == 1:
        image.convert("CMYK").save(path, "JPEG")
    elif kind == 2:
        turned = Image.Exif()
        turned[0x0112] = 6  # the orientation: to be turned by 90 degrees
        image.save(path, "JPEG", exif=turned)
    else:
        image.save(path, "PNG")


# --- datasets


def imagenet(root: Path, seed: int) -> None:
    """val with boxes, and some of train."""
    photos = {p.name.split("_")[0]: p for p in sorted((download_folder() / "photos").glob("n*_*.JPEG"))}
    number = 0
    for label, synset in enumerate(synsets()):
        for k in range(3):
            number += 1
            path = root / "val" / synset / f"ILSVRC2012_val_{number:08d}.JPEG"
            image, box = picture(label, k, seed)
            if k == 0 and synset in photos:
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(photos[synset], path)
                with Image.open(path) as photo:
                    image, box = photo, (0, 0, *photo.size)
            elif k == 1:
                put_odd(path, image, label % 4)
            else:
                put(path, image)
            _boxes(root / "boxes" / f"{path.stem}.xml", image.size, box, synset)
        for k in range(3, 6):
            put(root / "train" / synset / f"{synset}_{10 * k + label}.JPEG", picture(label, k, seed)[0])


def _boxes(path: Path, size: tuple[int, int], box: Box, synset: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    edges = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    path.write_text(
        f"<annotation><filename>{path.stem}</filename><size><width>{size[0]}</width><height>{size[1]}</height>"
        f"<depth>3</depth></size><object><name>{synset}</name><bndbox>{edges}</bndbox></object></annotation>\n"
    )


def v2(root: Path, seed: int) -> None:
    for label in range(1000):
        for k in range(2):
            name = seeds.rng(seed, "name", label, k).bytes(8).hex()
            put(root / str(label) / f"{name}.jpeg", picture(label, 10 + k, seed)[0])


def renditions(root: Path, seed: int) -> None:
    _some_classes(root, range(1, 1000, 5), lambda k: f"{'art cartoon'.split()[k]}_{k}.jpg", 20, seed)


def adversarial(root: Path, seed: int) -> None:
    _some_classes(root, range(3, 1000, 5), lambda k: f"0.00{k}116_digital clock _ bell_0.86{k}.jpg", 30, seed)


def _some_classes(root: Path, labels: Iterable[int], name, start: int, seed: int) -> None:
    for label in labels:
        for k in range(2):
            put(root / synsets()[label] / name(k), picture(label, start + k, seed)[0])
    (root / "README.txt").write_text("Drawn for a rehearsal.\n")


def sketch(root: Path, seed: int) -> None:
    for label, synset in enumerate(synsets()):
        image = picture(label, 40, seed)[0].convert("L").convert("RGB")
        put(root / synset / "sketch_0.JPEG", image)


def objectnet(root: Path, seed: int) -> None:
    """313 folders, of which 113 stand for classes of ImageNet by way of four mapping files; a red border."""
    rng = seeds.rng(seed, "objectnet")
    ids = rng.permutation(1000)  # ImageNet's own numbers are not in the order of the synsets
    names = [f"{synset}, name of class {k}" for k, synset in enumerate(synsets())]
    shown = rng.permutation(1000)[: MAPPED + DOUBLE]
    groups = [[int(k)] for k in shown[:MAPPED]]
    for group, more in zip(groups, shown[MAPPED:], strict=False):
        group.append(int(more))
    labels = [f"Thing {k:03d}" for k in range(313)]
    folders = {f"thing_{k:03d}": label for k, label in enumerate(labels)}
    mapped = rng.permutation(313)[:MAPPED]
    meant = {labels[f]: "; ".join(names[k] for k in group) for f, group in zip(mapped, groups, strict=True)}
    classes = dict(zip(mapped.tolist(), groups, strict=True))
    for f, folder in enumerate(folders):
        for k in range(2):
            image = picture(classes.get(f, [1000 + f])[0], 50 + k, seed)[0]
            ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline=RED, width=2)
            put(root / "images" / folder / f"{rng.bytes(8).hex()}.png", image, compress_level=1)
    mappings = root / "mappings"
    mappings.mkdir(parents=True, exist_ok=True)
    lines = [names[k] for k in np.argsort(ids)]  # line ids[k] is the name of class k
    (mappings / "imagenet_to_label_2012_v2").write_text("\n".join(lines) + "\n")
    content = {"folder_to_objectnet_label": folders, "objectnet_to_imagenet_1k": meant}
    content["pytorch_to_imagenet_2012_id"] = {str(k): int(line) for k, line in enumerate(ids)}
    for name, mapping in content.items():
        (mappings / f"{name}.json").write_text(json.dumps(mapping))


def places365(root: Path, seed: int) -> None:
    """val and some of train; the last picture of val's first class is cut off."""
    bank = json.loads(download("descriptors_places365").read_text())
    folders = sorted(re.sub(r" \(.*\)", "", name).replace(" ", "_") for name in bank)
    for label, folder in enumerate(folders):
        for k in range(2):
            put(root / "val" / folder / f"Places365_val_{2 * label + k:08d}.jpg", picture(label, 60 + k, seed)[0])
        put(root / "train" / folder / f"{label:08d}.jpg", picture(label, 62, seed)[0])
    damaged = max((root / "val" / folders[0]).glob("*.jpg"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: int(LEFT * len(whole))])


def food101(root: Path, seed: int) -> None:
    """images/ of all splits together, and the lists of meta/."""
    names = list(json.loads(download("descriptors_food101").read_text()))
    folders = sorted(name.replace(" ", "_") for name in names)
    lists: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for label, folder in enumerate(folders):
        for k in range(4):
            name = f"{folder}/{100000 + 1000 * label + k}"
            put(root / "images" / f"{name}.jpg", picture(label, 70 + k, seed)[0])
            lists["test" if k % 2 else "train"].setdefault(folder, []).append(name)
    (root / "meta").mkdir(exist_ok=True)
    for split, listed in lists.items():
        (root / "meta" / f"{split}.json").write_text(json.dumps(listed))
        (root / "meta" / f"{split}.txt").write_text("\n".join(name for of in listed.values() for name in of) + "\n")
    (root / "meta" / "classes.txt").write_text("\n".join(folders) + "\n")
    (root / "meta" / "labels.txt").write_text("\n".join(f.replace("_", " ").capitalize() for f in folders) + "\n")


def broden(root: Path, seed: int) -> None:
    """Images with a label everywhere (scene, texture), or a map of labels (colour, object), as broden1_224 has them."""
    about = [("red-c", "color"), ("blue-c", "color"), ("cat", "object"), ("car", "object"), ("sky", "object")]
    about += [("field-s", "scene"), ("street-s", "scene"), ("striped", "texture"), ("dotted", "texture")]
    (root / "images" / "drawn").mkdir(parents=True, exist_ok=True)
    rng, rows = seeds.rng(seed, "broden"), []
    for i in range(120):
        image, box = picture(i % 9, 80 + i, seed, (112, 112))
        name = f"drawn/{i:04d}.jpg"
        put(root / "images" / name, image)
        row = {"image": name, "split": "val" if i % 10 == 0 else "train", "ih": 112, "iw": 112, "sh": 112, "sw": 112}
        for category, numbers in {"color": (1, 2), "object": (3, 4, 5)}.items():
            pixels = np.zeros((112, 112, 3), np.uint8)  # the number is red plus 256 times green
            pixels[box[1] : box[3], box[0] : box[2], 0] = rng.choice(numbers)
            row[category] = f"{name.removesuffix('.jpg')}_{category}.png"
            put(root / "images" / row[category], Image.fromarray(pixels))
        rows.append(row | {"scene": int(rng.choice([6, 7])), "texture": int(rng.choice([8, 9])) if i % 3 else ""})
    columns = ["image", "split", "ih", "iw", "sh", "sw", "color", "object", "part", "material", "scene", "texture"]
    _table(root / "index.csv", columns, rows)
    lines = [{"number": k, "name": n, "category": f"{c}(60)", "frequency": 60} for k, (n, c) in enumerate(about, 1)]
    _table(root / "label.csv", ["number", "name", "category", "frequency", "coverage", "syns"], lines)


def _table(path: Path, columns: list[str], rows: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)


def cifar100(root: Path, seed: int) -> None:
    """The binary version: records of two labels and 32 x 32 pixels, and the names of the labels."""
    root.mkdir(parents=True, exist_ok=True)
    for file, count, start in (("train.bin", 5, 90), ("test.bin", 2, 95)):
        records = []
        for label in range(100):
            for k in range(count):
                pixels = np.asarray(picture(label, start + k, seed)[0].resize((32, 32)))
                records.append(bytes([label // 5, label]) + pixels.transpose(2, 0, 1).tobytes())
        order = seeds.rng(seed, file).permutation(len(records))
        (root / file).write_bytes(b"".join(records[k] for k in order))
    (root / "fine_label_names.txt").write_text("\n".join(CIFAR) + "\n")
    (root / "coarse_label_names.txt").write_text("\n".join(f"group_{k}" for k in range(20)) + "\n")


MAKERS = {
    "imagenet": imagenet,
    "imagenet-v2": v2,
    "imagenet-r": renditions,
    "imagenet-a": adversarial,
    "imagenet-sketch": sketch,
    "objectnet": objectnet,
    "places365": places365,
    "food101": food101,
    "broden": broden,
    "cifar100": cifar100,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DATA / "cache" / "rehearsal")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name, make in MAKERS.items():
        began, root = time.perf_counter(), given.folder / entries()[name]["folder"]
        if (root / ".complete").is_file():
            continue
        shutil.rmtree(root, ignore_errors=True)  # what a stopped run left
        try:
            make(root, given.seed)
        except UserError as error:  # the names of its classes are those of a bank that is not there
            note(f"{name} is left out: {error}")
            continue
        (root / ".complete").touch()
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
