"""Plots of results: ``(result, ax=None, **look) -> Axes``. They draw what a result holds; they never save, never train."""

from topobrain.plot.cortex import montage, surface
from topobrain.plot.profiles import profiles
from topobrain.plot.scores import encoding
from topobrain.plot.sheets import sheet
from topobrain.plot.style import model_colour, model_look, model_looks, model_marker, short_layer, short_layers
from topobrain.plot.topography import distance_curve, topography

__all__ = [
    "distance_curve",
    "encoding",
    "model_colour",
    "model_look",
    "model_looks",
    "model_marker",
    "montage",
    "profiles",
    "sheet",
    "short_layer",
    "short_layers",
    "surface",
    "topography",
]
