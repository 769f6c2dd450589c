"""Predict one subject's responses to eight categories of pictures from the categories themselves, run by run.

The pictures are not part of the data, so no model of images can be shown them: the models here are what a picture's category
says of it (which of the eight, animate or not, whole or scrambled). They set the mark that a model of images has to reach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import topobrain as tb
from topobrain._checks import InputError
from topobrain.stats.ceiling import noise_ceiling
from topobrain.stats.group_tests import bootstrap_subjects, percentile_interval

CATEGORY, SHUFFLED = "category", "category, shuffled"
ANIMATE, SCRAMBLED = ("face", "cat"), "scrambledpix"


@dataclass(frozen=True)
class Config:
    """What to predict, and how.

    Parameters
    ----------
    alphas
        Penalties to choose from.
    out
        Folder of the result and the table.
    n_bootstrap
        Draws of the interval over runs.
    n_permutations
        Of every score.
    seed
        Of bootstraps, permutations and the shuffled categories.
    """

    alphas: tuple[float, ...] = tuple(float(a) for a in np.logspace(-1, 4, 11))
    out: Path = Path("results/encode-haxby")
    n_bootstrap: int = 1000
    n_permutations: int = 1000
    seed: int = 0


def run(config: Config, tell: Callable[[str], None] = print, responses: tb.BrainResponses | None = None) -> Path:
    """Score the category models; write the result and a table, one row a model; return the table.

    Parameters
    ----------
    config
        What to do.
    tell
        Called with a line on each stage.
    responses
        Other block responses than those of the data set, with the columns ``category`` and ``run``.
    """
    responses = with_ceiling(tb.load_responses("haxby2001") if responses is None else responses)
    features = category_models(responses.stimuli, config.seed)
    tell(f"{len(features.layers)} category models, {len(set(responses.labels('run')))} runs left out one by one")
    # A category comes back in every run, in training and in test rows. That is no leak here: rows are different blocks of
    # different pictures, a run's responses are scaled within the run, and what is asked is whether the category's response
    # carries over to a run the fit never saw. Runs (the column group) are never split.
    scores = tb.encode(
        features,
        responses,
        alphas=config.alphas,
        folds="leave-one-out",
        allow_duplicates=True,
        n_bootstrap=0,  # a fold is one run, so drawing stretches of stimuli within folds would draw nothing
        n_permutations=config.n_permutations,
        seed=config.seed,
    )
    scores.save(config.out / "encoding_haxby.nc")
    path = config.out / "encode_haxby.csv"
    table_of(scores, responses, config).to_csv(path, index=False)
    return path


def category_models(stimuli: tb.StimulusSet, seed: int) -> tb.Activations:
    """Return what a category says of a picture, one layer a model; the last one's categories are shuffled within each run."""
    category = stimuli.column("category").astype(str)
    known = list(dict.fromkeys(sorted(category.tolist())))
    one_hot = (category[:, None] == np.array(known)).astype(float)
    rng, mixed = np.random.default_rng(seed), np.arange(len(category))
    for run in np.unique(stimuli.column("run")):
        inside = np.flatnonzero(stimuli.column("run") == run)
        mixed[inside] = rng.permutation(inside)
    models = {
        CATEGORY: one_hot,
        "animate": np.isin(category, ANIMATE)[:, None].astype(float),
        "whole": (category != SCRAMBLED)[:, None].astype(float),
        SHUFFLED: one_hot[mixed],
    }
    kept = {name: values for name, values in models.items() if (np.ptp(values, axis=0) > 0).all()}
    fields = {"model": {"name": "picture categories", "categories": known}, "pictures": "not part of the data"}
    return tb.Activations.from_arrays(kept, stimuli, provenance=fields)


def with_ceiling(responses: tb.BrainResponses) -> tb.BrainResponses:
    """Return the responses with the noise ceiling of a single block, from the repeats of each category over runs.

    Raises
    ------
    InputError
        A category is missing in a run.
    """
    single = noise_ceiling(
        responses.values[_rows_of_runs(responses)], averaged=1
    )  # a fold tests a block of each category
    return tb.BrainResponses(responses.data.assign_coords(ceiling=("voxel", single)))


def _rows_of_runs(responses: tb.BrainResponses) -> np.ndarray:
    """Return the rows of each run (run, category), categories in the same order."""
    category, runs = responses.labels("category"), responses.labels("run")
    table = pd.crosstab(runs, category)
    if not (table == 1).all(axis=None):
        raise InputError("every run needs one block of every category for a noise ceiling from repeats over runs")
    return np.stack(
        [np.flatnonzero(runs == run)[np.argsort(category[runs == run])] for run in dict.fromkeys(runs.tolist())]
    )


def reliable_quarter(scores: tb.Encoding, responses: tb.BrainResponses) -> tuple[np.ndarray, float]:
    """Return the mean r of each model, and the mean ceiling, in the quarter of voxels that training runs call most reliable.

    The quarter is chosen in each fold from the runs that it trains on: chosen on all runs, it would hold the voxels whose noise
    in the tested run happens to look like the other runs', and noise alone would score above 0. The ceiling comes from the
    same training runs; as it also chose the voxels, it is a little too high.

    Returns
    -------
    tuple
        (model,) mean over folds and voxels of the quarter; mean ceiling of a single block there.
    """
    rows, each = _rows_of_runs(responses), scores.data["r"].values  # (run, category), (model, fold, voxel)
    tested = scores.data["test_fold"].values[rows]  # (run, category)
    found, ceilings = [], []
    for fold in range(each.shape[1]):
        train = (tested != fold).all(axis=1)
        ceiling = noise_ceiling(responses.values[rows[train]], averaged=1)
        reliable = ceiling >= np.nanquantile(ceiling, 0.75)
        found.append(np.nanmean(each[:, fold, reliable], axis=1))
        ceilings.append(ceiling[reliable].mean())
    return np.mean(found, axis=0), float(np.mean(ceilings))


def table_of(scores: tb.Encoding, responses: tb.BrainResponses, config: Config) -> pd.DataFrame:
    """Return one row a model: mean r over voxels, its interval over runs, the ceiling, and how many voxels follow the model."""
    table = scores.summary().rename(columns={"layer": "model"})
    each = scores.data["r"].values  # (model, run, voxel)
    draws = bootstrap_subjects(np.nanmean(each, axis=2).T, n_bootstrap=max(config.n_bootstrap, 1), seed=config.seed)
    table["low"], table["high"] = percentile_interval(draws) if config.n_bootstrap else (np.nan, np.nan)
    r = each.mean(axis=1)
    table["median_r"] = np.nanmedian(r, axis=1)
    table["best_voxel_r"] = np.nanmax(r, axis=1)
    table["share_of_voxels_at_q_05"] = (scores.data["q"].values < 0.05).mean(axis=1)
    table["r_in_most_reliable_quarter"], table["ceiling_there"] = reliable_quarter(scores, responses)
    return table


if __name__ == "__main__":
    import tyro

    print(run(tyro.cli(Config)))
