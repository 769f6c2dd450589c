import numpy as np
import pytest
from himalaya.scoring import r2_score_split
from sklearn.metrics import r2_score

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.stats.variance_partitioning import (
    commonality,
    held_out_r2,
    partition_variance,
    product_measure,
    sub_models,
)

N = 120


def white(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def folds(n=N, k=4):
    return stats.make_folds(range(n), k)


def least_squares(X, Y, outer):
    """Held-out predictions of ordinary regression."""
    prediction = np.full(Y.shape, np.nan)
    for train, test in outer:
        mean = X[train].mean(axis=0)
        weights = np.linalg.lstsq(X[train] - mean, Y[train] - Y[train].mean(axis=0), rcond=None)[0]
        prediction[test] = (X[test] - mean) @ weights + Y[train].mean(axis=0)
    return prediction


def fitted(features, Y, outer):
    return {
        model: least_squares(np.hstack([features[band] for band in model]), Y, outer)
        for model in sub_models(list(features))
    }


def problem(n_bands=2, n=N, n_voxels=5, seed=0):
    features = {f"band{b}": white(n, 3, seed=seed + b) for b in range(n_bands)}
    Y = sum(X @ white(3, n_voxels, seed=seed + 10) * (b + 1) for b, X in enumerate(features.values()))
    return features, Y + 3 * white(n, n_voxels, seed=seed + 20) + 5


# sets and parts


def test_all_sets_of_bands_in_order():
    assert sub_models(["x", "y", "z"]) == [
        ("x",), ("y",), ("z",), ("x", "y"), ("x", "z"), ("y", "z"), ("x", "y", "z"),
    ]  # fmt: skip
    assert len(sub_models("abcd")) == 15


def test_three_bands_split_as_the_textbook_says():
    a, b, c, ab, ac, bc, abc = white(7, 4)
    models = sub_models(["a", "b", "c"])
    parts = commonality(dict(zip(models, (a, b, c, ab, ac, bc, abc), strict=True)))
    expected = {
        ("a",): abc - bc, ("b",): abc - ac, ("c",): abc - ab,
        ("a", "b"): ac + bc - c - abc, ("a", "c"): ab + bc - b - abc, ("b", "c"): ab + ac - a - abc,
        ("a", "b", "c"): a + b + c - ab - ac - bc + abc,
    }  # fmt: skip
    assert list(parts) == models
    for key, value in expected.items():
        assert np.allclose(parts[key], value, atol=1e-12), key


@pytest.mark.parametrize("n_bands", [2, 3, 4])
def test_parts_of_a_model_add_up_to_its_score(n_bands):
    models = sub_models("abcd"[:n_bands])
    scores = dict(zip(models, white(len(models), 3, 2), strict=True))
    parts = commonality(scores)
    for model in models:
        inside = sum(value for key, value in parts.items() if set(key) & set(model))
        assert np.allclose(inside, scores[model], atol=1e-12)


# scores


def test_held_out_r2_about_the_test_mean_is_scikit_learns():
    features, Y = problem()
    prediction = fitted(features, Y, folds())["band0",]
    found = held_out_r2(prediction, Y, folds(), about="test")
    for k, (_, test) in enumerate(folds()):
        assert np.allclose(found[k], r2_score(Y[test], prediction[test], multioutput="raw_values"))


def test_the_mean_of_the_training_responses_explains_nothing():
    _, Y = problem()
    Y = Y + np.arange(N)[:, None]  # a drift: the means of training and test rows differ
    prediction = np.empty_like(Y)
    for train, test in folds():
        prediction[test] = Y[train].mean(axis=0)
    assert np.allclose(held_out_r2(prediction, Y, folds()), 0, atol=1e-12)
    assert (held_out_r2(prediction, Y, folds(), about="test") < -0.01).all()
    assert np.allclose(held_out_r2(Y, Y, folds()), 1)


def test_what_cannot_be_scored_is_nan_and_nothing_is_clipped():
    _, Y = problem()
    prediction = -Y
    Y = Y.copy()
    Y[3, 0], Y[:, 1] = np.nan, 2.0
    found = held_out_r2(prediction, Y, folds())
    assert np.isnan(found[0, 0])
    assert np.isnan(found[:, 1]).all()
    assert (found[:, 2:] < -1).all()


def test_product_measure_equals_himalayas_split_and_adds_up():
    _, Y = problem()
    parts = white(3, N, 5, seed=4)
    outer = folds()
    prediction = np.empty_like(Y)
    for train, test in outer:
        prediction[test] = parts[:, test].sum(axis=0) + Y[train].mean(axis=0)
    found = product_measure(parts, Y, outer)
    assert np.allclose(found.sum(axis=0), held_out_r2(prediction, Y, outer), atol=1e-12)
    for k, (train, test) in enumerate(outer):
        about = Y[test] - Y[train].mean(axis=0)
        with pytest.warns(UserWarning, match="zero-mean"):  # it is about the training mean
            split = r2_score_split(about, parts[:, test])
        assert np.allclose(found[:, k], split)


# partitions


@pytest.mark.parametrize("n_bands", [2, 3, 4])
@pytest.mark.parametrize("about", ["training", "test"])
def test_parts_are_the_commonality_of_the_scores_and_add_up(n_bands, about):
    features, Y = problem(n_bands)
    predictions = fitted(features, Y, folds())
    found = partition_variance(predictions, Y, folds(), about=about, n_bootstrap=0)
    assert found.bands == tuple(features)
    scores = {model: held_out_r2(values, Y, folds(), about=about) for model, values in predictions.items()}
    parts = commonality(scores)
    for number, model in enumerate(found.models):
        assert np.allclose(found.r2[number], scores[model])
        assert np.allclose(found.part[number], parts[model])
    assert np.allclose(found.part.sum(axis=0), found.r2[-1], atol=1e-12)
    for k, (_, test) in enumerate(folds()):
        for b, band in enumerate(features):
            rest = tuple(name for name in features if name != band)
            full = predictions[tuple(features)]
            r = [stats.column_correlation(p[test], Y[test]) for p in (full, predictions[rest])]
            assert np.allclose(found.unique_r[b, k], r[0] - r[1])
    assert np.isnan(found.low).all()
    assert found.part_sums.shape == (len(found.models), 1, 0)


def test_planted_shares_come_back():
    n, v = 4000, 6
    own, other, both = (white(n, 2, seed=s) for s in (1, 2, 3))
    features = {"a": np.hstack([own, both]), "b": np.hstack([other, both])}
    # one third of the variance from what only a has, one third from what both have, one third noise
    unit = np.array([[1.0], [1.0]]) / np.sqrt(2)
    Y = np.tile(own @ unit + both @ unit, (1, v)) + white(n, v, seed=9)
    outer = folds(n)
    found = partition_variance(fitted(features, Y, outer), Y, outer, n_bootstrap=200)
    part = found.part.mean(axis=1)
    assert np.allclose(part[0], 1 / 3, atol=0.04)
    assert np.allclose(part[1], 0, atol=0.01)
    assert np.allclose(part[2], 1 / 3, atol=0.04)
    assert (found.low[0] > 0.25).all()
    assert (found.high[0] < 0.42).all()
    r = found.r.mean(axis=1)
    assert np.allclose(r[2], np.sqrt(2 / 3), atol=0.02)
    assert np.allclose(found.unique_r.mean(axis=1)[0], np.sqrt(2 / 3) - np.sqrt(1 / 3), atol=0.03)


def test_shared_variance_is_negative_where_one_band_removes_the_others_noise():
    n = 2000
    signal, nuisance = white(n, 1, seed=1), white(n, 1, seed=2)
    features = {"noisy": signal + 2 * nuisance, "nuisance": nuisance}
    outer = folds(n)
    found = partition_variance(fitted(features, signal, outer), signal, outer, n_bootstrap=0)
    assert found.part[2].mean() == pytest.approx(-0.8, abs=0.03)  # together 1, alone 1/5 and 0


def test_noise_has_no_unique_part_above_chance():
    features = {"a": white(N, 2, seed=1), "b": white(N, 2, seed=2)}
    Y = white(N, 60, seed=3)
    found = partition_variance(fitted(features, Y, folds()), Y, folds(), n_bootstrap=0)
    assert (found.part.mean(axis=1)[:2].mean(axis=1) < 0).all()  # features that say nothing cost a little, unclipped
    assert abs(found.unique_r.mean()) < 0.05


# draws


@pytest.mark.parametrize("about", ["training", "test"])
def test_draws_are_scores_of_resampled_stimuli_the_same_for_all_models(about):
    features, Y = problem(n_voxels=3)
    outer, roi = folds(), np.array([1, 0, 1])
    predictions = fitted(features, Y, outer)
    found = partition_variance(predictions, Y, outer, roi=roi, n_regions=3, about=about, n_bootstrap=4, seed=7)
    counts = stats.bootstrap.bootstrap_counts(outer, N, n_bootstrap=4, seed=7)
    score = np.zeros((3, 3, 4))  # model, voxel, draw
    unique_r = np.zeros((2, 3, 4))
    for (train, test), count in zip(outer, counts, strict=True):
        for draw in range(4):
            rows = np.repeat(test, count[draw])
            y = Y[rows]
            about_mean = Y[train].mean(axis=0) if about == "training" else y.mean(axis=0)
            r = {}
            for number, (model, prediction) in enumerate(predictions.items()):
                error = ((y - prediction[rows]) ** 2).sum(axis=0)
                score[number, :, draw] += (1 - error / ((y - about_mean) ** 2).sum(axis=0)) / len(outer)
                r[model] = stats.column_correlation(prediction[rows], y) / len(outer)
            full = r["band0", "band1"]
            unique_r[:, :, draw] += [full - r["band1",], full - r["band0",]]
    a, b, ab = score
    part = np.stack([ab - b, ab - a, a + b - ab])
    member = (roi[:, None] == np.arange(3)).astype(float)
    assert np.allclose(found.part_sums, np.einsum("pvd,vr->prd", part, member), atol=1e-9)
    assert np.allclose(found.unique_r_sums, np.einsum("pvd,vr->prd", unique_r, member), atol=1e-5)
    assert np.allclose(found.low, np.quantile(part, 0.025, axis=2))
    assert np.allclose(found.high, np.quantile(part, 0.975, axis=2))
    assert found.n_usable.tolist() == [1, 2, 0]


def test_blocks_are_drawn_together():
    features, Y = problem()
    predictions = fitted(features, Y, folds())
    blocks = np.arange(N) // 10
    options = {"n_bootstrap": 300, "seed": 1}
    alone = partition_variance(predictions, Y, folds(), **options)
    repeated = np.repeat(np.arange(N // 10) * 10, 10)  # ten equal rows a block: a tenth of the information
    same = {model: values[repeated] for model, values in predictions.items()}
    one = partition_variance(same, Y[repeated], folds(), **options)
    together = partition_variance(same, Y[repeated], folds(), blocks=blocks, **options)
    assert (together.high - together.low).mean() > 2 * (one.high - one.low).mean()
    assert np.array_equal(alone.low, partition_variance(predictions, Y, folds(), **options).low)
    assert not np.array_equal(alone.low, partition_variance(predictions, Y, folds(), n_bootstrap=300, seed=2).low)


def test_chunks_of_voxels_add_up():
    features, Y = problem(n_voxels=6)
    predictions = fitted(features, Y, folds())
    roi = np.array([0, 1, 0, 1, 1, 0])
    options = {"n_regions": 2, "n_bootstrap": 20, "seed": 3}
    whole = partition_variance(predictions, Y, folds(), roi=roi, **options)
    chunks = [
        partition_variance(
            {m: p[:, some] for m, p in predictions.items()}, Y[:, some], folds(), roi=roi[some], **options
        )
        for some in (slice(0, 4), slice(4, 6))
    ]
    assert np.allclose(sum(chunk.part_sums for chunk in chunks), whole.part_sums)
    assert np.allclose(sum(chunk.unique_r_sums for chunk in chunks), whole.unique_r_sums, atol=1e-6)
    assert sum(chunk.n_usable for chunk in chunks).tolist() == whole.n_usable.tolist()


def test_a_voxel_without_a_score_is_nan_everywhere_and_the_others_stay():
    features, Y = problem(n_voxels=4)
    clean = partition_variance(fitted(features, Y, folds()), Y, folds(), n_bootstrap=30)
    predictions = fitted(features, Y, folds())
    spoiled = Y.copy()
    spoiled[5, 1] = np.nan
    spoiled[folds().splits[2][1], 2] = 4.0  # constant in one test fold
    found = partition_variance(predictions, spoiled, folds(), n_bootstrap=30)
    assert found.usable.tolist() == [True, False, False, True]
    assert np.isnan(found.low[:, [1, 2]]).all()
    assert np.allclose(found.low[:, [0, 3]], clean.low[:, [0, 3]])
    assert np.allclose(found.part[..., [0, 3]], clean.part[..., [0, 3]])
    assert found.n_usable.tolist() == [2]


def test_impossible_input_is_named():
    features, Y = problem()
    predictions = fitted(features, Y, folds())
    with pytest.raises(InputError, match="1 models are missing: band0 & band1"):
        partition_variance({m: p for m, p in predictions.items() if len(m) == 1}, Y, folds())
    with pytest.raises(InputError, match="2 to 4 bands"):
        partition_variance({("a",): Y}, Y, folds())
    with pytest.raises(InputError, match="join some of them"):
        sub_models("abcde")
    with pytest.raises(InputError, match="different names"):
        sub_models(["a", "a"])
    with pytest.raises(InputError, match="must both be"):
        partition_variance(predictions, Y[:-1], folds())
    with pytest.raises(InputError, match="n_bootstrap"):
        partition_variance(predictions, Y, folds(), n_bootstrap=-1)
    with pytest.raises(UnknownNameError, match="training"):
        held_out_r2(Y, Y, folds(), about="train")
    with pytest.raises(InputError, match="band, stimulus, voxel"):
        product_measure(Y, Y, folds())
