"""Statistics on plain arrays: contrasts, ridge regression, folds, ceilings, resampling, spatial statistics and nulls."""

from topobrain.stats.ceiling import noise_ceiling, spearman_brown
from topobrain.stats.contrast import TMap, fdr_bh, select_top, student_t, welch_t
from topobrain.stats.correlation import column_correlation
from topobrain.stats.folds import Folds, duplicate_groups, make_folds, merge_groups
from topobrain.stats.nulls import NullTest, compare_with_null, layout_permutations
from topobrain.stats.resampling import bootstrap_correlation, permutation_null
from topobrain.stats.ridge import RidgeFit, ridge_cv
from topobrain.stats.spatial import generic_topography, generic_topography_null, layout_null, morans_i

__all__ = [
    "Folds",
    "NullTest",
    "RidgeFit",
    "TMap",
    "bootstrap_correlation",
    "column_correlation",
    "compare_with_null",
    "duplicate_groups",
    "fdr_bh",
    "generic_topography",
    "generic_topography_null",
    "layout_null",
    "layout_permutations",
    "make_folds",
    "merge_groups",
    "morans_i",
    "noise_ceiling",
    "permutation_null",
    "ridge_cv",
    "select_top",
    "spearman_brown",
    "student_t",
    "welch_t",
]
