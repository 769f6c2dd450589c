"""The options of `localize` that give each published definition of selectivity."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # equal variances; the figures show the signed -log10 p: Selectivity.values(layer, "signed_log_p")
        "topoformer": MappingProxyType({"test": "student"}),
        # Welch's form with population variances, 0 where both are 0
        "tdann": MappingProxyType({"ddof": 0, "zero_variance": "zero"}),
        # the read-out kernel is summed over units and not corrected at the border; profiles use smooth=1
        "topolm": MappingProxyType({"smooth": 2.0, "edges": "sum"}),
        "brain-score": MappingProxyType({}),
        # read with extract(pooling="last", max_tokens=12)
        "llm-localization": MappingProxyType({"rectify": True}),
        "topo-omni": MappingProxyType({"alternative": "greater"}),
        # the demonstration of TopoNets; what its paper uses is not known
        "toponets": MappingProxyType({"test": "student", "ddof": 0}),
    }
)
"""Options of `localize` by the name of the project that uses them: ``localize(acts, contrast, **PUBLISHED["topolm"])``.

The same activations and stimuli give six different t-maps. topobrain's own default is the unbiased, signed, two-sided
Welch t of activations as they are; every result keeps the options it was made with.
"""
