from __future__ import annotations

import json
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.activations import Activations
from topobrain.brain_files import (
    find_bids,
    parse_bids_name,
    read_confounds,
    read_events,
    responses_from_bids,
    responses_from_nifti,
)
from topobrain.stimuli import StimulusSet
from topobrain.time_series import words_to_volumes

SHAPE, AFFINE, TR = (4, 5, 3), np.diag([3.0, 3, 3, 1]), 2.0
MNI = "MNI152NLin2009cAsym"
LENGTHS = {"1": 12, "2": 10}


def bold(run: str) -> np.ndarray:
    return 100 + np.random.default_rng(int(run)).standard_normal((*SHAPE, LENGTHS[run])).astype(np.float32)


def confounds(run: str) -> pd.DataFrame:
    values = np.random.default_rng(10 + int(run)).standard_normal((LENGTHS[run], 3))
    frame = pd.DataFrame(values, columns=["trans_x", "trans_y", "framewise_displacement"])
    frame.loc[0, "framewise_displacement"] = np.nan
    return frame


def brain_mask(run: str) -> np.ndarray:
    mask = np.random.default_rng(5).random(SHAPE) < 0.6
    mask[0, 0, 0] = run == "1"
    return mask


@pytest.fixture
def derivatives(tmp_path: Path) -> Path:
    """A small tree as fMRIPrep writes it: two runs in MNI space and on fsaverage3, confounds, masks, sidecars."""
    root = tmp_path / "derivatives" / "fmriprep"
    func = root / "sub-01" / "func"
    func.mkdir(parents=True)
    (root / "sub-01" / "anat").mkdir()
    (root / "dataset_description.json").write_text(json.dumps({"Name": "fMRIPrep", "DatasetType": "derivative"}))
    (root / "sub-01.html").write_text("")
    nibabel.save(
        nibabel.Nifti1Image(np.zeros(SHAPE), AFFINE), root / "sub-01" / "anat" / "sub-01_desc-preproc_T1w.nii.gz"
    )
    for run in LENGTHS:
        base = f"sub-01_task-story_run-{run}"
        space = f"{base}_space-{MNI}"
        nibabel.save(nibabel.Nifti1Image(bold(run), AFFINE), func / f"{space}_desc-preproc_bold.nii.gz")
        sidecar = {"RepetitionTime": TR, "StartTime": 1.0, "SliceTimingCorrected": True}
        (func / f"{space}_desc-preproc_bold.json").write_text(json.dumps(sidecar))
        nibabel.save(
            nibabel.Nifti1Image(brain_mask(run).astype(np.int8), AFFINE), func / f"{space}_desc-brain_mask.nii.gz"
        )
        nibabel.save(nibabel.Nifti1Image(bold(run)[..., 0], AFFINE), func / f"{space}_boldref.nii.gz")
        confounds(run).to_csv(func / f"{base}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
        for hemi in "LR":
            rows = np.random.default_rng(ord(hemi) + int(run)).standard_normal((LENGTHS[run], 642)).astype(np.float32)
            arrays = [nibabel.gifti.GiftiDataArray(r, intent="NIFTI_INTENT_TIME_SERIES", datatype=16) for r in rows]
            name = f"{base}_hemi-{hemi}_space-fsaverage3_bold"
            nibabel.save(nibabel.gifti.GiftiImage(darrays=arrays), func / f"{name}.func.gii")
            (func / f"{name}.json").write_text(json.dumps({"RepetitionTime": TR}))
    return root


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The raw data set with its events."""
    func = tmp_path / "raw" / "sub-01" / "func"
    func.mkdir(parents=True)
    for run in LENGTHS:
        events = pd.DataFrame(
            {"onset": [0.1, 2.4, 6.6, 99], "duration": 0.2, "word": [f"once{run}", "upon", "time", "late"]}
        )
        events.to_csv(func / f"sub-01_task-story_run-{run}_events.tsv", sep="\t", index=False)
    return tmp_path / "raw"


def test_names_are_taken_apart() -> None:
    found = parse_bids_name(f"x/sub-01_ses-a_task-story_run-02_space-{MNI}_res-2_desc-preproc_bold.nii.gz")
    assert found is not None
    assert found.entities == {
        "sub": "01",
        "ses": "a",
        "task": "story",
        "run": "02",
        "space": MNI,
        "res": "2",
        "desc": "preproc",
    }
    assert (found.suffix, found.extension) == ("bold", ".nii.gz")
    for other in ("README", "sub-01.html", "dataset_description.json", "sub-01_.nii", "sub-01_T1-w.nii"):
        assert parse_bids_name(other) is None or other == "sub-01.html"


def test_files_are_found_by_entities_and_sorted(derivatives: Path) -> None:
    files = find_bids(derivatives, subject="sub-01", task="story", space=MNI, suffix="bold", extension=".nii.gz")
    assert [f.entities["run"] for f in files] == ["1", "2"]
    assert [f.path.name for f in find_bids(derivatives, sub="01", run="02", desc="confounds")] == [
        "sub-01_task-story_run-2_desc-confounds_timeseries.tsv"
    ]
    assert len(find_bids(derivatives, subject="01", suffix="bold", extension=".func.gii", run=[1, 2])) == 4
    assert {f.suffix for f in find_bids(derivatives, subject="01", space=None)} == {"T1w", "timeseries"}


def test_an_entity_without_files_is_answered_with_near_values(derivatives: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"BIDS task .*'storys'\. Did you mean 'story'"):
        find_bids(derivatives, subject="01", suffix="bold", task="storys")
    with pytest.raises(UnknownNameError, match=r"'MNI152'.*Did you mean 'MNI152NLin2009cAsym'.*among the files with"):
        find_bids(derivatives, subject="01", task="story", suffix="bold", space="MNI152")
    with pytest.raises(UnknownNameError, match=r"BIDS sub .*'02'.*Known: 01"):
        find_bids(derivatives, subject="02")
    with pytest.raises(DataFileError, match="no folder"):
        find_bids(derivatives / "nowhere")
    (derivatives / "empty").mkdir()
    with pytest.raises(DataFileError, match="no file with a BIDS name"):
        find_bids(derivatives / "empty")


def test_confounds_are_chosen_by_pattern_and_the_first_gap_is_filled(derivatives: Path) -> None:
    path = derivatives / "sub-01" / "func" / "sub-01_task-story_run-1_desc-confounds_timeseries.tsv"
    frame = read_confounds(path, ["framewise_displacement", "trans_?"])
    assert list(frame.columns) == ["framewise_displacement", "trans_x", "trans_y"]
    expected = confounds("1")
    assert frame["framewise_displacement"][0] == pytest.approx(expected["framewise_displacement"].mean())
    np.testing.assert_allclose(frame["trans_y"], expected["trans_y"])
    with pytest.raises(UnknownNameError, match=r"'trans_z'. Did you mean 'trans_"):
        read_confounds(path, ["trans_z"])
    broken = expected.copy()
    broken.loc[4, "trans_x"] = np.nan
    broken.to_csv(path, sep="\t", index=False, na_rep="n/a")
    with pytest.raises(InputError, match="'trans_x' has no value in volume 4"):
        read_confounds(path, ["trans_x"])


def test_events_are_read_and_checked(raw: Path, tmp_path: Path) -> None:
    events = read_events(raw / "sub-01" / "func" / "sub-01_task-story_run-1_events.tsv")
    assert events["word"].tolist() == ["once1", "upon", "time", "late"]
    (tmp_path / "x.tsv").write_text("start\tduration\n1\t2\n")
    with pytest.raises(InputError, match="no column 'onset'"):
        read_events(tmp_path / "x.tsv")
    (tmp_path / "x.tsv").write_text("onset\tduration\nn/a\t2\n")
    with pytest.raises(InputError, match="'onset' holds something that is no number"):
        read_events(tmp_path / "x.tsv")


def test_runs_follow_each_other_with_confounds_regressed_out(derivatives: Path) -> None:
    from nilearn.signal import clean

    brain = responses_from_bids(
        derivatives,
        subject="01",
        task="story",
        space=MNI,
        confounds=["trans_?"],
        detrend=True,
        standardize="zscore_sample",
    )
    inside = brain_mask("1") & brain_mask("2")  # the masks of both runs
    parts = [
        clean(
            bold(run)[inside].T,
            detrend=True,
            standardize="zscore_sample",
            confounds=confounds(run)[["trans_x", "trans_y"]],
        )
        for run in LENGTHS
    ]
    np.testing.assert_allclose(brain.values, np.concatenate(parts), atol=1e-4)
    for part, run in zip(np.split(brain.values, [12]), LENGTHS, strict=True):
        assert np.abs(confounds(run)[["trans_x", "trans_y"]].to_numpy().T @ part).max() < 1e-3
    assert brain.design == "timeseries"
    assert brain.subjects == ["sub-01"]
    assert brain.stimuli.column("group").tolist() == ["run-1"] * 12 + ["run-2"] * 10
    assert brain.data["time_s"].values[:3].tolist() == [0.0, 2.0, 4.0]  # StartTime, 1 s, is the middle
    assert brain.data["time_s"].values[12] == 0
    assert brain.provenance["confounds"] == ["trans_x", "trans_y"]
    assert brain.provenance["tr_s"] == TR
    assert brain.data.attrs["space"] == MNI
    assert set(brain.labels("text")) == {"(nothing)"}


def test_nothing_is_done_to_the_values_unless_asked(derivatives: Path) -> None:
    brain = responses_from_bids(derivatives, subject="01", task="story", space=MNI, runs=[2])
    np.testing.assert_array_equal(brain.values, bold("2")[brain_mask("2")].T)
    plain = responses_from_nifti(
        nibabel.Nifti1Image(bold("2"), AFFINE),
        StimulusSet([f"v{n}" for n in range(10)]),
        mask=nibabel.Nifti1Image(brain_mask("2").astype(np.int8), AFFINE),
    )
    np.testing.assert_array_equal(plain.data["k"], brain.data["k"])


def test_a_volume_says_what_begins_in_it(derivatives: Path, raw: Path) -> None:
    brain = responses_from_bids(derivatives, subject="01", task="story", space=MNI, events=raw, text="word", runs=["1"])
    # Volumes begin at 0, 2, 4, 6 s.
    assert brain.labels("text")[:4].tolist() == ["once1", "upon", "(nothing)", "time"]
    with pytest.raises(InputError, match=r"has no column 'words'. Did you mean 'word'"):
        responses_from_bids(derivatives, subject="01", task="story", space=MNI, events=raw, text="words")


@pytest.mark.parametrize(("start_time", "first"), [(None, 0.0), (0, 0.0), (0.9, -0.1), (1.0, 0.0), (7.0, 6.0)])
def test_texts_and_features_of_a_volume_agree(
    derivatives: Path, raw: Path, start_time: float | None, first: float
) -> None:
    for run in LENGTHS:
        sidecar = derivatives / "sub-01" / "func" / f"sub-01_task-story_run-{run}_space-{MNI}_desc-preproc_bold.json"
        fields = {"RepetitionTime": TR} | ({} if start_time is None else {"StartTime": start_time})
        sidecar.write_text(json.dumps(fields))
    heard = {"onset": [0.0, 0.1, 1.95, 2.4, 6.0, 6.6, 7.99, 8.0, 25.0], "word": list("abcdefghi")}
    for run in LENGTHS:
        table = pd.DataFrame(heard).assign(duration=0.2)
        table.to_csv(raw / "sub-01" / "func" / f"sub-01_task-story_run-{run}_events.tsv", sep="\t", index=False)
    brain = responses_from_bids(derivatives, subject="01", task="story", space=MNI, events=raw, text="word", runs=["1"])
    assert brain.data["time_s"].values[:2] == pytest.approx([first, first + TR])
    words = StimulusSet(heard["word"], {"onset_s": heard["onset"]})
    one_hot = Activations.from_arrays({"word": np.eye(9)}, words)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the last run begins late, what came before is lost to both
        volumes = words_to_volumes(one_hot, brain).values("word")
    for text, row in zip(brain.labels("text"), volumes, strict=True):
        assert text == (" ".join(np.array(heard["word"])[row > 0]) or "(nothing)")
    if start_time == 1.0:
        assert brain.labels("text")[:4].tolist() == ["a b c", "d", "(nothing)", "e f g"]


def test_surfaces_of_both_hemispheres_are_read(derivatives: Path) -> None:
    brain = responses_from_bids(derivatives, subject="01", task="story", space="fsaverage3", confounds=["trans_x"])
    assert brain.values.shape == (22, 2 * 642)
    assert brain.labels("hemisphere")[[0, 700]].tolist() == ["left", "right"]
    assert brain.data.attrs["n_vertices_right"] == 642
    for part, run in zip(np.split(brain.values, [12]), LENGTHS, strict=True):
        confound = confounds(run)["trans_x"].to_numpy()
        assert np.abs((confound - confound.mean()) @ part).max() < 1e-3
    next(derivatives.rglob("*run-2_hemi-R*.gii")).unlink()
    with pytest.raises(InputError, match=r"the right hemisphere \(hemi-R\) of sub-01_task-story_run-2_hemi-L"):
        responses_from_bids(derivatives, subject="01", task="story", space="fsaverage3")


def test_what_is_ambiguous_or_missing_is_named(derivatives: Path, raw: Path) -> None:
    with pytest.raises(InputError, match=r"several files of one run fit: they differ in space"):
        responses_from_bids(derivatives, subject="01", task="story")
    with pytest.raises(DataFileError, match="holds no desc-denoised bold file"):
        responses_from_bids(derivatives, subject="01", task="story", space=MNI, desc="denoised")
    func = derivatives / "sub-01" / "func"
    confounds("1")[:5].to_csv(
        func / "sub-01_task-story_run-1_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a"
    )
    with pytest.raises(InputError, match="have 5 rows for 12 volumes"):
        responses_from_bids(derivatives, subject="01", task="story", space=MNI, confounds=["trans_x"])
    (func / "sub-01_task-story_run-1_desc-confounds_timeseries.tsv").unlink()
    with pytest.raises(DataFileError, match=r"has no desc-confounds_timeseries.tsv"):
        responses_from_bids(derivatives, subject="01", task="story", space=MNI, confounds=["trans_x"])
    (raw / "sub-01" / "func" / "sub-01_task-story_run-2_events.tsv").unlink()
    with pytest.raises(DataFileError, match=r"has no events.tsv for .*run-2"):
        responses_from_bids(derivatives, subject="01", task="story", space=MNI, events=raw, text="word")
    moved = AFFINE.copy()
    moved[0, 3] = 9
    nibabel.save(
        nibabel.Nifti1Image(bold("2"), moved), func / f"sub-01_task-story_run-2_space-{MNI}_desc-preproc_bold.nii.gz"
    )
    with pytest.raises(InputError, match=r"run 2 .*lies on another grid than the first"):
        responses_from_bids(derivatives, subject="01", task="story", space=MNI, mask=None, labels=None, t_r=2.0)


def test_without_a_sidecar_the_image_tells_the_time_between_volumes(derivatives: Path) -> None:
    func = derivatives / "sub-01" / "func"
    for path in func.glob("*.json"):
        path.unlink()
    for run in LENGTHS:
        image = nibabel.Nifti1Image(bold(run), AFFINE)
        image.header.set_zooms((3, 3, 3, 1.25))
        nibabel.save(image, func / f"sub-01_task-story_run-{run}_space-{MNI}_desc-preproc_bold.nii.gz")
    brain = responses_from_bids(derivatives, subject="01", task="story", space=MNI)
    assert brain.provenance["tr_s"] == 1.25
    with pytest.raises(InputError, match=r"the time between volumes of .* is not known: give t_r="):
        responses_from_bids(derivatives, subject="01", task="story", space="fsaverage3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", r"_bold\.json holds a list: expected a JSON object"),
        ('{"RepetitionTime": "fast"}', r"RepetitionTime of .*_bold\.json is 'fast': expected seconds"),
        ('{"RepetitionTime": 2, "StartTime": [0]}', r"StartTime of .*_bold\.json is \[0\]: expected seconds"),
        ('{"RepetitionTime": Infinity}', r"RepetitionTime of .*_bold\.json is inf: expected seconds"),
    ],
)
def test_a_sidecar_that_says_no_time_is_named(derivatives: Path, content: str, message: str) -> None:
    for sidecar in derivatives.rglob("*_bold.json"):
        sidecar.write_text(content)
    with pytest.raises((InputError, DataFileError), match=message):
        responses_from_bids(derivatives, subject="01", task="story", space="MNI152NLin2009cAsym")


def test_times_that_are_no_seconds_are_named(derivatives: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="t_r is 'fast': expected seconds"):
        responses_from_bids(derivatives, subject="01", task="story", space="MNI152NLin2009cAsym", t_r="fast")
    path = tmp_path / "sub-01_task-story_events.tsv"
    path.write_text("onset\tduration\n1\t1\ninf\t1\n")
    with pytest.raises(InputError, match=r"events\.tsv: onset of row 1 is inf: expected seconds"):
        read_events(path)
    with pytest.raises(InputError, match=r"the BIDS folder is \['\.'\]: expected one path"):
        find_bids(["."])
