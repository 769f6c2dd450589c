"""topography: do units that behave alike lie together, and would they without any topography?"""

from topobrain.topography.cortical import cortical_topography
from topobrain.topography.distance_curves import DistanceCurve, distance_curve
from topobrain.topography.measures import MEASURES
from topobrain.topography.measuring import topography
from topobrain.topography.result import COLUMNS, Topography

__all__ = ["COLUMNS", "MEASURES", "DistanceCurve", "Topography", "cortical_topography", "distance_curve", "topography"]
