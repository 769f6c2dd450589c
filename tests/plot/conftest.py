from __future__ import annotations

import warnings

import matplotlib

matplotlib.use("Agg")

import pytest
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def closed_figures():
    """Start and end without figures, and let no plot warn."""
    plt.close("all")
    with warnings.catch_warnings():
        for kind in (UserWarning, RuntimeWarning):  # what matplotlib and numpy would say
            warnings.simplefilter("error", kind)
        yield
    plt.close("all")
