"""One image explained: the same as in Table 3, files from elsewhere, a second class, and the choice of examples."""

import matplotlib
import numpy as np
import pytest
from PIL import Image

from lib import models
from lib.data import load as load_images
from lib.errors import UserError
from lib.mutual import examples, ground_truth, sensitivity, table3
from lib.mutual.explain import explain
from lib.report import explain as show

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def clip():
    return models.load("ViT-B-32")


@pytest.fixture(scope="module")
def data():
    """Six pictures of each of four species."""
    return load_images("bestiary").subset([k + 48 * i for k in range(4) for i in range(6)])


@pytest.fixture(scope="module")
def view(clip, data):
    return examples.view(clip, data, 7)


def test_a_view_agrees_with_table_3(clip, data, view):
    row = table3.row(clip, data, **table3.SWITCHES)["metrics"]
    found = examples.row(clip, data, 7)["metrics"]
    for name in ("mi", "auc", "matches"):
        assert found[name] == pytest.approx(row[f"{name}_kmeans"][7])
    whole = explain(clip, data)
    assert view.named == [data.bank[d] for d in whole.vision_ids["kmeans"][7].tolist() if d >= 0]
    listed = [t for texts in view.parts.values() for t in texts]
    assert set(listed) == set(view.named) and len(view.parts) == whole.parts_shown["kmeans"][7]


def test_the_sides_are_the_two_most_likely_classes(clip, data, view):
    assert view.predicted.probability >= view.rival.probability
    assert view.predicted.name != view.rival.name
    for side in (view.predicted, view.rival):
        assert set(side.shared) == set(side.descriptors) & set(view.named)
        assert len(side.curve) == len(view.named) + 1 and side.curve[-1] == 0
    asked = examples.view(clip, data, 7, rival="huldra")
    assert asked.rival.name == "huldra" and asked.predicted.name == view.predicted.name


def test_a_file_is_explained_beside_the_images_classified_like_it(clip, data, tmp_path):
    data.image(7).save(tmp_path / "own.png")
    beside, number = examples.beside(clip, data, str(tmp_path / "own.png"))
    assert number == len(beside) - 1 and len(set(beside.labels)) == 1
    assert np.array_equal(np.asarray(beside.image(number)), np.asarray(data.image(7)))
    shown = examples.view(clip, data, str(tmp_path / "own.png"))
    known = examples.view(clip, data, 7)
    assert shown.label is None and shown.true is None
    assert (shown.predicted.name, shown.predicted.descriptors) == (known.predicted.name, known.predicted.descriptors)
    assert examples.content_of(str(tmp_path / "own.png")) != examples.content_of(3) == ""


def test_another_picture_in_the_same_file_is_another_record(clip, data, tmp_path):
    path = str(tmp_path / "own.png")
    data.image(7).save(path)
    first = examples.content_of(path), examples.beside(clip, data, path)[0].fingerprint
    data.image(8).save(path)
    assert first[0] != examples.content_of(path) and first[1] != examples.beside(clip, data, path)[0].fingerprint


def test_examples_are_chosen_by_the_rule(clip, data):
    chosen = examples.choose(clip, data)
    predicted = explain(clip, data, ("kmeans",)).predicted
    right = predicted == data.labels
    assert list(chosen) == list(examples.EXAMPLES)
    assert all(right[chosen["shares most"]]) and all(right[chosen["right, shares least"]])
    assert not any(right[chosen["wrong and sure"]])
    every = sum(chosen.values(), [])
    assert len(set(every)) == len(every)
    for found in chosen.values():
        assert len(set(data.labels[found])) == len(found)  # one a class
    row = sensitivity.row(clip, data, classes=1)["metrics"]["above_chance_base"]
    assert row[chosen["shares most"][0]] == row[right].max()
    assert examples.first({"a": [], "b": [4]}) == 4


def test_one_part_is_enough(clip, data):
    shown = examples.view(clip, data, 0, parts=1)
    assert len(shown.parts) == 1 and len(shown.named) <= 3
    assert table3.row(clip, data, **table3.SWITCHES | {"parts": 1})["metrics"]["mi_kmeans"].shape == (24,)
    found = ground_truth.row(clip, data, parts=1)["metrics"]
    np.testing.assert_allclose(found["purity_kmeans"], found["purity_null_kmeans"], rtol=1e-5)  # nothing to deal


def test_bad_input_is_one_clear_sentence(clip, data, tmp_path, make_folder):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UserError, match="is not a picture that can be read"):
        examples.view(clip, data, str(tmp_path / "text.png"))
    with pytest.raises(UserError, match="is not a picture that can be read"):
        examples.view(clip, data, str(tmp_path / "cut.png"))
    with pytest.raises(UserError, match="There is no file"):
        examples.view(clip, data, str(tmp_path / "nowhere.png"))
    with pytest.raises(UserError, match="Image 24 was asked for, but bestiary has 24 here; give 0 to 23"):
        examples.view(clip, data, 24)
    with pytest.raises(UserError, match="give a number of the dataset or the path"):
        examples.view(clip, data, 1.5)
    with pytest.raises(UserError, match="'dumo' is no class of bestiary. Did you mean 'dumu'"):
        examples.view(clip, data, 0, rival="dumo")
    with pytest.raises(UserError, match="have no descriptors"):
        examples.view(clip, load_images(str(make_folder({"cat": 2, "dog": 2}))), 0)
    folder = make_folder({"cat": 2}, name="one")
    (folder / "descriptors.json").write_text('{"cat": ["whiskers", "a tail"]}')
    with pytest.raises(UserError, match="has one class"):
        examples.view(clip, load_images(str(folder)), 0)


def test_the_pictures_of_the_page(clip, data, view):
    axes = show.parts(view)
    assert len(axes) == 2 + len(view.parts)
    bold = {t.get_text().replace("\n", " ") for ax in axes[2:] for t in ax.texts if t.get_weight() == "bold"}
    assert bold == set(view.predicted.shared)
    left, right = show.venn(view)
    assert f"{len(view.predicted.shared)} shared" in left.get_title() and view.rival.name in right.get_title()
    lines = show.curves(view).get_lines()
    assert lines[0].get_ydata()[0] == view.predicted.curve[0]
    cells = show.part_table(view, "t", "c").cells
    assert set(cells["descriptor"]) == set(view.named) and set(cells["true of the image"]) <= {"yes", "no"}
    chosen = [("kind", examples.view(clip, data, i)) for i in range(3)]
    assert show.gallery(chosen).shape == (2, 6)  # two cards a row: picture, parts, words
    table = show.dozen(chosen)
    assert table.loc[0, "named"] == np.mean([len(v.named) for _, v in chosen]) and table.loc[0, "images"] == "3"


def test_a_small_or_grey_or_wide_picture_is_taken(clip, data, tmp_path):
    for k, image in enumerate((Image.new("L", (9, 5), 80), Image.new("RGBA", (300, 20)), Image.new("P", (64, 64)))):
        image.save(tmp_path / f"{k}.png")
        assert examples.view(clip, data, str(tmp_path / f"{k}.png")).picture.shape == (
            clip.image_size,
            clip.image_size,
            3,
        )
