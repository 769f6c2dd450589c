"""topobrain: is this model organised like the brain?

Topographic models, their selectivity maps, and their alignment with human brain responses. The public names below are
resolved when first used: ``import topobrain`` loads neither torch nor pandas.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "Sheet": "topobrain.sheet",
    "StimulusSet": "topobrain.stimuli",
    "Contrast": "topobrain.stimuli",
    "Result": "topobrain.results",
    "load_result": "topobrain.results",
    "Activations": "topobrain.activations",
    "BrainResponses": "topobrain.responses",
    "Recording": "topobrain.models",
    "Model": "topobrain.models",
    "TorchModel": "topobrain.models",
    "load_model": "topobrain.models",
    "list_models": "topobrain.models",
    "load_stimuli": "topobrain.data",
    "load_responses": "topobrain.data",
    "load_text": "topobrain.data",
    "load_localizer": "topobrain.data",
    "list_localizers": "topobrain.data",
    "load_surface": "topobrain.data",
    "load_parcels": "topobrain.data",
    "load_cortical_map": "topobrain.data",
    "list_data": "topobrain.data",
    "extract": "topobrain.extract",
    "localize": "topobrain.selectivity",
    "Selectivity": "topobrain.selectivity",
    "response_profile": "topobrain.selectivity",
    "Profile": "topobrain.selectivity",
    "topography": "topobrain.topography",
    "Topography": "topobrain.topography",
    "cortical_topography": "topobrain.topography",
    "distance_curve": "topobrain.topography",
    "encode": "topobrain.encoding",
    "Encoding": "topobrain.encoding",
    "measure_leakage": "topobrain.encoding",
    "compare": "topobrain.encoding.comparison",
    "Comparison": "topobrain.encoding.comparison",
    "group_scores": "topobrain.encoding.comparison",
    "partition_variance": "topobrain.encoding.partition",
    "Partition": "topobrain.encoding.partition",
    "estimate_ceiling": "topobrain.encoding.ceilings",
    "align": "topobrain.alignment",
    "Alignment": "topobrain.alignment",
    "components": "topobrain.alignment.principal",
    "PrincipalComponents": "topobrain.alignment.principal",
    "spatial_alignment": "topobrain.alignment.spatial",
    "SpatialAlignment": "topobrain.alignment.spatial",
    "integrate": "topobrain.integration.integrating",
    "Integration": "topobrain.integration.result",
    "Swaps": "topobrain.integration.swaps",
    "make_swaps": "topobrain.integration.swaps",
    "brain_windows": "topobrain.integration.brain",
    "BrainWindows": "topobrain.integration.brain_result",
    "words_to_volumes": "topobrain.time_series",
    "with_delays": "topobrain.time_series",
    "encode_all": "topobrain.jobs",
    "save_map": "topobrain.brain_files",
}
_ROOMS = (
    "plot",
    "stats",
    "nn",
    "models",
    "data",
    "training",
    "testing",
    "report",
    "brain_files",
    "time_series",
    "jobs",
)

__all__ = [*_NAMES, *_ROOMS, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"topobrain.{name}")
    else:
        raise AttributeError(f"module 'topobrain' has no attribute {name!r}; public names: {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # importing the module topobrain.extract would put it in the place of the public function of that name
        if isinstance(value, ModuleType) and name in _NAMES:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


if TYPE_CHECKING:
    from topobrain import brain_files as brain_files
    from topobrain import data as data
    from topobrain import jobs as jobs
    from topobrain import models as models
    from topobrain import nn as nn
    from topobrain import plot as plot
    from topobrain import report as report
    from topobrain import stats as stats
    from topobrain import testing as testing
    from topobrain import time_series as time_series
    from topobrain import training as training
    from topobrain.activations import Activations as Activations
    from topobrain.alignment import Alignment as Alignment
    from topobrain.alignment import align as align
    from topobrain.alignment.principal import PrincipalComponents as PrincipalComponents
    from topobrain.alignment.principal import components as components
    from topobrain.alignment.spatial import SpatialAlignment as SpatialAlignment
    from topobrain.alignment.spatial import spatial_alignment as spatial_alignment
    from topobrain.brain_files import save_map as save_map
    from topobrain.data import list_data as list_data
    from topobrain.data import list_localizers as list_localizers
    from topobrain.data import load_cortical_map as load_cortical_map
    from topobrain.data import load_localizer as load_localizer
    from topobrain.data import load_parcels as load_parcels
    from topobrain.data import load_responses as load_responses
    from topobrain.data import load_stimuli as load_stimuli
    from topobrain.data import load_surface as load_surface
    from topobrain.data import load_text as load_text
    from topobrain.encoding import Encoding as Encoding
    from topobrain.encoding import encode as encode
    from topobrain.encoding import measure_leakage as measure_leakage
    from topobrain.encoding.ceilings import estimate_ceiling as estimate_ceiling
    from topobrain.encoding.comparison import Comparison as Comparison
    from topobrain.encoding.comparison import compare as compare
    from topobrain.encoding.comparison import group_scores as group_scores
    from topobrain.encoding.partition import Partition as Partition
    from topobrain.encoding.partition import partition_variance as partition_variance
    from topobrain.extract import extract as extract
    from topobrain.integration.brain import brain_windows as brain_windows
    from topobrain.integration.brain_result import BrainWindows as BrainWindows
    from topobrain.integration.integrating import integrate as integrate
    from topobrain.integration.result import Integration as Integration
    from topobrain.integration.swaps import Swaps as Swaps
    from topobrain.integration.swaps import make_swaps as make_swaps
    from topobrain.jobs import encode_all as encode_all
    from topobrain.models import Model as Model
    from topobrain.models import Recording as Recording
    from topobrain.models import TorchModel as TorchModel
    from topobrain.models import list_models as list_models
    from topobrain.models import load_model as load_model
    from topobrain.responses import BrainResponses as BrainResponses
    from topobrain.results import Result as Result
    from topobrain.results import load_result as load_result
    from topobrain.selectivity import Profile as Profile
    from topobrain.selectivity import Selectivity as Selectivity
    from topobrain.selectivity import localize as localize
    from topobrain.selectivity import response_profile as response_profile
    from topobrain.sheet import Sheet as Sheet
    from topobrain.stimuli import Contrast as Contrast
    from topobrain.stimuli import StimulusSet as StimulusSet
    from topobrain.time_series import with_delays as with_delays
    from topobrain.time_series import words_to_volumes as words_to_volumes
    from topobrain.topography import Topography as Topography
    from topobrain.topography import cortical_topography as cortical_topography
    from topobrain.topography import distance_curve as distance_curve
    from topobrain.topography import topography as topography
