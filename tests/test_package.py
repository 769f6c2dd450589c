from __future__ import annotations

import subprocess
import sys

import pytest

import topobrain as tb


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_loads_neither_torch_nor_pandas():
    code = "import sys, topobrain; print([m for m in ('torch', 'pandas', 'xarray', 'numpy', 'transformers') if m in sys.modules])"
    assert run_python(code) == "[]"


def test_importing_takes_little_cpu_time():
    code = "import time; t = time.process_time(); import topobrain; print(time.process_time() - t)"
    assert min(float(run_python(code)) for _ in range(3)) < 0.3


@pytest.mark.slow
def test_every_public_name_resolves():
    for name in tb.__all__:
        assert getattr(tb, name) is not None, name
    assert set(tb.__all__) == set(dir(tb))


@pytest.mark.parametrize("name", ["extract", "topography"])
@pytest.mark.slow
def test_a_function_is_not_hidden_by_the_module_of_its_name(name):
    code = f"import topobrain.{name}, topobrain as tb; print(callable(tb.{name}))"
    assert run_python(code) == "True"


def test_an_unknown_public_name_is_told():
    with pytest.raises(AttributeError, match="no attribute 'extrakt'"):
        tb.extrakt  # noqa: B018


@pytest.mark.slow
def test_figures_read_results_without_torch():
    code = (
        "import sys, importlib\n"
        "for n in ('fig1_language_selectivity', 'fig2_encoding', 'fig3_topography', 'fig4_cortex_and_truth', 'fig5_training'):\n"
        "    importlib.import_module(f'figures.{n}')\n"
        "print('torch' in sys.modules)"
    )
    assert run_python(code) == "False"
