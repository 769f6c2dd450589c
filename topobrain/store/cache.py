"""The cache: trained models and activations that topobrain made and can make again."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "TOPOBRAIN_CACHE"
"""Environment variable naming the cache folder."""


def cache_directory() -> Path:
    """Return the folder of the cache: ``$TOPOBRAIN_CACHE``, else ``topobrain/cache`` in the user's cache directory.

    It may be deleted at any time; what it held is made again when needed.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if given:
        return Path(given).expanduser()
    import pooch

    return Path(pooch.os_cache("topobrain")) / "cache"
