"""Plots of results: ``(result, ax=None, **look) -> Axes``. They draw what a result holds; they never save, never train."""

from topobrain.plot.alignment import alignment_scores, spatial_alignment
from topobrain.plot.brain_windows import brain_windows
from topobrain.plot.comparison import comparison, leakage
from topobrain.plot.cortex import montage, surface
from topobrain.plot.integration import integration_curves, integration_depth, yoking_steps
from topobrain.plot.partition import partition
from topobrain.plot.profiles import profiles
from topobrain.plot.scores import encoding, encoding_voxels
from topobrain.plot.sheets import sheet
from topobrain.plot.style import model_colour, model_look, model_looks, model_marker, short_layer, short_layers
from topobrain.plot.topography import distance_curve, topography
from topobrain.plot.weight_maps import components, paired_maps
from topobrain.plot.window_maps import integration_maps

__all__ = [
    "alignment_scores",
    "brain_windows",
    "comparison",
    "components",
    "distance_curve",
    "encoding",
    "encoding_voxels",
    "integration_curves",
    "integration_depth",
    "integration_maps",
    "leakage",
    "model_colour",
    "model_look",
    "model_looks",
    "model_marker",
    "montage",
    "paired_maps",
    "partition",
    "profiles",
    "sheet",
    "short_layer",
    "short_layers",
    "spatial_alignment",
    "surface",
    "topography",
    "yoking_steps",
]
