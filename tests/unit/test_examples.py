"""One image explained: the same as in Table 3, files from elsewhere, a second class, and the choice of examples."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import data, models, statistics
from lib.errors import UserError
from lib.mutual import examples, observe
from lib.mutual.options import Options


class Few:
    """A door with a few pictures behind it: six of each of four species."""

    name, seed = "ViT-B-32", 0

    def __init__(self):
        self.model = models.load("ViT-B-32")
        self.images = data.load("bestiary").subset([k + 48 * i for k in range(4) for i in range(6)])


@pytest.fixture(scope="module")
def given():
    return Few()


@pytest.fixture(scope="module")
def clip(given):
    return given.model


@pytest.fixture(scope="module")
def images(given):
    return given.images


@pytest.fixture(scope="module")
def seen(given):
    """Table 3 of these pictures, as its page sees it."""
    return observe.table3(given, Options())


@pytest.fixture(scope="module")
def view(clip, images):
    return examples.view(clip, *examples.group_of(images, 7))


def test_a_view_agrees_with_table_3_though_only_its_class_is_looked_at(images, seen, view):
    line = statistics.chosen(seen.table, {"parts": "kmeans", "against": "predicted class", "image": 7}).iloc[0]
    side = view.predicted
    assert (side.name, len(side.shared)) == (line["predicted"], line["matches"])
    assert (side.curve[0], side.auc) == (pytest.approx(line["mi"]), pytest.approx(line["auc"]))
    assert view.named == [images.bank[d] for d in seen.tensors["named_kmeans"][7] if d >= 0]
    assert {text for texts in view.parts.values() for text in texts} == set(view.named)


def test_an_image_comes_with_the_others_of_its_class(images):
    group, i = examples.group_of(images, 7)
    assert len(group) == 6 and set(group.labels) == {images.labels[7]}
    assert np.array_equal(np.asarray(group.image(i)), np.asarray(images.image(7)))


def test_the_sides_are_the_two_most_likely_classes(clip, images, view):
    assert view.predicted.probability >= view.rival.probability
    assert view.predicted.name != view.rival.name
    for side in (view.predicted, view.rival):
        assert set(side.shared) == set(side.descriptors) & set(view.named)
        assert len(side.curve) == len(view.named) + 1 and side.curve[-1] == 0
    asked = examples.view(clip, *examples.group_of(images, 7), rival="huldra")
    assert asked.rival.name == "huldra" and asked.predicted.name == view.predicted.name


def test_what_is_named_is_ticked_and_bold_where_the_class_has_it_too(view):
    marked = view.marked(most=2)
    assert list(marked)[:2] == [t + (" ✓" if t in view.true else " ✗") for t in view.named[:2]]
    assert list(marked.values())[:2] == [t in view.predicted.shared for t in view.named[:2]]
    assert list(marked)[2] == f"and {len(view.named) - 2} more"


def test_a_file_is_explained_alone_and_nothing_else_is_embedded(clip, images, view, tmp_path, monkeypatch):
    images.image(7).save(tmp_path / "own.png")
    group, i = examples.group_of(images, str(tmp_path / "own.png"))
    assert (len(group), i) == (1, 0) and np.array_equal(np.asarray(group.image(0)), np.asarray(images.image(7)))
    monkeypatch.setattr(images.source, "image", None)  # from here on no picture of the dataset can be read
    shown = examples.view(clip, group, i)
    assert shown.label is None and shown.true is None
    assert (shown.predicted.name, shown.predicted.descriptors) == (view.predicted.name, view.predicted.descriptors)
    assert shown.marked(most=1) == {shown.named[0]: shown.named[0] in shown.predicted.shared} | (
        {f"and {len(shown.named) - 1} more": False} if len(shown.named) > 1 else {}
    )


def test_a_miniature_says_that_photographs_are_new_to_it(clip, images, tmp_path):
    images.image(7).save(tmp_path / "own.png")
    file, _ = examples.group_of(images, str(tmp_path / "own.png"))
    assert "has seen drawn animals only" in examples.described(clip, file)
    assert "drawn" not in examples.described(clip, examples.group_of(images, 7)[0])


def test_another_picture_in_the_same_file_is_another_image(images, tmp_path):
    path = str(tmp_path / "own.png")
    images.image(7).save(path)
    first = examples.group_of(images, path)[0].fingerprint
    images.image(8).save(path)
    assert first != examples.group_of(images, path)[0].fingerprint


def test_examples_are_chosen_by_the_rule(clip, images, seen):
    table = examples.sharing(clip, images, seen.tensors["named_kmeans"], seen.tensors["language"])
    chosen = examples.choose(table)
    assert list(table) == examples.COLUMNS and list(chosen["kind"].unique()) == list(examples.KINDS)
    assert not chosen["image"].duplicated().any() and not chosen.duplicated(["kind", "class"]).any()
    assert set(chosen[chosen["kind"] == "wrong and sure"]["top1"]) == {0}
    right = table[table["top1"] == 100]
    of = {kind: part for kind, part in chosen.groupby("kind")}
    assert of["shares most"]["above_chance"].iloc[0] == right["above_chance"].max()
    assert of["right, shares least"]["above_chance"].max() <= of["shares most"]["above_chance"].max()
    assert of["wrong and sure"]["probability"].iloc[0] == table[table["top1"] == 0]["probability"].max()
    line = statistics.chosen(seen.table, {"parts": "kmeans", "against": "predicted class"})
    assert table["matches"].tolist() == line["matches"].tolist()
    hold = [len(set(images.true_descriptors(i)) & {images.bank[d] for d in ids if d >= 0}) for i, ids in
            enumerate(seen.tensors["named_kmeans"])]  # fmt: skip
    assert table["hold"].tolist() == hold


def test_nothing_is_chosen_of_nothing():
    assert examples.choose(pd.DataFrame(columns=examples.COLUMNS)).empty


def test_one_part_is_enough(clip, images):
    shown = examples.view(clip, *examples.group_of(images, 0), Options(parts=1))
    assert len(shown.parts) == 1 and len(shown.named) <= 3


def test_bad_input_is_one_clear_sentence(clip, images, tmp_path, make_folder):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in ("text.png", "cut.png"):
        with pytest.raises(UserError, match="is not a picture that can be read"):
            examples.group_of(images, str(tmp_path / name))
    with pytest.raises(UserError, match="There is no file"):
        examples.group_of(images, str(tmp_path / "nowhere.png"))
    with pytest.raises(UserError, match="Image 24 was asked for, but bestiary has 24 here; give 0 to 23"):
        examples.group_of(images, 24)
    for wrong in (1.5, True):
        with pytest.raises(UserError, match="give a number of the dataset or the path"):
            examples.group_of(images, wrong)
    with pytest.raises(UserError, match="'dumo' is no class of bestiary. Did you mean 'dumu'"):
        examples.view(clip, *examples.group_of(images, 0), rival="dumo")
    with pytest.raises(UserError, match="have no descriptors"):
        examples.view(clip, *examples.group_of(data.load(str(make_folder({"cat": 2, "dog": 2}))), 0))
    folder = make_folder({"cat": 2}, name="one")
    (folder / "descriptors.json").write_text('{"cat": ["whiskers", "a tail"]}')
    with pytest.raises(UserError, match="has one class"):
        examples.view(clip, *examples.group_of(data.load(str(folder)), 0))


def test_a_small_or_grey_or_wide_picture_is_taken(clip, images, tmp_path):
    for k, image in enumerate((Image.new("L", (9, 5), 80), Image.new("RGBA", (300, 20)), Image.new("P", (64, 64)))):
        image.save(tmp_path / f"{k}.png")
        shown = examples.view(clip, *examples.group_of(images, str(tmp_path / f"{k}.png")))
        assert shown.picture.shape == (clip.image_size, clip.image_size, 3)
