import hashlib
import json
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from lib.data import check, digests, download, downloads, entries, folders, spread, whole_classes
from lib.data import load as load_images
from lib.errors import UserError, nearest, some
from lib.paths import DATA


def one_sentence(error):
    text = str(error.value)
    assert text.count("\n") == 0 and len(text) < 700, text
    return text


# --- the bestiary


def test_the_bestiary_is_the_default():
    data = load_images()
    assert data.name == "bestiary" and len(data) == len(data.labels) > 100
    assert data.labels.dtype == np.int64 and set(data.labels) == set(range(len(data.classes)))
    assert data.image(0).mode == "RGB"
    assert all("{}" in t for t in (*data.templates, data.descriptor_prompt))
    data.require_descriptors()
    assert set(data.bank) == {text for texts in data.descriptors for text in texts}
    assert len(set(data.bank)) == len(data.bank)


def test_the_truth_follows_a_subset():
    data = load_images()
    few = data.subset([7, 3]).subset([1])
    assert np.array_equal(np.asarray(few.image(0)), np.asarray(data.image(3)))
    assert few.true_descriptors(0) == data.true_descriptors(3)
    ours, theirs = few.part_masks(0), data.part_masks(3)
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)
    assert few.labels[0] == data.labels[3] and few.fingerprint != data.fingerprint


def test_an_unknown_split_of_the_bestiary():
    with pytest.raises(UserError) as error:
        load_images(split="test")
    assert "'test'" in one_sentence(error) and "val" in str(error.value)


# --- limit, images


def test_a_number_of_images_takes_as_many_from_each_class():
    labels = np.repeat(np.arange(5), [9, 3, 6, 6, 6])
    counts = np.bincount(labels[spread(labels, 17)], minlength=5)
    assert counts.tolist()[1] == 3 and sorted(counts) in ([3, 3, 3, 4, 4],)
    assert np.bincount(labels[spread(labels, 10)]).tolist() == [2] * 5


def test_a_smaller_number_of_images_is_a_part_of_a_larger_one_and_the_seed_decides():
    labels = np.repeat(np.arange(4), 10)
    assert set(spread(labels, 7)) < set(spread(labels, 20))
    assert np.array_equal(spread(labels, 7), spread(labels, 7))
    assert not np.array_equal(spread(labels, 7), spread(labels, 7, seed=1))
    assert np.array_equal(spread(labels, 40), np.arange(40))


def test_a_limit_takes_whole_classes_and_a_smaller_one_is_a_part_of_a_larger_one():
    labels = np.array([3, 0, 0, 3, 5, 5, 5, 7])  # three classes of the names have no image here
    two, three = whole_classes(labels, 2), whole_classes(labels, 3)
    assert len(set(labels[two])) == 2 and set(two) < set(three)
    assert two.tolist() == sorted(i for i in range(8) if labels[i] in set(labels[two]))
    assert whole_classes(labels, 0).tolist() == whole_classes(labels, 4).tolist() == list(range(8))
    assert len({tuple(whole_classes(labels, 1, seed)) for seed in range(20)}) > 1


def test_limits_of_a_dataset():
    every, some_classes = load_images(), load_images(limit=10)
    assert len(some_classes) == 80 and len(set(some_classes.labels)) == 10
    assert some_classes.classes == every.classes  # a zero-shot classifier chooses among all of them
    assert load_images(limit=10**6).fingerprint == every.fingerprint
    assert some_classes.fingerprint != load_images(limit=11).fingerprint
    assert set(load_images("bestiary", "sketch", limit=10).labels) == set(some_classes.labels)
    assert len(load_images(images=10)) == 10 and load_images(images=10**6).fingerprint == every.fingerprint
    both = load_images(limit=3, images=6)
    assert np.bincount(both.labels).max() == 2 and set(both.labels) < set(some_classes.labels)


@pytest.mark.parametrize("number", [-1, 2.5])
@pytest.mark.parametrize("option", ["limit", "images"])
def test_a_limit_that_is_no_number(option, number):
    with pytest.raises(UserError) as error:
        load_images(**{option: number})
    assert f"{option} is {number}" in one_sentence(error)


# --- chunks


def chunks(counts, size):
    """Chunks of a dataset with so many images a class, the classes in turn, as the bestiary has them."""
    labels = np.concatenate([np.flatnonzero(np.array(counts) > i) for i in range(max(counts))])
    data = load_images().subset(range(len(labels)))
    data.labels = labels
    return labels, list(data.chunks(size))


def test_chunks_hold_whole_classes_and_every_image_once():
    labels, found = chunks([3, 4, 1, 9, 2, 2], size=5)
    assert sorted(np.concatenate(found)) == list(range(21))
    assert [sorted(set(labels[chunk])) for chunk in found] == [[0], [1, 2], [3], [4, 5]]
    assert all((np.diff(chunk) > 0).all() for chunk in found)
    assert len(chunks([3, 4, 1, 9, 2, 2], size=100)[1]) == 1
    assert list(load_images().subset([]).chunks()) == []


# --- image folders


def test_an_image_folder(make_folder):
    root = make_folder({"red_panda": 2, "lynx": 1})
    (root / ".hidden").mkdir()
    (root / "lynx" / "notes.txt").write_text("not an image")
    data = load_images(str(root))
    assert data.name == "photos"
    assert data.classes == ["lynx", "red panda"] and data.labels.tolist() == [0, 1, 1]
    assert data.image(2).size == (32, 24)
    assert data.templates == ("a photo of a {}.",) and data.bank == []


def test_class_names_and_descriptors_beside_the_folders(make_folder):
    root = make_folder({"n1": 1, "n2": 1, "n3": 1})
    (root / "classes.json").write_text(json.dumps({"n1": "crane", "n2": "crane"}))
    (root / "descriptors.json").write_text(json.dumps({"crane": ["a long neck"], "n3": ["a hook", "a long neck"]}))
    data = load_images(root)
    assert data.classes == ["crane", "crane", "n3"]
    assert data.descriptors == [["a long neck"], ["a long neck"], ["a hook", "a long neck"]]
    assert data.bank == ["a long neck", "a hook"]


def test_the_fingerprint_is_of_the_content(make_folder, tmp_path):
    root = make_folder({"a": 2, "b": 1})
    before = load_images(root).fingerprint
    (root / "classes.json").write_text('{"a": "ant"}')
    later = time.time() + 5
    os.utime(root / "a" / "0.png", (later, later))
    assert load_images(root).fingerprint == before
    copy = shutil.copytree(root, tmp_path / "copy")
    assert load_images(copy).fingerprint == before
    content = bytearray((copy / "b" / "0.png").read_bytes())
    content[-20] ^= 1
    (copy / "b" / "0.png").write_bytes(content)
    assert load_images(copy).fingerprint != before


def test_files_are_read_for_the_fingerprint_when_it_is_asked_for_and_once(make_folder, fresh_cache, monkeypatch):
    read = []
    monkeypatch.setattr(digests, "_digest", lambda path: read.append(path) or hashlib.sha256(b"x").digest())
    data = load_images(make_folder({"a": 2, "b": 2}), limit=1)
    assert read == []
    assert data.fingerprint == data.subset([0, 1]).fingerprint and len(read) == 2
    monkeypatch.setattr(digests, "_known", {})  # as in another process
    assert load_images(data.source.paths[0].parent.parent, limit=1).fingerprint == data.fingerprint and len(read) == 2


def test_the_identity_has_the_words_too(make_folder):
    root = make_folder({"a": 2, "b": 1})
    before = load_images(root).identity
    assert before == load_images(root).identity and json.loads(json.dumps(before)) == before
    (root / "descriptors.json").write_text('{"a": ["small"]}')
    after = load_images(root).identity
    assert {k for k in after if after[k] != before[k]} == {"descriptors"}
    assert load_images(root, limit=1).identity["images"] != before["images"]


def test_a_dataset_without_the_truth_says_so(make_folder):
    data = load_images(make_folder({"a": 1}))
    with pytest.raises(UserError, match="no part masks"):
        data.part_masks(0)


def test_classes_without_descriptors(make_folder):
    root = make_folder({"a": 1, "b": 1})
    with pytest.raises(UserError, match="2 of 2 classes"):
        load_images(root).require_descriptors(every_class=False)
    (root / "descriptors.json").write_text('{"a": ["small"]}')
    load_images(root).require_descriptors(every_class=False)
    with pytest.raises(UserError) as error:
        load_images(root).require_descriptors()
    assert "1 of 2 classes" in one_sentence(error) and "(b)" in str(error.value)


def test_an_empty_class(make_folder):
    root = make_folder({"a": 1, "b": 0, "c": 0})
    with pytest.raises(UserError) as error:
        load_images(root)
    assert "2 class folders" in one_sentence(error) and "(b, c)" in str(error.value)


def damaged_folder(make_folder):
    root = make_folder({"a": 3, "b": 2}, suffix=".jpg")
    (root / "a" / "0.jpg").write_bytes(b"")
    (root / "b" / "1.jpg").write_text("this is no image")
    return root


def test_images_that_cannot_be_read_are_named_and_counted(make_folder):
    with pytest.raises(UserError) as error:
        load_images(damaged_folder(make_folder))
    text = one_sentence(error)
    assert "2 of 5 images" in text and "a/0.jpg" in text and "b/1.jpg" in text and "skip" in text


def test_they_are_left_out_by_option_only(make_folder, capsys):
    root = damaged_folder(make_folder)
    whole = (root / "a" / "1.jpg").read_bytes()
    (root / "a" / "1.jpg").write_bytes(whole[: len(whole) * 4 // 5])  # its header is good, its end is missing
    data = load_images(root, on_error="skip")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "3 of 5 images" in said and "a/1.jpg" in said
    assert data.labels.tolist() == [0, 1]
    assert [data.image(i).size for i in range(2)] == [(32, 24)] * 2
    assert len(load_images(root, on_error="skip")) == 2  # the verdict is remembered


def test_an_image_that_ends_early_is_found_when_it_is_read(make_folder):
    root = make_folder({"a": 2}, suffix=".jpg")
    whole = (root / "a" / "1.jpg").read_bytes()
    (root / "a" / "1.jpg").write_bytes(whole[: len(whole) * 4 // 5])
    data = load_images(root)
    with pytest.raises(UserError) as error:
        data.image(1)
    assert "1.jpg" in one_sentence(error) and "skip" in str(error.value)


def test_a_class_whose_images_are_all_damaged_is_empty(make_folder):
    root = make_folder({"a": 1, "b": 1})
    (root / "b" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match="1 class folders"):
        load_images(root, on_error="skip")


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        load_images(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no sub-folders"):
        load_images(str(tmp_path))


def test_a_folder_has_no_splits(make_folder):
    with pytest.raises(UserError, match="no split 'train'"):
        load_images(make_folder({"a": 1}), split="train")


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("classes.json", "{", "not valid JSON"),
        ("classes.json", "[1]", "holds a list"),
        ("classes.json", '{"aa": "ant"}', "do not exist .aa."),
        ("descriptors.json", '{"a": "small"}', "list of strings"),
    ],
)
def test_files_of_words_that_are_wrong(make_folder, file, content, message):
    root = make_folder({"a": 1})
    (root / file).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        load_images(root)
    one_sentence(error)


def test_grey_and_transparent_images_become_rgb(tmp_path):
    (tmp_path / "a").mkdir()
    for mode in ("L", "RGBA", "P", "CMYK"):
        Image.new(mode, (5, 4)).save(tmp_path / "a" / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}")
    data = load_images(tmp_path)
    assert [data.image(i).mode for i in range(4)] == ["RGB"] * 4


# --- datasets by name


def test_an_unknown_dataset_gets_the_nearest_names():
    for open_it in (load_images, check):
        with pytest.raises(UserError) as error:
            open_it("imagenett")
        assert "'imagenet'" in one_sentence(error)


def test_a_dataset_that_is_not_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_DATASETS", str(tmp_path))
    for name, entry in entries().items():
        for open_it in (load_images, check):
            with pytest.raises(UserError) as error:
                open_it(name)
            assert str(tmp_path / entry["folder"]) in one_sentence(error) and "download" in str(error.value)
    with pytest.raises(UserError, match="no split 'web'"):
        check("imagenet", split="web")
    check("bestiary")


def small_copy(root, layout, folders):
    """One tiny image in each of the folders."""
    for folder in folders:
        (root / layout / folder).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(root / layout / folder / "1.JPEG")


def synsets():
    """The 1000 synsets in the order of the class index, from timm."""
    info = pytest.importorskip("timm.data").ImageNetInfo("imagenet-1k")
    return info.label_names(), [info.label_name_to_description(n) for n in info.label_names()]


def test_imagenet_classes_stand_in_the_order_of_the_sorted_synsets():
    from open_clip import IMAGENET_CLASSNAMES

    assert folders.imagenet_classes() == list(IMAGENET_CLASSNAMES)
    names, lemmas = synsets()
    assert names == sorted(names) and len(names) == 1000
    assert len(set(IMAGENET_CLASSNAMES)) == 998

    def words(text):
        return set(text.lower().replace("-", " ").replace(",", " ").split())

    shared = [bool(words(ours) & words(theirs)) for ours, theirs in zip(IMAGENET_CLASSNAMES, lemmas, strict=True)]
    assert np.mean(shared) > 0.9  # curated names differ here and there; one position off would share few words
    shifted = [bool(words(a) & words(b)) for a, b in zip(IMAGENET_CLASSNAMES, lemmas[1:] + lemmas[:1], strict=True)]
    assert np.mean(shifted) < 0.2


def test_imagenet(tmp_path, monkeypatch, real, capsys):
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(real("descriptors_imagenet.json").parent))
    monkeypatch.setenv("COMPANION_DATASETS", str(tmp_path))
    small_copy(tmp_path, "imagenet/val", synsets()[0])
    data = load_images("imagenet", limit=20)
    assert "1000 images on disk, 50000 are published" in capsys.readouterr().err
    assert len(data) == 20 and len(data.classes) == 1000
    assert (data.classes[0], data.classes[999]) == ("tench", "toilet paper")
    assert len(set(data.classes)) == 998 and data.classes[134] != "" and data.classes.count("missile") == 2
    assert sum(map(len, data.descriptors)) == 5800 and len(data.bank) == 4229
    assert data.descriptors[0][0] == "a freshwater fish"
    assert len(data.templates) == 8 and data.descriptor_prompt.format("x") == "a photo showing x"
    data.require_descriptors()
    (tmp_path / "imagenet/val/n01440764/1.JPEG").unlink()
    (tmp_path / "imagenet/val/n01440764").rmdir()
    with pytest.raises(UserError, match="has 999 class folders"):
        load_images("imagenet")


def test_the_bank_meets_imagenets_names_by_index(real):
    from open_clip import IMAGENET_CLASSNAMES

    bank = json.loads(real("descriptors_imagenet.json").read_text())
    aligned = folders.align(bank, IMAGENET_CLASSNAMES)
    spelled_otherwise = [i for i, (a, b) in enumerate(zip(bank, IMAGENET_CLASSNAMES, strict=True)) if a != b]
    assert spelled_otherwise == [27, 638, 744, 836]
    assert aligned[744] == bank["projectile"] and aligned[657] == bank["missile"]  # both are called "missile"
    by_name = folders.align(bank, IMAGENET_CLASSNAMES, by="name")
    assert [i for i in range(1000) if by_name[i] != aligned[i]] == spelled_otherwise
    with pytest.raises(UserError, match="1000 classes and the dataset 999"):
        folders.align(bank, IMAGENET_CLASSNAMES[1:])


@pytest.mark.parametrize("name, distinct, without", [("places365", 1806, 1), ("food101", 457, 5)])
def test_places_and_food(tmp_path, monkeypatch, real, name, distinct, without):
    bank = json.loads(real(f"descriptors_{name}.json").read_text())
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(real(f"descriptors_{name}.json").parent))
    monkeypatch.setenv("COMPANION_DATASETS", str(tmp_path))
    folders = [key.split(" (")[0].replace(" ", "_") for key in bank]
    layout = {"places365": "places365/val", "food101": "food101/images"}[name]
    small_copy(tmp_path, layout, folders)
    if name == "food101":
        with pytest.raises(UserError, match="lacks its list"):
            load_images(name)
        Image.new("RGB", (4, 4)).save(tmp_path / layout / folders[0] / "2.JPEG")  # of the other split
        (tmp_path / name / "meta").mkdir()
        (tmp_path / name / "meta/test.txt").write_text("\n".join(f"{f}/1" for f in folders))
    data = load_images(name)
    assert len(data) == len(data.classes) == len(bank)
    assert data.descriptors == list(bank.values()) and len(data.bank) == distinct
    data.require_descriptors(every_class=False)
    with pytest.raises(UserError, match=f"{without} of {len(bank)} classes"):
        data.require_descriptors()
    assert not any("_" in c or "-" in c for c in data.classes)


# --- downloads


def test_every_download_has_an_address_and_a_checksum():
    for row in downloads.rows().values():
        assert row["address"].startswith("https://") and len(row["sha256"]) == 64 and row["licence"]
    for entry in entries().values():
        of = entries()[entry["shift_of"]] if "shift_of" in entry else entry  # a shift has the words of its dataset
        assert "reader" in entry or of["descriptors"] in downloads.rows()
    assert (DATA / "downloads.csv").exists()


def test_copies_are_verified_and_used_without_a_network(monkeypatch, real):
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(real("README.md").parent))
    for name, row in downloads.rows().items():
        assert str(download(name)).endswith(f"/{row['file']}")


def test_a_download_that_fails_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(tmp_path))
    row = {**downloads.rows()["concepts_3k"], "address": "http://127.0.0.1:9/concepts"}
    monkeypatch.setattr(downloads, "rows", lambda: {"concepts_3k": row})
    for state in ("is not there", "is damaged"):
        with pytest.raises(UserError, match=state) as error:
            download("concepts_3k")
        assert str(tmp_path / row["file"]) in one_sentence(error)
        (tmp_path / row["file"]).write_text("something else")
    with pytest.raises(UserError, match="Did you mean 'concepts_3k'"):
        download("concept_3k")


def test_words_of_errors():
    assert nearest("ViT-B-33", ["ViT-B-32", "RN50"]) == " Did you mean 'ViT-B-32'?"
    assert nearest("zzz", ["ViT-B-32"]) == ""
    assert some(["a", "b", "c"], 2) == "a, b and 1 more" and some(["a"]) == "a"
