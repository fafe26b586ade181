"""A picture of one's own: what is taken and refused, what its dataset is, its runs, and the call from Python."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import data, explain, explained, parameters, run, store
from lib.data import picture
from lib.errors import UserError
from lib.paths import ROOT

CLASSES = ["cat", "dog", "coffee cup"]
TEXTS = ["pointed ears", "whiskers", "a wet nose", "a handle", "brown fur", "steam", "a tail"]


def noise(seed=0, size=(40, 30)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture
def photo(tmp_path):
    noise().save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


# --- what is taken, and what is refused


def test_names_come_in_a_list_or_with_commas_and_blanks_do_not_count():
    assert picture.class_names(" tabby  cat, tiger ,lynx") == ["tabby cat", "tiger", "lynx"]
    assert picture.class_names(["great white shark, white shark", "ray"])[0] == "great white shark, white shark"


@pytest.mark.parametrize(
    "classes, sentence",
    [
        ("cat", "classes names cat; a picture is explained against a second"),
        ([], "classes names none"),
        ("cat,, dog", "classes has an empty name, number 2 of 3"),
        (["cat", " "], "classes has an empty name, number 2 of 2"),
        ("cat, dog, Cat", "classes names Cat twice"),
        (["cat", 3], "classes holds cat, 3; give names"),
    ],
)
def test_classes_that_name_nothing_to_choose_among_are_refused(classes, sentence):
    with pytest.raises(UserError, match=sentence):
        picture.class_names(classes)


@pytest.mark.parametrize(
    "file, content",
    [
        ("bank.json", json.dumps({"cat": TEXTS[:3], "dog": TEXTS[2:]})),
        ("bank.json", json.dumps([*TEXTS, " pointed  ears "])),
        ("bank.txt", "\n".join(["", *TEXTS, TEXTS[0], ""])),
        ("bank.txt", "\ufeff" + "\r\n".join(TEXTS)),
    ],
    ids=["class to list", "list", "lines", "lines as Windows writes them"],
)
def test_a_bank_is_each_descriptor_once_whatever_file_it_is_in(tmp_path, file, content):
    (tmp_path / file).write_text(content, encoding="utf-8")
    assert picture.bank(tmp_path / file) == TEXTS == picture.bank(TEXTS)


def test_without_a_bank_it_is_that_of_imagenets_classes(real, monkeypatch):
    written = json.loads(real("descriptors_imagenet.json").read_text())
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(real("descriptors_imagenet.json").parent))
    assert set(picture.bank()) == {" ".join(text.split()) for texts in written.values() for text in texts}


@pytest.mark.parametrize(
    "content, sentence",
    [
        ('{"cat": "whiskers"}', "must be a list of texts, or class names with a list"),
        ('{"cat": ["whiskers", 3]}', "must be a list of texts, or class names with a list"),
        ("5", "must be a list of texts, or class names with a list"),
        ("[", "is not a JSON or text file"),
        ("{}", "has no descriptors"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path, content, sentence):
    (tmp_path / "bank.json").write_text(content)
    with pytest.raises(UserError, match=sentence):
        picture.bank(str(tmp_path / "bank.json"))


def test_a_bank_that_is_not_there_no_text_or_too_small_is_refused(tmp_path, photo):
    with pytest.raises(UserError, match="There is no file nowhere.json"):
        picture.bank("nowhere.json")
    with pytest.raises(UserError, match="is not a JSON or text file"):
        picture.bank(photo)
    with pytest.raises(UserError, match="There are 2 descriptors for 3 classes"):
        picture.load(photo, CLASSES, TEXTS[:2])


def test_a_photograph_stands_as_the_camera_was_held(tmp_path):
    upright, turned = noise(size=(40, 30)), Image.Exif()
    turned[0x0112] = 6  # TIFF 6.0: the first row of what is stored is the right side of what was seen
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=turned)
    assert np.array_equal(np.asarray(picture.opened(tmp_path / "turned.png")), np.asarray(upright))


def test_a_preview_beside_the_picture_is_no_second_one_but_frames_are(tmp_path):
    more = {"save_all": True, "append_images": [noise(1)]}
    noise().save(tmp_path / "phone.jpg", format="MPO", **more)
    noise().save(tmp_path / "still.gif")
    for file in ("phone.jpg", "still.gif"):
        assert picture.opened(tmp_path / file).size == (40, 30)
    for file in ("moving.gif", "moving.webp", "moving.png"):
        noise().save(tmp_path / file, **more)
        with pytest.raises(UserError, match="holds several pictures"):
            picture.opened(tmp_path / file)


def test_a_photograph_cut_short_a_text_and_a_folder_are_no_pictures(tmp_path):
    noise(size=(300, 200)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    for file in ("cut.jpg", "text.jpg"):
        with pytest.raises(UserError, match="is not a picture that can be read"):
            picture.opened(tmp_path / file)
    with pytest.raises(UserError, match="There is no file"):
        picture.opened(tmp_path)


# --- the dataset that it is


def test_the_picture_is_the_whole_dataset(photo):
    images = picture.load(photo, CLASSES, TEXTS)
    assert (images.name, len(images), images.classes, images.bank) == ("picture", 1, CLASSES, TEXTS)
    assert [len(texts) for texts in images.descriptors] == [3, 2, 2]  # dealt out evenly, seven among three
    assert np.array_equal(np.asarray(images.image(0)), np.asarray(noise()))


def test_all_that_decides_an_explanation_is_in_its_identity_and_the_files_name_is_not(photo, tmp_path):
    noise().save(tmp_path / "renamed.bmp")
    noise(1).save(tmp_path / "other.png")
    asked = [
        (photo, CLASSES, TEXTS),
        (tmp_path / "other.png", CLASSES, TEXTS),
        (photo, CLASSES[::-1], TEXTS),
        (photo, CLASSES, TEXTS[:-1]),
    ]
    found = [store.digest(picture.load(*of).identity) for of in asked]
    assert len(set(found)) == len(asked)
    assert store.digest(picture.load(tmp_path / "renamed.bmp", CLASSES, TEXTS).identity) == found[0]


# --- a run about it


def begun(**changed):
    return run.begin("explain", parameters.declared("explain") | {"weights": "small", "device": "cpu"} | changed)


def look(given):
    return pd.DataFrame({"image": range(len(given.images)), "red": [np.asarray(given.images.image(0))[0, 0, 0]]})


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The parameters of a run about photo.png, whose records go into a folder of its own."""
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path / "results"))
    (tmp_path / "bank.json").write_text(json.dumps(TEXTS))
    return {"classes": ", ".join(CLASSES), "descriptors": str(tmp_path / "bank.json")}


def test_a_run_about_a_picture_has_the_real_models_and_no_other_image(photo, own):
    found = begun(image=photo, **own)
    assert (found.dataset, found.scale, len(found.images())) == ("picture", "rehearsal", 1)
    assert found.images().classes == CLASSES and not found.model().miniature and not found.is_default
    assert found.caption("Parts.") == "Parts. Rehearsal scale: photo.png, held against 3 classes."
    assert "bestiary" not in found.caption("Parts.") and "photo.png, held against 3 classes" in found._repr_html_()
    with pytest.raises(UserError, match="has no split 'train'"):
        found.images("train")


def test_each_picture_has_a_record_of_its_own_which_goes_with_its_content(photo, own, tmp_path):
    noise(1).save(tmp_path / "other.png")
    for image in (photo, str(tmp_path / "other.png"), photo):
        found = begun(image=image, **own).measure(look).table
        assert found["red"][0] == np.asarray(picture.opened(image))[0, 0, 0]
    assert len(list((tmp_path / "results").rglob("*.parquet"))) == 2
    noise(2).save(photo)
    assert begun(image=photo, **own).measure(look).table["red"][0] == np.asarray(noise(2))[0, 0, 0]


@pytest.mark.parametrize(
    "changed, sentence",
    [
        ({"image": None}, "classes goes with a picture of yours, and no image is given"),
        ({"image": 12}, "classes goes with a picture of yours, and image 12 is given"),
        ({"classes": ""}, "descriptors go with the classes of a picture"),
        ({"classes": "cat"}, "a picture is explained against a second"),
        ({"dataset": "imagenet"}, "dataset 'imagenet' has classes of its own"),
        ({"image": "nowhere.jpg"}, "There is no file nowhere.jpg"),
        ({"model": "RN50-supervised"}, "exists in the miniature only"),
    ],
    ids=str,
)
def test_a_wish_that_does_not_fit_together_is_refused_at_the_start(photo, own, changed, sentence):
    with pytest.raises(UserError, match=sentence):
        begun(**{"image": photo, **own, **changed})


# --- from Python


def test_the_library_is_not_loaded_before_a_door_is_opened():
    script = "import sys, lib; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    with pytest.raises(ImportError, match="cannot import name 'explian'"):
        from lib import explian  # noqa: F401


@pytest.fixture(scope="module")
def found(photographs):
    return explain(photographs / "cat" / "chelsea.png", CLASSES, descriptors=TEXTS, weights="small", rival="dog")


@pytest.mark.slow
def test_a_photograph_is_explained_by_the_classes_that_are_named(found):
    assert {found.predicted.name, found.rival.name} <= set(CLASSES) and found.label is None
    assert set(found.named) <= set(TEXTS) and found.named
    assert len(found.predicted.descriptors) == 2  # seven descriptors, three classes: an average one has two
    assert set(found.predicted.shared) == set(found.named) & set(found.predicted.descriptors)
    assert "chelsea.png, explained by ViT-B/16" in repr(found) and repr(found).startswith("Random weights")


@pytest.mark.slow
def test_an_explanation_shows_itself_and_is_saved_whole(found, tmp_path):
    found.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3 == page.count('alt="') and "Random weights" in page
    assert found._repr_html_() in page and "http" not in page


@pytest.mark.slow
def test_the_middle_of_a_figure_names_what_is_shared(found):
    for ax, side in zip(explained.draw_overlap(found), (found.predicted, found.rival), strict=True):
        middle = ax.texts[1].get_text().replace("\n", " ")
        assert middle == " ".join(side.shared) and f"{len(side.shared)} shared" in ax.get_title()


@pytest.mark.slow
def test_the_long_lists_of_a_large_bank_stay_within_their_figure(found):
    long = [f"number {k} of many descriptors that are as long as a sentence can be" for k in range(50)]
    axes = explained.draw_overlap(replace(found, named=long, predicted=replace(found.predicted, shared=long[:30])))
    figure = axes[0].figure
    figure.canvas.draw()
    whole = figure.bbox.get_points()
    for text in axes[0].texts:
        (left, low), (right, high) = text.get_window_extent().get_points()
        assert whole[0, 0] <= left < right <= whole[1, 0] and whole[0, 1] <= low < high <= whole[1, 1]
    shown = axes[0].texts[1].get_text()
    listed = shown.count("number")
    assert 0 < listed < 30 and shown.endswith(f"and {30 - listed} more")


@pytest.mark.slow
def test_an_unknown_rival_and_a_model_without_texts_are_refused(photographs):
    photo = photographs / "cat" / "chelsea.png"
    with pytest.raises(UserError, match="'dgo' is no class of picture. Did you mean 'dog'"):
        explain(photo, CLASSES, descriptors=TEXTS, weights="small", rival="dgo")
    with pytest.raises(UserError, match="reads no text; take a CLIP"):
        explain(photo, CLASSES, model="torchvision/resnet18", descriptors=TEXTS, weights="small")


def test_a_name_that_is_taken_by_the_dataset_of_a_picture_is_no_other():
    assert picture.NAME not in data.names()
