"""Encoding: how well a model's units predict brain responses to stimuli the fit never saw."""

from topobrain.encoding.cross_validation import TIME_BLOCK, TIME_GAP, Design
from topobrain.encoding.leakage import Leakage, measure_leakage
from topobrain.encoding.matching import match_stimuli
from topobrain.encoding.result import Encoding
from topobrain.encoding.scoring import ALPHAS, encode

__all__ = [
    "ALPHAS",
    "TIME_BLOCK",
    "TIME_GAP",
    "Design",
    "Encoding",
    "Leakage",
    "encode",
    "match_stimuli",
    "measure_leakage",
]
