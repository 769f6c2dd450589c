"""Ask of listeners to a story how far back their brain regions listen, with the family of windows fitted to model units.

Word length and frequency are seen through windows over words and over seconds; a window counts as wider than none where it
predicts held-out volumes better than no memory does, beyond what the same search finds where no memory is true. Asked of the
mean over listeners, whose noise is far lower, and of every listener by himself, with the haemodynamic response found from
delayed copies of the features (``"fir"``, which can take the place of a window) and with one that is taken as known
(``"spm"``, ``"glover"``, whose errors can look like a window).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

import topobrain as tb
from analyses.encode_alice import EACH, MEAN, mean_of_listeners
from analyses.model_families import Tell, draw, main
from topobrain.data.alice import load_words
from topobrain.integration.brain import ONSET, Shape, word_features
from topobrain.integration.brain_kernels import CLOCKS, Clock, WindowKernels
from topobrain.integration.brain_result import BrainWindows, variable

FIGURE = "fig17_brain_windows"

Verdict = Literal["reproduced", "not", "cannot be told"]

LEVEL = 0.05


@dataclass(frozen=True)
class Config:
    """What is asked, of whom.

    Parameters
    ----------
    resolution
        Radius of the regions.
    corpus
        Text whose word counts give the frequencies.
    responses, listeners_responses
        How the haemodynamic response is modelled: of the mean of listeners, and of each listener.
    delays
        Of ``"fir"``, in volumes of 2 s.
    n_folds
        Contiguous blocks, with gaps of 12 s.
    n_bootstrap
        Draws of every interval: stretches of the story for the mean, listeners for all of them.
    n_permutations, listeners_permutations
        Of both nulls: of the mean of listeners, and of each listener.
    out
        Folder of results, tables and the figure; the one of `map_integration_windows` has the models' windows beside.
    seed
        Of draws and permutations.
    """

    resolution: Literal["6mm", "10mm"] = "6mm"
    corpus: str = "brown"
    # "glover" beside "spm": a window that only one assumed response finds may be an error in that response's shape.
    responses: tuple[Shape, ...] = ("fir", "spm", "glover")
    listeners_responses: tuple[Shape, ...] = ("fir", "spm")
    delays: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    n_folds: int = 6
    n_bootstrap: int = 1000
    n_permutations: int = 1000
    listeners_permutations: int = 200
    out: Path = Path("results/integration")
    seed: int = 0


@dataclass(frozen=True)
class Search:
    """One search over all windows: of whom, with which haemodynamic response, and what came of it."""

    target: str
    response: str
    found: BrainWindows


def run(
    config: Config,
    tell: Tell = print,
    responses: tb.BrainResponses | None = None,
    kernels: WindowKernels | None = None,
) -> Path:
    """Search all windows; write results and tables, draw; return the picture.

    Parameters
    ----------
    config
        What to do.
    tell
        Called with a line on each stage.
    responses
        Other responses to the story than all 27 listeners'.
    kernels
        Other windows than those of `WindowKernels.grid`.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    brain = tb.load_responses("alice", resolution=config.resolution) if responses is None else responses
    words = load_words("apart")
    features = word_features(words, tb.load_text(config.corpus), corpus_name=config.corpus)
    searches = []
    for target, of, shapes, n_permutations in (
        (MEAN, mean_of_listeners(brain), config.responses, config.n_permutations),
        (EACH, brain, config.listeners_responses, config.listeners_permutations),
    ):
        for shape in shapes:
            tell(f"{target}, haemodynamic response {shape!r}: {n_permutations} permutations")
            found = tb.brain_windows(
                of, words, features=features, kernels=kernels, response=shape, delays=config.delays, n_folds=config.n_folds,
                n_bootstrap=config.n_bootstrap, n_permutations=n_permutations, seed=config.seed,
            )  # fmt: skip
            found.save(config.out / f"brain_windows_{shape}_{'-'.join(target.split())}_{config.resolution}.nc")
            searches.append(Search(target, shape, found))
    story(words).to_csv(config.out / "story.csv", index=False)
    regions_table(searches).to_csv(config.out / "regions.csv", index=False)
    said = claims(searches)
    said.to_csv(config.out / "brain_claims.csv", index=False)
    tell(f"claims: {', '.join(f'{n} {verdict}' for verdict, n in said['verdict'].value_counts().items())}")
    return draw(config.out, FIGURE)


def story(words: tb.StimulusSet) -> pd.DataFrame:
    """Return the time that a word takes: on average, pauses included, and in the median."""
    steps = np.diff(words.column(ONSET).astype(float))
    return pd.DataFrame(
        [{"story": words.name, "n_words": len(words), "mean_s": steps.mean(), "median_s": np.median(steps[steps > 0])}]
    )


def regions_table(searches: Sequence[Search]) -> pd.DataFrame:
    """Return one row a target, haemodynamic response and region, with windows over words and over seconds."""
    return pd.concat(
        [one.found.summary().assign(target=one.target, response=one.response) for one in searches], ignore_index=True
    ).pipe(lambda table: table[["target", "response", *(c for c in table if c not in ("target", "response"))]])


def claims(searches: Sequence[Search]) -> pd.DataFrame:
    """Return one row a claim: its value, its interval, p where there is one, and the verdict.

    A window is wider than none where the gain of nested windows over no memory lies beyond its null, family-wise over
    regions, and the interval of the gain above 0; over all searches of one target, after a correction for their number. That
    a gain lies below 0 does not make a window short: choosing has its price. Windows of regions differ where the intervals
    of their widths do not meet.
    """
    rows: list[dict[str, Any]] = []
    for one in searches:
        rows += [{"target": one.target, "response": one.response, **row} for row in _of_search(one.found)]
    for target in dict.fromkeys(one.target for one in searches):
        own = [one for one in searches if one.target == target]
        rows += [{"target": target, **row} for row in _over_searches(own)]
    lead = ["claim", "target", "response", "clock", "roi"]
    table = pd.DataFrame(rows)
    return table[[*lead, *(name for name in table if name not in lead)]]


def _of_search(found: BrainWindows) -> Iterator[dict[str, Any]]:
    table = found.summary()
    for row in table.to_dict("records"):
        yield {
            "claim": "word features without memory predict the region", "roi": row["roi"], "value": row["r_delta"],
            "p": row["p_delta"], "verdict": _passed(row["p_delta"]),
        }  # fmt: skip
    for clock in CLOCKS:
        names = {name: variable(name, clock) for name in ("gain", "gain_low", "gain_high", "p", "p_best", "width")}
        for row in table.to_dict("records"):
            value, low, high, p, p_best, width = (row[name] for name in names.values())
            p_max = row["p_max" if clock == "words" else "p_max_seconds"]
            window = row["kernel" if clock == "words" else "kernel_seconds"]
            yield {
                "claim": "the window is wider than none (gain in held-out r)", "clock": clock, "roi": row["roi"],
                "value": value, "low": low, "high": high, "p": p, "p_max": p_max, "p_best": p_best,
                "verdict": wider(low, p_max), "note": f"highest: {window}, half width {width:.3g}",
            }  # fmt: skip
        yield {"claim": "regions differ in the width of their windows", "clock": clock, **_spread(table, clock)}


def _spread(table: pd.DataFrame, clock: Clock) -> dict[str, Any]:
    """Return how far the widest window is from the narrowest, and whether any two intervals miss each other."""
    width, low, high = (
        table[variable(name, clock)].to_numpy(dtype=float) for name in ("width", "width_low", "width_high")
    )
    told = np.isfinite(width) & np.isfinite(low) & np.isfinite(high)
    if told.sum() < 2:
        return {"value": np.nan, "verdict": "cannot be told", "note": "fewer than two regions have an interval"}
    roi = table["roi"].to_numpy()
    at, to = np.flatnonzero(told)[[width[told].argmin(), width[told].argmax()]]
    apart = low[told].max() > high[told].min()
    return {
        "value": width[to] - width[at], "verdict": "reproduced" if apart else "cannot be told",
        "note": f"{roi[at]} {width[at]:.3g} [{low[at]:.3g}, {high[at]:.3g}], {roi[to]} {width[to]:.3g} [{low[to]:.3g}, "
        f"{high[to]:.3g}]",
    }  # fmt: skip


def _over_searches(searches: Sequence[Search]) -> Iterator[dict[str, Any]]:
    """Yield the claims that every search of one target bears on."""
    p, named = [], []
    for one in searches:
        for clock in CLOCKS:
            values = one.found.data[f"region_p_max{'' if clock == 'words' else '_seconds'}"].values
            if np.isfinite(values).any():
                best = int(np.nanargmin(values))
                p.append(float(values[best]))
                named.append(f"{one.found.regions[best]}, {one.response}, {clock}: p_max {values[best]:.3f}")
    corrected = min(1.0, min(p) * len(p)) if p else np.nan
    yield {
        "claim": "some region's window is wider than none (over all searches)", "p_max": corrected,
        "value": np.nan if not p else min(p), "verdict": _passed(corrected),
        "note": (named[int(np.argmin(p))] if p else "no null was drawn") + f"; times {len(p)} searches",
    }  # fmt: skip
    for clock in CLOCKS:
        widths = np.stack([one.found.data[f"region_{variable('width', clock)}"].values for one in searches])
        if len(searches) > 1:
            with np.errstate(divide="ignore", invalid="ignore"):
                steps = np.abs(np.log2(widths.max(axis=0) / widths.min(axis=0)))
            alike = np.isfinite(widths).all(axis=0) & ((widths.max(axis=0) == widths.min(axis=0)) | (steps <= 1))
            share = float(alike.mean())
            yield {
                "claim": "the window is the same, within a factor of two, whichever haemodynamic response is assumed",
                "clock": clock, "value": share, "verdict": "reproduced" if share == 1 else "not",
                "note": f"{int(alike.sum())} of {len(alike)} regions, over {', '.join(one.response for one in searches)}",
            }  # fmt: skip


def wider(low: float, p_max: float) -> Verdict:
    """Return whether a window is wider than none: a gain beyond its null over all regions, with an interval above 0."""
    return "reproduced" if p_max <= LEVEL and not low <= 0 else "cannot be told"


def _passed(p: float) -> Verdict:
    return "reproduced" if p <= LEVEL else "cannot be told"


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config), run)
