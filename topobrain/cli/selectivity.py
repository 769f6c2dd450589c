"""Verbs on what units prefer and where they lie: localize, topography."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from topobrain._checks import InputError, require_choice
from topobrain.cli.output import finish
from topobrain.cli.verbs import Extraction, split_names

if TYPE_CHECKING:
    import topobrain


@dataclass(frozen=True, kw_only=True)
class Contrasting(Extraction):
    """Options shared by the verbs that compare conditions."""

    localizer: str | None = None
    """A localizer by name (topobrain data localizers lists them): its stimuli and contrasts. Not with --stimuli."""
    stimuli: str | None = None
    """A stimulus set with conditions (topobrain data list), or a table of your own with a column for them."""
    on: str | None = None
    """Condition(s) preferred, separated by commas (with --stimuli; default sentence)."""
    off: str | None = None
    """Condition(s) compared with, separated by commas (with --stimuli; default nonword)."""
    text: str | None = None
    """Column of the texts in a table of your own (default sentence)."""
    by: str | None = None
    """Column of the conditions (with --stimuli; default condition)."""
    variant: str | None = None
    """A published definition of the t-value (topoformer, tdann, topolm, brain-score, llm-localization, topo-omni, toponets)
    instead of --test, --rectify and --smooth."""
    test: Literal["welch", "student"] | None = None
    """Welch's t (unequal variances, the default) or Student's."""
    rectify: bool = False
    """Take absolute activations first."""
    smooth: float | None = None
    """Smooth activations over the sheet first, full width at half maximum in grid steps."""
    n_null: int = 1000
    """Permutations of each null."""
    seed: int = 0
    """Seed of the permutations."""

    def compared(self) -> tuple[topobrain.StimulusSet, list[topobrain.Contrast], str]:
        """Return stimuli, contrasts and the name for the result file; a wrong condition is told before a model runs."""
        import topobrain as tb

        if self.localizer is not None:
            if self.stimuli is not None or self.on is not None or self.off is not None:
                raise InputError(
                    "--localizer brings its own stimuli and conditions: leave out --stimuli, --on and --off"
                )
            found = tb.load_localizer(self.localizer)
            return found.stimuli, list(found.contrasts), found.name
        if (self.on is None) != (self.off is None):
            raise InputError("--on and --off go together: give the conditions of both sides")
        on, off = self.on or "sentence", self.off or "nonword"
        contrast = tb.Contrast(
            f"{on} - {off}", on=tuple(split_names(on)), off=tuple(split_names(off)), by=self.by or "condition"
        )
        stimuli = tb.load_stimuli(self.stimuli or "langloc", **({"text": self.text} if self.text else {}))
        contrast.masks(stimuli.column(contrast.by))
        return stimuli, [contrast], stimuli.name

    def options(self) -> dict[str, Any]:
        """Return the options of `localize`."""
        if self.variant is None:
            return {"test": self.test or "welch", "rectify": self.rectify, "smooth": self.smooth}
        from topobrain.selectivity import PUBLISHED

        require_choice("variant", self.variant, tuple(PUBLISHED))
        if self.test is not None or self.rectify or self.smooth is not None:
            raise InputError(f"--variant {self.variant} sets --test, --rectify and --smooth: leave them out")
        return dict(PUBLISHED[self.variant])

    def localized(
        self, activations: topobrain.Activations, contrasts: Sequence[topobrain.Contrast], n_null: int
    ) -> topobrain.Selectivity:
        """Return the t-maps."""
        import topobrain as tb

        return tb.localize(activations, contrasts, n_null=n_null, seed=self.seed, **self.options())


@dataclass(frozen=True, kw_only=True)
class Localize(Contrasting):
    """Find the units that prefer one condition, and test the patchiness of their map against its layout null."""

    def run(self) -> int:
        """Localize and save."""
        stimuli, contrasts, label = self.compared()
        self.options()
        model = self.load()
        path = self.target("selectivity", model.name, label)
        with told_once():
            activations = self.activations(model, stimuli)
            return finish(self.localized(activations, contrasts, self.n_null), path, self.as_json)


@dataclass(frozen=True, kw_only=True)
class Topography(Contrasting):
    """Measure how far units that behave alike lie together, beside nulls: of the t-maps and of the responses."""

    measures: str | None = None
    """Measures separated by commas (default: morans_i, generic, smoothness_tdann, smoothness_toponets)."""
    nulls: str = "layout"
    """Nulls separated by commas: layout (places permuted), labels (sides of the contrast permuted), torus (shifts of one of
    two maps), rank (random subspaces, for participation_ratio)."""
    against: str | None = None
    """The contrast that ssim and map_correlation compare the others with."""
    rank: int | None = None
    """Dimensions of the rank null."""
    untrained: bool = True
    """Measure the same architecture with random weights beside it, where the model has such a variant."""

    def run(self) -> int:
        """Measure and save."""
        from topobrain.topography import MEASURES
        from topobrain.topography.measuring import NULLS

        for name in split_names(self.measures):
            require_choice("topography measure", name, tuple(MEASURES))
        for name in split_names(self.nulls):
            require_choice("null", name, NULLS)
        if not split_names(self.nulls):
            raise InputError("--nulls names at least one null: layout, labels, torus or rank")
        ranked = "participation_ratio" in split_names(self.measures)
        if self.rank is not None and not ranked:
            raise InputError("--rank goes with --measures participation_ratio")
        if ranked and "rank" in split_names(self.nulls) and self.rank is None:
            raise InputError("the null 'rank' needs --rank, the dimensions of its random subspaces")
        stimuli, contrasts, label = self.compared()
        if self.against is not None:
            require_choice("contrast", self.against, [one.name for one in contrasts])
        self.options()
        model = self.load()
        path = self.target("topography", model.name, label)
        with told_once():
            activations = self.activations(model, stimuli)
            references = {}
            if self.untrained and self.weights is None and "untrained" not in model.name:
                bare = self.bare()
                if bare is not None:
                    references["untrained"] = self.measured(self.activations(bare, stimuli), contrasts, 0, {})
            result = self.measured(activations, contrasts, self.n_null, references)
        return finish(result, path, self.as_json, hide=("null_low", "null_high", "n_null"))

    def bare(self) -> topobrain.Model | None:
        """Return the untrained variant; where there is none say so, and measure without it."""
        import topobrain as tb

        try:
            return tb.load_model(self.model, weights="untrained", device=self.device)
        except InputError as error:
            print(f"note: no untrained model stands beside it ({error})", file=sys.stderr)
            return None

    def measured(
        self,
        activations: topobrain.Activations,
        contrasts: Sequence[topobrain.Contrast],
        n_null: int,
        references: dict[str, topobrain.Topography],
    ) -> topobrain.Topography:
        """Return the measures of one model, beside those of others."""
        import topobrain as tb

        return tb.topography(
            self.localized(activations, contrasts, 0),
            activations=activations,
            against=self.against,
            measures=split_names(self.measures) or None,
            options=None if self.rank is None else {"participation_ratio": {"rank": self.rank}},
            nulls=split_names(self.nulls),
            references=references,
            n_null=n_null,
            seed=self.seed,
        )


@contextmanager
def told_once() -> Iterator[None]:
    """Print warnings of the block as plain notes on standard error, without the place in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for message in dict.fromkeys(str(one.message) for one in caught if one.category is UserWarning):
                print(f"note: {message}", file=sys.stderr)
