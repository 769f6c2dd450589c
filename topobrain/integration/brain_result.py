"""BrainWindows: how far back brain regions listen, as far as a recording can tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from topobrain._checks import require_choice, unknown
from topobrain.integration.brain_kernels import CLOCKS, Clock
from topobrain.results import Result

if TYPE_CHECKING:
    import pandas as pd

OF_CLOCK = (
    "a", "b", "c", "width", "width_low", "width_high", "centre",
    "r_nested", "gain", "gain_low", "gain_high", "p", "p_best", "p_r",
)  # fmt: skip
"""What is known for each clock, of voxels and of regions; see `variable` for the names in the file."""


def variable(name: str, clock: Clock) -> str:
    """Return the name in the file of what is known for one clock.

    >>> variable("gain", "words"), variable("gain", "seconds"), variable("width_low", "words")
    ('gain', 'gain_seconds', 'width_words_low')
    """
    stem, _, bound = name.partition("_") if name.startswith("width") else (name, "", "")
    if stem in ("width", "centre"):
        return f"{stem}_{clock}" + (f"_{bound}" if bound else "")
    return name if clock == "words" else f"{name}_{clock}"


NAMES = tuple(variable(name, clock) for clock in CLOCKS for name in OF_CLOCK)


class BrainWindows(Result):
    """Windows of brain regions and voxels, from how well word features predict them when seen through each window.

    ``r (kernel, voxel)``: Pearson r on held-out volumes with each window, mean over folds: the profile. ``a b c
    width_words centre_words (voxel)`` are of the window over words that scores highest, ``width_words_low
    width_words_high`` the middle 95 % of its half width over bootstrap draws. ``chosen (voxel)`` is its number, -1
    without one.

    ``r_nested (voxel)``: r of windows chosen without the volumes they are scored on; ``r_delta (voxel)``: r without
    memory; ``gain`` their difference with ``gain_low gain_high``. Three one-sided p, each from a null that repeats the
    whole search: ``p`` of the gain and ``p_best`` of the highest r of any window less ``r_delta``, both where a response
    without memory is true, and ``p_r`` of ``r_nested`` (``p_delta``: of ``r_delta``) where nothing is.

    All of these for windows over seconds end in ``_seconds`` (``width_seconds``, ``gain_seconds``, ...). All of both for
    regions begin with ``region_``, the windows being those of the region's mean profile; ``region_p_max``: the gain
    beside the largest of any region. ``region_null_gain region_null_r (clock, region, permutation)`` are the nulls.

    A width is no more than the highest point of a profile. Where ``p`` is large the profile does not tell the window
    from one without memory, and the interval says how far it wanders.
    """

    kind: ClassVar[str] = "brain_windows"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "r": ("kernel", "voxel"),
        **dict.fromkeys(("chosen", "chosen_seconds", "r_delta", "p_delta", *NAMES), ("voxel",)),
        "chosen_in_fold": ("clock", "fold", "voxel"),
        "region_r": ("kernel", "region"),
        **dict.fromkeys(
            (f"region_{n}" for n in ("chosen", "chosen_seconds", "r_delta", "p_delta", *NAMES)), ("region",)
        ),
        **dict.fromkeys(("region_p_max", "region_p_max_seconds"), ("region",)),
        **dict.fromkeys(("region_null_gain", "region_null_r"), ("clock", "region", "permutation")),
        **dict.fromkeys(("kernel_a", "kernel_b", "kernel_c", "kernel_clock", "kernel_half"), ("kernel",)),
        "roi": ("voxel",),
        "subject": ("voxel",),
    }

    @property
    def regions(self) -> list[str]:
        """The regions, in order of first appearance."""
        return [str(region) for region in self.data["region"].values]

    @property
    def kernels(self) -> list[str]:
        """Names of the windows that were tried, the one without memory first."""
        return [str(kernel) for kernel in self.data["kernel"].values]

    def profile(self, roi: str, clock: Clock = "words") -> pd.DataFrame:
        """Return how well each window of one clock predicts a region: one row a window.

        Parameters
        ----------
        roi
            The region.
        clock
            ``"words"`` or ``"seconds"``.

        Returns
        -------
        DataFrame
            ``kernel``, ``a``, ``b``, ``c``, ``half`` (in words or seconds), ``r``, narrowest window first.
        """
        import pandas as pd

        require_choice("clock", clock, CLOCKS)
        if roi not in self.regions:
            raise unknown("ROI", roi, self.regions)
        names = self.labels("kernel_clock")
        rows = [i for i in range(len(names)) if i == 0 or names[i] == clock]
        columns = {name: self.data[f"kernel_{name}"].values[rows] for name in ("a", "b", "c", "half")}
        r = self.data["region_r"].values[rows, self.regions.index(roi)]
        return pd.DataFrame({"kernel": [self.kernels[i] for i in rows], **columns, "r": r})

    def summary(self) -> pd.DataFrame:
        """Return one row an ROI: subjects, r without memory and with nested windows, gains with p, widths with intervals.

        Widths are half widths, in words and in seconds; columns that end in ``_seconds`` are of windows over seconds, all
        others of windows over words.
        """
        import pandas as pd

        rows = []
        roi, subject = self.labels("roi"), self.labels("subject")
        for j, region in enumerate(self.regions):
            row: dict[str, object] = {
                "roi": region,
                "n_subjects": len(set(subject[roi == region].tolist())),
                "n_voxels": int((roi == region).sum()),
                **{name: float(self.data[f"region_{name}"].values[j]) for name in ("r_delta", "p_delta")},
            }
            for clock, number in (("words", "chosen"), ("seconds", "chosen_seconds")):
                of_clock = [variable(name, clock) for name in OF_CLOCK]  # type: ignore[arg-type]
                chosen = int(self.data[f"region_{number}"].values[j])
                row["kernel" if clock == "words" else "kernel_seconds"] = self.kernels[chosen] if chosen >= 0 else ""
                row |= {name: float(self.data[f"region_{name}"].values[j]) for name in of_clock}
                largest = "p_max" if clock == "words" else "p_max_seconds"
                row[largest] = float(self.data[f"region_{largest}"].values[j])
            rows.append(row)
        return pd.DataFrame(rows)

    def wider_than_delta(self, level: float = 0.05) -> np.ndarray:
        """Return a mask (region,) of regions whose gain over a window without memory is beyond the null, over all regions."""
        return np.asarray(self.data["region_p_max"].values <= level)
