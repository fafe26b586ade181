import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score

from lib.errors import UserError
from lib.mutual import information as inf

VISION = np.array([[4, 7, 2, 9], [1, 3, -1, -1], [5, 6, 8, -1]])
LANGUAGE = np.array([[2, 7, 0], [8, 9, 0], [5, 1, 0]])


def contingency(n, m, k):
    table = np.zeros((n, m), dtype=int)
    table[range(k), range(k)] = 1
    return table


@pytest.mark.parametrize("n, m, k", [(15, 50, 1), (15, 50, 5), (9, 4, 4), (1, 1, 1)])
def test_information_is_made_of_the_entropies_of_the_table(n, m, k):
    joint = entropy(contingency(n, m, k).ravel())
    assert inf.shared_information(n, m, k, "definition") == pytest.approx(np.log(n) + np.log(m) - joint)
    assert inf.shared_information(n, m, k, "released") == pytest.approx(np.log(n) + np.log(m) + joint)
    own_mutual_information = mutual_info_score(None, None, contingency=contingency(n, m, k))
    assert inf.shared_information(n, m, k, "consistent") == pytest.approx(own_mutual_information, abs=1e-12)


def test_released_values_of_the_specification():
    k = [0, 1, 2, 3, 5, 8, 15]
    expected = [0, 6.620, 7.313, 7.719, 8.230, 8.700, 9.328]
    np.testing.assert_allclose(inf.shared_information(15, 50, k), expected, atol=5e-4)


@pytest.mark.parametrize("reading", inf.READINGS)
def test_no_overlap_is_zero_for_every_reading(reading):
    assert inf.shared_information([15, 0], [50, 50], 0, reading).tolist() == [0, 0]


def test_matches_and_last_hit_by_hand():
    hits = inf.matches(VISION, LANGUAGE)
    assert hits.tolist() == [[False, True, True, False], [False] * 4, [True, False, False, False]]
    assert inf.last_of(hits).tolist() == [3, 0, 1]


def test_curves_by_hand():
    dummy = inf.curves(VISION, LANGUAGE)
    np.testing.assert_allclose(dummy[0], [np.log(24), np.log(24), np.log(12), 0, 0])
    np.testing.assert_allclose(dummy[1], [0, 0, 0, np.nan, np.nan])
    np.testing.assert_allclose(dummy[2], [np.log(9), 0, 0, 0, np.nan])
    dropped = inf.curves(VISION, LANGUAGE, removal="drop")
    np.testing.assert_allclose(dropped[0], [np.log(24), np.log(18), np.log(6), 0, 0])
    falling_sign = inf.curves(VISION, LANGUAGE, information="definition")
    np.testing.assert_allclose(falling_sign[0], [np.log(6), np.log(6), np.log(12), 0, 0])


def test_curves_are_padded_with_zeros_to_the_longest_list():
    curves = np.array([[4.0, 2, 0], [2.0, 0, np.nan]])
    np.testing.assert_allclose(inf.padded(curves).mean(0), [3, 1, 0])
    np.testing.assert_allclose(inf.padded(curves, length=4).mean(0), [3, 1, 0, 0])
    assert inf.padded(curves[1:]).tolist() == [[2, 0]]
    with pytest.raises(UserError, match="length = 2"):
        inf.padded(curves, length=2)


def test_image_scores_average_to_the_scores_of_the_mean_curve():
    curves = inf.curves(VISION, LANGUAGE)
    mi, auc = inf.image_scores(curves)
    mean_curve = inf.padded(curves).mean(0)
    assert mi.mean() == pytest.approx(mean_curve[0])
    assert auc.mean() == pytest.approx(mean_curve.mean())


def test_matches_with_every_class_by_loop():
    language = np.array([[2, 7, 0], [8, 9, 0], [5, 1, 0], [6, 4, 9]])
    by_loop = [[len(set(image) & set(listed)) for listed in language.tolist()] for image in VISION.tolist()]
    assert inf.matches_by_class(VISION, language, 10).tolist() == by_loop


def test_an_image_without_concept_counts_as_zero():
    curves = inf.curves(np.full((1, 3), -1), LANGUAGE[:1])
    np.testing.assert_array_equal(curves, [[0, np.nan, np.nan, np.nan]])


def test_language_concepts_are_the_nearest_of_each_images_class():
    scores = np.array([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]])
    assert inf.language_concepts(scores, [1, 0, 0], 2).tolist() == [[0, 1], [1, 2], [1, 2]]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: inf.shared_information(3, 3, 1, "bits"), "information is 'bits'; choose one of released, definition"),
        (lambda: inf.shared_information(3, 3, 4), "overlap k"),
        (lambda: inf.curves(VISION, LANGUAGE, removal="delete"), "removal is 'delete'"),
        (lambda: inf.curves(VISION, LANGUAGE[:2]), "3 vision lists and 2 language lists"),
        (lambda: inf.curves([[1, 1]], [[2, 3]]), "same descriptor twice"),
        (lambda: inf.curves([[-1, 1]], [[2, 3]]), "after its -1 padding"),
        (lambda: inf.curves([[0.5, 1.0]], [[2, 3]]), "expected integers"),
        (lambda: inf.language_concepts(np.zeros((2, 3)), [0], 4), "top_u = 4"),
        (lambda: inf.language_concepts([[np.nan, 1.0]], [0], 1), "NaN"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(UserError, match=message):
        call()


# --- what chance gives


def test_null_models_by_hand():
    rng = np.random.default_rng(0)
    predicted = np.array([0, 1, 2, 0])
    drawn = inf.wrong_classes(predicted, 3, 500, rng)
    assert (drawn != predicted).all()
    assert np.bincount(drawn[:, 0], minlength=3) == pytest.approx([0, 250, 250], abs=60)
    lists = np.array([[4, 2, -1], [1, -1, -1]])
    random = np.stack([inf.random_lists(lists, 10, rng) for _ in range(400)])
    assert ((random >= 0) == (lists >= 0)).all()
    assert (random[:, 0, 0] != random[:, 0, 1]).all()
    assert np.bincount(random[:, 1, 0], minlength=10).min() > 15
    small = inf.random_lists(np.arange(12).reshape(2, 6), 4, rng)  # a bank smaller than the lists
    assert [sorted(row) for row in small.tolist()] == [[-1, -1, 0, 1, 2, 3]] * 2


def test_every_place_of_a_random_list_is_drawn_from_the_whole_bank():
    drawn = inf.random_lists(np.tile(np.arange(6), (6000, 1)), 8, np.random.default_rng(3))
    for place in drawn.T:
        assert np.bincount(place, minlength=8) == pytest.approx([750] * 8, abs=120)


def test_expected_overlap_of_random_lists_is_hypergeometric():
    rng = np.random.default_rng(1)
    lists, language = np.tile(np.arange(8), (3000, 1)), np.tile(np.arange(10), (3000, 1))
    k = inf.matches(inf.random_lists(lists, 54, rng), language).sum(1)
    assert k.mean() == pytest.approx(8 * 10 / 54, rel=0.05)
