"""Embeddings and heads in files, and the images whose concepts are known."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from lib.bestiary import Bestiary
from lib.data import load as load_images
from lib.errors import UserError
from lib.outliers import probes, rows, saved

rng = np.random.default_rng(4)
E = rng.normal(size=(30, 8)).astype(np.float32)


def put(folder, name, value):
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, value)
    else:
        save_file(value, path)
    return path


def test_an_array_a_stack_and_named_tensors(tmp_path):
    (one,) = saved.embeddings(put(tmp_path, "one.npy", E)).values()
    stack = saved.embeddings(put(tmp_path, "stack.npy", np.stack([E, E + 1])))
    named = saved.embeddings(put(tmp_path, "named.safetensors", {"a": E, "b": E[:5]}))
    assert one.title == "one" and list(stack) == ["stack [0]", "stack [1]"]
    assert list(named) == ["named [a]", "named [b]"] and named["named [b]"].shape == (5, 8)
    for found, expected in ((one, E), (stack["stack [1]"], E + 1), (named["named [a]"], E)):
        assert len(found) == 30
        np.testing.assert_array_equal(np.asarray(found[3:7]), expected[3:7])


def test_a_file_gives_what_its_array_gives(tmp_path):
    (found,) = saved.embeddings(put(tmp_path, "half.npy", E.astype(np.float16))).values()
    direct = rows.of_embeddings(torch.from_numpy(E.astype(np.float16)))
    assert rows.of_embeddings(found)["metrics"]["raw"] == direct["metrics"]["raw"]


def test_heads(tmp_path):
    weight, bias = saved.head(put(tmp_path, "head.npy", E[:4]))
    assert weight.shape == (4, 8) and weight.dtype == np.float64 and (bias == 0).all()
    _, bias = saved.head(put(tmp_path, "h.safetensors", {"weight": E[:4], "bias": np.arange(4.0)}))
    assert bias.tolist() == [0, 1, 2, 3]
    (embeddings,) = saved.embeddings(put(tmp_path, "one.npy", E)).values()
    result = rows.under_head(tmp_path / "head.npy")(embeddings, shares=(0.0, 0.5))
    assert result["metrics"]["ratio"][3] == 30


def test_bad_files_are_one_clear_sentence(tmp_path):
    (tmp_path / "cut.npy").write_bytes((put(tmp_path, "one.npy", E)).read_bytes()[:60])
    cases = {
        "missing.npy": "There is no file .*missing.npy",
        "on.npy": "Did you mean 'one.npy'",
        "embeddings.csv": "no embeddings file",
        "cut.npy": "cannot be read",
        put(tmp_path, "flat.npy", E[0]): r"shape \[8\]",
        put(tmp_path, "deep.npy", E.reshape(1, 2, 15, 8)): r"shape \[1, 2, 15, 8\]",
        put(tmp_path, "narrow.npy", E[:, :1]): "single coordinate",
        put(tmp_path, "whole.npy", (10 * E).astype(int)): "values of type int64",
        put(tmp_path, "objects.npy", np.array(["a"], dtype=object)): "cannot be read",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            saved.embeddings(tmp_path / name)
    with pytest.raises(UserError, match="a head is a tensor 'weight'"):
        saved.head(put(tmp_path, "two.safetensors", {"a": E, "b": E}))
    with pytest.raises(UserError, match=r"bias .* shape \[3\]; expected \[4\]"):
        saved.head(put(tmp_path, "bias.safetensors", {"weight": E[:4], "bias": np.zeros(3)}))
    with pytest.raises(UserError, match="need a head"):
        rows.under_head("")


def test_a_head_of_another_width_is_refused(tmp_path):
    (embeddings,) = saved.embeddings(put(tmp_path, "one.npy", E)).values()
    narrow = rows.under_head(put(tmp_path, "narrow.npy", E[:4, :6]))
    with pytest.raises(UserError, match="The head has 6 coordinates and the embeddings have 8"):
        narrow(embeddings)


def test_public_embeddings_that_cannot_be_had_say_so(tmp_path, monkeypatch):
    import pooch

    def no_network(*arguments, **options):
        raise ConnectionError

    monkeypatch.setenv("COMPANION_DOWNLOADS", str(tmp_path))
    monkeypatch.setattr(pooch, "retrieve", no_network)
    with pytest.raises(UserError, match="could not be fetched from https") as error:
        saved.real()
    assert str(tmp_path) not in str(error.value)  # it stands in a page of the book


# --- probes


@pytest.fixture(scope="module")
def probe():
    return probes.load("bestiary", 96)


def test_probe_images_are_fresh_and_their_labels_true(probe):
    world = Bestiary("val")
    assert len(probe.images) == 96 and probe.labels.shape == (96, len(probe.names))
    first = np.asarray(probe.images.image(0))
    assert not any((np.asarray(world.image(i)) == first).all() for i in range(0, 384, 48))
    world.indices = 384 + np.arange(96)
    for i in (0, 17, 95):
        assert (np.asarray(probe.images.image(i)) == np.asarray(world.image(i))).all()
        shown = {name for name, yes in zip(probe.names, probe.labels[i], strict=True) if yes}
        descriptors = set(world.true_descriptors(i))
        assert descriptors <= shown and world.classes[world.labels[i] % 48] in shown
        parts = {p for p, mask in world.part_masks(i).items() if mask.sum() > probes.VISIBLE}
        assert {f"{p} visible" for p in parts} == {name for name in shown if name.endswith(" visible")}


def test_kinds_of_concepts(probe):
    kinds = dict(zip(probe.names, probe.kinds, strict=True))
    assert kinds["a red coat"] == "colour" and kinds["found on snow"] == "scene" and kinds["dumu"] == "species"
    assert kinds["a long neck"] == kinds["tail visible"] == "part" and kinds["dark stripes"] == "pattern"
    assert probe.apart.sum() == 48 and len(set(probe.names)) == len(probe.names)


def test_the_web_has_styles():
    found = probes.load("bestiary", 64, "web")
    styles = [c for c, kind in enumerate(found.kinds) if kind == "style"]
    assert (found.labels[:, styles].sum(axis=1) == 1).all() and "style: photo" in found.names


def test_broden_as_it_lies_on_disk(tmp_path, monkeypatch):
    root = tmp_path / "broden1_224"
    (root / "images" / "a").mkdir(parents=True)
    for name in ("a/one", "a/two"):
        Image.new("RGB", (8, 8)).save(root / "images" / f"{name}.jpg")
    codes = np.zeros((4, 4, 3), np.uint8)
    codes[0, 0, 0], codes[1, 1] = 2, (1, 1, 0)  # labels 2 and 1 + 256
    Image.fromarray(codes).save(root / "images" / "a" / "one_part.png")
    (root / "label.csv").write_text(
        "number,name,category,frequency,coverage,syns\n"
        "0,-,,0,0,\n1,sky,object(9),1,1,\n2,leg,part(3);object(1),1,1,\n3,street,scene(2),1,1,\n257,tail,part(1),1,1,\n"
    )
    (root / "index.csv").write_text(
        "image,split,ih,iw,sh,sw,color,object,part,material,scene,texture\n"
        "a/one.jpg,train,8,8,4,4,,,a/one_part.png,,3,\na/two.jpg,val,8,8,4,4,,1,,,,\n"
    )
    monkeypatch.setenv("COMPANION_DATASETS", str(tmp_path))
    found = probes.load("imagenet")
    assert found.names == ["sky", "leg", "street", "tail"] and found.kinds == ["object", "part", "scene", "part"]
    assert found.labels.tolist() == [[False, True, True, True], [True, False, False, False]]
    assert found.images.image(1).size == (8, 8) and len(probes.load("imagenet", 1).images) == 1
    (root / "images" / "a" / "two.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 2 images of Broden are missing .*\(a/two.jpg\)"):
        probes.load("imagenet")
    monkeypatch.setenv("COMPANION_DATASETS", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="Broden is not on disk"):
        probes.load("imagenet")


def test_only_the_bestiary_has_species(probe):
    assert load_images("bestiary").classes == probe.images.classes
