"""Shared components of two sets of responses to the same stimuli: PLS-SVD, regularised CCA, held-out scores, null."""

from topobrain.stats.shared_components.fitting import SharedComponents, cca, pls_svd
from topobrain.stats.shared_components.held_out import HeldOut, Method, held_out_components, most_components
from topobrain.stats.shared_components.null import component_null, component_orders

__all__ = [
    "HeldOut",
    "Method",
    "SharedComponents",
    "cca",
    "component_null",
    "component_orders",
    "held_out_components",
    "most_components",
    "pls_svd",
]
