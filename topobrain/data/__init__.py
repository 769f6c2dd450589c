"""Data by name: stimuli, brain responses and text, each from a verified file, each with its source written on it.

``list_data()`` shows every name. A path works wherever a name does. Importing this module loads neither pandas nor
xarray: what reads a data set is imported when the data set is asked for.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topobrain._checks import InputError, UnknownNameError, listed, near, unknown
from topobrain.data.localizers import list_localizers, load_localizer
from topobrain.data.surfaces import load_cortical_map, load_parcels, load_surface
from topobrain.store.files import fetch, find_manifest, status, store_directory
from topobrain.store.manifest import Manifest, load_manifests

if TYPE_CHECKING:
    import pandas as pd

    from topobrain.responses import BrainResponses
    from topobrain.stimuli import StimulusSet

STIMULI = {
    "langloc": "topobrain.data.langloc:load_langloc",
    "swjn": "topobrain.data.langloc:load_swjn",
    "elli": "topobrain.data.langloc:load_elli",
    "moseley": "topobrain.data.langloc:load_moseley",
    "blimp": "topobrain.data.blimp:load_blimp",
    "syntaxgym": "topobrain.data.syntaxgym:load_syntaxgym",
    "eventsrev": "topobrain.data.semantic_suites:load_eventsrev",
    "dtfit": "topobrain.data.semantic_suites:load_dtfit",
    "eventsadapt": "topobrain.data.semantic_suites:load_eventsadapt",
    "animacy-fed2020": "topobrain.data.semantic_suites:load_animacy_fed2020",
    "ryskin2021": "topobrain.data.semantic_suites:load_ryskin2021",
    "warren2015": "topobrain.data.semantic_suites:load_warren2015",
    "sentiment": "topobrain.data.sentiment:load_sentiment",
    "imdb-sentiment": "topobrain.data.sentiment:load_imdb",
    "theory-of-mind": "topobrain.data.theory_of_mind:load_theory_of_mind",
    "floc": "topobrain.data.floc:load_floc",
    "objects92": "topobrain.data.object_images:load_objects92",
    "tuckute2024": "topobrain.data.tuckute2024:load_stimuli",
    "alice-words": "topobrain.data.alice:load_words",
    "cifar10": "topobrain.data.cifar10:load_stimuli",
    "word-runs": "topobrain.data.word_sequences:load_word_runs",
    "sentence-sequences": "topobrain.data.word_sequences:load_sentence_sequences",
    "suite-intactness": "topobrain.data.suites:load_intactness",
    "suite-animacy": "topobrain.data.suites:load_animacy",
    "suite-concreteness": "topobrain.data.suites:load_concreteness",
    "suite-visuomotor": "topobrain.data.suites:load_visuomotor",
    "suite-acceptability": "topobrain.data.suites:load_acceptability",
    "suite-agreement": "topobrain.data.suites:load_agreement",
    "suite-licensing": "topobrain.data.suites:load_licensing",
    "suite-gardenpath": "topobrain.data.suites:load_gardenpath",
    "multiple-demand": "topobrain.data.arithmetic:load_multiple_demand",
    "simulated-langloc": "topobrain.data.template_language:load_localizer",
    "simulated-sentences": "topobrain.data.template_language:load_sentences",
    "simulated-swjn": "topobrain.data.template_language:load_swjn",
    "simulated-word-runs": "topobrain.data.word_sequences:load_simulated_word_runs",
    "simulated-sentence-sequences": "topobrain.data.word_sequences:load_simulated_sentence_sequences",
}
"""Names `load_stimuli` knows, and what loads them."""

RESPONSES = {
    "tuckute2024": "topobrain.data.tuckute2024:load_responses",
    "pereira2018": "topobrain.data.pereira2018:load_responses",
    "pereira2018-brainscore": "topobrain.data.pereira2018:load_brainscore",
    "haxby2001": "topobrain.data.haxby:load_responses",
    "alice": "topobrain.data.alice:load_responses",
    "simulated": "topobrain.data.simulated_cohort:load_cohort",
}
"""Names `load_responses` knows, and what loads them."""

TEXT = {
    "brown": "topobrain.data.corpora:load_brown",
    "wikitext2": "topobrain.data.corpora:load_wikitext2",
    "tinyshakespeare": "topobrain.data.corpora:load_tinyshakespeare",
    "imdb": "topobrain.data.corpora:load_imdb",
    "abc": "topobrain.data.corpora:load_abc",
    "webtext": "topobrain.data.corpora:load_webtext",
    "inaugural": "topobrain.data.corpora:load_inaugural",
    "state_union": "topobrain.data.corpora:load_state_union",
    "movie_reviews": "topobrain.data.corpora:load_movie_reviews",
    "simulated-text": "topobrain.data.template_language:load_text",
}
"""Names `load_text` knows, and what loads them."""

GENERATED = {
    "suite-intactness": "Generated suite: intact and scrambled sentences",
    "suite-animacy": "Generated suite: animate and inanimate subjects",
    "suite-concreteness": "Generated suite: concrete and abstract nouns",
    "suite-visuomotor": "Generated suite: seeing and acting",
    "suite-acceptability": "Generated suite: acceptable and anomalous sentences",
    "suite-agreement": "Generated suite: subject-verb agreement, kept and broken",
    "suite-licensing": "Generated suite: polarity items and reflexives, licensed or not",
    "suite-gardenpath": "Generated suite: garden paths and unambiguous sentences",
    "multiple-demand": "Generated hard and easy arithmetic",
    "simulated-langloc": "Simulated language localizer of the template language",
    "simulated-sentences": "Simulated sentences of the template language",
    "simulated-swjn": "Simulated sentences, word lists, Jabberwocky, nonwords",
    "simulated-word-runs": "Simulated runs of words of the template language",
    "simulated-sentence-sequences": "Simulated sequences of sentences of equal length",
    "simulated": "Simulated cohort of brain responses",
    "simulated-text": "Simulated text of the template language",
}
"""Names that need no file, and their titles."""

_REGISTRIES = {"load_stimuli": STIMULI, "load_responses": RESPONSES, "load_text": TEXT}
_LIST_HINT = "`topobrain data list` shows them all."


def load_stimuli(name_or_path: str | os.PathLike[str], **options: Any) -> StimulusSet:
    """Load a stimulus set by name, or from a file of one's own.

    Parameters
    ----------
    name_or_path
        A registered name (``"langloc"``), or a path: a CSV or TSV with one row a stimulus, whose other columns become
        the table (``condition``, ``group``, ``stimulus`` for the identifiers, ...), or a ``.txt`` with one stimulus a
        line.
    **options
        Of the data set's loader; for a table ``text="sentence"``, the column of the stimulus texts.

    Returns
    -------
    StimulusSet
        Stimuli in the order of the file, with licence and citation in ``provenance``.

    Raises
    ------
    UnknownNameError
        No such name; near names are offered.
    DataFileError
        The file is missing or not the right one.
    InputError
        The file lacks the text column, holds an empty stimulus, or an option is not known.
    """
    path = _as_path(name_or_path, STIMULI)
    if path is not None:
        from topobrain.data.tables import read_stimuli

        loaded: StimulusSet = _call(read_stimuli, f"stimuli from {path}", options, path)
        return loaded
    loaded = _load("stimulus set", str(name_or_path), STIMULI, options)
    return loaded


def load_responses(name_or_path: str | os.PathLike[str], **options: Any) -> BrainResponses:
    """Load brain responses by name, or from a file of one's own.

    Parameters
    ----------
    name_or_path
        A registered name (``"tuckute2024"``); the name of a folder with a ``responses.toml``, in the store or here; or a path: a
        ``responses.toml`` or its folder, a ``.nc`` file saved by topobrain or in brain-score's layout, a table with one row a
        stimulus and one numeric column an ROI (CSV, TSV, Parquet), or a volume image (with ``stimuli=``).
    **options
        Of the data set's loader; for a table those of `BrainResponses.from_table` (``text``, ``rois``, ``group``, ...), for
        an assembly those of `topobrain.brain_files.read_assembly`, for an image those of
        `topobrain.brain_files.responses_from_nifti`.

    Returns
    -------
    BrainResponses
        ``value (stimulus, voxel)``, with subject, ROI and, where it is known, the noise ceiling of each voxel.

    Raises
    ------
    UnknownNameError
        No such name; near names are offered.
    DataFileError
        The file is missing or not the right one, or is a brain image that comes without its stimuli.
    InputError
        The file is a result of another kind, the table lacks a column, or an option is not known.
    """
    path = _as_path(name_or_path, RESPONSES)
    described = _described(path, str(name_or_path))
    if described is not None:
        from topobrain.data.described_responses import load_from_manifest

        if options:
            raise InputError(f"a responses.toml takes no options, got {listed(options)}: write them into {described}")
        return load_from_manifest(described)
    if path is None:
        name = str(name_or_path)
        described_here = [folder.parent.name for folder in sorted(store_directory().glob("*/responses.toml"))]
        if name not in RESPONSES and near(name, described_here):
            raise unknown("set of brain responses", name, [*described_here, *RESPONSES], _LIST_HINT)
        loaded: BrainResponses = _load("set of brain responses", name, RESPONSES, options)
        return loaded
    from topobrain.responses import BrainResponses
    from topobrain.results import load_result

    if path.suffix == ".nc":
        from topobrain.brain_files import is_assembly, read_assembly

        if is_assembly(path):
            loaded = _call(read_assembly, f"responses from {path}", options, path)
            return loaded
        if options:
            raise InputError(f"a saved result takes no options, got {listed(options)} for {path}")
        result = load_result(path)
        if not isinstance(result, BrainResponses):
            raise InputError(f"{path} holds a result of kind {result.kind!r}, expected brain responses")
        return result
    if path.name.endswith((".nii", ".nii.gz")) and "stimuli" in options:
        from topobrain.brain_files import responses_from_nifti

        loaded = _call(responses_from_nifti, f"responses from {path}", options, path)
        return loaded
    from topobrain.responses import BRAIN_IMAGES, read_table

    if path.name.lower().endswith(BRAIN_IMAGES):
        read_table(path)  # raises, and says which call reads an image
    loaded = _call(BrainResponses.from_table, f"responses from {path}", options, path)
    return loaded


def _described(path: Path | None, name: str) -> Path | None:
    """Return the ``responses.toml`` that is meant: a path to it or to its folder, or the name of a folder of the store."""
    if path is not None:
        inside = path / "responses.toml"
        return path if path.suffix == ".toml" else inside if inside.is_file() else None
    local = store_directory() / name / "responses.toml"
    here = Path(name) / "responses.toml"
    if not local.is_file():
        return here if name not in RESPONSES and here.is_file() else None
    if name in RESPONSES:
        raise InputError(f"{local} has the name of a data set that topobrain knows: give its folder another name")
    return local


def load_text(name: str, **options: Any) -> list[str]:
    """Load a text corpus by name.

    Parameters
    ----------
    name
        A registered name (``"brown"``).
    **options
        Of the corpus' loader (``"imdb"`` takes ``split="train"``).

    Returns
    -------
    list of str
        Non-empty documents in the order of the file. A document is what stands between two blank lines (a Brown
        sample, a news item, a film review, a paragraph of WikiText, a speech in a play); its inner line breaks are
        kept, blanks at its ends are not.

    Raises
    ------
    UnknownNameError
        No such name; near names are offered.
    DataFileError
        The file is missing or not the right one.
    """
    loaded: list[str] = _load("text corpus", str(name), TEXT, options)
    return loaded


def list_data() -> pd.DataFrame:
    """Return one row for each name that can be loaded, and for each data set that is only a folder of files.

    Returns
    -------
    DataFrame
        ``name``, ``kind`` (what loads it: ``stimuli``, ``responses``, ``text``; several joined by a comma), ``access``
        (``local`` for what a ``responses.toml`` in the store describes), ``status`` (of its files in the store:
        ``verified``, ``unverified`` (there, but no hash of them is published), ``missing``, ``incomplete``, ``altered``;
        ``generated`` where there are none; ``unreadable`` for a ``responses.toml`` with a mistake, which ``title`` tells),
        ``n_files``, ``megabytes`` (1e6 bytes; not a number where the size is not known), ``licence``, ``title``.

    Raises
    ------
    DataFileError
        ``TOPOBRAIN_DATA`` names no folder, or a file in it cannot be read.
    """
    import pandas as pd

    kinds: dict[str, list[str]] = {}
    for verb, registry in _REGISTRIES.items():
        for name in registry:
            kinds.setdefault(name, []).append(verb.removeprefix("load_"))
    manifests = load_manifests()
    rows = [_row(name, ", ".join(kinds[name])) for name in kinds]
    rows += [_row(name, manifest.kind) for name, manifest in manifests.items() if not manifest.provides]
    return pd.DataFrame([*rows, *_local_rows()])


def _local_rows() -> list[dict[str, Any]]:
    """Return a line of `list_data` for each data set that a ``responses.toml`` in the store describes."""
    folder = store_directory()
    if not folder.is_dir() or not any(folder.glob("*/responses.toml")):
        return []
    from topobrain.data.responses_manifest import ResponsesManifest, local_manifests

    rows = []
    for path, manifest in local_manifests(folder):
        if isinstance(manifest, ResponsesManifest):
            rows.append(manifest.row())
            continue
        # One broken file must not hide all other data sets.
        unknown_fields = {"n_files": 0, "megabytes": math.nan, "licence": "not known"}
        row = {"name": path.parent.name, "kind": "responses", "access": "local", "status": "unreadable"}
        rows.append({**row, **unknown_fields, "title": str(manifest)})
    return rows


def _row(name: str, kind: str) -> dict[str, Any]:
    """Return one line of `list_data`."""
    if name in GENERATED:
        return {
            "name": name,
            "kind": kind,
            "access": "generated",
            "status": "generated",
            "n_files": 0,
            "megabytes": 0.0,
            "licence": "BSD-3-Clause",  # made by topobrain, under its own licence
            "title": GENERATED[name],
        }
    manifest, _ = find_manifest(name)
    part = next((part for part in manifest.provides if part.name == name), None)
    paths = manifest.paths(name if part else None)
    return {
        "name": name,
        "kind": kind,
        "access": manifest.access,
        "status": status(manifest, paths).state,
        "n_files": len(paths),
        "megabytes": _megabytes(manifest, paths),
        "licence": (part.licence if part else None) or manifest.licence,
        "title": part.title if part else manifest.title,
    }


def _megabytes(manifest: Manifest, paths: Sequence[str]) -> float:
    """Return the size of some files, not a number if that of one is not known."""
    sizes = [file.bytes for file in manifest.files if file.path in set(paths)]
    return math.nan if None in sizes else round(sum(size or 0 for size in sizes) / 1e6, 3)


def _as_path(given: str | os.PathLike[str], registry: Mapping[str, str]) -> Path | None:
    """Return the argument as a path if it is one or looks like one; a registered name is never a path."""
    if isinstance(given, str) and given in registry:
        return None
    path = Path(given).expanduser()
    if not isinstance(given, str) or path.suffix or os.sep in given or "/" in given or path.is_file():
        return path
    return None


def _load(what: str, name: str, registry: Mapping[str, str], options: Mapping[str, Any]) -> Any:
    """Import what loads a name and call it."""
    if name not in registry:
        verbs = [verb for verb, names in _REGISTRIES.items() if name in names]
        if verbs:
            raise UnknownNameError(f"{name!r} is no {what}: use {verbs[0]}({name!r}). {_LIST_HINT}")
        # A near name may belong to another verb, but it is what the reader was looking for.
        every = dict.fromkeys([*registry, *(known for names in _REGISTRIES.values() for known in names)])
        elsewhere = [known for known in near(name, every) if known not in registry]
        if elsewhere:
            verb = next(verb for verb, names in _REGISTRIES.items() if elsewhere[0] in names)
            raise unknown(what, name, every, f"({elsewhere[0]!r} is read with {verb}.) {_LIST_HINT}")
        raise unknown(what, name, registry, _LIST_HINT)
    module, attribute = registry[name].split(":")
    return _call(getattr(importlib.import_module(module), attribute), repr(name), options)


def _call(loader: Any, what: str, options: Mapping[str, Any], *given: Any) -> Any:
    """Call a loader, answering an option it does not have in words instead of a TypeError."""
    signature = inspect.signature(loader)
    try:
        signature.bind(*given, **options)
    except TypeError as error:
        accepted = list(signature.parameters)[len(given) :]
        wrong = [name for name in options if name not in accepted]
        guess = near(wrong[0], accepted) if wrong else []
        hint = f" Did you mean {guess[0]!r}?" if guess else ""
        raise InputError(f"cannot load {what}: {error}.{hint} Options: {listed(accepted)}") from error
    return loader(*given, **options)


__all__ = [
    "GENERATED",
    "RESPONSES",
    "STIMULI",
    "TEXT",
    "Manifest",
    "fetch",
    "find_manifest",
    "list_data",
    "list_localizers",
    "load_cortical_map",
    "load_localizer",
    "load_manifests",
    "load_parcels",
    "load_responses",
    "load_stimuli",
    "load_surface",
    "load_text",
    "status",
    "store_directory",
]
