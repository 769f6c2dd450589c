from __future__ import annotations

import json

import numpy as np
import pytest
from made_studies import made_activations, made_responses

from topobrain._checks import DataFileError, InputError
from topobrain.encoding.scoring import prepare
from topobrain.jobs.orders import TREE, Order, from_arrays, to_arrays
from topobrain.jobs.sealed_files import read_sealed, write_sealed


def order() -> Order:
    study = prepare(made_activations(), made_responses(), n_folds=3, folds="shuffled")
    return Order("a.nc", "r.nc", study.rows, study.mask, np.zeros(14, dtype=int), 1, study.design, study.options)


def test_an_order_comes_back_from_its_file(tmp_path):
    one = order()
    write_sealed(tmp_path / "o.npz", to_arrays(one), "key")
    other = from_arrays(read_sealed(tmp_path / "o.npz", "key"))
    assert (other.activations, other.responses, other.n_regions) == ("a.nc", "r.nc", 1)
    assert other.options == one.options
    for name in ("rows", "mask", "roi"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert other.design.outer.scheme == "shuffled"
    for mine, theirs in zip(one.design.outer, other.design.outer, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
    for mine, theirs in zip(one.design.inner_splits, other.design.inner_splits, strict=True):
        assert all(np.array_equal(a, b) for p, q in zip(mine, theirs, strict=True) for a, b in zip(p, q, strict=True))


def test_equal_orders_have_equal_arrays():
    one, other = to_arrays(order()), to_arrays(order())
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_file_cannot_name_code_outside_of_topobrain(tmp_path):
    for kind in ("subprocess:Popen", "topobrain.jobs.sealed_files:sweep", "topobrain.jobs.work:JobError"):
        tree = json.dumps({"of": kind, "fields": {}})
        with pytest.raises(DataFileError, match="no dataclass of topobrain"):
            from_arrays({TREE: np.frombuffer(tree.encode(), dtype=np.uint8)})


def test_what_cannot_be_kept_plainly_is_told():
    with pytest.raises(InputError, match="cannot hold a dict"):
        to_arrays(({"a": 1},))
    with pytest.raises(InputError, match="array of objects"):
        to_arrays((np.array(["a", None], dtype=object),))
