import warnings

import numpy as np
import pandas as pd
import pytest

from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.responses import BrainResponses
from topobrain.stimuli import StimulusSet

TEXTS = ["one dog", "two cats", "three birds", "four cows"]
VALUES = np.random.default_rng(0).standard_normal((4, 3))


@pytest.fixture
def stimuli():
    return StimulusSet(TEXTS, {"group": ["p", "p", "q", "q"]}, name="toy", provenance={"licence": "CC0"})


@pytest.fixture
def responses(stimuli):
    return BrainResponses.from_arrays(
        VALUES, stimuli, roi=["IFG", "IFG", "AntTemp"], subject=["s1", "s2", "s1"], ceiling=[0.5, 0.7, np.nan]
    )


@pytest.fixture
def table():
    return pd.DataFrame(
        {"item_id": [11, 12, 13, 14], "sentence": TEXTS, "run": [1, 1, 2, 2], "IFG": VALUES[:, 0], "MFG": VALUES[:, 1]}
    )


def test_arrays_come_back_with_their_labels(responses):
    assert np.array_equal(responses.values, VALUES)
    assert responses.values.dtype == np.float64
    assert responses.rois == ["IFG", "AntTemp"]
    assert responses.subjects == ["s1", "s2"]
    assert responses.design == "events"


def test_one_label_serves_all_voxels_and_the_ceiling_may_be_unknown(stimuli):
    plain = BrainResponses.from_arrays(VALUES, stimuli, roi="V1")
    assert plain.rois == ["V1"]
    assert plain.subjects == ["group"]
    assert np.isnan(plain.data["ceiling"].values).all()
    assert BrainResponses.from_arrays(VALUES, stimuli, ceiling=0.4).data["ceiling"].values.tolist() == [0.4] * 3


def test_stimuli_come_back_as_they_went_in(responses, stimuli, tmp_path):
    for one in (responses, BrainResponses.load(responses.save(tmp_path / "r.nc"))):
        assert one.stimuli.digest() == stimuli.digest()
        assert one.stimuli.name == "toy"
        assert one.stimuli.provenance == {"licence": "CC0"}
        assert one.stimuli.column("group").tolist() == ["p", "p", "q", "q"]


def test_further_variables_and_coordinates_are_kept(stimuli, tmp_path):
    responses = BrainResponses.from_arrays(
        VALUES,
        stimuli,
        voxel_coords={"vertex": np.array([5, 9, 2])},
        variables={"signal": (("stimulus", "voxel"), VALUES * 2)},
    )
    again = BrainResponses.load(responses.save(tmp_path / "r.nc"))
    assert again.data["vertex"].values.tolist() == [5, 9, 2]
    assert np.array_equal(again.data["signal"].values, VALUES * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": VALUES[:3]}, "4 stimuli"),
        ({"values": VALUES[:, 0]}, "4 stimuli"),
        ({"roi": ["a", "b"]}, "roi has"),
        ({"subject": ["a", "b"]}, "subject has"),
        ({"ceiling": 1.2}, "noise ceiling"),
        ({"ceiling": [0.5, -0.1, 0.5]}, "noise ceiling"),
        ({"ceiling": [0.5, 0.5]}, "ceiling has"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(stimuli, options, message):
    arguments = {"values": VALUES, **options}
    with pytest.raises(InputError, match=message):
        BrainResponses.from_arrays(arguments.pop("values"), stimuli, **arguments)


def test_unknown_design_is_answered_with_near_names(stimuli):
    with pytest.raises(UnknownNameError, match="timeseries"):
        BrainResponses.from_arrays(VALUES, stimuli, design="time series")


def test_infinite_values_are_named_and_missing_ones_are_allowed(stimuli):
    values = VALUES.copy()
    values[2, 1] = np.inf
    with pytest.raises(InputError, match="'s0002', voxel 1"):
        BrainResponses.from_arrays(values, stimuli)
    values[2, 1] = np.nan
    assert np.isnan(BrainResponses.from_arrays(values, stimuli).values[2, 1])


def test_where_keeps_rois_and_subjects(responses):
    assert np.array_equal(responses.where(roi="IFG").values, VALUES[:, :2])
    assert np.array_equal(responses.where(subject=["s1"]).values, VALUES[:, [0, 2]])
    assert np.array_equal(responses.where(roi=["IFG", "AntTemp"], subject="s2").values, VALUES[:, [1]])


def test_where_offers_near_names(responses):
    with pytest.raises(UnknownNameError, match=r"unknown ROI 'AntTmp'\. Did you mean 'AntTemp'"):
        responses.where(roi="AntTmp")
    with pytest.raises(UnknownNameError, match="unknown subject"):
        responses.where(subject="s9")
    with pytest.raises(InputError, match="no voxel"):
        responses.where(roi="AntTemp", subject="s2")


def test_summary_counts_unusable_voxels(stimuli):
    values = np.column_stack([VALUES, np.full(4, 0.1)])
    values[1, 0] = np.nan
    responses = BrainResponses.from_arrays(
        values, stimuli, roi=["a", "a", "b", "b"], ceiling=[0.4, 0.6, np.nan, np.nan]
    )
    summary = responses.summary().set_index("roi")
    assert summary["n_unusable_voxels"].to_dict() == {"a": 1, "b": 1}
    assert summary.loc["a", "ceiling"] == pytest.approx(0.5)
    assert np.isnan(summary.loc["b", "ceiling"])


@pytest.mark.parametrize("ending", ["csv", "tsv", "frame"])
def test_a_table_becomes_responses(table, tmp_path, ending):
    source = table
    if ending != "frame":
        source = tmp_path / f"brain.{ending}"
        table.to_csv(source, sep="," if ending == "csv" else "\t", index=False)
    responses = BrainResponses.from_table(source, group="run", ceilings={"IFG": 0.5})
    assert responses.rois == ["IFG", "MFG"]
    assert np.allclose(responses.values, VALUES[:, :2])
    assert responses.labels("stimulus").tolist() == ["11", "12", "13", "14"]
    assert responses.labels("group").tolist() == ["1", "1", "2", "2"]
    assert responses.labels("text").tolist() == TEXTS
    assert responses.data["ceiling"].values[0] == 0.5
    assert np.isnan(responses.data["ceiling"].values[1])
    if ending != "frame":
        assert responses.provenance["file"] == f"brain.{ending}"


def test_columns_that_sound_like_labels_are_pointed_out(table):
    with pytest.warns(UserWarning, match=r"also 'run'.*group='run', --group run.*rois=\["):
        assert "run" in BrainResponses.from_table(table).rois
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BrainResponses.from_table(table, group="run")
        BrainResponses.from_table(table, rois=["IFG", "run"])


def test_columns_can_be_named(table):
    responses = BrainResponses.from_table(
        table.rename(columns={"sentence": "words"}), text="words", stimulus="item_id", rois=["MFG"]
    )
    assert responses.rois == ["MFG"]
    assert np.array_equal(responses.values[:, 0], VALUES[:, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "sentences"}, "no column 'sentences'. Did you mean 'sentence'"),
        ({"rois": ["IFGs"]}, "Did you mean 'IFG'"),
        ({"group": "rum"}, "Did you mean 'run'"),
        ({"stimulus": "itemid"}, "Did you mean 'item_id'"),
    ],
)
def test_missing_columns_are_answered_with_near_names(table, options, message):
    with pytest.raises(InputError, match=message):
        BrainResponses.from_table(table, **options)


def test_a_ceiling_for_an_unknown_column_is_an_error(table):
    with pytest.raises(UnknownNameError, match="'IFG'"):
        BrainResponses.from_table(table, ceilings={"IFGs": 0.5})
    assert BrainResponses.from_table(table, rois=["MFG"], ceilings={"IFG": 0.5, "MFG": 0.6}).rois == ["MFG"]


@pytest.mark.parametrize("blank", ["", "  ", None])
def test_an_empty_sentence_is_named_by_its_row(table, blank):
    table.loc[2, "sentence"] = blank
    with pytest.raises(InputError, match="row 2"):
        BrainResponses.from_table(table)


def test_a_column_that_is_not_numeric_is_named(table):
    table["note"] = ["a", "b", "c", "d"]
    with pytest.raises(InputError, match=r"column 'note'.*not numeric"):
        BrainResponses.from_table(table, rois=["IFG", "note"])
    assert BrainResponses.from_table(table, group="run").rois == ["IFG", "MFG"]


def test_a_table_without_response_columns_is_refused(table):
    with pytest.raises(InputError, match="no numeric response column"):
        BrainResponses.from_table(table[["item_id", "sentence"]])


def test_repeated_identifiers_are_refused(table):
    table["item_id"] = [1, 1, 2, 3]
    with pytest.raises(InputError, match="more than once: 1"):
        BrainResponses.from_table(table)


def test_infinite_responses_in_a_table_are_named(table):
    table.loc[3, "MFG"] = -np.inf
    with pytest.raises(InputError, match="'14', voxel"):
        BrainResponses.from_table(table, rois=["IFG", "MFG"])


@pytest.mark.parametrize("name", ["bold.nii", "bold.nii.gz", "BOLD.NII.GZ", "lh.thickness.mgz", "lh.func.gii"])
def test_a_brain_image_is_told_from_a_table(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    call = "load_responses" if "bold" in name.lower() else "responses_from_surface"
    with pytest.raises(DataFileError, match=rf"brain image; a table was expected.* needs stimuli=.*{call}\(.*{name}'"):
        BrainResponses.from_table(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin.csv", "sentence,IFG\nMädchen,1\n".encode("latin-1")),
        ("ragged.csv", b"sentence,IFG\na,1\nb,2,3,4\n"),
        ("empty.csv", b""),
        ("brain.xlsx", b"PK\x03\x04"),
        ("broken.parquet", b"PAR1 not really"),
    ],
)
def test_a_broken_table_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFileError, match=name):
        BrainResponses.from_table(tmp_path / name)


def test_a_missing_table_lists_those_beside_it(tmp_path):
    (tmp_path / "brain.csv").write_text("sentence,IFG\na,1\n")
    with pytest.raises(DataFileError, match=r"brain\.csv"):
        BrainResponses.from_table(tmp_path / "brian.csv")


def test_the_precision_of_the_responses_is_kept(stimuli, tmp_path):
    single = VALUES.astype(np.float32)
    responses = BrainResponses.from_arrays(single, stimuli)
    assert responses.values.dtype == np.float32
    assert np.shares_memory(responses.values, single)  # no copy is made
    again = BrainResponses.load(responses.save(tmp_path / "r.nc"))
    assert again.values.dtype == np.float32
    assert np.array_equal(again.values, single)
    assert BrainResponses.from_arrays(VALUES.astype(np.float16), stimuli).values.dtype == np.float32
    assert BrainResponses.from_arrays(np.arange(12).reshape(4, 3), stimuli).values.dtype == np.float64


def test_stretches_of_missing_responses_are_listed(stimuli):
    values = np.arange(20.0).reshape(4, 5)
    values[1:3, [0, 1]] = np.nan  # two voxels lack the same two stimuli
    values[3, 4] = values[0, 4] = np.nan  # one lacks two stretches
    responses = BrainResponses.from_arrays(
        values, stimuli, roi=["a", "a", "b", "b", "b"], subject=["s1"] * 3 + ["s2"] * 2
    )
    missing = responses.missing()
    assert missing["first"].tolist() == ["s0001", "s0000", "s0003"]
    assert missing["last"].tolist() == ["s0002", "s0000", "s0003"]
    assert missing["n_stimuli"].tolist() == [2, 1, 1]
    assert missing["n_voxels"].tolist() == [2, 1, 1]
    assert missing["subjects"].tolist() == ["s1", "s2", "s2"]
    assert missing["rois"].tolist() == ["a", "b", "b"]
    assert BrainResponses.from_arrays(VALUES, stimuli).missing().empty


def test_a_parquet_table_is_read(table, tmp_path):
    table.to_parquet(tmp_path / "brain.parquet")
    responses = BrainResponses.from_table(tmp_path / "brain.parquet", group="run", ceilings=0.5, design="timeseries")
    assert np.array_equal(responses.values, VALUES[:, :2])  # to the last bit, unlike a table of digits
    assert responses.data["ceiling"].values.tolist() == [0.5, 0.5]
    assert responses.design == "timeseries"


def test_columns_named_by_numbers_are_read(stimuli):
    frame = pd.DataFrame({"sentence": ["a", "b", "c"], 1: [1.0, 2.0, 3.0], 2: [4.0, 5.0, 6.0]})
    brain = BrainResponses.from_table(frame)
    assert brain.rois == ["1", "2"]
    assert brain.values.tolist() == [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
    assert BrainResponses.from_table(frame, rois=[2]).rois == ["2"]
    with pytest.raises(InputError, match="several columns of one name: 1"):
        BrainResponses.from_table(frame.assign(**{"1": 0.0}))
    with pytest.raises(InputError, match="rois is 3: expected a list of columns"):
        BrainResponses.from_table(frame, rois=3)


@pytest.mark.parametrize("column", ["group", "stimulus"])
@pytest.mark.parametrize("blank", [None, np.nan, " "])
def test_a_row_without_a_label_is_named(column, blank):
    frame = pd.DataFrame({"sentence": ["a", "b", "c"], "label": ["p", "q", blank], "IFG": [1.0, 2.0, 3.0]})
    with pytest.raises(InputError, match=rf"row 2 of the table has no label in column 'label' \({column}\)"):
        BrainResponses.from_table(frame, **{column: "label"})


def test_what_is_no_real_number_is_refused(stimuli):
    n = len(stimuli)
    with pytest.raises(InputError, match="responses are an array of complex128"):
        BrainResponses.from_arrays(np.zeros((n, 2), dtype=complex), stimuli)
    with pytest.raises(InputError, match="responses are an array of <U1"):
        BrainResponses.from_arrays(np.full((n, 2), "a"), stimuli)
    with pytest.raises(InputError, match=r"responses holds '0\.5': expected real numbers"):
        BrainResponses.from_arrays(np.full((n, 2), "0.5", dtype=object), stimuli)
    with pytest.raises(InputError, match="ceiling holds 'high': expected real numbers"):
        BrainResponses.from_arrays(np.zeros((n, 2)), stimuli, ceiling=["high", "low"])
    frame = pd.DataFrame({"sentence": ["a", "b"], "IFG": [1 + 1j, 2j]})
    with pytest.raises(InputError, match="column 'IFG' of the table holds complex numbers"):
        BrainResponses.from_table(frame)
    with pytest.raises(InputError, match="ceilings holds 'x': expected real numbers"):
        BrainResponses.from_table(frame.assign(IFG=1.0), ceilings={"IFG": "x"})
