"""Integration windows: influence of swapped words by lag, the forms that fit it, widths, and yoking to sentences."""

from topobrain.stats.integration_windows.fitting import WindowFit, fit_windows
from topobrain.stats.integration_windows.forms import FORMS, Form, window_curve
from topobrain.stats.integration_windows.influence import (
    SKIPPED,
    InfluenceSums,
    LagWindow,
    Normalise,
    group_of_sequences,
)
from topobrain.stats.integration_windows.widths import (
    FormChoice,
    Identifiable,
    WindowWidth,
    choose_form,
    identifiable,
    split_half,
    split_half_matrix,
    window_width,
)
from topobrain.stats.integration_windows.yoking import yoking_index, yoking_steps

__all__ = [
    "FORMS",
    "SKIPPED",
    "Form",
    "FormChoice",
    "Identifiable",
    "InfluenceSums",
    "LagWindow",
    "Normalise",
    "WindowFit",
    "WindowWidth",
    "choose_form",
    "fit_windows",
    "group_of_sequences",
    "identifiable",
    "split_half",
    "split_half_matrix",
    "window_curve",
    "window_width",
    "yoking_index",
    "yoking_steps",
]
