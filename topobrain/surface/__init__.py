"""Cortical surfaces: meshes, and the maps and parcels that lie on them."""

from topobrain.surface.maps import CorticalMap, Parcels
from topobrain.surface.mesh import Surface
from topobrain.surface.spaces import SPACES, other_space, space_of

__all__ = ["SPACES", "CorticalMap", "Parcels", "Surface", "other_space", "space_of"]
