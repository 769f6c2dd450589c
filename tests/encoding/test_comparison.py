import numpy as np
import pytest
from scipy.stats import kstest, ttest_1samp

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.activations import Activations
from topobrain.encoding import encode
from topobrain.encoding.comparison import Comparison, _bootstrap_p, compare, group_scores
from topobrain.encoding.parts import PartOptions, drawn_folds
from topobrain.responses import BrainResponses
from topobrain.results import load_result
from topobrain.stats.contrast import fdr_bh
from topobrain.stats.group_tests import sign_flip_test
from topobrain.stimuli import StimulusSet

QUICK = {"n_bootstrap": 200, "alphas": [1.0, 100.0, 1e4]}


def shown(n, **columns):
    return StimulusSet([f"sentence {i}" for i in range(n)], columns or None, name="toy")


def white(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def study(n=150, n_subjects=6, v=2, seed=0, snr=1.0):
    """Features that drive region ``p`` of every subject, features that drive nothing, and the responses."""
    X = white(n, 5, seed=seed)
    signal = X @ white(5, v, seed=seed + 1) / np.sqrt(5)
    columns, roi, subject = [], [], []
    for s in range(n_subjects):
        columns += [np.sqrt(snr) * signal + white(n, v, seed=seed + 10 + s), white(n, v, seed=seed + 50 + s)]
        roi += ["p"] * v + ["q"] * v
        subject += [f"s{s}"] * (2 * v)
    brain = BrainResponses.from_arrays(np.hstack(columns), shown(n), roi=roi, subject=subject)
    return X, white(n, 5, seed=seed + 99), brain


def scored(X, brain, **options):
    layers = X if isinstance(X, dict) else {"layer": X}
    return encode(Activations.from_arrays(layers, brain.stimuli), brain, **{**QUICK, **options})


@pytest.fixture(scope="module")
def two():
    X, noise, brain = study()
    return scored(X, brain), scored(noise, brain), brain


def test_the_difference_and_its_interval_come_from_paired_draws(two):
    a, b, _ = two
    found = compare(a, b)
    assert isinstance(found, Comparison)
    for j in range(2):
        draws = a.data["region_draws"].values[0, j] - b.data["region_draws"].values[0, j]
        difference = (a.data["r"].values[0] - b.data["r"].values[0]).mean(axis=0)[a.labels("roi") == "pq"[j]].mean()
        assert found.data["difference"].values[0, j] == pytest.approx(difference)
        assert found.data["low"].values[0, j] == pytest.approx(np.quantile(draws, 0.025), abs=1e-6)
        assert found.data["high"].values[0, j] == pytest.approx(np.quantile(draws, 0.975), abs=1e-6)
        p = (1 + (np.abs(draws - difference) >= abs(difference)).sum()) / 201
        assert found.data["p"].values[0, j] == pytest.approx(p)
    row = found.summary().set_index("roi")
    assert row.loc["p", "difference"] > 0.4
    assert row.loc["p", "low"] > 0
    assert row.loc["p", ["p", "p_max"]].tolist() == [1 / 201, 1 / 201]
    assert row.loc["q", "low"] < 0 < row.loc["q", "high"]
    assert (row["p_max"] >= row["p"]).all()
    assert np.array_equal(row["q"], fdr_bh(row["p"].to_numpy()))


def test_the_order_of_the_two_only_turns_the_sign(two):
    a, b, _ = two
    one, other = compare(a, b).summary(), compare(b, a).summary()
    assert np.allclose(one["difference"], -other["difference"])
    assert np.allclose(one["low"], -other["high"])
    assert np.allclose(one[["p", "p_max", "subjects_p"]], other[["p", "p_max", "subjects_p"]])


def test_a_model_does_not_differ_from_itself(two):
    row = compare(two[0], two[0]).summary()
    assert (row[["difference", "low", "high"]] == 0).all(axis=None)
    assert (row[["p", "p_max", "q", "subjects_p", "subjects_p_max"]] == 1).all(axis=None)


def test_pairing_takes_out_what_both_models_share():
    X, _, brain = study(n_subjects=1, v=8)
    a, b = scored(X + 0.3 * white(150, 5, seed=3), brain), scored(X + 0.3 * white(150, 5, seed=4), brain)
    row = compare(a, b).summary().set_index("roi").loc["p"]
    unpaired = [float(np.diff(np.quantile(one.data["region_draws"].values[0, 0], [0.025, 0.975]))[0]) for one in (a, b)]
    assert row["high"] - row["low"] < 0.5 * np.hypot(*unpaired)


def test_subjects_are_tested_by_sign_flips(two):
    a, b, _ = two
    found = compare(a, b)
    r = [one.data["r"].values[0].mean(axis=0) for one in (a, b)]
    table = np.array(
        [
            [(r[0] - r[1])[(a.labels("subject") == f"s{s}") & (a.labels("roi") == roi)].mean() for roi in "pq"]
            for s in range(6)
        ]
    )
    assert found.data["subject_difference"].values[0] == pytest.approx(table)
    test = sign_flip_test(table)
    assert test.exact
    assert found.data["subjects_p"].values[0] == pytest.approx(test.p)
    assert found.data["subjects_p_max"].values[0] == pytest.approx(test.p_max)
    assert found.data["subjects_mean"].values[0] == pytest.approx(table.mean(axis=0))
    assert found.data["subjects_p"].values[0, 0] == 2 / 64
    assert found.data["subjects_low"].values[0, 0] > 0
    z = compare(a, b, scale="fisher-z").data["subject_difference"].values[0]
    assert np.abs(z[:, 0]).mean() > np.abs(table[:, 0]).mean()


def test_few_subjects_are_not_tested():
    X, noise, brain = study(n=100, n_subjects=4)
    row = compare(scored(X, brain), scored(noise, brain)).summary()
    assert row[["subjects_p", "subjects_p_max", "subjects_t"]].isna().all(axis=None)
    assert np.isfinite(row[["subjects_mean", "subjects_low"]]).all(axis=None)


def test_layers_meet_their_namesakes_a_named_one_or_the_best():
    X, noise, brain = study(n=120, n_subjects=1)
    a, b = scored({"one": X, "two": noise}, brain), scored({"one": noise, "two": noise}, brain)
    every = compare(a, b)
    assert every.labels("layer").tolist() == ["one", "two"]
    assert every.data["difference"].values[1] == pytest.approx([0, 0])
    pair = compare(a, b, layer=("one", "two"))
    assert pair.summary().loc[0, ["layer_a", "layer_b"]].tolist() == ["one", "two"]
    assert pair.labels("layer").tolist() == ["one - two"]
    best = compare(a, b, layer="best").summary().set_index("roi")
    assert best.loc["p", "r_a"] == a.data["best_r"].values[0]
    assert best.loc["p", "difference"] == pytest.approx(every.data["difference"].values[0, 0])
    single = scored({"other": X}, brain)
    with pytest.raises(InputError, match=r"different layers \(one, two against other\): name a pair"):
        compare(a, single)
    assert compare(a, single, layer=("one", "other")).data["difference"].values[0] == pytest.approx([0, 0])
    assert compare(single, scored({"third": X}, brain)).labels("layer").tolist() == ["other - third"]
    with pytest.raises(UnknownNameError, match="unknown layer 'on'"):
        compare(a, b, layer=("on", "two"))
    with pytest.raises(InputError, match="must be a pair"):
        compare(a, b, layer="one")
    with pytest.raises(InputError, match="the first result chose no layer"):
        compare(scored(X, brain, alphas=[1.0]), scored(X, brain), layer="best")


def test_the_best_layer_of_each_fold_counts_for_subjects_too():
    X, noise, brain = study(n=120, n_subjects=5)
    a, b = scored({"one": X, "two": X + white(120, 5, seed=7)}, brain), scored({"one": noise, "two": noise}, brain)
    found = compare(a, b, layer="best").data["subject_difference"].values[0]
    for j, region in enumerate("pq"):
        chosen = [
            [
                one.data["r"].values[one.layers.index(name), k]
                for k, name in enumerate(one.data["best_layer"].values[:, j])
            ]
            for one in (a, b)
        ]
        difference = np.mean(chosen[0], axis=0) - np.mean(chosen[1], axis=0)
        for s in range(5):
            inside = (a.labels("subject") == f"s{s}") & (a.labels("roi") == region)
            assert found[s, j] == pytest.approx(difference[inside].mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_folds": 4}, "folds; n_folds \\(5 against 4\\)"),
        ({"seed": 1}, "seed \\(0 against 1\\)"),
        ({"gap": 2}, "gap \\(0 against 2\\)"),
        ({"n_bootstrap": 100}, "n_bootstrap \\(200 against 100\\)"),
        ({"targets": {"roi": "p"}}, "regions \\(p, q against p\\)"),
    ],
)
def test_what_is_not_paired_is_refused_by_name(two, change, message):
    X, _, brain = study()
    with pytest.raises(InputError, match=message):
        compare(two[0], scored(X, brain, **change))


def test_other_stimuli_and_other_responses_are_refused(two):
    X, _, brain = study()
    renamed = brain.data.assign_coords(stimulus=[f"t{i}" for i in range(150)])
    other = BrainResponses(renamed.assign_attrs(brain.data.attrs))
    with pytest.raises(InputError, match=r"stimuli \(s0000, s0001, s0002 and 147 more against t0, t1, t2"):
        compare(two[0], scored(X, other))
    attrs = BrainResponses.attributes({**brain.provenance, "resolution": "10 mm"})
    with pytest.raises(InputError, match=r"responses \(their resolution\)"):
        compare(two[0], scored(X, BrainResponses(brain.data.assign_attrs(attrs))))
    none = {"n_bootstrap": 0}
    with pytest.raises(InputError, match="no bootstrap draws"):
        compare(scored(X, brain, **none), scored(X, brain, **none))


@pytest.mark.slow
def test_p_is_about_uniform_where_two_models_are_equally_good_and_stimuli_are_many():
    p = []
    for seed in range(100):
        X, _, brain = study(n=300, n_subjects=1, v=1, seed=1000 * seed)
        options = {"alphas": [10.0], "n_bootstrap": 200, "seed": seed}
        pair = [scored(X + 0.5 * white(300, 5, seed=1000 * seed + s), brain, **options) for s in (500, 501)]
        p.append(compare(*pair).data["p"].values[0, 0])
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) <= 0.1
    assert np.mean(np.array(p) <= 0.2) == pytest.approx(0.2, abs=0.1)


def test_family_wise_p_weighs_each_region_by_its_own_spread():
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((2000, 3)) * [1.0, 0.01, 0.01]
    difference = np.array([0.1, 0.05, 0.0])
    draws += difference
    p, p_max = _bootstrap_p(difference, draws)
    away = np.abs(draws - difference) / draws.std(axis=0)
    expected = [
        (1 + (away.max(axis=1) >= size / spread).sum()) / 2001
        for size, spread in zip(difference, draws.std(axis=0), strict=True)
    ]
    assert p_max == pytest.approx(expected)
    assert p_max[1] == p[1] == 1 / 2001  # five of its own spreads, though far inside the spread of the first region
    assert p_max[0] > p[0] > 0.5


# folds of one group


def runs(n_runs, seed=0, n_subjects=1, each=12):
    X, noise, brain = study(n=each * n_runs, n_subjects=n_subjects, seed=seed)
    return (
        X,
        noise,
        BrainResponses(
            brain.data.assign_coords(group=("stimulus", np.repeat(np.arange(n_runs), each))).assign_attrs(
                brain.data.attrs
            )
        ),
    )


def test_with_one_run_a_fold_differences_are_tested_over_folds():
    X, noise, brain = runs(6)
    layers = ({"one": X, "two": noise}, {"one": noise, "two": X})
    a, b = (scored(one, brain, folds="leave-one-out") for one in layers)
    found = compare(a, b)
    by_fold = np.stack(
        [
            np.stack(
                [(a.data["r"].values - b.data["r"].values)[i][:, a.labels("roi") == roi].mean(axis=1) for roi in "pq"]
            )
            for i in (0, 1)
        ]
    )  # (layer, region, fold)
    for i in (0, 1):
        for j in (0, 1):
            interval = ttest_1samp(by_fold[i, j], 0).confidence_interval(0.95)
            assert found.data["low"].values[i, j] == pytest.approx(interval.low)
            assert found.data["high"].values[i, j] == pytest.approx(interval.high)
        test = sign_flip_test(by_fold[i].T)
        assert found.data["p"].values[i] == pytest.approx(test.p)
        assert found.data["p_max"].values[i] == pytest.approx(test.p_max)
    assert found.data["p"].values[:, 0].tolist() == [2 / 64, 2 / 64]  # no fewer with six runs
    assert found.provenance["comparison"]["interval"] == "95 % t interval over held-out groups"
    assert found.provenance["comparison"]["test"] == "sign flips over held-out groups"
    best = compare(a, b, layer="best").data
    chosen = [
        np.array([one.data["r"].values[one.layers.index(str(name)), k][one.labels("roi") == "p"].mean()
                  for k, name in enumerate(one.data["best_layer"].values[:, 0])])
        for one in (a, b)
    ]  # fmt: skip
    interval = ttest_1samp(chosen[0] - chosen[1], 0).confidence_interval(0.95)
    assert (best["low"].values[0, 0], best["high"].values[0, 0]) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(("n_runs", "least"), [(2, 0.5), (3, 0.25)])
def test_few_runs_give_no_small_p_and_two_no_interval(n_runs, least):
    X, noise, brain = runs(n_runs, each=30)
    a, b = (scored(one, brain, folds="leave-one-out", alphas=[10.0]) for one in (X, noise))
    row = compare(a, b).summary().set_index("roi").loc["p"]
    assert row["difference"] > 0.2
    assert row["p"] == least
    assert np.isfinite([row["low"], row["high"], a.summary()["low"][0]]).all() == (n_runs > 2)


def test_intervals_over_five_folds_cover_as_often_as_they_say():
    options = PartOptions(alphas=(1.0,), n_bootstrap=1000, seed=0)
    rng = np.random.default_rng(0)
    r = 0.2 + 0.1 * rng.standard_normal((5, 3000))
    draws = drawn_folds(r, np.arange(3000), np.ones(3000, bool), 3000, options).mean(axis=0)
    low, high = np.quantile(draws, [0.025, 0.975], axis=1)
    assert np.mean((low <= 0.2) & (high >= 0.2)) == pytest.approx(0.95, abs=0.02)
    assert draws.mean() == pytest.approx(r.mean(), abs=0.01)
    whole = drawn_folds(r, np.zeros(3000, int), np.ones(3000, bool), 1, options).mean(axis=0)[0] / 3000
    assert whole == pytest.approx(draws.mean(axis=0))  # voxels add up
    two = drawn_folds(r[:2], np.arange(3000), np.ones(3000, bool), 3000, options)
    assert np.isnan(two).all()


def test_draws_over_runs_of_two_results_are_paired():
    X, noise, brain = runs(6)
    a, b = (scored(one, brain, folds="leave-one-out", n_bootstrap=4000) for one in (X, noise))
    found = compare(a, b).data
    draws = (a.data["region_draws"] - b.data["region_draws"]).values[0]
    width = (found["high"] - found["low"]).values[0]
    assert np.diff(np.quantile(draws, [0.025, 0.975], axis=1), axis=0)[0] == pytest.approx(width, rel=0.12)


# one model over subjects


def test_group_scores_test_each_layer_and_region_over_subjects():
    X, noise, brain = study(n_subjects=7)
    found = scored({"drives": X, "nothing": noise}, brain, n_bootstrap=0)
    table = group_scores(found).set_index(["layer", "roi"])
    assert table["n_subjects"].tolist() == [7] * 4
    assert table.loc[("drives", "p"), ["p", "p_max"]].tolist() == [1 / 128, 1 / 128]
    assert table.loc[("drives", "p"), "low"] > 0.3
    assert (table["p_max"] >= table["p"]).all()
    r = found.data["r"].values.mean(axis=1)
    assert table.loc[("nothing", "q"), "r"] == pytest.approx(r[1, found.labels("roi") == "q"].mean())
    wide = np.array(
        [
            [
                r[i, (found.labels("subject") == f"s{s}") & (found.labels("roi") == roi)].mean()
                for i in (0, 1)
                for roi in "pq"
            ]
            for s in range(7)
        ]
    )
    test = sign_flip_test(wide, alternative="greater")
    assert table["p_max"].to_numpy() == pytest.approx(test.p_max)
    assert table["q"].to_numpy() == pytest.approx(fdr_bh(test.p))
    z = group_scores(found, scale="fisher-z").set_index(["layer", "roi"])
    assert z.loc[("drives", "p"), "r"] == pytest.approx(np.tanh(np.arctanh(wide[:, 0]).mean()))


def test_group_scores_count_only_subjects_that_have_the_region():
    X, _, brain = study(n_subjects=6)
    values = brain.values
    gone = (brain.labels("subject") == "s2") & (brain.labels("roi") == "q")
    values[:, gone] = np.nan
    spoiled = BrainResponses(brain.data.assign(value=(("stimulus", "voxel"), values)))
    table = group_scores(scored(X, spoiled, n_bootstrap=0)).set_index("roi")
    assert table["n_subjects"].to_dict() == {"p": 6, "q": 5}
    assert np.isfinite(table["p"]).all()
    _, _, alone = study(n_subjects=1)
    with pytest.raises(InputError, match="needs several subjects, and the result has 1"):
        group_scores(scored(X, alone, n_bootstrap=0))


def test_noise_predictors_score_zero_and_data_predict_themselves_over_subjects():
    brain = BrainResponses.from_arrays(white(120, 12), shown(120), subject=np.repeat([f"s{i}" for i in range(6)], 2))
    table = group_scores(scored({"itself": brain.values, "noise": white(120, 12, seed=5)}, brain, n_bootstrap=0))
    assert table["r"][0] > 0.99
    assert abs(table["r"][1]) < 0.06
    assert table["p"][0] == 1 / 64
    assert table["p"][1] > 0.05
    assert stats.fdr_bh(table["p"].to_numpy())[0] == pytest.approx(table["q"][0])


def test_a_comparison_is_kept_in_a_file_with_both_names(two, tmp_path):
    found = compare(two[0], two[1], names=("topographic", "twin"))
    again = load_result(found.save(tmp_path / "c.nc"))
    assert isinstance(again, Comparison)
    assert again.summary().equals(found.summary())
    assert again.provenance["comparison"]["difference"] == "topographic - twin"
    assert again.provenance["b"]["name"] == "twin"
