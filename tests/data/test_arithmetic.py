"""The multiple-demand localizer: right answers, the published ranges, nothing twice, nothing global."""

import re
from collections import Counter

import numpy as np
import pytest

from topobrain._checks import InputError
from topobrain.data.arithmetic import MAX_N, load_multiple_demand
from topobrain.stimuli import Contrast

FORM = re.compile(r"Question: Solve (\d+) ([+-]) (\d+)\? Answer: (-?\d+)")
RANGES = {"hard": range(100, 200), "easy": range(1, 20)}


@pytest.fixture(scope="module")
def sums():
    return load_multiple_demand()


def test_counts_conditions_and_contrast(sums):
    assert len(sums) == 200
    assert Counter(sums.column("condition")) == {"hard": 100, "easy": 100}
    assert set(sums.table.groupby(["condition", "operation"]).size()) == {50}
    on, off = Contrast("multiple-demand", on="hard", off="easy").masks(sums.column("condition"))
    assert (on.sum(), off.sum()) == (100, 100)


def test_texts_say_what_the_table_says_and_the_answers_are_right(sums):
    rows = sums.table.to_dict("records")
    for text, row in zip(sums.texts, rows, strict=True):
        first, sign, second, answer = FORM.fullmatch(text).groups()
        assert {"+": "addition", "-": "subtraction"}[sign] == row["operation"]
        assert (int(first), int(second)) == (row["first"], row["second"])
        right = int(first) + int(second) * (1 if sign == "+" else -1)
        assert int(answer) == row["answer"] == right > 0
        assert int(first) in RANGES[row["condition"]]
        assert int(second) in RANGES[row["condition"]]


def test_no_sum_comes_twice(sums):
    assert len(set(sums.texts)) == 200


def test_items_pair_a_hard_and_an_easy_sum_of_one_operation(sums):
    for _, pair in sums.table.groupby("item"):
        assert pair["condition"].tolist() == ["hard", "easy"]
        assert pair["operation"].nunique() == 1


def test_equal_seeds_give_equal_sets_whatever_the_global_generator(sums):
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert load_multiple_demand(seed=42).digest() == sums.digest()
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert len(set(load_multiple_demand(seed=43).texts) & set(sums.texts)) < 100


def test_answer_can_be_left_out(sums):
    silent = load_multiple_demand(answer=False)
    assert [text.rsplit(" ", 1)[0] for text in sums.texts] == silent.texts
    assert silent.table.equals(sums.table)
    assert silent.digest() != sums.digest()
    assert silent.provenance["answer"] is False


def test_the_largest_set_holds_every_easy_subtraction():
    largest = load_multiple_demand(n=MAX_N).where(condition="easy", operation="subtraction")
    drawn = {(row.first, row.second) for row in largest.table.itertuples()}
    assert drawn == {(a, b) for a in range(1, 20) for b in range(1, a)}


def test_odd_counts_have_one_more_addition():
    assert Counter(load_multiple_demand(n=5).column("operation")) == {"addition": 6, "subtraction": 4}


def test_operands_cover_their_ranges_evenly():
    many = load_multiple_demand(n=340, seed=0).where(condition="hard", operation="addition").table
    operands = np.concatenate([many["first"], many["second"]])
    assert operands.min() < 105
    assert operands.max() > 194
    assert abs(operands.mean() - 149.5) < 4 * np.sqrt((100**2 - 1) / 12 / len(operands))


def test_provenance(sums):
    assert sums.provenance["generated"] is True
    assert (sums.provenance["seed"], sums.provenance["n"]) == (42, 100)
    assert "simulated" not in sums.provenance


@pytest.mark.parametrize("n", [0, 1, MAX_N + 1, 2.0, True, "100"])
def test_wrong_counts_are_told(n):
    with pytest.raises(InputError, match=f"from 2 to {MAX_N}"):
        load_multiple_demand(n=n)


def test_wrong_seed_and_answer_are_told():
    with pytest.raises(InputError, match="seed"):
        load_multiple_demand(seed=-1)
    with pytest.raises(InputError, match="answer must be True or False"):
        load_multiple_demand(answer="no")
