"""The published shifts and odd files, on drawn images that are laid out as the real ones are distributed."""

import json
import sys

import numpy as np
import pytest
import torch

from lib import data, paths
from lib.data import shifts
from lib.errors import UserError

sys.path.insert(0, str(paths.ROOT / "scripts"))
import rehearsal_data


@pytest.fixture(scope="module")
def root(tmp_path_factory, real):
    """A folder of datasets with those that the tests of this file read."""
    folder = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPANION_DATASETS", str(folder))
        patch.setenv("COMPANION_DOWNLOADS", str(real("descriptors_imagenet.json").parent))
        for name in ("imagenet-v2", "imagenet-r", "objectnet", "places365", "food101", "cifar100"):
            rehearsal_data.MAKERS[name](folder / data.entries()[name]["folder"], 0)
        yield folder


def test_objectnet_by_hand(tmp_path):
    (tmp_path / "folder_to_objectnet_label.json").write_text(json.dumps({"clock": "Clock", "rope": "Rope", "tv": "TV"}))
    meant = {"Clock": "analog clock; digital clock", "TV": "television"}
    (tmp_path / "objectnet_to_imagenet_1k.json").write_text(json.dumps(meant))
    (tmp_path / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps({"851": 0, "530": 1, "409": 2}))
    (tmp_path / "imagenet_to_label_2012_v2").write_text("television\ndigital clock\nanalog clock\n")
    assert shifts.objectnet_classes(tmp_path) == {"clock": [409, 530], "tv": [851]}
    (tmp_path / "imagenet_to_label_2012_v2").write_text("television\n")
    with pytest.raises(UserError, match="mapping files .* cannot be used"):
        shifts.objectnet_classes(tmp_path)


def test_several_right_answers_count_as_one_class(make_folder):
    images = data.load(str(make_folder({"a": 2, "b": 1})))
    images.labels = np.array([3, 3, 8])
    shift = data.Shift(images, np.array([3, 5, 8]), np.array([3, 3, 8]))  # 5 is 3 by another name
    assert shift.right.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_a_hit_is_any_right_class_and_unshifted_images_have_one(make_folder):
    images = data.load(str(make_folder({"a": 1, "b": 1})))
    images.labels = np.array([3, 8])
    shift = data.Shift(images, np.array([3, 5, 8]), np.array([3, 3, 8]))
    assert shift.hits(torch.tensor([[0.0, 1.0, 0.5], [0.0, 1.0, 0.5]])).tolist() == [100, 0]
    images.labels, images.classes = np.array([1, 0]), ["a", "b"]
    assert data.Shift.none(images).hits(torch.tensor([[0.0, 1.0], [0.0, 1.0]])).tolist() == [100, 0]


@pytest.mark.slow
def test_objectnet_as_distributed(root):
    found = data.load("objectnet")
    classes = shifts.objectnet_classes(root / "objectnet-1.0" / "mappings")
    assert len(classes) == 113 and sum(len(of) > 1 for of in classes.values()) == 6
    assert len(found) == 2 * 113 and len(found.classes) == 1000
    folders = [found.source.paths[k].parent.name for k in found.indices]
    assert [classes[name][0] for name in folders] == found.labels.tolist()
    pixels = np.asarray(found.image(0)).astype(int)  # the red border is gone
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert not ((edge[:, 0] > 240) & (edge[:, 1:] < 20).all(1)).any()
    images = data.Shift(*shifts.aligned(found, _imagenet(found)))
    assert len(images.present) == 119 and len(set(images.group)) == 113


def _imagenet(images):
    named = data.load("imagenet-v2")
    named.name = "imagenet"
    return named


@pytest.mark.slow
def test_the_folders_of_v2_are_numbers_and_not_names(root):
    found = data.load("imagenet-v2")
    folders = np.array([int(found.source.paths[k].parent.name) for k in found.indices])
    assert (folders == found.labels).all() and len(found) == 2000
    assert shifts.aligned(found, _imagenet(found)).present.tolist() == list(range(1000))


@pytest.mark.slow
def test_r_has_some_of_the_classes_by_their_synsets(root):
    found = data.load("imagenet-r")
    synset = shifts.synsets()
    assert all(
        synset[label] == found.source.paths[k].parent.name for k, label in zip(found.indices, found.labels, strict=True)
    )
    assert len(shifts.aligned(found, _imagenet(found)).present) == 200


@pytest.mark.slow
def test_a_damaged_file_is_named_and_can_be_left_out(root, capsys):
    whole, left = data.load("places365"), data.load("places365", on_error="skip")
    assert len(whole) == 730 and len(left) == 729
    assert "1 of 730 images" in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot be decoded"):
        whole.image(1)


@pytest.mark.slow
def test_a_list_that_names_missing_files_is_refused(root):
    assert len(data.load("food101")) == len(data.load("food101", "train")) == 202
    path = next((root / "food101" / "images" / "apple_pie").glob("*1.jpg"))
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match="names 1 of 202 images that are not there"):
        data.load("food101")
    path.write_bytes(content)


@pytest.mark.slow
def test_cifar_has_two_splits(root):
    train, test = (data.load("cifar100", split) for split in ("train", "val"))
    assert (len(train), len(test)) == (500, 200) and train.classes[11] == "boy"
    assert np.bincount(test.labels).tolist() == [2] * 100
    with pytest.raises(UserError, match="no split 'web' here; it has val, train"):
        data.load("cifar100", "web")


@pytest.mark.parametrize("kind, mode", [(0, "L"), (1, "CMYK"), (2, "RGB"), (3, "RGB")])
def test_odd_files_are_read_as_rgb_and_not_turned(kind, mode, tmp_path):
    from PIL import Image

    image, _ = rehearsal_data.picture(5, 0)
    rehearsal_data.put_odd(tmp_path / "a" / "odd.JPEG", image, kind)
    (tmp_path / "b").mkdir()
    image.save(tmp_path / "b" / "plain.png")
    with Image.open(tmp_path / "a" / "odd.JPEG") as file:
        assert file.mode == mode
    found = data.load(str(tmp_path)).image(0)
    assert found.mode == "RGB" and found.size == image.size  # as the authors read them
