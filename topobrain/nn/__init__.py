"""Topographic layers (torch)."""

from topobrain.nn.spatial_querying import SpatialQuerying
from topobrain.nn.spatial_reweighting import SpatialReweighting

__all__ = ["SpatialQuerying", "SpatialReweighting"]
