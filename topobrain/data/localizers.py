"""Localizers by name: stimuli, the contrasts that they are for, and what to hold out when the found units are measured.

`list_localizers` shows them all without reading a file. Every localizer is an ordinary stimulus set of `load_stimuli` with
its contrasts; `topobrain.localize` takes both.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from topobrain._checks import InputError, listed, near, require_choice, unknown
from topobrain.data.localizer_recipes import LOCALIZERS, ODD_EVEN, Recipe, with_column
from topobrain.data.semantic_suites import halves_of
from topobrain.stimuli import Contrast, StimulusSet

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Localizer:
    """Stimuli, the contrasts they are for, and how to hold some of them out.

    Parameters
    ----------
    name, title
        Name in `LOCALIZERS`, and one line for lists and figures.
    stimuli
        The stimuli; every contrast's conditions are in them, at least two stimuli a side.
    contrasts
        The contrasts, the main one first.
    split
        What to hold out when a response profile is measured: a stimulus column, one of whose values is left out at a
        time (``"set"``, ``"run"``, ``"half"``: pairs and items stay together), or ``"odd-even"``.
    reference
        What to cite.
    notes
        What to know before using it.

    Raises
    ------
    InputError, UnknownNameError
        A contrast or the split does not fit the stimuli.
    """

    name: str
    title: str
    stimuli: StimulusSet
    contrasts: tuple[Contrast, ...]
    split: str
    reference: str
    notes: str = ""

    def __post_init__(self) -> None:
        if not self.contrasts:
            raise InputError(f"localizer {self.name!r} has no contrast")
        for contrast in self.contrasts:
            contrast.masks(self.stimuli.column(contrast.by))
        if self.split != ODD_EVEN:
            self.stimuli.column(self.split)

    def contrast(self, name: str | None = None) -> Contrast:
        """Return the contrast of a name, by default the main one, or raise with near names."""
        names = [contrast.name for contrast in self.contrasts]
        if name is None:
            return self.contrasts[0]
        require_choice(f"contrast of localizer {self.name!r}", name, names)
        return self.contrasts[names.index(name)]


def load_localizer(name: str, **options: Any) -> Localizer:
    """Load a localizer by name: its stimuli, its contrasts, and how to hold some of them out.

    Parameters
    ----------
    name
        A name of `list_localizers`, e.g. ``"language"``.
    **options
        Of its stimuli (``length="tokens"`` of the language localizer) or of the localizer (``scrambled=True`` of
        ``"floc"``); an unknown one is answered with those there are.

    Returns
    -------
    Localizer
        ``.stimuli`` to be shown to a model, ``.contrasts`` to be localized, ``.split`` for response profiles.

    Raises
    ------
    UnknownNameError
        No such localizer; near names are offered.
    DataFileError
        A file is missing or not the right one; the message says where it is had.
    InputError
        An option is not known or cannot be used.
    """
    from topobrain.data import STIMULI, load_stimuli

    if name not in LOCALIZERS:
        using = [known for known, recipe in LOCALIZERS.items() if recipe.stimuli == name]
        hint = f"({name!r} are the stimuli of the localizer {using[0]!r}.) " if name in STIMULI and using else ""
        raise unknown("localizer", name, LOCALIZERS, f"{hint}list_localizers() shows them all.")
    recipe = LOCALIZERS[name]
    if recipe.build is None:
        stimuli, contrasts = load_stimuli(recipe.stimuli, **options), recipe.contrasts
    else:
        _check_options(name, recipe.build, options)
        stimuli, contrasts = recipe.build(**options)
    return Localizer(name, recipe.title, _with_halves(stimuli), contrasts, recipe.split, recipe.reference, recipe.notes)


def list_localizers() -> pd.DataFrame:
    """Return one row for each localizer; no stimulus is read, but the files in the store are checked.

    Returns
    -------
    DataFrame
        ``name``, ``title``, ``kind`` (``text``, ``image``), ``conditions`` (joined by commas), ``n`` (stimuli with the
        default options), ``access`` (``public``, ``request``, ``generated``), ``status`` (of the files in the store, as
        in `list_data`).

    Raises
    ------
    DataFileError
        ``TOPOBRAIN_DATA`` names no folder, or a file in it cannot be read.
    """
    import pandas as pd

    from topobrain.data import GENERATED
    from topobrain.store.files import find_manifest, status

    rows = []
    for name, recipe in LOCALIZERS.items():
        access = state = "generated"
        if recipe.stimuli not in GENERATED:
            manifest, paths = find_manifest(recipe.stimuli)
            access, state = manifest.access, status(manifest, paths).state
        rows.append(
            {
                "name": name,
                "title": recipe.title,
                "kind": recipe.kind,
                "conditions": ", ".join(recipe.conditions),
                "n": recipe.n,
                "access": access,
                "status": state,
            }
        )
    return pd.DataFrame(rows)


def _with_halves(stimuli: StimulusSet) -> StimulusSet:
    """Return a set whose items (matched sentences) have a half each, if it has items and no halves."""
    columns = stimuli.table.columns
    if "half" in columns or "item" not in columns:
        return stimuli
    # Where words are balanced over four sentences, those four belong together.
    groups = stimuli.column("quartet" if "quartet" in columns else "item").tolist()
    return with_column(stimuli, "half", halves_of(groups))


def _check_options(name: str, build: Callable[..., Any], options: Mapping[str, Any]) -> None:
    accepted = list(inspect.signature(build).parameters)
    for option in options:
        if option not in accepted:
            close = near(option, accepted)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise InputError(f"localizer {name!r} has no option {option!r}.{guess} Options: {listed(accepted)}")


__all__ = ["LOCALIZERS", "ODD_EVEN", "Localizer", "Recipe", "list_localizers", "load_localizer"]
