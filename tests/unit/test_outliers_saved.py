"""Embeddings and heads in files, and the images whose concepts are known."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lib.bestiary import Bestiary
from lib.data import load as load_images
from lib.errors import UserError
from lib.outliers import probes, saved

rng = np.random.default_rng(4)
E = rng.normal(size=(30, 8)).astype(np.float32)


def put(folder, name, value):
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, value)
    elif name.endswith(".pt"):
        torch.save(value, path)
    else:
        save_file(value, path)
    return path


def test_an_array_a_stack_and_named_tensors(tmp_path):
    (one,) = saved.embeddings(put(tmp_path, "one.npy", E)).values()
    stack = saved.embeddings(put(tmp_path, "stack.npy", np.stack([E, E + 1])))
    named = saved.embeddings(put(tmp_path, "named.safetensors", {"a": E, "b": E[:5]}))
    assert list(stack) == ["stack, set 1", "stack, set 2"] and list(saved.embeddings(one.path)) == ["one"]
    assert list(named) == ["named a", "named b"] and named["named b"].shape == (5, 8)
    for found, expected in ((one, E), (stack["stack, set 2"], E + 1), (named["named a"], E)):
        assert len(found) == 30
        np.testing.assert_array_equal(np.asarray(found[3:7]), expected[3:7])


def test_a_pt_file_holds_a_tensor_or_several_by_name(tmp_path):
    (one,) = saved.embeddings(put(tmp_path, "one.pt", torch.from_numpy(E).half())).values()
    named = saved.embeddings(put(tmp_path, "named.pt", {"a": torch.from_numpy(E), "b": torch.from_numpy(E[:5])}))
    assert len(one) == 30 and list(named) == ["named a", "named b"] and named["named b"].shape == (5, 8)
    np.testing.assert_array_equal(np.asarray(one[3:7]), E[3:7].astype(np.float16))
    np.testing.assert_array_equal(np.asarray(named["named a"][28:40]), E[28:])
    weight, bias = saved.head(put(tmp_path, "head.pt", {"weight": torch.from_numpy(E[:2]), "bias": torch.ones(2)}))
    assert (weight == E[:2]).all() and bias.tolist() == [1, 1] and (saved.head(one.path)[1] == 0).all()


class Runs:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit",)


def test_a_pt_file_runs_nothing(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(UnpicklingError: [^\n]*\); write it again") as error:
        saved.embeddings(put(tmp_path, "trap.pt", Runs()))
    assert "\n" not in str(error.value)


def test_heads(tmp_path):
    weight, bias = saved.head(put(tmp_path, "head.npy", E[:4]))
    assert weight.shape == (4, 8) and weight.dtype == np.float64 and (bias == 0).all()
    _, bias = saved.head(put(tmp_path, "h.safetensors", {"weight": E[:4], "bias": np.arange(4.0)}))
    assert bias.tolist() == [0, 1, 2, 3]


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
        put(tmp_path, "list.pt", [torch.ones(2, 2)]): "cannot be read",
        put(tmp_path, "whole.pt", torch.ones(2, 2, dtype=torch.int64)): "values of type torch.int64",
        put(tmp_path, "flat.pt", torch.ones(8)): r"shape \[8\]",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            saved.embeddings(tmp_path / name)
    with pytest.raises(UserError, match="a head is a tensor 'weight'"):
        saved.head(put(tmp_path, "two.safetensors", {"a": E, "b": E}))
    with pytest.raises(UserError, match=r"bias .* shape \[3\]; expected \[4\]"):
        saved.head(put(tmp_path, "bias.safetensors", {"weight": E[:4], "bias": np.zeros(3)}))
    with pytest.raises(UserError, match="need a head"):
        saved.head("")


# --- probes


@pytest.fixture(scope="module")
def probe():
    return probes.beyond(load_images("bestiary"), 96)


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
    assert probe.kinds.count(probes.APART) == 48 and len(set(probe.names)) == len(probe.names)


def test_the_web_has_styles():
    found = probes.beyond(load_images("bestiary", "web"), 64)
    styles = [c for c, kind in enumerate(found.kinds) if kind == "style"]
    assert (found.labels[:, styles].sum(axis=1) == 1).all() and "style: photo" in found.names


def test_the_classes_of_the_probe_are_those_of_the_head(probe):
    assert load_images("bestiary").classes == probe.images.classes
