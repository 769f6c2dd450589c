"""The options of `localize` that give each published definition of selectivity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Any

from topobrain.stats.contrast import PUBLISHED_TTESTS, TTest

_PLAIN = {field.name: field.default for field in fields(TTest)}

_SMOOTHING: Mapping[str, Mapping[str, Any]] = {
    # the read-out kernel is summed over units and not corrected at the border; TopoLM's profiles use smooth=1
    "topolm": {"smooth": 2.0, "edges": "sum"},
}


def _options(name: str, test: TTest) -> Mapping[str, Any]:
    own = {key: value for key, value in asdict(test).items() if value != _PLAIN[key]}
    return MappingProxyType({**own, **_SMOOTHING.get(name, {})})


PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {name: _options(name, test) for name, test in PUBLISHED_TTESTS.items()}
)
"""Options of `localize` by the name of the project that uses them: ``localize(acts, contrast, **PUBLISHED["topolm"])``.

Only what differs from the defaults is listed. The same activations and stimuli give six different t-maps; topobrain's own
default is the unbiased, signed, two-sided Welch t of activations as they are, and every result keeps the options it was
made with. llm-localization also reads the last of 12 tokens (``extract(pooling="last", max_tokens=12)``); Topoformer draws
the signed -log10 p (``Selectivity.values(layer, "signed_log_p")``).
"""
