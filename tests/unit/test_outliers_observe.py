"""What is seen of models, of files and of shifts, as tables of observations."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from lib.errors import UserError
from lib.given import ABSENT, Given
from lib.models import heads
from lib.outliers import kurtosis, observe, observe_concepts
from lib.outliers.options import Concepts, Pruning, Saved, Shifts

rng = np.random.default_rng(6)
E = rng.normal(size=(30, 8)).astype(np.float32)
SMALL = Pruning(pruned=[0.0, 0.5], shifts="v2")


@pytest.fixture(scope="module")
def given():
    return Given("RN50", limit=3, device="cpu")


def test_kurtosis_has_a_line_an_image_before_and_after_the_projection(given):
    seen = observe.kurtosis(given, Saved())
    h = given.model.embed_images(given.images).numpy()
    np.testing.assert_allclose(seen.table["raw"], stats.kurtosis(h, axis=1, fisher=False), rtol=1e-4)
    before = given.model.embed_images(given.images, projected=False).numpy()
    np.testing.assert_allclose(seen.table["before"], stats.kurtosis(before, axis=1, fisher=False), rtol=1e-4)
    assert len(seen.table) == 24 and seen.table["class"].nunique() == 3 and (seen.table["d"] == 96).all()
    np.testing.assert_allclose(seen.tensors["z"], np.abs(stats.zscore(h, axis=1)).mean(0), rtol=1e-4)


def test_pruning_agrees_with_the_head_of_that_rank_image_by_image(given):
    seen = observe.pruning(given, SMALL)
    weight, _ = heads.head(given.model, given.images)
    images = {"val": given.images, "v2": given.open_images("v2")}
    left, values, right = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    way = seen.notes["ways"].index("singular value")
    for split, pictures in images.items():
        h = given.model.embed_images(pictures).double().numpy()
        for k, rank in enumerate((48, 24)):
            right_ones = (h @ ((left[:, :rank] * values[:rank]) @ right[:rank]).T).argmax(1) == pictures.labels
            assert (seen.tensors[split][way, k] == 100 * right_ones).mean() > 0.95  # ties of float32 embeddings
    line = seen.table.query("split == 'v2' and way == 'singular value' and share == 0.5").iloc[0]
    assert (
        line["top1"] == pytest.approx(seen.tensors["v2"][way, 1].mean()) and seen.tensors["agree"][way, 0].min() == 100
    )
    assert len(seen.table) == 2 * 9 * 2 and seen.tensors["without_outlier"].shape == (24,)


def test_accuracy_has_a_line_an_image_and_split(given):
    table = observe.robustness(given, Shifts("v2,sketch"))
    assert table.groupby("split", sort=False).size().to_dict() == {"val": 24, "v2": 24, "sketch": 24}
    weight, bias = heads.head(given.model, given.images)
    logits = given.model.embed_images(given.images) @ weight.T + bias
    theirs = 100 * heads.top_k_accuracy(logits, given.images.labels)
    assert table[table["split"] == "val"]["top1"].mean() == pytest.approx(theirs)


def test_likeness_is_one_with_the_model_itself_and_has_no_lines_where_there_is_none(given, monkeypatch):
    alike = observe.likeness(given)
    np.testing.assert_allclose(alike.table["xy"], alike.table["xx"])
    monkeypatch.setattr(Given, "open_model", lambda self, name: (_ for _ in ()).throw(UserError("no weights")))
    monkeypatch.setattr(Given, "model", property(lambda self: type("Model", (), {"backbone": "RN50"})))
    missing = observe.likeness(Given("RN50-supervised", limit=3))
    assert not len(missing.table) and missing.notes["reason"] == "no weights"


# --- shifts of a folder


@pytest.fixture
def folders(make_folder):
    return make_folder({"n1": 2, "n2": 3, "n3": 2}, "data"), make_folder({"n3": 2, "n1": 1}, "imagenet-r")


def test_shifts_of_a_folder_are_aligned_by_their_class_folders(folders):
    given = Given("", str(folders[0]))
    ((name, (images, present)),) = observe.shifted(given, given.images, Shifts(f"{folders[1]}/")).items()
    assert name == "imagenet-r" and images.labels.tolist() == [0, 2, 2] and present.tolist() == [0, 2]
    assert images.classes == given.images.classes and observe.shifted(given, given.images, Shifts()) == {}
    few = Given("", str(folders[0]), limit=1)
    ((_, (images, present)),) = observe.shifted(few, few.images, Shifts(str(folders[1]))).items()
    assert len(set(images.labels)) == 1 and present.tolist() == [0, 2]  # the others still compete


def test_a_strange_class_folder_is_refused(folders, make_folder):
    given, odd = Given("", str(folders[0])), make_folder({"n1": 1, "n22": 1}, "odd")
    with pytest.raises(UserError, match=r"1 class folders .* \(n22\).* Did you mean 'n2'"):
        observe.shifted(given, given.images, Shifts(str(odd)))


def test_classes_that_a_shift_lacks_do_not_compete(folders):
    given = Given("mini-ViT-B-32:random", str(folders[0]), device="cpu")
    table = observe.robustness(given, Shifts(str(folders[1])))
    assert table["split"].tolist() == ["val"] * 7 + ["imagenet-r"] * 3
    with pytest.raises(UserError, match="No shifts of .*; name folders"):
        observe.robustness(given, Shifts())


# --- files


def test_a_file_has_one_line_a_set_with_intervals_and_opens_no_model(tmp_path):
    np.save(tmp_path / "two.npy", np.stack([E, E + 1]))
    given = Given("two, set 2")
    seen = observe.kurtosis(given, Saved(str(tmp_path / "two.npy")))
    each = kurtosis.each(torch.from_numpy(E + 1))[1]
    line = seen.table.iloc[0]
    for name, values in each.items():
        np.testing.assert_allclose(line[name], values.mean(), err_msg=name)
    assert len(seen.table) == 1 and line["raw_low"] < line["raw"] < line["raw_high"] and line["images"] == 30
    assert [request for request, *_ in given.opened] == ["file"]
    with pytest.raises(UserError, match="no set of embeddings 'one'; it has two, set 1, two, set 2"):
        observe.kurtosis(Given("one"), Saved(str(tmp_path / "two.npy")))


def test_directions_and_pruning_of_a_file_under_the_head_of_another(tmp_path):
    np.save(tmp_path / "rows.npy", E)
    np.save(tmp_path / "head.npy", E[:6])
    files = {"embeddings": str(tmp_path / "rows.npy"), "head": str(tmp_path / "head.npy")}
    assert len(observe.directions(Given("rows"), Saved(**files)).table) == 6 + 5
    table = observe.pruning(Given("rows"), Pruning(**files, pruned=[0.0, 0.5])).table
    whole = table[(table["way"] == "importance") & (table["share"] == 0)].iloc[0]
    assert whole["agree"] == whole["agree_low"] == 100 and "top1" not in table
    half = table[(table["way"] == "importance") & (table["share"] == 0.5)].iloc[0]
    assert half["agree_low"] <= half["agree"] <= half["agree_high"] < 100
    with pytest.raises(UserError, match="need a head"):
        observe.directions(Given("rows"), Saved(files["embeddings"]))
    np.save(tmp_path / "head.npy", E[:6, :5])
    with pytest.raises(UserError, match="The head has 5 coordinates and the embeddings have 8"):
        observe.pruning(Given("rows"), Pruning(**files))


def test_public_embeddings_that_cannot_be_had_are_no_lines_and_a_reason(tmp_path, monkeypatch):
    import pooch

    monkeypatch.setenv("COMPANION_DOWNLOADS", str(tmp_path))
    monkeypatch.setattr(pooch, "retrieve", lambda *a, **k: (_ for _ in ()).throw(ConnectionError()))
    given = Given("all")
    for seen in (observe.real_kurtosis(given), observe.real_directions(given, Pruning())):
        assert not len(seen.table) and "could not be fetched" in seen.notes["reason"]
        assert str(tmp_path) not in seen.notes["reason"]  # it stands in a page of the book
    assert given.opened["file", observe.PUBLIC] == ABSENT  # a record made without it is out of date once it is there


def test_public_photographs_find_their_captions(real, monkeypatch):
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(real("coco500_clip_vit_b16.npy").parent))
    seen = observe.real_directions(Given("all"), Pruning(pruned=[0.0]))
    images, captions = np.load(real("coco500_clip_vit_b16.npy")).astype(np.float64)
    theirs = 100 * ((images @ captions.T).argmax(1) == np.arange(500))
    assert seen.tensors["hit"].shape == (2, 1, 500) and (seen.tensors["hit"][0, 0] == theirs).all()


# --- the images whose concepts are known


def test_the_probe_is_fresh_at_the_bestiary_and_grows_with_the_limit():
    probe = observe_concepts.open_probe(Given("RN50", limit=1), Concepts(concept_stream="web"))
    assert len(probe.images) == 50 and probe.images.split == "web-probe"
    assert len(observe_concepts.open_probe(Given("RN50", limit=1), Concepts(concept_images=9)).images) == 9


def test_elsewhere_the_probe_is_broden(tmp_path, monkeypatch):
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
    given = Given("RN50", "imagenet")
    found = observe_concepts.open_probe(given, Concepts())
    assert found.names == ["sky", "leg", "street", "tail"] and found.kinds == ["object", "part", "scene", "part"]
    assert found.labels.tolist() == [[False, True, True, True], [True, False, False, False]]
    assert ("broden", 0) in given.opened and found.images.image(1).size == (8, 8)
    assert len(observe_concepts.open_probe(given, Concepts(concept_images=1)).images) == 1
    (root / "images" / "a" / "two.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 2 images of Broden are missing .*\(a/two.jpg\)"):
        observe_concepts.open_probe(given, Concepts())
    monkeypatch.setenv("COMPANION_DATASETS", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="Broden is not on disk"):
        observe_concepts.open_probe(given, Concepts())


# --- options


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: Pruning(pruned=[0.0, 1.0]), "pruned holds 1; give shares"),
        (lambda: Pruning(pruned=[]), "pruned is empty"),
        (lambda: Concepts(threshold=1.5), "threshold is 1.5; give an average"),
        (lambda: Concepts(minimum=0), "minimum is 0"),
        (lambda: Concepts(negatives=0), "negatives is 0"),
        (lambda: Concepts(concept_images=-1), "concept_images is -1"),
        (lambda: Concepts(concept_stream="wbe"), "concept_stream is 'wbe'; choose one of val, web. Did you mean 'web'"),
    ],
)
def test_a_bad_option_is_one_clear_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()


def test_shifts_are_called_by_the_last_part_of_their_path():
    assert Shifts("/data/imagenet-r/, objectnet").names == ["imagenet-r", "objectnet"]
    assert Shifts().names == []
