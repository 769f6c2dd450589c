"""Plots of results: ``(result, ax=None, **look) -> Axes``. They draw what a result holds; they never save, never train."""

from topobrain.plot.cortex import surface
from topobrain.plot.scores import encoding
from topobrain.plot.sheets import sheet
from topobrain.plot.style import model_colour, short_layer

__all__ = ["encoding", "model_colour", "sheet", "short_layer", "surface"]
