from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from topobrain._checks import DataFileError
from topobrain.models.checkpoint_fields import PlainValues, read_fields, read_number, read_numbers, read_whole


def test_numbers_are_read_as_they_stand() -> None:
    fields = {"a": 1, "b": 0.5, "many": [1, 0.5], "none": []}
    assert [read_number(fields, key, path="p") for key in "ab"] == [1.0, 0.5]
    assert read_number(fields, "c", 0.25, path="p") == 0.25
    assert read_numbers(fields, "many", path="p") == (1.0, 0.5)
    assert read_numbers(fields, "none", path="p") == ()
    assert (read_whole(fields, "a", path="p"), read_whole(fields, "c", path="p")) == (1, None)
    assert read_whole({"a": None}, "a", path="p") is None


@pytest.mark.parametrize("value", [None, "1", "x", True, [1], {}, float("nan"), float("inf"), 10**400])
def test_what_is_no_number_is_named_with_its_key_and_file(value: Any) -> None:
    with pytest.raises(DataFileError, match=r"some/file gives key = .*, expected a finite number"):
        read_number({"key": value}, "key", 0.1, path="some/file")
    with pytest.raises(DataFileError, match="some/file gives key = "):
        read_numbers({"key": value if isinstance(value, dict) else [0.5, value]}, "key", path="some/file")


def test_a_missing_number_without_a_default_is_told() -> None:
    with pytest.raises(DataFileError, match="p gives key = None"):
        read_number({}, "key", path="p")


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True, [2]])
def test_counts_start_at_one(value: Any) -> None:
    with pytest.raises(DataFileError, match="expected a whole number of at least 1"):
        read_whole({"key": value}, "key", path="p")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"a": ' + "9" * 5000 + "}", "[" * 100_000])
def test_what_holds_no_fields_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DataFileError, match=r"c\.json"):
        read_fields(tmp_path / "c.json")


def test_a_value_is_kept_whole_or_not_at_all() -> None:
    def nested(levels: int) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = {"a": value}
        return value

    found = PlainValues().of_file({"shallow": nested(32), "deep": nested(33), "odd": {"kept": 1, "not": object()}})
    assert found == {"shallow": nested(32), "odd": {"kept": 1}}
