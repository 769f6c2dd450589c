"""Topographic layers, losses and post-hoc layouts (torch)."""

from topobrain.nn.correlation_loss import activation_decay, correlation_loss, pair_correlation_loss
from topobrain.nn.lateral_kernel import LateralKernel, lateral_kernel
from topobrain.nn.layouts import Remixing, orthogonal_remixing, self_organising_map
from topobrain.nn.neighbour_cosine import neighbour_cosine_loss
from topobrain.nn.spatial_querying import SpatialQuerying
from topobrain.nn.spatial_reweighting import SpatialReweighting
from topobrain.nn.topo_blur import blur_matrix, topo_sheet
from topobrain.nn.topo_loss import topo_loss
from topobrain.nn.topo_loss_terms import Schedule, TopoLoss, TopoTerm
from topobrain.nn.wiring_cost import wiring_cost

__all__ = [
    "LateralKernel",
    "Remixing",
    "Schedule",
    "SpatialQuerying",
    "SpatialReweighting",
    "TopoLoss",
    "TopoTerm",
    "activation_decay",
    "blur_matrix",
    "correlation_loss",
    "lateral_kernel",
    "neighbour_cosine_loss",
    "orthogonal_remixing",
    "pair_correlation_loss",
    "self_organising_map",
    "topo_loss",
    "topo_sheet",
    "wiring_cost",
]
