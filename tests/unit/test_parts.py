import numpy as np
import pytest
import torch
from skimage.measure import label
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.preprocessing import MinMaxScaler

from lib.errors import UserError
from lib.mutual import parts


def random_features(images=4, patches=36, width=16, seed=0):
    features = torch.randn(images, patches, width, generator=torch.Generator().manual_seed(seed))
    features[:, ::5] += 3  # a rarer kind of patch
    return features


def random_mask(share=0.4, images=4, grid=(6, 6)):
    return torch.rand(images, *grid, generator=torch.Generator().manual_seed(1)) < share


@pytest.mark.parametrize("shape", [(4, 36, 16), (1, 9, 16)])  # more, and fewer, patches than features
def test_singular_vectors_are_those_of_the_normalised_class_matrix(shape):
    features = random_features(*shape)
    rows = torch.nn.functional.normalize(features.double().reshape(-1, shape[2]), dim=1)
    expected = torch.linalg.svd(rows, full_matrices=False).U[:, :3]
    ours = parts.singular_vectors(features).reshape(-1, 3)
    np.testing.assert_allclose((ours * expected).sum(dim=0).abs(), 1, atol=1e-9)
    positive = (ours > 0).double().mean(dim=0)
    assert ((positive <= 0.5) | (positive == 1)).all()


def test_image_by_image_gives_eigenvectors_of_each_images_affinity():
    features = random_features()
    ours = parts.singular_vectors(features, count=2, spectral="image")
    rows = torch.nn.functional.normalize(features.double(), dim=2)
    affinity = rows @ rows.mT
    for k in range(2):
        vector = ours[..., k, None]
        eigenvalue = vector.mT @ affinity @ vector
        torch.testing.assert_close(affinity @ vector, eigenvalue * vector, rtol=0, atol=1e-8)
    single = parts.singular_vectors(features[1:2], count=2)
    torch.testing.assert_close(ours[1:2], single)


def test_principal_components_agree_with_scikit_learn():
    features = random_features()
    expected = PCA(3).fit_transform(features.double().reshape(-1, 16))
    ours = parts.principal_components(features).reshape(-1, 3)
    np.testing.assert_allclose(np.abs(ours), np.abs(expected), atol=1e-9)


@pytest.mark.parametrize("method, component", [("svd", 1), ("pca", 0)])
def test_foreground_finds_the_rarer_kind_of_patch(method, component):
    generator = torch.Generator().manual_seed(0)
    features = 0.05 * torch.randn(5, 64, 32, generator=generator) + torch.arange(32) % 2
    square = torch.zeros(8, 8, dtype=torch.bool)
    square[2:5, 3:6] = True
    features[:, square.ravel()] += 4 * (torch.arange(32) % 3 == 0)
    mask = parts.foreground(features, (8, 8), component=component, method=method)
    assert (mask == square).all()


def component_rules(mask):
    """(largest, released) by scikit-image."""
    pieces = label(mask, connectivity=2)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    order = np.argsort(-sizes, kind="stable")
    largest = pieces == order[0]
    second = len(sizes) > 2 and sizes[order[1]] >= 5
    return largest, largest | (pieces == order[1]) if second else largest


def test_connected_components_agree_with_scikit_image():
    masks = np.random.default_rng(0).random((200, 8, 8)) < 0.35
    largest, released = zip(*map(component_rules, masks), strict=True)
    np.testing.assert_array_equal(parts.connected(torch.from_numpy(masks), "largest"), largest)
    np.testing.assert_array_equal(parts.connected(torch.from_numpy(masks), "released"), released)


def test_second_component_of_four_patches_is_dropped_and_of_five_kept():
    mask = torch.zeros(2, 6, 6, dtype=torch.bool)
    mask[:, 0], mask[0, 3, :4], mask[1, 3, :5] = True, True, True
    assert parts.connected(mask).sum(dim=(1, 2)).tolist() == [6, 11]


def test_empty_foreground_becomes_the_whole_image():
    mask = torch.zeros(1, 3, 3, dtype=torch.bool)
    assert parts.connected(mask).all() and parts.connected(mask, "all").all()
    constant = torch.ones(2, 9, 4)
    assert parts.foreground(constant, (3, 3), component=0).all()


def test_pca_parts_agree_with_scikit_learn():
    features, mask = random_features(), random_mask()
    rows = features.double()[mask.flatten(1)].numpy()
    scores = MinMaxScaler().fit_transform(PCA(5).fit_transform(rows))
    ours = parts.pca_parts(features, mask)
    np.testing.assert_array_equal(ours[mask], scores.argmax(axis=1))
    assert (ours[~mask] == -1).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kmeans_agrees_with_scikit_learn_from_the_same_start(seed):
    rows = random_features().double().reshape(-1, 16)
    start = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:5]
    expected = KMeans(5, init=rows[start].numpy(), n_init=1, tol=0, algorithm="lloyd").fit(rows.numpy())
    np.testing.assert_array_equal(parts.kmeans(rows, 5, seed, tolerance=1e-20), expected.labels_)


def test_another_seed_is_another_start_of_kmeans():
    rows = random_features().double().reshape(-1, 16)
    assert (parts.kmeans(rows, 5, 0) == parts.kmeans(rows, 5, 0)).all()
    assert (parts.kmeans(rows, 5, 0) != parts.kmeans(rows, 5, 1)).any()


def test_kmeans_cuts_between_directions_not_lengths():
    angles = torch.tensor([0.0, 0.1, 1.5, 1.6, 3.0, 3.1])
    directions = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([1, 50, 2, 60, 3, 70.0])[:, None]
    labels = {
        tuple(parts.kmeans_parts(directions[None], torch.ones(1, 2, 3, dtype=torch.bool), 3, seed).ravel().tolist())
        for seed in range(20)
    }
    assert any(a == b and c == d and e == f and len({a, c, e}) == 3 for a, b, c, d, e, f in labels)


@pytest.mark.parametrize("cut", [parts.pca_parts, parts.kmeans_parts])
@pytest.mark.parametrize("patches", [1, 2, 3])
def test_fewer_patches_than_parts(cut, patches):
    mask = torch.zeros(4, 6, 6, dtype=torch.bool)
    mask[0, 0, :patches] = True
    labels = cut(random_features(), mask, 5)
    assert ((labels >= 0) == mask).all() and labels.max() < patches
    if cut is parts.kmeans_parts:
        assert len(labels[mask].unique()) == patches


@pytest.mark.parametrize("cut", [parts.pca_parts, parts.kmeans_parts])
def test_one_part_is_the_whole_mask(cut):
    mask = random_mask()
    assert (cut(random_features(), mask, 1) == mask.long() - 1).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, m: parts.foreground(x * torch.nan, (6, 6)), "NaN"),
        (lambda x, m: parts.kmeans_parts(x / 0, m), "NaN"),
        (lambda x, m: parts.foreground(x, (5, 6)), "grid \\(5, 6\\) does not hold the 36 patches"),
        (lambda x, m: parts.foreground(x, (6, 6), component=16), "17 components were asked"),
        (lambda x, m: parts.foreground(x, (6, 6), method="ica"), "method is 'ica'"),
        (lambda x, m: parts.foreground(x, (6, 6), spectral="batch"), "spectral is 'batch'"),
        (lambda x, m: parts.foreground(x, (6, 6), components="both"), "components is 'both'"),
        (lambda x, m: parts.foreground(x[0], (6, 6)), "\\(36, 16\\)|36 patches|16 patches"),
        (lambda x, m: parts.pca_parts(x, m[:2]), "does not fit"),
        (lambda x, m: parts.pca_parts(x, m & False), "empty in every image"),
        (lambda x, m: parts.kmeans_parts(x, m, parts=0), "parts = 0"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(UserError, match=message):
        call(random_features(), random_mask())


def test_dense_crf_finds_the_edge_of_a_bright_square():
    pytest.importorskip("pydensecrf", reason="the optional package pydensecrf2 is not installed")
    pixels = torch.randint(0, 30, (1, 3, 40, 40), generator=torch.Generator().manual_seed(0)).byte()
    pixels[:, :, 10:30, 10:30] += 180
    rough = torch.zeros(1, 8, 8).bool()
    rough[0, 2:6, 3:6] = True  # rows 10..30 rightly, columns 15..30: five columns too few
    truth = torch.zeros(1, 40, 40).bool()
    truth[0, 10:30, 10:30] = True
    assert torch.equal(parts.dense_crf(pixels, rough), truth)


def test_dense_crf_without_its_package_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(UserError, match="pip install pydensecrf2"):
        parts.dense_crf(torch.zeros(1, 3, 8, 8).byte(), torch.ones(1, 2, 2).bool())
