"""Ridge regression with a cross-validated penalty for every voxel."""

from topobrain.stats.ridge.design import check_alphas, check_features, usable_voxels
from topobrain.stats.ridge.fitting import RidgeFit, hat_matrices, ridge_cv
from topobrain.stats.ridge.memory import FoldSizes, MemoryPlan, memory_plan
from topobrain.stats.ridge.nested import NestedFit, nested_ridge, nested_ridge_layers

__all__ = [
    "FoldSizes",
    "MemoryPlan",
    "NestedFit",
    "RidgeFit",
    "check_alphas",
    "check_features",
    "hat_matrices",
    "memory_plan",
    "nested_ridge",
    "nested_ridge_layers",
    "ridge_cv",
    "usable_voxels",
]
