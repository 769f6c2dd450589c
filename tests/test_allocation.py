"""Memory that is freed is used again."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch, topobrain.extract
from topobrain._allocation import keep_freed_memory

def faults(n_blocks=8, size=6 * 2**20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(size, dtype=torch.uint8) for _ in range(n_blocks)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have rules of their own")
@pytest.mark.slow
def test_freed_memory_is_used_again() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    counts = {}
    for way in ("kept", "as it is"):
        command = [sys.executable, "-c", FAULTS, way]
        counts[way] = int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert counts["as it is"] > 10_000  # eight blocks of 1536 pages
    assert counts["kept"] < counts["as it is"] / 4
