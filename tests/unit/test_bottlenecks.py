"""The trained baselines: formulas written out, tiny sets overfitted, the sparse classifier against scikit-learn."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from lib import data, models, store
from lib.errors import UserError
from lib.given import Given
from lib.mutual import baselines, observe_bottlenecks
from lib.mutual import bottlenecks as bn
from lib.mutual.options import Training
from lib.paths import ROOT
from lib.show import published

SHIPPED = sorted(path.stem for path in (ROOT / baselines.FOLDER).glob("*.safetensors"))


@pytest.fixture
def tiny():
    """Twelve images of six patches, three classes; five descriptors."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 6, 8, generator=generator), torch.arange(12) % 3, torch.randn(5, 4, generator=generator)


def make(texts, over="tokens", **options):
    torch.manual_seed(1)
    return bn.Bottleneck(texts, 8, 3, inner=7, over=over, **options).eval()


def fit(model, inputs, labels, epochs, rates=(5e-3, 5e-4), seed=0, **options):
    """So many epochs of one batch each."""
    how = {"steps": epochs, "batch": len(inputs), "rates": rates, "seed": seed}
    return baselines.fit(model, inputs, labels, how, **options)


@pytest.mark.parametrize("over", bn.OVER)
def test_the_bottleneck_is_the_papers_formula_written_out(tiny, over):
    features, _, texts = tiny
    model = make(texts, over)
    queries, keys = model.queries(texts), model.keys(features)  # [D, q], [n, P, q]
    for i, k in enumerate(keys):
        scores = torch.stack([torch.stack([q @ token for token in k]) for q in queries])  # [D, P]
        attention = scores.softmax(1 if over == "tokens" else 0)
        amounts = torch.sigmoid(model.evidence(attention @ k))[:, 0]
        assert torch.allclose(model.attention(features)[i], attention, atol=1e-5)
        assert torch.allclose(model.concepts(features)[i], amounts, atol=1e-5)
        assert torch.allclose(model(features)[i], model.classifier(amounts), atol=1e-5)


def test_gumbel_noise_is_there_in_training_alone_and_assignments_can_be_hard(tiny):
    features, _, texts = tiny
    model = make(texts, "concepts", temperature=0.5, hard=True)
    assert torch.equal(model.attention(features), model.attention(features))
    model.train()
    first, second = model.attention(features), model.attention(features)
    assert not torch.equal(first, second)
    assert torch.allclose(first.sum(1), torch.ones(12, 6)) and ((first == 0) | ((first - 1).abs() < 1e-6)).all()


@pytest.mark.parametrize("over", bn.OVER)
def test_bottlenecks_overfit_a_tiny_set(tiny, over):
    features, labels, texts = tiny
    model = fit(make(texts, over), features, labels, epochs=400, rates=(0.03, 0.003))
    assert (bn.predict(model, features).argmax(1) == labels).all()


def test_the_plain_classifier_and_the_labeler_overfit_a_tiny_set(tiny):
    features, labels, _ = tiny
    vectors = features.mean(1)
    model = fit(bn.perceptron(8, 3, 16), vectors, labels, epochs=300, rates=(0.03, 0.003))
    assert (bn.predict(model, vectors).argmax(1) == labels).all()
    wanted = torch.eye(12)[:, :5]
    named = fit(
        bn.labeler(8, 5), vectors, wanted, epochs=600, rates=(0.1, 0.01), loss=F.binary_cross_entropy_with_logits
    )
    assert (bn.predict(named, vectors)[:5].argmax(1) == torch.arange(5)).all()


def test_the_label_free_bottleneck_overfits_a_tiny_set():
    generator = torch.Generator().manual_seed(3)
    vectors, directions = torch.randn(60, 6, generator=generator), torch.randn(6, 4, generator=generator)
    similarities = vectors @ directions
    labels = similarities.argmax(1)
    model = bn.label_free(vectors, labels, similarities, 4, penalty=1e-3)
    assert model["kept"].all()
    assert (bn.label_free_logits(model, vectors).argmax(1) == labels).float().mean() > 0.95


def test_training_is_the_same_for_a_seed_and_steps_down_to_the_last_rate(tiny):
    features, labels, texts = tiny
    first, again, other = (fit(make(texts, "concepts"), features, labels, 3, seed=s) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first.keys.weight, other.keys.weight)


def test_the_sparse_classifier_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((90, 6))
    labels = (rows[:, :3] + 0.5 * rng.standard_normal((90, 3))).argmax(1)
    penalty, mix = 0.02, 0.9
    weight, bias = bn.sparse_classifier(torch.from_numpy(rows), torch.from_numpy(labels), 3, penalty, mix, steps=3000)
    theirs = LogisticRegression(
        C=1 / (90 * penalty), l1_ratio=mix, penalty="elasticnet", solver="saga", tol=1e-8, max_iter=20000
    ).fit(rows, labels)
    assert np.allclose(weight.T, theirs.coef_, atol=2e-3)
    assert np.allclose(bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=2e-3)
    assert ((weight.T == 0).numpy() == (np.abs(theirs.coef_) < 1e-9)).mean() > 0.85
    assert (weight == 0).any()


def test_the_cubed_cosine_by_numpy():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 20, 3))
    found = bn.cubed_cosine(torch.from_numpy(a), torch.from_numpy(b))
    for k in range(3):
        x, y = (a[:, k] - a[:, k].mean()) ** 3, (b[:, k] - b[:, k].mean()) ** 3
        assert found[k] == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)))


def test_prominent_channels_by_hand():
    features = torch.tensor([[[1.0, 0.0, 5.0], [0.0, 3.0, 5.0], [0.95, 0.0, 5.0], [0.5, 2.8, 5.0]]])
    regions, channels = bn.prominent_channels(features, 3)
    assert channels.tolist() == [[2, 1, 0]]
    # the constant channel has no region; 2.8 of 3 and 0.95 of 1 are near the maximum
    assert regions[0].long().tolist() == [[0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    mean = bn.masked_mean(features, regions)
    assert mean[0, 0].tolist() == [0, 0, 0]
    assert mean[0, 1].tolist() == pytest.approx([0.25, 2.9, 5.0])


def test_drop_block_leaves_out_squares_and_as_many_as_asked():
    ones = torch.ones(4000, 81, 1)
    ones[:, :, 0] = torch.arange(81.0)
    generator = torch.Generator().manual_seed(0)
    plain = bn.drop_block(ones, generator, (9, 9), 3, 0.0)
    assert (plain == 40).all()
    whole = torch.eye(81).expand(2000, -1, -1)
    kept = bn.drop_block(whole, generator, (9, 9), 3, 0.1) > 0
    assert 1 - kept.float().mean() == pytest.approx(0.1, abs=0.02)
    maps = (~kept).view(-1, 9, 9)
    one = maps[maps.flatten(1).sum(1) == 9][:50]
    for m in one:  # the smallest hole is one square of 3 x 3
        rows, columns = m.any(1).nonzero(), m.any(0).nonzero()
        assert len(rows) == len(columns) == 3 and (rows.diff(dim=0) == 1).all() and (columns.diff(dim=0) == 1).all()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: bn.Bottleneck(torch.ones(2, 3), 4, 2, over="heads"),
            "over is 'heads'; choose one of tokens, concepts",
        ),
        (lambda: bn.Bottleneck(torch.ones(2, 3), 4, 2, temperature=0), "positive number"),
        (lambda: bn.Bottleneck(torch.ones(2, 3), 4, 2)(torch.ones(1, 5, 6)), r"expected \[images, patches, 4\]"),
        (lambda: bn.Bottleneck(torch.ones(2, 3), 4, 2).eval()(torch.full((1, 5, 4), torch.nan)), "NaN"),
        (lambda: fit(bn.labeler(2, 2), torch.full((3, 2), torch.nan), torch.zeros(3).long(), 1), "diverged"),
        (lambda: bn.prominent_channels(torch.ones(1, 2, 3), 4), "4 channels were asked of 3"),
        (lambda: bn.label_free(torch.ones(5, 2), torch.zeros(5), torch.ones(5, 2), 2), "too few"),
        (lambda: bn.label_free(torch.randn(40, 2), torch.zeros(40), torch.randn(40, 2), 2, cutoff=1.1), "cutoff"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()


# --- with a model


@pytest.fixture(scope="module")
def clip():
    return models.load("ViT-B-16")


@pytest.fixture(scope="module")
def given():
    return Given("ViT-B-16", limit=2)


@pytest.fixture(scope="module")
def short():
    return Training(train_limit=96, steps=2)


@pytest.fixture(scope="module")
def train(given, short):
    return baselines.train_split(given, given.images, short)


def test_trained_baselines_are_found_again(clip, train, short, monkeypatch):
    how = baselines.recipe(clip, train, short)
    first = {method: baselines.tensors(method, clip, train, how) for method in baselines.METHODS}
    monkeypatch.setattr(baselines, "trained", None)  # nothing is trained now
    for method, tensors in first.items():
        again = baselines.tensors(method, clip, train, how)
        assert all(torch.equal(tensors[k], again[k]) for k in tensors)
        assert all(v.dtype != torch.float32 for v in tensors.values())
        assert baselines.load(method, clip, train, how)


def test_random_queries_have_the_shape_and_norm_of_texts_and_know_nothing_of_them(clip, train):
    texts, random = baselines.queries(clip, train), baselines.queries(clip, train, random=True)
    assert texts.shape == random.shape and torch.allclose(random.norm(dim=1), torch.ones(len(random)), atol=1e-5)
    assert (texts * random).sum(1).abs().mean() < 0.2


def test_descriptor_targets_by_hand(train):
    wanted = baselines.descriptor_targets(train)
    for c in (0, 17):
        assert {train.bank[d] for d in wanted[c].nonzero()[:, 0]} == set(train.descriptors[c])


def test_the_labelers_quality_by_hand():
    wanted = torch.tensor([[1.0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0.0] * 12])
    scores = -torch.arange(12.0).expand(2, -1)  # puts the first descriptors first, whatever it sees
    found = observe_bottlenecks.named_first(scores, wanted)
    assert found["first"][0] == found["ten"][0] == pytest.approx(200 / 3)  # 2 of 3 among 3, and among 10
    assert found["first"][1].isnan() and found["ten"][1].isnan()  # a class without descriptors


def test_table_5_has_a_line_for_each_image_and_classifier(given, short):
    seen = observe_bottlenecks.table5(given, short)
    assert len(seen.table) == 16 * len(observe_bottlenecks.CLASSIFIERS)
    assert set(seen.table["top1"]) <= {0, 100} and (seen.table["top5"] >= seen.table["top1"]).all()
    assert seen.notes["train"] == 96 and seen.notes["bank"] == 54
    assert set(observe_bottlenecks.labeler(given, short)) == {"image", "class", "first", "ten"}
    opened = {request[0] for request in given.opened}
    assert opened == {"model", "images", "file"}


def test_published_classifiers_are_those_of_the_table():
    rows = published.load("mutual_knowledge_appendix", "table").loc["A5 baselines"].set_index("row")["value"]
    assert rows["MM-ProtoSim"] == "78.79|95.43" and rows["LF-CBM"] == "71.95|-"
    assert set(rows.index) < set(observe_bottlenecks.CLASSIFIERS)


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_in_the_repository_belong_to_the_models_the_pictures_and_the_recipe(name):
    clip, train = models.load(name), data.load("bestiary", "train")
    with safe_open(ROOT / baselines.FOLDER / f"{name}.safetensors", framework="pt") as file:
        assert file.metadata() == {"recipe": store.digest(baselines.recipe(clip, train, Training()))}
        assert {key.partition(".")[0] for key in file.keys()} == set(baselines.METHODS)
        assert all(file.get_tensor(key).isfinite().all() for key in file.keys())


def test_weights_in_the_repository_know_the_pictures_that_they_were_trained_on(clip):
    """They were trained by earlier code, to the same recipe; a formula that has changed since would not fit them."""
    train = data.load("bestiary", "train")
    how, some = baselines.recipe(clip, train, Training()), train.subset(data.spread(train.labels, 96))
    features, embedded = baselines.patch_features(clip, some, how)[0], clip.embed_images(some)
    for method in ("standard", "standard_embedding", "lf_cbm", *baselines.BOTTLENECKS):
        model = baselines.load(method, clip, train, how)
        found = observe_bottlenecks.logits(method, model, features, embedded).argmax(1).cpu()
        assert (found.numpy() == some.labels).mean() > 0.6  # of 24 classes


def test_the_published_model_has_weights_in_the_repository():
    assert "ViT-B-16" in SHIPPED


def test_trained_weights_outlive_new_code_that_draws_the_same_pictures(monkeypatch):
    train = data.load("bestiary", "train")
    before = baselines.content(train)
    monkeypatch.setattr(type(train.source), "fingerprint", "other code", raising=False)
    assert baselines.content(data.load("bestiary", "train")) == before
    draw = type(train.source).image
    monkeypatch.setattr(type(train.source), "image", lambda self, i: draw(self, i).rotate(90))
    assert baselines.content(data.load("bestiary", "train")) != before


def test_another_recipe_has_weights_of_its_own(clip, train, short):
    known = store.digest(baselines.recipe(clip, train, short))
    for change in ({"steps": 3}, {"rates": "published"}, {"inner": 8}, {"temperature": 0.5}, {"hard": True}):
        other = baselines.recipe(clip, train, Training(**{"train_limit": 96, "steps": 2} | change))
        assert store.digest(other) != known
    assert store.digest(baselines.recipe(clip, train, short, seed=1)) != known


def test_unknown_baseline_is_refused(clip, train, short):
    with pytest.raises(UserError, match="choose one of standard"):
        baselines.load("mm_pcbm", clip, train, baselines.recipe(clip, train, short))


def test_images_that_cannot_be_trained_on_are_refused(make_folder):
    one, two = Given("RN50", str(make_folder({"cat": 2}, "one"))), str(make_folder({"cat": 2, "dog": 2}, "two"))
    with pytest.raises(UserError, match="has no train split; give the folder of its training images as `train_data`"):
        baselines.train_split(one, one.images, Training())
    with pytest.raises(UserError, match="single class"):
        baselines.train_split(one, one.images, Training(train_data=one.dataset))
    with pytest.raises(UserError, match="other classes"):
        baselines.train_split(one, one.images, Training(train_data=two))
    with pytest.raises(UserError, match="no descriptors"):
        other = Given("RN50", two)
        baselines.train_split(other, other.images, Training(train_data=two))


def test_features_that_do_not_fit_into_memory_are_refused(clip, train, short, monkeypatch):
    monkeypatch.setattr(baselines, "LARGEST", 1e5)
    with pytest.raises(UserError, match="train_limit"):
        baselines.patch_features(clip, train, baselines.recipe(clip, train, short))
