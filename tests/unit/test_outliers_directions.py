"""Directions of a head and their pruning against numpy, scikit-learn and cases computed by hand."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD

from lib.errors import UserError
from lib.outliers import directions, observe

rng = np.random.default_rng(1)
HEAD = torch.from_numpy(rng.normal(size=(6, 8)))
H = torch.from_numpy(rng.normal(size=(200, 8)))
BIAS = torch.from_numpy(rng.normal(size=6))
SHARES = [0.0, 0.5, 5 / 6]


def test_directions_of_a_diagonal_head():
    found = directions.decompose(torch.tensor([[0.0, 3.0, 0.0], [2.0, 0.0, 0.0]]))
    assert found.values.tolist() == [3, 2] and len(found) == 2
    assert found.right.abs().T.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_directions_put_together_are_the_head():
    found = directions.decompose(HEAD)
    again = found.left @ torch.diag(found.values) @ found.right.T
    np.testing.assert_allclose(again.numpy(), HEAD.numpy(), atol=1e-12)
    np.testing.assert_allclose(found.values.numpy(), np.linalg.svd(HEAD.numpy(), compute_uv=False))


def test_a_centred_head_has_one_direction_less_and_forgets_a_common_vector():
    found = directions.decompose(HEAD, centred=True)
    moved = directions.decompose(HEAD + 5 * torch.arange(8), centred=True)
    assert len(found) == 5
    np.testing.assert_allclose(found.values.numpy(), moved.values.numpy(), rtol=1e-9)
    np.testing.assert_allclose((found.right.T @ moved.right).abs().numpy(), np.eye(5), atol=1e-8)
    assert directions.decompose(HEAD + 5 * torch.arange(8)).values[0] > 10 * found.values[0]


def test_importance_by_hand():
    h = torch.tensor([[3.0, 4.0], [-6.0, 8.0]])  # cosines with the axes: 0.6 and 0.8, whatever the sign and length
    found = directions.decompose(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    cosines = directions.cosines(h, {"head": found}).mean("head")
    np.testing.assert_allclose(cosines, [0.6, 0.8])
    np.testing.assert_allclose(directions.importance(found.values, cosines), [0.75 * 0.6, 0.25 * 0.8])


def test_concentration_by_hand():
    ratio, share = directions.concentration([8.0, 1.0, 2.0, 1.0])
    assert ratio == pytest.approx(8 / 1.5) and share == pytest.approx(8 / 12)
    assert directions.concentration([[8.0, 1.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]])[0].tolist() == [ratio, 1]


def test_one_reading_gives_what_all_rows_at_once_do():
    heads = {name: directions.decompose(HEAD, name == "row-centred") for name in directions.HEADS}
    averages = directions.cosines(H, heads, size=17)
    np.testing.assert_allclose(directions.second_moment(H, size=17).numpy(), (H.T @ H / 200).numpy())
    for name, found in heads.items():
        cosines = (H @ found.right).abs() / H.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(averages.mean(name), cosines.mean(0).numpy())


def ways():
    found, second = directions.decompose(HEAD), H.T @ H / len(H)
    return {
        "importance": [directions.ordered(found, found.values)],
        "pca": [directions.by_pca(HEAD, second)],
        "regression": [directions.by_regression(HEAD, second)],
        "chance": [directions.by_chance(HEAD, k=k) for k in range(2)],
    }


def logits_of(factors, k):
    return H @ factors[0][:, :k] @ factors[1][:k]


def test_all_directions_give_the_logits_of_the_full_head():
    full = H @ HEAD.T
    for name, factors in ways().items():
        for one in factors:
            np.testing.assert_allclose(logits_of(one, len(one[1])).numpy(), full.numpy(), atol=1e-10, err_msg=name)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_reduced_rank_regression_has_the_least_error_that_rank_k_allows(k):
    full = (H @ HEAD.T).numpy()
    least = np.sqrt((np.linalg.svd(full, compute_uv=False)[k:] ** 2).sum())  # Eckart and Young
    errors = {n: np.linalg.norm(logits_of(f, k).numpy() - full) for n, (f, *_) in ways().items()}
    assert errors["regression"] == pytest.approx(least, rel=1e-9)
    assert min(errors["importance"], errors["pca"]) >= least - 1e-9


def test_principal_components_agree_with_scikit_learn():
    theirs = TruncatedSVD(3, algorithm="arpack").fit(H.numpy()).components_[::1]
    ours = directions.by_pca(HEAD, H.T @ H / len(H))[0][:, :3].numpy().T
    np.testing.assert_allclose(np.abs(np.sum(ours * theirs, axis=1)), 1, atol=1e-8)


def pruned(labels=None, size=33):
    parts = list(directions.prune(H, HEAD, BIAS, ways(), [6, 3, 1], labels, size))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_pruning_counts_hits_and_agreements():
    labels = (H @ HEAD.T + BIAS).argmax(1)
    found = pruned(labels)
    assert found["hit"].shape == (200, 4, 3) and set(pruned()) == {"agree"}
    mean = found["hit"].mean(0).numpy()
    # with 6 of 6 directions the head is whole; the two bases of the space need all 8
    assert mean[0, 0] == mean[2, 0] == 100
    np.testing.assert_allclose(mean, found["agree"].mean(0).numpy())
    predicted = (logits_of(ways()["importance"][0], 3) + BIAS).argmax(1)
    assert mean[0, 1] == pytest.approx(100 * float((predicted == labels).double().mean()))
    two = [100 * float(((logits_of(f, 3) + BIAS).argmax(1) == labels).double().mean()) for f in ways()["chance"]]
    assert mean[3, 1] == pytest.approx(np.mean(two))


def test_every_way_keeps_the_head_when_nothing_is_pruned():
    found = directions.ways(H, HEAD)
    assert len(found) == 9 and len(found["random subspace"]) == directions.CHANCE_DRAWS
    predicted = (H @ HEAD.T).argmax(1)
    for name, several in found.items():
        for factors in several:  # a row-centred head changes the logits, but no prediction
            assert (logits_of(factors, len(factors[1])).argmax(1) == predicted).all(), name


def test_observations_of_a_head_that_is_mostly_its_mean_row():
    seen = observe._directions(H, HEAD + 10 * torch.arange(8), seed=0)
    plain, centred = (seen.table[seen.table["head"] == name] for name in directions.HEADS)
    first = plain.loc[plain["importance"].idxmax()]
    assert first["mean_link"] == pytest.approx(1, abs=0.01) and len(plain) == 6 and len(centred) == 5
    ratios = [directions.concentration(part["importance"])[0] for part in (plain, centred)]
    assert ratios[0] > 3 * ratios[1]
    low, high = np.quantile(seen.tensors["ratio"], [0.025, 0.975], axis=1)
    assert (low < ratios).all() and (ratios < high).all()
    np.testing.assert_allclose(plain["importance"], directions.importance(plain["singular"], plain["cosine"]))


@pytest.mark.parametrize("share, left", [(0.0, 10), (0.8, 2), (0.85, 2), (0.94, 1)])
def test_how_many_directions_stay(share, left):
    assert directions.kept(10, share) == left


BAD = {
    "width": (
        lambda: next(directions.prune(H, HEAD[:, :5], BIAS, {}, [5])),
        "has 5 coordinates and the embeddings have 8",
    ),
    "width, importance": (
        lambda: directions.cosines(H[:, :5], {"": directions.decompose(HEAD)}),
        "has 8 coordinates",
    ),
    "zero directions": (lambda: directions.kept(10, 0.97), "leaves 0; give shares from 0 to below 0.950"),
    "everything": (lambda: directions.kept(10, 1.0), "leaves 0"),
    "negative": (lambda: directions.kept(10, -0.1), "give shares from 0"),
    "labels": (lambda: next(directions.prune(H, HEAD, BIAS, {}, [6], [1, 2])), "2 labels for 200 embeddings"),
    "NaN": (lambda: directions.decompose(HEAD * np.nan), "The head holds NaN"),
    "rank": (lambda: directions.decompose(HEAD[0]), r"shape \[8\]"),
    "zero head": (lambda: directions.decompose(HEAD * 0), "rows of the head are all zero"),
    "equal rows": (lambda: directions.decompose(HEAD[[0, 0]], centred=True), "rows of the head are all equal"),
    "one class": (lambda: directions.decompose(HEAD[:1]), "one class"),
    "zero embedding": (lambda: directions.cosines(H * 0, {"": directions.decompose(HEAD)}), "are all zero"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_sentence(case):
    call, message = BAD[case]
    with pytest.raises(UserError, match=message):
        call()
