from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

import topobrain.data as data
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.brain_files import write_assembly
from topobrain.data.responses_manifest import KINDS, read_responses_manifest
from topobrain.responses import BrainResponses
from topobrain.stats.ceiling import noise_ceiling

N, SHAPE = 6, (3, 3, 2)
GENERATOR = np.random.default_rng(0)
VALUES = GENERATOR.standard_normal((N, 2))
BETAS = GENERATOR.standard_normal((2, *SHAPE, N)).astype(np.float32)
MASK = GENERATOR.random(SHAPE) < 0.6


def stimuli() -> pd.DataFrame:
    texts = [f"sentence {n}" for n in range(N)]
    return pd.DataFrame({"item": [f"i{n}" for n in range(N)], "words": texts, "story": ["a", "a", "b", "b", "c", "c"]})


def manifest(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "responses.toml").write_text(text)
    return folder / "responses.toml"


def table(folder: Path, extra: str = "", responses: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stimuli().assign(IFG=VALUES[:, 0], MFG=VALUES[:, 1]).to_csv(folder / "brain.csv", index=False)
    return manifest(
        folder,
        f"""
[responses]
kind = "table"
files = "brain.csv"
title = "Toy"
licence = "CC0"
citation = "Nobody (2000)"
{responses}
[stimuli]
text = "words"
id = "item"
group = "story"
{extra}
""",
    )


def volumes(folder: Path, options: str = "", ceiling: str = "", ids: list[str] | None = None) -> Path:
    for n, person in enumerate(("01", "02")):
        (folder / f"sub-{person}").mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(BETAS[n], np.eye(4)), folder / f"sub-{person}" / "betas.nii.gz")
    nibabel.save(nibabel.Nifti1Image(MASK.astype(np.int8), np.eye(4)), folder / "mask.nii.gz")
    frame = stimuli()
    if ids is not None:
        frame = frame.assign(item=ids, words=[f"sentence {label}" for label in ids], story="a")
    frame.to_csv(folder / "stimuli.csv", index=False)
    return manifest(
        folder,
        f"""
[responses]
kind = "nifti"
files = "sub-{{subject}}/betas.nii.gz"
subjects = ["01", "02"]
{ceiling}
[stimuli]
file = "stimuli.csv"
text = "words"
id = "item"
group = "story"
[options]
mask = "mask.nii.gz"
{options}
""",
    )


# --- kinds


def test_a_table_is_described_in_a_file(tmp_path: Path) -> None:
    path = table(
        tmp_path / "toy", responses='ceiling = { rois = { IFG = 0.5 } }\nsimulated = true\ndesign = "timeseries"'
    )
    brain = data.load_responses(path)
    np.testing.assert_allclose(brain.values, VALUES)
    assert brain.rois == ["IFG", "MFG"]
    assert brain.labels("stimulus").tolist() == [f"i{n}" for n in range(N)]
    assert brain.stimuli.column("group").tolist() == ["a", "a", "b", "b", "c", "c"]
    np.testing.assert_array_equal(brain.data["ceiling"].values, [0.5, np.nan])
    assert brain.simulated
    assert brain.design == "timeseries"
    assert brain.provenance["name"] == "toy"
    assert (brain.provenance["licence"], brain.provenance["citation"]) == ("CC0", "Nobody (2000)")
    np.testing.assert_allclose(data.load_responses(tmp_path / "toy").values, VALUES)  # the folder will do


def test_one_ceiling_serves_all_regions_and_a_subject_names_the_brain(tmp_path: Path) -> None:
    brain = data.load_responses(table(tmp_path, responses='ceiling = 0.4\nsubject = "P7"'))
    assert brain.data["ceiling"].values.tolist() == [0.4, 0.4]
    assert brain.subjects == ["P7"]


def test_a_long_table_with_people_as_repeats(tmp_path: Path) -> None:
    people = np.random.default_rng(1).standard_normal((3, N, 1)) + VALUES[None, :, :1]
    frame = pd.concat([stimuli().assign(who=f"p{p}", region="IFG", bold=people[p, :, 0]) for p in range(3)])
    frame.to_parquet(tmp_path / "long.parquet")
    path = manifest(
        tmp_path,
        """
[responses]
kind = "long-table"
files = "long.parquet"
ceiling = { method = "subjects" }
[stimuli]
text = "words"
id = "item"
[options]
value = "bold"
roi = "region"
subject = "who"
average_subjects = true
""",
    )
    brain = data.load_responses(path)
    np.testing.assert_allclose(brain.values, people.mean(axis=0))
    np.testing.assert_allclose(brain.data["ceiling"].values, noise_ceiling(people))


def test_volumes_of_several_people(tmp_path: Path) -> None:
    brain = data.load_responses(volumes(tmp_path / "toy"))
    np.testing.assert_array_equal(brain.values, np.hstack([BETAS[0][MASK].T, BETAS[1][MASK].T]))
    assert brain.subjects == ["01", "02"]
    assert brain.values.dtype == np.float32
    assert brain.stimuli.column("group").tolist() == ["a", "a", "b", "b", "c", "c"]
    assert brain.data.attrs["shape"].tolist() == list(SHAPE)  # one grid: it is kept
    smooth = data.load_responses(volumes(tmp_path / "smooth", options="smoothing_fwhm = 3.0"))
    assert np.abs(smooth.values - brain.values).max() > 0.1


def test_repeated_identifiers_are_repeats(tmp_path: Path) -> None:
    ids = ["a", "b", "c", "c", "a", "b"]
    brain = data.load_responses(volumes(tmp_path / "toy", ceiling='ceiling = { method = "repeats" }', ids=ids))
    shown = BETAS[0][MASK].T[[[0, 1, 2], [4, 5, 3]]]
    np.testing.assert_allclose(brain.where(subject="01").values, shown.mean(axis=0))
    np.testing.assert_allclose(brain.where(subject="01").data["ceiling"].values, noise_ceiling(shown))
    assert brain.labels("stimulus").tolist() == ["a", "b", "c"]
    with pytest.raises(
        InputError, match=r"asks for repeats, but \[stimuli\] 'id' does not name every stimulus equally"
    ):
        data.load_responses(volumes(tmp_path / "not", ceiling='ceiling = { method = "repeats" }'))


def test_images_one_a_stimulus_with_an_image_of_ceilings(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    path = volumes(folder)
    for n in range(N):
        nibabel.save(nibabel.Nifti1Image(BETAS[0][..., n], np.eye(4)), folder / f"beta_i{n}.nii")
    ceiling = np.random.default_rng(0).random(SHAPE)
    nibabel.save(nibabel.Nifti1Image(ceiling, np.eye(4)), folder / "nc.nii")
    text = path.read_text().replace('"sub-{subject}/betas.nii.gz"', '"beta_{stimulus}.nii"')
    path.write_text(text.replace('subjects = ["01", "02"]', 'ceiling = { file = "nc.nii" }'))
    brain = data.load_responses(path)
    np.testing.assert_array_equal(brain.values, BETAS[0][MASK].T)
    np.testing.assert_allclose(brain.data["ceiling"].values, ceiling[MASK])


@pytest.mark.parametrize("kind", ["gifti", "mgh"])
def test_surfaces(tmp_path: Path, kind: str) -> None:
    sides = {h: np.random.default_rng(ord(h)).standard_normal((N, 8)).astype(np.float32) for h in "lr"}
    for h, rows in sides.items():
        if kind == "gifti":
            arrays = [nibabel.gifti.GiftiDataArray(row, intent="NIFTI_INTENT_NONE", datatype=16) for row in rows]
            nibabel.save(nibabel.gifti.GiftiImage(darrays=arrays), tmp_path / f"hemi-{h.upper()}.func.gii")
        else:
            nibabel.save(
                nibabel.MGHImage(np.ascontiguousarray(rows.T[:, None, None]), np.eye(4)), tmp_path / f"{h}h.betas.mgh"
            )
    stimuli().to_csv(tmp_path / "stimuli.tsv", sep="\t", index=False)
    files = "hemi-{hemi}.func.gii" if kind == "gifti" else "{h}.betas.mgh"
    path = manifest(
        tmp_path,
        f'[responses]\nkind = "{kind}"\nfiles = "{files}"\nsubject = "s1"\n[stimuli]\nfile = "stimuli.tsv"\ntext = "words"\n'
        '[options]\nmedial_wall = "keep"\n',
    )
    brain = data.load_responses(path)
    np.testing.assert_array_equal(brain.values, np.hstack([sides["l"], sides["r"]]))
    assert brain.subjects == ["s1"]
    assert len(read_responses_manifest(path).files()) == 3
    assert read_responses_manifest(path).state() == "unverified"


def test_an_assembly(tmp_path: Path) -> None:
    source = data.load_responses(table(tmp_path / "toy"))
    write_assembly(source, tmp_path / "assy.nc")
    path = manifest(
        tmp_path,
        '[responses]\nkind = "netcdf"\nfiles = "assy.nc"\ncitation = "Me"\n[stimuli]\ngroup = "group"\n'
        "[options]\nselect = { roi = ['MFG'] }\n",
    )
    brain = data.load_responses(path)
    np.testing.assert_array_equal(brain.values, VALUES[:, 1:])
    assert brain.provenance["citation"] == "Me"
    # The file itself is read too.
    np.testing.assert_array_equal(
        data.load_responses(tmp_path / "assy.nc", select={"roi": "IFG"}).values, VALUES[:, :1]
    )


def test_a_bids_tree(tmp_path: Path) -> None:
    func = tmp_path / "derivatives" / "sub-01" / "func"
    func.mkdir(parents=True)
    image = nibabel.Nifti1Image(BETAS[0], np.eye(4))
    image.header.set_zooms((1, 1, 1, 2))
    nibabel.save(image, func / "sub-01_task-story_space-T1w_desc-preproc_bold.nii.gz")
    nibabel.save(nibabel.Nifti1Image(MASK.astype(np.int8), np.eye(4)), tmp_path / "mask.nii.gz")
    path = manifest(
        tmp_path,
        '[responses]\nkind = "bids"\nfiles = "derivatives"\nsubjects = ["01"]\n'
        '[options]\ntask = "story"\nspace = "T1w"\nmask = "mask.nii.gz"\ndetrend = true\n',
    )
    brain = data.load_responses(path)
    assert brain.design == "timeseries"
    assert brain.subjects == ["sub-01"]
    assert brain.values.shape == (N, MASK.sum())
    trend = np.arange(N) - (N - 1) / 2
    assert np.abs(trend @ brain.values).max() < 1e-4
    path.write_text(path.read_text().replace('"story"', '"storys"'))
    with pytest.raises(UnknownNameError, match=r"responses\.toml: unknown BIDS task .*'storys'\. Did you mean 'story'"):
        data.load_responses(path)


def test_a_volume_can_be_read_without_a_description(tmp_path: Path) -> None:
    source = data.load_responses(volumes(tmp_path / "toy"))
    path = tmp_path / "toy" / "sub-01" / "betas.nii.gz"
    brain = data.load_responses(path, stimuli=source.stimuli, mask=tmp_path / "toy" / "mask.nii.gz")
    np.testing.assert_array_equal(brain.values, BETAS[0][MASK].T)
    call = rf"is a brain image.*needs stimuli=.*load_responses\('{re.escape(str(path))}', stimuli=StimulusSet"
    with pytest.raises(DataFileError, match=call):
        data.load_responses(path)


# --- names in the store


def test_a_folder_of_the_store_is_a_name(store: Path) -> None:
    table(store / "my-study")
    np.testing.assert_allclose(data.load_responses("my-study").values, VALUES)
    rows = data.list_data().set_index("name")
    assert rows.loc["my-study", ["kind", "access", "status", "licence", "title"]].tolist() == [
        *("responses", "local", "unverified", "CC0", "Toy")
    ]
    assert rows.loc["my-study", "n_files"] == 1
    assert rows.index.is_unique
    with pytest.raises(InputError, match="takes no options, got text"):
        data.load_responses("my-study", text="words")
    with pytest.raises(UnknownNameError, match="unknown set of brain responses 'my-studio'"):
        data.load_responses("my-studio")


def test_the_list_knows_what_is_missing_altered_or_wrong(store: Path) -> None:
    digest = hashlib.sha256((table(store / "good").parent / "brain.csv").read_bytes()).hexdigest()
    table(store / "good", extra=f'[sha256]\n"brain.csv" = "{digest}"')
    table(store / "altered", extra=f'[sha256]\n"brain.csv" = "{"0" * 64}"')
    (table(store / "missing").parent / "brain.csv").unlink()
    volumes(store / "incomplete")
    (store / "incomplete" / "sub-02" / "betas.nii.gz").unlink()
    manifest(store / "wrong", '[responses]\nkind = "tabel"\nfiles = "x.csv"')
    status = data.list_data().set_index("name")["status"]
    assert status[["good", "altered", "missing", "incomplete", "wrong"]].tolist() == [
        *("verified", "altered", "missing", "incomplete", "unreadable")
    ]
    assert "expected one of table" in data.list_data().set_index("name").loc["wrong", "title"]
    with pytest.raises(DataFileError, match=f"its sha256 is {digest}, expected {'0' * 64}"):
        data.load_responses("altered")
    with pytest.raises(DataFileError, match=r"missing.responses\.toml: no table"):
        data.load_responses("missing")


def test_a_known_name_is_not_taken(store: Path) -> None:
    table(store / "tuckute2024")
    with pytest.raises(InputError, match="has the name of a data set that topobrain knows"):
        data.load_responses("tuckute2024")


# --- mistakes in the file


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'kind = "table"',
            'kind = "tabel"',
            r"key 'kind' of \[responses\] is 'tabel', expected one of table, .*mean 'table'",
        ),
        ('kind = "table"', "", r"key 'kind' of \[responses\] is missing: expected one of table"),
        ('files = "brain.csv"', "", r"key 'files' of \[responses\] is missing"),
        ('files = "brain.csv"', "files = 3", r"key 'files' of \[responses\] is 3, expected text or a list or a table"),
        ('title = "Toy"', 'titel = "Toy"', r"key 'titel' of \[responses\] is not known\. Did you mean 'title'"),
        ('title = "Toy"', "simulated = 1", r"key 'simulated' of \[responses\] is 1, expected true or false"),
        (
            'title = "Toy"',
            'design = "time"',
            r"key 'design' of \[responses\] is 'time', expected one of events, timeseries",
        ),
        ('title = "Toy"', "ceiling = 1.5", "ceiling 1.5 is no correlation"),
        (
            'title = "Toy"',
            "ceiling = { roi = 0.5 }",
            r"has 'roi'; for kind 'table' expected value, rois\. Did you mean 'rois'",
        ),
        ('title = "Toy"', "ceiling = {}", "expected one of value, rois, column, method, file"),
        ('title = "Toy"', "ceiling = { rois = { IFGG = 0.5 } }", "'IFGG'. Did you mean 'IFG'"),
        ('title = "Toy"', 'subjects = ["a"]', r"has 'subjects', but no \{subject\} in 'files'"),
        ('text = "words"', 'text = "word"', r"has no column 'word'\. Did you mean 'words'"),
        ('text = "words"', 'txt = "words"', r"key 'txt' of \[stimuli\] is not known\. Did you mean 'text'"),
        ('text = "words"', 'file = "brain.csv"', r"key 'file' of \[stimuli\] has no meaning for kind 'table'"),
        ("[stimuli]", "[stimulus]", r"section \[stimulus\] is not known\. Did you mean 'stimuli'"),
        (
            "[stimuli]",
            '[options]\nroi = ["IFG"]\n[stimuli]',
            r"key 'roi' of \[options\] is not known\. Did you mean 'rois'",
        ),
        ("[stimuli]", '[sha256]\n"brain.csv" = "12"\n[stimuli]', r"\[sha256\] of 'brain.csv' is '12', expected 64"),
        ("[responses]", "[responses", "is not a readable TOML file"),
        ("[responses]", "[stimuli2]", r"section \[stimuli2\] is not known"),
    ],
)
def test_a_mistake_is_named_with_its_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = table(tmp_path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises((InputError, UnknownNameError), match=message) as caught:
        data.load_responses(path)
    assert str(path) in str(caught.value)


def test_images_need_their_stimuli(tmp_path: Path) -> None:
    path = volumes(tmp_path / "toy")
    text = path.read_text()
    path.write_text(text.replace('file = "stimuli.csv"', ""))
    with pytest.raises(
        InputError, match=r"files of kind 'nifti' hold no texts: expected .*\[stimuli\] with a key 'file'"
    ):
        data.load_responses(path)
    path.write_text(text.replace('group = "story"', 'group = "storey"'))
    with pytest.raises(
        InputError, match=r"key 'group' of \[stimuli\] is 'storey', which is no column .*Did you mean 'story'"
    ):
        data.load_responses(path)
    path.write_text(text.replace('mask = "mask.nii.gz"', 'mask = "mask.nii.gz"\nsmoothing = 4'))
    with pytest.raises(InputError, match=r"'smoothing' of \[options\] is not known\. Did you mean 'smoothing_fwhm'"):
        data.load_responses(path)
    path.write_text(text.replace('"mask.nii.gz"', '"mosk.nii.gz"'))
    with pytest.raises(DataFileError, match=r"responses\.toml: no mask .*mosk\.nii\.gz\. Did you mean 'mask\.nii\.gz'"):
        data.load_responses(path)
    with pytest.raises(DataFileError, match=r"cannot read .*responses\.toml"):
        read_responses_manifest(tmp_path / "nowhere" / "responses.toml")


def test_every_kind_is_in_the_guide() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "your_own_brain_data.md").read_text()
    for kind in KINDS:
        assert f"`{kind}`" in guide


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "your_own_brain_data.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "your_own_brain_data.md", "exec"), {})
    assert "PostTemp" in capsys.readouterr().out
    # Its descriptions are correct, too: only their files are not here.
    for n, text in enumerate(re.findall(r"```toml\n(.*?)```", guide, re.S)):
        described = manifest(tmp_path / f"toml{n}", text)
        assert read_responses_manifest(described).kind in KINDS
    assert isinstance(data.load_responses(os.fspath(tmp_path / "reading-study")), BrainResponses)


def test_a_folder_here_is_found_by_its_bare_name(tmp_path, monkeypatch):
    folder = tmp_path / "my-reading"
    folder.mkdir()
    (folder / "table.csv").write_text("sentence,IFG\n" + "".join(f"text {i},{i % 7}\n" for i in range(12)))
    (folder / "responses.toml").write_text('[responses]\nkind = "table"\ntitle = "t"\nfiles = "table.csv"\n')
    monkeypatch.chdir(tmp_path)
    assert data.load_responses("my-reading").rois == ["IFG"]


def test_a_near_name_may_be_a_folder_of_the_store(tmp_path, monkeypatch):
    (tmp_path / "my-reading").mkdir()
    (tmp_path / "my-reading" / "responses.toml").write_text("[responses]\n")
    monkeypatch.setenv("TOPOBRAIN_DATA", str(tmp_path))
    with pytest.raises(UnknownNameError, match="Did you mean 'my-reading'"):
        data.load_responses("my-readin")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('kind = "long-table"\nfiles = "t.csv"', r"key 'value' of \[options\] is missing: kind 'long-table' needs it"),
        ('kind = "bids"\nfiles = "."\nsubject = "01"', r"key 'task' of \[options\] is missing: kind 'bids' needs it"),
        (
            'kind = "bids"\nfiles = ["."]\nsubject = "01"\n[options]\ntask = "story"',
            r"key 'files' of \[responses\] is \['\.'\]: kind 'bids' takes one path",
        ),
        (
            'kind = "table"\nfiles = "t.csv"\nceiling = { rois = { IFG = "x" } }',
            r"ceiling\.rois\.IFG is 'x', expected a number from 0 to 1",
        ),
        (
            'kind = "nifti"\nfiles = "b.nii"\nceiling = { file = 3 }\n[stimuli]\nfile = "s.csv"',
            r"ceiling\.file is 3, expected text",
        ),
        ('kind = "table"\nfiles = "t.csv"\n[options]\nrois = 3', r"key 'rois' of \[options\] is 3, expected a list"),
        (
            'kind = "table"\nfiles = "t.csv"\n[options]\nrois = [3]',
            r"'rois' of \[options\] is \[3\], expected a list of texts",
        ),
    ],
)
def test_what_a_reader_cannot_do_without_is_named_with_its_key(tmp_path: Path, text: str, message: str) -> None:
    pd.DataFrame({"sentence": ["a", "b"], "IFG": [1.0, 2.0]}).to_csv(tmp_path / "t.csv", index=False)
    path = manifest(tmp_path, f"[responses]\n{text}\n")
    with pytest.raises(InputError, match=message) as caught:
        data.load_responses(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("column", ["words", "story"])
def test_repeats_with_several_texts_or_groups_are_refused(tmp_path: Path, column: str) -> None:
    path = volumes(tmp_path / "toy", ids=["x", "y", "z", "x", "y", "z"])
    source = tmp_path / "toy" / "stimuli.csv"
    frame = pd.read_csv(source)
    frame.loc[4, column] = "another"
    frame.to_csv(source, index=False)
    with pytest.raises(
        InputError,
        match=rf"stimulus 'y' of .*stimuli\.csv has several values in column '{column}': .*row 1.*'another' \(row 4\)",
    ):
        data.load_responses(path)


@pytest.mark.parametrize(("column", "key"), [("story", "group"), ("item", "id")])
def test_a_stimulus_without_a_group_or_identifier_is_named_by_its_row(tmp_path: Path, column: str, key: str) -> None:
    for folder, file in ((tmp_path / "images", "stimuli.csv"), (tmp_path / "table", "brain.csv")):
        path = (volumes if folder.name == "images" else table)(folder)
        frame = pd.read_csv(folder / file)
        frame.loc[3, column] = np.nan
        frame.to_csv(folder / file, index=False)
        with pytest.raises(InputError, match=rf"row 3 of .*{file} has no label in column '{column}'"):
            data.load_responses(path)
