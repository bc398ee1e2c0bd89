import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest

from robustdeploy.evaluate.intervals import (
    bootstrap_mean,
    clopper_pearson,
    clopper_pearson_lower,
    mcnemar_exact,
    paired_difference,
    samples_needed,
)


@pytest.mark.parametrize("confidence", [0.95, 0.99])
@pytest.mark.parametrize("n", [1, 2, 7, 100, 1797, 10_000, 1_000_000])
def test_clopper_pearson_is_the_interval_that_inverts_the_binomial_test(n, confidence):
    for successes in {0, 1, n // 3, n // 2, n - 1, n}:
        low, high = clopper_pearson(successes, n, confidence)
        expected = binomtest(successes, n).proportion_ci(confidence, method="exact")
        assert low == pytest.approx(expected.low, abs=1e-12, rel=0)
        assert high == pytest.approx(expected.high, abs=1e-12, rel=0)
        bound = binomtest(successes, n, alternative="greater").proportion_ci(confidence, method="exact").low
        assert clopper_pearson_lower(successes, n, confidence) == pytest.approx(bound, abs=1e-12, rel=0)


@pytest.mark.parametrize("p", [0.0, 0.01, 0.45, 0.99, 1.0])
def test_clopper_pearson_covers_at_least_95_percent_exactly(p):
    for n in (20, 200):
        covered = 0.0
        for k in range(n + 1):
            low, high = clopper_pearson(k, n)
            if low <= p <= high:
                covered += binom.pmf(k, n, p)
        assert covered >= 0.95 - 1e-9


def test_clopper_pearson_covers_in_simulation():
    rng = np.random.default_rng(5)
    for p in (0.01, 0.45, 0.99):
        table = [clopper_pearson(k, 100) for k in range(101)]
        draws = rng.binomial(100, p, size=10_000)
        hits = sum(table[k][0] <= p <= table[k][1] for k in draws)
        assert hits >= 9_500


def test_one_sided_bound_is_wrong_at_most_as_often_as_said():
    for p in (0.1, 0.45, 0.9):
        wrong = sum(binom.pmf(k, 60, p) for k in range(61) if clopper_pearson_lower(k, 60, 0.99) > p)
        assert wrong <= 0.01


def test_published_figures():
    low, high = clopper_pearson(450, 1000)
    assert (high - low) / 2 == pytest.approx(0.031, abs=0.0005)
    assert clopper_pearson_lower(450, 1000, 0.99) == pytest.approx(0.413, abs=0.0005)
    assert 1 - clopper_pearson_lower(1000, 1000, 0.95) == pytest.approx(0.0030, abs=0.00005)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_bounds_hold_the_estimate_and_mirror(count, confidence):
    successes, n = count
    low, high = clopper_pearson(successes, n, confidence)
    assert 0 <= low <= successes / n <= high <= 1
    mirrored = clopper_pearson(n - successes, n, confidence)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("successes", "n", "confidence"), [(0, 0, 0.9), (3, 2, 0.9), (-1, 2, 0.9), (1, 2, 1.0)])
def test_impossible_counts_are_refused(successes, n, confidence):
    with pytest.raises(ValueError, match="found"):
        clopper_pearson(successes, n, confidence)


def outcomes(both, only_a, only_b, neither):
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return np.array(a), np.array(b)


def likelihood_score(only_a, only_b, n, delta):
    """The same statistic, with the nuisance share found by a numerical search instead of the formula."""

    def loss(q):
        rest = 1 - 2 * q - delta
        terms = [(only_a, q + delta), (only_b, q), (n - only_a - only_b, rest)]
        return -sum(k * math.log(max(s, 1e-300)) for k, s in terms)

    q = minimize_scalar(loss, bounds=(max(0.0, -delta), (1 - delta) / 2), method="bounded", options={"xatol": 1e-12}).x
    return (only_a - only_b - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta)))


@pytest.mark.parametrize("counts", [(36, 12, 2, 0), (53, 16, 8, 9), (40, 1, 5, 54), (10, 20, 4, 2)])
def test_paired_bounds_are_where_the_score_test_turns(counts):
    a, b = outcomes(*counts)
    difference, low, high = paired_difference(a, b)
    assert difference == pytest.approx(a.mean() - b.mean())
    assert likelihood_score(counts[1], counts[2], len(a), low) == pytest.approx(1.959964, abs=1e-3)
    assert likelihood_score(counts[1], counts[2], len(a), high) == pytest.approx(-1.959964, abs=1e-3)


def test_paired_difference_without_any_disagreement_is_not_certain():
    a, b = outcomes(70, 0, 0, 30)
    difference, low, high = paired_difference(a, b)
    z2 = 1.959964**2
    assert difference == 0
    assert high == pytest.approx(z2 / (100 + z2), abs=1e-6)
    assert low == pytest.approx(-high, abs=1e-9)


def test_paired_difference_at_the_ends():
    a, b = outcomes(0, 5, 0, 0)
    difference, low, high = paired_difference(a, b)
    assert (difference, high) == (1.0, 1.0)
    assert low < 1
    assert paired_difference(b, a) == pytest.approx((-1.0, -1.0, -low))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_paired_difference_holds_the_estimate_and_swaps(pairs):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    difference, low, high = paired_difference(a, b)
    assert -1 <= low <= difference <= high <= 1
    assert paired_difference(b, a) == pytest.approx((-difference, -high, -low), abs=1e-6)


@pytest.mark.parametrize("shares", [(0.40, 0.06, 0.02, 0.52), (0.90, 0.01, 0.03, 0.06), (0.45, 0.0, 0.05, 0.5)])
def test_paired_coverage_by_simulation(shares):
    rng = np.random.default_rng(11)
    truth = shares[1] - shares[2]
    hits, rounds = 0, 600
    for _ in range(rounds):
        _, low, high = paired_difference(*outcomes(*rng.multinomial(200, shares)))
        hits += low <= truth <= high
    # 0.95 nominal; the standard error of 600 rounds is 0.9 points.
    assert 0.92 <= hits / rounds <= 0.985


def test_mcnemar_is_the_sign_test_on_disagreements():
    a, b = outcomes(30, 9, 2, 59)
    expected = 2 * sum(math.comb(11, k) for k in range(3)) / 2**11
    assert mcnemar_exact(a, b) == pytest.approx(expected)
    assert mcnemar_exact(a, a) == 1.0


def test_paired_outcomes_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="equal length"):
        mcnemar_exact(np.ones(3, dtype=bool), np.ones(4, dtype=bool))


@pytest.mark.parametrize(("p", "limit"), [(0.47, 0.45), (0.40, 0.45), (0.98, 0.95), (1.0, 0.99), (0.0, 0.05)])
def test_samples_needed_is_where_the_interval_clears_the_limit(p, limit):
    n = samples_needed(p, limit)

    def clears(count):
        low, high = clopper_pearson(round(p * count), count)
        return low >= limit or high < limit

    assert clears(math.ceil(n * 1.1) + 10)
    assert not clears(int(n * 0.9) - 1)


def test_samples_needed_on_the_limit_is_none():
    assert samples_needed(0.45, 0.45) is None


def test_the_bootstrap_covers_the_mean_of_a_skewed_population_and_repeats_itself():
    rng, held = np.random.default_rng(0), 0
    for trial in range(200):
        values = rng.exponential(2.0, 60)
        mean, low, high = bootstrap_mean(values, trial, draws=400)
        assert low <= mean == values.mean() <= high
        held += low <= 2.0 <= high
    # 95 % of 200, and at n = 60 the best of intervals is a little short of it.
    assert 178 <= held <= 198
    assert bootstrap_mean(values, 5) == bootstrap_mean(values, 5) != bootstrap_mean(values, 6)


def test_the_bootstrap_is_that_of_scipy():
    scipy_stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).exponential(1.0, 80)
    theirs = scipy_stats.bootstrap((values,), np.mean, n_resamples=9999, method="BCa", rng=0).confidence_interval
    _, low, high = bootstrap_mean(values, 0, draws=9999)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.015)


@pytest.mark.parametrize("values", [[3.0], [0.25] * 7])
def test_values_that_do_not_differ_are_their_own_interval(values):
    assert bootstrap_mean(np.array(values), 0) == (values[0],) * 3


@pytest.mark.parametrize("values", [[], [1.0, np.inf], [np.nan]])
def test_a_mean_of_nothing_is_refused(values):
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_mean(np.array(values), 0)
