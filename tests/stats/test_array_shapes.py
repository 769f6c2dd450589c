"""The shapes in the signatures of `topobrain.stats` are true: every call is checked by jaxtyping and beartype.

In a process of its own, because the check has to be installed before the package is imported, and because the other
tests ask for topobrain's own messages on arrays that do not fit.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

CHECKED = """
from jaxtyping import TypeCheckError, install_import_hook
install_import_hook("topobrain.stats", "beartype.beartype")
import numpy as np
import pytest
from topobrain import stats
from topobrain.sheet import Sheet

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((24, 5)), rng.standard_normal((24, 3))
sheet = Sheet.grid(5, 6)
stats.welch_t(X[:10], X[10:]); stats.student_t(X[:10], X[10:])
stats.fdr_bh(rng.random(7)); stats.fdr_bh(rng.random((2, 7)))
stats.select_top(X[0], 2); stats.select_top(X[0], 0.3)
stats.column_correlation(X, X + 1)
stats.noise_ceiling(rng.standard_normal((2, 9, 4))); stats.spearman_brown(0.5); stats.spearman_brown(X[0])
folds = stats.make_folds(np.arange(24), 3); stats.duplicate_groups(["a", "b"]); stats.merge_groups([0, 1], [1, 1])
fit = stats.ridge_cv(X, Y, alphas=[0.1, 1.0], folds=3); fit.predict(X)
stats.ridge_cv(X, Y, alphas=np.array([0.1, 1.0]), selection="gcv", standardize=True)
roi = np.array([0, 0, 1])
stats.bootstrap_correlation(Y, Y, folds, roi, n_bootstrap=5)
stats.permutation_null(X, Y, folds, np.ones((3, 3)), roi, n_permutations=5)
stats.morans_i(rng.standard_normal(30), sheet); stats.morans_i(rng.standard_normal((2, 30)), sheet)
stats.layout_null(rng.standard_normal(30), sheet, n_null=5); stats.layout_permutations(5, 3)
stats.generic_topography(rng.standard_normal((9, 30)), sheet); stats.compare_with_null(1.0, X[0])
torus = Sheet.grid(5, 6, wrapped=True)
V, M = rng.standard_normal((20, 30)), rng.standard_normal((3, 30))
C = np.corrcoef(V.T)
stats.generic_topography(V, sheet, n_pairs=50); stats.generic_topography_by_radius(V, sheet, form="ratio")
stats.generic_topography_null(V, sheet, n_null=3)
stats.distance_curve(C, sheet); stats.distance_curve_null(C, sheet, n_null=3)
stats.response_correlation_curve(V, sheet); stats.response_correlation_curve_null(V, sheet, n_null=3)
stats.selectivity_difference_curve(M, sheet); stats.selectivity_difference_curve_null(M[0], sheet, n_null=3)
stats.smoothness_tdann(M, sheet); stats.smoothness_tdann(M[0], sheet, n_samples=2)
stats.smoothness_tdann_null(M[0], sheet, n_null=3)
stats.smoothness_toponets(V, sheet); stats.smoothness_toponets_null(V, sheet, n_null=3)
stats.radial_power(M, sheet); stats.spectral_centroid(M[0], sheet); stats.low_frequency_share(M, sheet, below=0.2)
stats.window_entropy(rng.integers(0, 3, (2, 30)), sheet, window=3)
stats.ssim(M[0], M, sheet); stats.map_correlation(M[0], M[1])
stats.map_similarity_null(M[0], M[1], torus, measure="ssim", null="torus")
stats.participation_ratio(V); stats.rank_matched_null(V, 3, n_null=3); stats.project_rank(V, 2)
on = np.arange(24) < 10
stats.welch_t(X[:10], X[10:], ddof=0, zero_variance="zero")
moments = stats.group_moments(X, on.astype(int), 2)
moments.merge(moments); moments.side(0); moments.side([0, 1]); moments.side(np.array([1]))
stats.t_from_moments(moments.side(0), moments.side(1), test="student")
stream = stats.StreamedMoments(2, 5); stream.add(X, on.astype(int)); stream.result()
stats.TTest(rectify=True).of_values(X[:10], X[10:]); stats.TTest().prepare(X[0])
stats.fdr_bh(rng.random((2, 7)), rng.integers(0, 3, (2, 7))); stats.signed_log_p(X[0], rng.random(5))
stats.select_band(X[0], 0, 50); stats.random_like(np.array([True, False]), np.array([0, 0]), 3)
stats.label_permutation_test(X[:10], X[10:], n_permutations=50)
stats.label_permutation_test(X[:12], X[12:], n_permutations=50, pairs=np.tile(np.arange(12), 2))
stats.permuted_labels(3, 4, 5); stats.permuted_t_maps(X, on, ~on, n_permutations=4)
splits = folds.splits
nested = {"alphas": [0.1, 1.0], "outer": splits, "inner": [stats.make_folds(np.arange(16), 2).splits] * 3}
bands = {"a": X, "b": Y}
for selection in ("kfold", "gcv", "loo"):
    stats.nested_ridge(X, Y, selection=selection, **nested)
    stats.nested_banded_ridge(bands, Y, n_weights=3, selection=selection, band_predictions=True, **nested)
    stats.nested_kernel_ridge(stats.kernel(X, kind="gaussian"), Y, selection=selection, **nested)
fits = stats.nested_banded_models(bands, Y, stats.sub_models(["a", "b"]), n_weights=3, band_predictions=True, **nested)
stats.banded_ridge_cv(bands, Y, alphas=[1.0, 2.0], folds=splits, n_weights=stats.band_weights(2, 4)).predict(bands)
stats.kernel_ridge_cv(stats.kernel(X), Y, alphas=[1.0], folds=splits).predict(stats.kernel(X, X[:3]))
held = {model: fit.prediction for model, fit in fits.items()}
stats.partition_variance(held, Y, folds, roi=roi, n_regions=2, n_bootstrap=4)
stats.product_measure(fits["a", "b"].band_prediction, Y, folds); stats.held_out_r2(held["a",], Y, folds)
print("right shapes pass")
wrong = [
    lambda: stats.welch_t(X, Y), lambda: stats.column_correlation(X, Y), lambda: stats.noise_ceiling(X),
    lambda: stats.participation_ratio(X[0]), lambda: stats.ridge_cv(X, Y[0], alphas=[1.0]), lambda: stats.fdr_bh("p"),
    lambda: stats.group_moments(X, np.zeros(3, int), 1), lambda: stats.fdr_bh(X[0], np.zeros(2, int)),
    lambda: stats.permuted_t_maps(X, on[1:], ~on, n_permutations=3),
    lambda: stats.kernel_ridge_cv(X, Y, alphas=[1.0]), lambda: stats.held_out_r2(X, Y, folds),
    lambda: stats.nested_banded_ridge(bands, Y[0], **nested),
]
for call in wrong:
    try:
        call()
    except TypeCheckError:
        continue
    raise SystemExit("a wrong shape passed")
print("wrong shapes do not")
"""


@pytest.mark.slow
def test_shapes_in_signatures_are_true():
    done = subprocess.run([sys.executable, "-c", CHECKED], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["right shapes pass", "wrong shapes do not"], done.stderr[-1500:]
