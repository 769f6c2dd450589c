import numpy as np
import pandas as pd
import pytest

from topobrain._checks import InputError, UnknownNameError
from topobrain.stimuli import Contrast, StimulusSet


@pytest.fixture
def stimuli():
    table = {"condition": ["sentence", "nonword", "sentence", "nonword"], "set": [1, 1, 2, 2]}
    return StimulusSet(["a dog", "blick dax", "two cats", "wug fep"], table, name="toy", provenance={"licence": "CC0"})


def test_identifiers_are_numbered_when_none_are_given(stimuli):
    assert stimuli.ids == ["s0000", "s0001", "s0002", "s0003"]
    assert len(stimuli) == 4
    assert list(stimuli) == ["a dog", "blick dax", "two cats", "wug fep"]


def test_identifiers_come_from_a_column_or_the_index():
    assert StimulusSet(["a", "b"], {"stimulus": [7, 8]}).ids == ["7", "8"]
    assert StimulusSet(["a", "b"], pd.DataFrame({"x": [1, 2]}, index=["p", "q"])).ids == ["p", "q"]


def test_the_callers_table_is_left_as_it_was():
    table = pd.DataFrame({"stimulus": ["p", "q"], "x": [1, 2]})
    plain = pd.DataFrame({"x": [1, 2]})
    StimulusSet(["a", "b"], table)
    StimulusSet(["a", "b"], plain)
    assert list(table.columns) == ["stimulus", "x"]
    assert plain.index.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("items", "table", "message"),
    [
        ("a dog", None, "one string"),
        ([], None, "at least one"),
        (["a", "  "], None, "stimulus 1 is empty"),
        (["a", 3], None, "stimulus 1 is a int"),
        (["a", "b"], {"x": [1, 2, 3]}, "3 rows for 2"),
        (["a", "b"], {"stimulus": ["p", "p"]}, "more than once: p"),
    ],
)
def test_unusable_sets_say_what_is_wrong(items, table, message):
    with pytest.raises(InputError, match=message):
        StimulusSet(items, table)


def test_where_keeps_rows_in_order_with_their_identifiers(stimuli):
    some = stimuli.where(condition="nonword")
    assert some.items == ("blick dax", "wug fep")
    assert some.ids == ["s0001", "s0003"]
    assert some.name == "toy"
    assert some.provenance == {"licence": "CC0"}
    assert stimuli.where(condition="sentence", set=[2]).items == ("two cats",)


def test_where_offers_near_names_for_columns_and_values(stimuli):
    with pytest.raises(UnknownNameError, match="'condition'"):
        stimuli.where(conditon="nonword")
    with pytest.raises(UnknownNameError, match="'nonword'"):
        stimuli.where(condition="nonwords")
    with pytest.raises(UnknownNameError, match="condition"):
        stimuli.column("conditions")


def test_where_without_any_row_left_is_an_error():
    stimuli = StimulusSet(["a", "b"], {"x": [1, 2], "y": [1, 2]})
    with pytest.raises(InputError, match="no stimulus"):
        stimuli.where(x=1, y=2)


def test_take_reorders(stimuli):
    assert stimuli.take([2, 0]).ids == ["s0002", "s0000"]
    assert stimuli.take(np.array([3])).column("set").tolist() == [2]


def test_digest_depends_on_items_identifiers_and_order_only(stimuli):
    same = StimulusSet(list(stimuli.items), {"other": [0, 0, 0, 0]})
    assert same.digest() == stimuli.digest()
    assert StimulusSet(["a", "bc"]).digest() != StimulusSet(["ab", "c"]).digest()
    assert stimuli.take([1, 0, 2, 3]).digest() != stimuli.digest()
    assert StimulusSet(["a"], {"stimulus": ["p"]}).digest() != StimulusSet(["a"], {"stimulus": ["q"]}).digest()


def test_images_are_told_apart_by_their_pixels_and_shown_by_their_identifiers():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    images = StimulusSet([black, white], {"stimulus": ["black", "white"]})
    assert images.texts == ["black", "white"]
    assert images.digest() != StimulusSet([white, black], {"stimulus": ["black", "white"]}).digest()
    assert images.digest() != StimulusSet([black.reshape(1, 4, 3), white], {"stimulus": ["black", "white"]}).digest()


def test_contrast_masks_follow_the_labels():
    labels = ["s", "n", "m", "s", "n", "m"]
    on, off = Contrast("c", on="s", off=("n", "m")).masks(labels)
    assert on.tolist() == [True, False, False, True, False, False]
    assert (on ^ off).all()


def test_contrast_works_on_number_labels():
    on, off = Contrast("c", on="1", off="2").masks(np.array([1, 1, 2, 2]))
    assert on.tolist() == [True, True, False, False]
    assert off.tolist() == [False, False, True, True]


def test_contrast_names_conditions_it_does_not_find():
    with pytest.raises(UnknownNameError, match="Did you mean 'sentence'"):
        Contrast("c", on="sentences", off="nonword").masks(["sentence", "sentence", "nonword", "nonword"])


@pytest.mark.parametrize(("on", "off", "message"), [((), "n", "'on' side"), ("s", ("n", "s"), "both sides")])
def test_impossible_contrasts_are_refused(on, off, message):
    with pytest.raises(InputError, match=message):
        Contrast("c", on=on, off=off)


def test_contrast_needs_two_stimuli_a_side():
    with pytest.raises(InputError, match="1 stimulus on its 'off' side"):
        Contrast("c", on="s", off="n").masks(["s", "s", "n"])


@pytest.mark.parametrize("column", ["stimulus type", "a/b", "", "tab\tbed"])
def test_column_names_that_cannot_be_stored_are_refused(column):
    with pytest.raises(InputError, match="cannot be stored"):
        StimulusSet(["a", "b"], {column: [1, 2]})


@pytest.mark.parametrize("text", ["a\x00b", "half \ud83d"])
def test_characters_that_are_no_text_are_refused(text):
    with pytest.raises(InputError, match="no text"):
        StimulusSet(["fine", text])
