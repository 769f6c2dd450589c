# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
"""
# From a model to a map, to a patch, to the sentences that drive it

Every number in the text below the cells is computed by the cells; nothing is written in by hand. The steps are those that a
claim on topography needs: choose units on one half of the stimuli and look at them in the other; set the map beside maps
whose units have changed places, and beside maps whose stimuli have changed sides; show the same model untrained.

With the real data sets (`TOPOBRAIN_DATA` names their folder) this runs on a small language model with topographic hidden layers
and the language localizer of Fedorenko et al. (2010); without them on a simulated localizer, and says so. Models that are
trained here are trained on first use (some minutes) and kept.
"""

# %%
import warnings

import numpy as np
import pandas as pd

import topobrain as tb
from topobrain.plot.style import simulated_mark

# %% tags=["parameters"]
MODEL = None  # any name that topobrain.load_model takes; None: a topographic one that fits the stimuli
LAYER = None  # None: a layer that topography acts on, chosen before looking at any map
STIMULI = None  # "langloc", "simulated-langloc"; None: the real ones if they are there
N_NULL = 1000
SEED = 0

# %% [markdown]
"""
## Stimuli and model

Both halves hold every other stimulus of each condition: one selects units, the other measures them.
"""

# %%
if STIMULI is None:
    data = tb.list_data().set_index("name")
    STIMULI = "langloc" if data.loc["langloc", "status"] == "verified" else "simulated-langloc"
stimuli = tb.load_stimuli(STIMULI)
simulated = bool(stimuli.provenance.get("simulated", False))
mark = simulated_mark(simulated)
if MODEL is None:
    MODEL = "topoformer-tiny" if simulated else "toponet-nanogpt-tiny"
model = tb.load_model(MODEL)
untrained = tb.load_model(MODEL, weights="untrained:0")
if LAYER is None:
    first_choices = ("blocks.1.mlp.c_fc", "blocks.0.attention.query")
    laid_out = [layer for layer, sheet in model.sheets.items() if sheet.has_layout]
    LAYER = next((layer for layer in first_choices if layer in laid_out), laid_out[-1])
sheet = model.sheets[LAYER]

rank = pd.Series(stimuli.column("condition")).groupby(stimuli.column("condition")).cumcount().to_numpy()
selecting, measuring = (stimuli.take(np.flatnonzero(rank % 2 == part)) for part in (0, 1))
contrast = tb.Contrast("language", on="sentence", off="nonword")
print(f"{model.name}, layer {LAYER}: {sheet.n_units} units on a sheet of {sheet.height} x {sheet.width}")
print(f"{stimuli.name}{mark}: {len(selecting)} stimuli select units, {len(measuring)} others measure them")

# %% [markdown]
"""
## The map

A t-value for every unit, sentences against nonword strings, from the selecting half. Above the map stands Moran's I (1:
neighbours are alike, 0: they are not) and its layout null, the same t-values with the units' places permuted.
"""

# %%
with warnings.catch_warnings(record=True) as told:  # a localizer whose sides differ in length says so
    warnings.simplefilter("always")
    acts = tb.extract(model, selecting, layers=[LAYER])
    lang = tb.localize(acts, contrast, n_null=N_NULL, seed=SEED)
for one in told:
    if issubclass(one.category, UserWarning):
        print(f"note: {one.message}")
print(acts.read_lengths().round(1).to_string(index=False))
ax = tb.plot.sheet(lang, layer=LAYER, title=model.name)

# %% [markdown]
"""
## Its nulls

*Units change places*: is the map clustered at all? *Stimuli change sides*: is it more clustered than maps of random splits of
the same stimuli? A sheet whose units respond alike to their neighbours passes the first for every contrast; only the second
speaks of this one. The untrained model shows what the architecture does by itself.
"""

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    bare_acts = tb.extract(untrained, selecting, layers=[LAYER])
    bare = tb.localize(bare_acts, contrast, n_null=N_NULL, seed=SEED)
measures = ["morans_i"]
before = tb.topography(bare, activations=bare_acts, measures=measures, nulls=("layout", "labels"), n_null=N_NULL)
found = tb.topography(
    lang,
    activations=acts,
    measures=measures,
    nulls=("layout", "labels"),
    references={"untrained": before},
    n_null=N_NULL,
)
table = found.summary().set_index("null")
print(table[["value", "null_mean", "null_low", "null_high", "p", "corrected"]].round(3).to_string())
index = float(table["value"].iloc[0])
clustered = bool(table.loc["layout", "p"] < 0.05)
special = bool(table.loc["labels", "p"] < 0.05)
bare_index = float(before.data["value"].values.ravel()[0])
bare_p = float(before.summary().set_index("null").loc["layout", "p"])
bare_clustered = bare_p < 0.05
print(
    f"\nMoran's I is {index:.2f}: {'more' if clustered else 'no more'} than where units change places "
    f"({table.loc['layout', 'null_mean']:.2f}, p {table.loc['layout', 'p']:.3f}), and {'more' if special else 'no more'} "
    f"than where stimuli change sides ({table.loc['labels', 'null_mean']:.2f}, p {table.loc['labels', 'p']:.3f}). "
    f"Untrained it is {bare_index:.2f} (p {bare_p:.3f})."
)
ax = tb.plot.sheet(bare, layer=LAYER, title="untrained")

# %% [markdown]
"""
## A patch

The largest group of neighbours among the tenth of units with the highest t, as far as they are significant (q < .05). Where no
unit is, the one with the highest t stands in: every later step is the same. As many units in other places form groups, too:
only one that is larger than theirs says anything.
"""

# %%
t, q = lang.values(LAYER), lang.values(LAYER, "q")
chosen = tb.stats.select_top(t, 0.1) & (q < 0.05)
clusters = tb.stats.connected_clusters(chosen, sheet)
patch = clusters.labels == 0 if clusters.sizes.size else np.arange(sheet.n_units) == int(np.nanargmax(t))
rng = np.random.default_rng(SEED)
largest = [
    max(tb.stats.connected_clusters(rng.permutation(chosen), sheet).sizes.tolist(), default=0)
    for _ in range(min(N_NULL, 200))
]
patch_p = (1 + sum(size >= patch.sum() for size in largest)) / (1 + len(largest)) if chosen.any() else 1.0
print(
    f"{int(((q < 0.05) & (t > 0)).sum())} of {sheet.n_units} units prefer sentences (q < .05). The {int(chosen.sum())} with the "
    f"highest t form {clusters.sizes.size} groups; the largest has {int(patch.sum())} units (in other places "
    f"{np.median(largest):.0f}, p {patch_p:.3f})"
)
ax = tb.plot.sheet(lang, layer=LAYER, significance=None, outline=0.1, title="the patch (dots)")
ax.plot(
    sheet.x[patch] / sheet.spacing,
    sheet.y[patch] / sheet.spacing,
    linestyle="none",
    marker=".",
    markersize=3,
    color="black",
)

# %% [markdown]
"""
## What it does in sentences that did not choose it

The patch was chosen because its t is high, so its t in the same stimuli proves nothing. In the other half nothing was chosen.
"""

# %%
new = tb.extract(model, measuring, layers=[LAYER])
response = new.values(LAYER)[:, patch].mean(axis=1)
condition = new.labels("condition")
sides = [response[condition == name][:, None] for name in ("sentence", "nonword")]
held_out = tb.stats.welch_t(*sides)
held_out_t, held_out_p = float(held_out.t[0]), float(held_out.p[0])
own = acts.values(LAYER)[:, patch].mean(axis=1)
own_sides = [own[acts.labels("condition") == name][:, None] for name in ("sentence", "nonword")]
own_t = float(tb.stats.welch_t(*own_sides).t[0])
print(f"the patch: t {own_t:.1f} in the stimuli that chose it, {held_out_t:.1f} in the others (p {held_out_p:.2g})")

profile = tb.response_profile(acts, contrast, measure=new, top=int(patch.sum()), layer=LAYER, seed=SEED)
bare_new = tb.extract(untrained, measuring, layers=[LAYER])
bare_profile = tb.response_profile(bare_acts, contrast, measure=bare_new, top=int(patch.sum()), layer=LAYER, seed=SEED)
bare_t, bare_t_p = (float(bare_profile.data[name].values[0]) for name in ("t", "p"))
print(
    f"as many top units: t {float(profile.data['t'].values[0]):.1f}; of the untrained model {bare_t:.1f} (p {bare_t_p:.2g})"
)
ax = tb.plot.profiles(profile, title="as many top units, held-out stimuli")

# %% [markdown]
"""
## The sentences that drive it

Held-out sentences by the patch's mean response, the highest and the lowest five. Before reading meaning into them, look at
what is dull: does the response follow the number of tokens, or of letters?
"""

# %%
texts, tokens = new.labels("text"), np.asarray(new.data["n_tokens_read"].values, dtype=float)
of_sentences = condition == "sentence"
ranked = pd.DataFrame(
    {
        "response": response[of_sentences],
        "tokens": tokens[of_sentences],
        "letters": [len(text.replace(" ", "")) for text in texts[of_sentences]],
        "sentence": texts[of_sentences],
    }
).sort_values("response", ascending=False)
top, bottom = ranked.head(5), ranked.tail(5)
print(pd.concat([top, bottom]).round(2).to_string(index=False))
varying = [name for name in ("tokens", "letters") if ranked[name].nunique() > 1]
dull = {name: float(ranked["response"].corr(ranked[name], method="spearman")) for name in varying}
# 1.96 / sqrt(n - 1): what unrelated ranks reach in one of twenty cases
noticeable = 1.96 / np.sqrt(len(ranked) - 1)
follows = [name for name, r in dull.items() if abs(r) > noticeable]
print("\nSpearman's r of the response with " + ", ".join(f"the number of {name} {r:.2f}" for name, r in dull.items()))
print(
    f"the response follows the number of {' and of '.join(follows)}"
    if follows
    else "the response does not follow its length"
)
# the same by the verb: the response of as many top units to each held-out stimulus
by_verb = pd.Series(profile.data["stimulus_response"].values, index=profile.data["text"].values)
print(f"as many top units: highest for {by_verb[of_sentences].idxmax()!r}")

# %% [markdown]
"""
## What one may claim, and what not
"""

# %%
claims = [
    (clustered, "units that prefer the same condition lie together on this sheet"),
    (clustered and not bare_clustered, "they do so because of training: the untrained sheet is not clustered"),
    (special, "they lie together for this contrast more than for random splits of these stimuli"),
    (patch_p < 0.05, "the patch is larger than a group that as many units form by chance"),
    (held_out_t > 0 and held_out_p < 0.05, "the patch prefers sentences that took no part in choosing it"),
    (
        held_out_t > 0 and held_out_p < 0.05 and not (bare_t > 0 and bare_t_p < 0.05),
        "that preference is learnt: as many top units of the untrained model do not show it",
    ),
    (not follows, "among sentences, its response does not simply follow their length"),
]
print(f"{model.name}, {LAYER}, {stimuli.name}{mark}:")
for holds, claim in claims:
    print(f"  {'supported' if holds else 'NOT supported'}: {claim}")
print(
    "  never supported by this alone: that the patch is a language area, that it needs structure rather than known words (that "
    "takes word lists and Jabberwocky), that it resembles a brain (that takes brain data and a non-topographic twin)"
    + ("; and on simulated stimuli nothing about people" if simulated else "")
)
