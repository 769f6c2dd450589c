from __future__ import annotations

import numpy as np
import pytest

from topobrain._checks import DataFileError
from topobrain.jobs import PartsStore

KEY = "ab" + 62 * "0"


def test_a_part_is_kept_and_found(tmp_path):
    store = PartsStore(tmp_path / "store")
    store.open()
    assert store.part(KEY) is None
    store.keep_part(KEY, {"r": np.arange(3.0)})
    assert np.array_equal(PartsStore(tmp_path / "store").part(KEY)["r"], np.arange(3.0))
    assert store.part_path(KEY) == tmp_path / "store" / "parts" / "ab" / f"{KEY}.npz"


def test_a_damaged_part_warns_and_counts_as_missing(tmp_path):
    store = PartsStore(tmp_path)
    store.keep_part(KEY, {"r": np.arange(3.0)})
    store.part_path(KEY).write_bytes(store.part_path(KEY).read_bytes()[:-30])
    with pytest.warns(UserWarning, match="It is computed again"):
        assert store.part(KEY) is None


def test_a_part_under_anothers_name_warns_and_counts_as_missing(tmp_path):
    store, other = PartsStore(tmp_path), KEY.replace("0", "1")
    store.keep_part(KEY, {"r": np.arange(3.0)})
    store.part_path(other).parent.mkdir(exist_ok=True)
    store.part_path(KEY).rename(store.part_path(other))
    with pytest.warns(UserWarning, match="belongs to another job"):
        assert store.part(other) is None


def test_a_store_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFileError, match="cannot write to the store"):
        PartsStore(tmp_path / "file" / "store").open()


def test_an_order_that_is_not_seen_says_where_the_store_must_lie(tmp_path):
    with pytest.raises(DataFileError, match="sees it under that path"):
        PartsStore(tmp_path).order(KEY)


def test_a_damaged_order_is_written_again(tmp_path):
    store = PartsStore(tmp_path)
    store.keep_order(KEY, {"tree": np.arange(3)})
    store.order_path(KEY).write_bytes(b"damaged")
    store.keep_order(KEY, {"tree": np.arange(3)})
    assert np.array_equal(store.order(KEY)["tree"], np.arange(3))
