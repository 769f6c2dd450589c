from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import topobrain.data as data
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.responses import BrainResponses
from topobrain.stimuli import StimulusSet

SOURCE_FIELDS = {"name", "citation", "licence", "access", "files"}


def serve(monkeypatch: pytest.MonkeyPatch, module: str, paths: dict[str, Path]) -> None:
    """Let a loader read other files than those of the store."""
    monkeypatch.setattr(f"topobrain.data.{module}.fetch", lambda *_: paths)


# --- names


def test_importing_the_module_loads_no_large_library() -> None:
    code = "import sys, topobrain.data; print([m for m in ('pandas', 'xarray', 'torch', 'pooch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_answered_with_near_names_and_the_command() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown stimulus set 'lancloc'\. Did you mean 'langloc'") as caught:
        data.load_stimuli("lancloc")
    assert "`topobrain data list` shows them all." in str(caught.value)
    with pytest.raises(UnknownNameError, match=r"unknown text corpus 'braun'\. Did you mean 'brown'"):
        data.load_text("braun")
    with pytest.raises(
        UnknownNameError, match=r"unknown set of brain responses 'tuckute'\. Did you mean 'tuckute2024'"
    ):
        data.load_responses("tuckute")


def test_near_names_of_the_other_verbs_are_offered_with_the_verb() -> None:
    with pytest.raises(
        UnknownNameError, match=r"Did you mean 'haxby2001'.*\('haxby2001' is read with load_responses\.\)"
    ):
        data.load_stimuli("haxby")


def test_a_name_of_another_verb_names_the_verb() -> None:
    with pytest.raises(UnknownNameError, match=r"'alice' is no stimulus set: use load_responses\('alice'\)"):
        data.load_stimuli("alice")
    with pytest.raises(UnknownNameError, match=r"'blimp' is no text corpus: use load_stimuli\('blimp'\)"):
        data.load_text("blimp")


def test_an_unknown_option_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"cannot load 'alice': .*'resolutoin'\. Did you mean 'resolution'\?"):
        data.load_responses("alice", resolutoin="6mm")
    with pytest.raises(
        InputError, match=r"cannot load 'langloc': .*'sets'\. Options: length, n_words, tokenizer, max_tokens"
    ):
        data.load_stimuli("langloc", sets=1)


def test_the_list_has_one_row_a_name(store: Path) -> None:
    table = data.list_data()
    assert list(table.columns) == ["name", "kind", "access", "status", "n_files", "megabytes", "licence", "title"]
    assert table["name"].is_unique
    assert {*data.STIMULI, *data.RESPONSES, *data.TEXT} <= set(table["name"])
    covered = {data.find_manifest(name)[0].name for name in table["name"] if name not in data.GENERATED}
    assert covered == set(data.load_manifests())
    rows = table.set_index("name")
    assert rows.loc["tuckute2024", "kind"] == "stimuli, responses"
    assert rows.loc["tuckute2024", "status"] == "missing"
    assert rows.loc["brown", ["n_files", "licence"]].tolist() == [1, "non-commercial"]
    assert rows.loc["brown", "megabytes"] == pytest.approx(5.971)
    assert rows.loc["simulated", ["access", "status", "n_files"]].tolist() == ["generated", "generated", 0]
    assert rows.loc["floc", ["kind", "n_files"]].tolist() == ["stimuli", 1584]
    assert set(rows["status"]) == {"missing", "generated"}


def test_the_list_sees_what_is_in_the_store(store: Path) -> None:
    (store / "tuckute2024").mkdir()
    (store / "tuckute2024" / "noise_ceilings.csv").write_text("roi,noise_ceiling_r\n")
    assert data.list_data().set_index("name").loc["tuckute2024", "status"] == "altered"


# --- stimuli from a file


def test_a_table_becomes_stimuli_with_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("stimulus,sentence,condition\nx1,a dog barks,real\nx2,null,odd\n")
    stimuli = data.load_stimuli(path)
    assert stimuli.items == ("a dog barks", "null")  # a word, not a missing value
    assert stimuli.ids == ["x1", "x2"]
    assert stimuli.column("condition").tolist() == ["real", "odd"]
    assert stimuli.name == "mine"


def test_the_text_column_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text("\ttext\n0\ta dog\n1\ta cat\n")
    stimuli = data.load_stimuli(str(path), text="text")
    assert stimuli.items == ("a dog", "a cat")
    assert stimuli.table.columns.tolist() == []


def test_a_missing_text_column_offers_a_near_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("sentense,condition\na dog,real\n")
    with pytest.raises(InputError, match=r"mine\.csv has no column 'sentence'\. Did you mean 'sentense'\?.*condition"):
        data.load_stimuli(path)


def test_an_empty_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("sentence,condition\na dog,real\n ,real\n")
    with pytest.raises(InputError, match=r"row 2 of .*mine\.csv has an empty 'sentence'"):
        data.load_stimuli(path)


def test_a_text_file_gives_one_stimulus_a_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeffa dog\r\na cät\r\n\r\n".encode())
    assert data.load_stimuli(path).items == ("a dog", "a cät")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a dog\n\na cat\n", r"line 2 of .*mine\.txt is empty: expected one stimulus a line"),
        (b"\n\n", r"mine\.txt holds no stimulus"),
        (b"a d\xff g\n", r"mine\.txt is not UTF-8 text"),
    ],
)
def test_a_bad_text_file_is_explained(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises((InputError, DataFileError), match=message):
        data.load_stimuli(path)


def test_a_missing_or_foreign_stimulus_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("sentence\na\n")
    with pytest.raises(DataFileError, match=r"no stimulus file .*mine\.csv\. Tables and texts .*: other\.csv"):
        data.load_stimuli(str(tmp_path / "mine.csv"))
    (tmp_path / "mine.docx").write_bytes(b"PK")
    with pytest.raises(
        DataFileError, match=r"mine\.docx is no stimulus file topobrain reads: expected \.csv, \.tsv, \.txt"
    ):
        data.load_stimuli(tmp_path / "mine.docx")


def test_a_registered_name_wins_over_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("langloc").write_text("a dog\n")
    with pytest.raises(DataFileError, match=r"data set 'langloc_stimuli' lacks"):
        data.load_stimuli("langloc")


# --- responses from a file


def test_a_response_table_is_read_with_options(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("text,story,A,B\na dog,s1,0.5,1\na cat,s2,-1,2\n")
    responses = data.load_responses(path, text="text", group="story", ceilings={"A": 0.5})
    assert responses.rois == ["A", "B"]
    np.testing.assert_array_equal(responses.values, [[0.5, 1], [-1, 2]])
    assert responses.stimuli.column("group").tolist() == ["s1", "s2"]
    assert responses.data["ceiling"].values[0] == 0.5


def test_saved_responses_are_read_and_other_results_refused(tmp_path: Path) -> None:
    responses = BrainResponses.from_arrays(np.arange(6.0).reshape(3, 2), StimulusSet(["a", "b", "c"]), roi=["x", "y"])
    path = responses.save(tmp_path / "mine.nc")
    np.testing.assert_array_equal(data.load_responses(path).values, responses.values)
    with pytest.raises(InputError, match=r"takes no options, got text for .*mine\.nc"):
        data.load_responses(path, text="sentence")

    from topobrain.activations import Activations

    other = Activations.from_arrays({"h": np.ones((3, 2))}, StimulusSet(["a", "b", "c"])).save(tmp_path / "acts.nc")
    with pytest.raises(InputError, match=r"acts\.nc holds a result of kind 'activations', expected brain responses"):
        data.load_responses(other)


def test_a_brain_image_is_explained(tmp_path: Path) -> None:
    (tmp_path / "bold.nii.gz").write_bytes(b"")
    with pytest.raises(DataFileError, match=r"bold\.nii\.gz is a brain image; a table was expected"):
        data.load_responses(tmp_path / "bold.nii.gz")


def test_an_unknown_option_of_a_table_offers_a_near_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("sentence,A\na dog,1\n")
    with pytest.raises(InputError, match=r"cannot load responses from .*mine\.csv.*Did you mean 'group'\?"):
        data.load_responses(path, groups="story")


# --- files of data sets that are not what they should be


@pytest.mark.parametrize(
    ("load", "module", "content", "message"),
    [
        (lambda: data.load_stimuli("swjn"), "langloc", "sentence,cond\na,S\n", "has no column 'condition'"),
        (
            lambda: data.load_stimuli("swjn"),
            "langloc",
            "sentence,condition\na,S\nb,Q\n",
            "row 2 of .* has condition 'Q', expected",
        ),
        (lambda: data.load_stimuli("elli"), "langloc", "run,block,category,pair\n", "has no column 'class'"),
        (lambda: data.load_stimuli("moseley"), "langloc", "word,class\n", "has no column 'category'"),
        (lambda: data.load_stimuli("langloc"), "langloc", "stim1\n1\n", "has no column 'stim2'"),
        (
            lambda: data.load_stimuli("blimp"),
            "blimp",
            "UID,field,linguistics_term,pairID\n",
            "has no column 'sentence_good'",
        ),
        (
            lambda: data.load_stimuli("tuckute2024"),
            "tuckute2024",
            "item,sentence\n",
            "has no column 'item_id'. Did you mean",
        ),
        (
            lambda: data.load_responses("tuckute2024"),
            "tuckute2024",
            "item_id,sentence\n",
            "has no column 'lang_LH_netw'",
        ),
        (lambda: data.load_stimuli("swjn"), "langloc", "", "cannot be read as a table"),
    ],
)
def test_a_data_set_lacking_a_column_names_file_and_column(
    load, module: str, content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "broken_run1_stim_set1.csv"
    path.write_text(content)
    serve(
        monkeypatch,
        module,
        {"bold_response_LH.csv": path, "noise_ceilings.csv": path} if module == "tuckute2024" else {path.name: path},
    )
    with pytest.raises((InputError, DataFileError), match=message) as caught:
        load()
    assert str(path) in str(caught.value)


def test_a_region_without_a_noise_ceiling_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ["lang_LH_" + roi for roi in ("netw", "IFGorb", "IFG", "MFG", "AntTemp", "PostTemp")]
    bold, ceilings = tmp_path / "bold.csv", tmp_path / "ceilings.csv"
    pd.DataFrame([["B.1", "a dog", *range(6)]], columns=["item_id", "sentence", *columns]).to_csv(bold, index=False)
    pd.DataFrame({"roi": columns[:5], "noise_ceiling_r": 0.5}).to_csv(ceilings, index=False)
    serve(monkeypatch, "tuckute2024", {"bold_response_LH.csv": bold, "noise_ceilings.csv": ceilings})
    with pytest.raises(
        InputError, match=r"ceilings\.csv has no noise ceiling for lang_LH_PostTemp; it has lang_LH_netw"
    ):
        data.load_responses("tuckute2024")


def test_archives_lacking_an_array_or_of_another_shape_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "haxby.npz"
    serve(monkeypatch, "haxby", {"haxby_sub001_slice.npz": path})
    np.savez(path, bold=np.ones((4, 2, 2)), label=np.array(["rest"] * 4))
    with pytest.raises(InputError, match=r"haxby\.npz has no array 'run'\. Arrays: bold, label"):
        data.load_responses("haxby2001")
    np.savez(path, bold=np.ones((4, 2, 2)), label=np.array(["rest"] * 3), run=np.zeros(4))
    with pytest.raises(InputError, match=r"haxby\.npz: bold \(4, 2, 2\), label \(3,\) and run \(4,\) do not fit"):
        data.load_responses("haxby2001")
    path.write_bytes(b"no archive")
    with pytest.raises(DataFileError, match=r"haxby\.npz cannot be read as a NumPy archive"):
        data.load_responses("haxby2001")
    np.savez(path, bold=np.array([{}], dtype=object), label=np.array([""]), run=np.zeros(1))
    with pytest.raises(DataFileError, match=r"haxby\.npz cannot be read as a NumPy archive: .*allow_pickle"):
        data.load_responses("haxby2001")


def test_broken_corpora_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.jsonl.gz"
    serve(monkeypatch, "corpora", {"train.jsonl.gz": path})
    path.write_bytes(gzip.compress(b'{"text": "fine<br /><br />film"}\n{"review": "x"}\n'))
    with pytest.raises(InputError, match=r"line 2 of .*train\.jsonl\.gz has no field 'text'\. Fields: review"):
        data.load_text("imdb")
    path.write_bytes(gzip.compress(json.dumps({"text": "fine<br /><br />film"}).encode()))
    assert data.load_text("imdb") == ["fine\nfilm"]
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataFileError, match=r"train\.jsonl\.gz cannot be read as JSON lines"):
        data.load_text("imdb")
    path.write_bytes(b"caf\xe9")
    with pytest.raises(DataFileError, match=r"train\.jsonl\.gz is not UTF-8 text"):
        data.load_text("brown")


def test_documents_stand_between_blank_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("\n \n  One.\nTwo. \n \t\n\nThree.\n\n")
    serve(monkeypatch, "corpora", {path.name: path})
    assert data.load_text("brown") == ["One.\nTwo.", "Three."]


def test_a_tiny_haxby_run_is_averaged_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    bold = rng.normal(100, 5, (20, 2, 1))
    bold[:, 1] = 1.0  # outside the brain
    label = np.array(["rest"] * 5 + ["face"] * 6 + ["rest"] * 4 + ["cat"] * 5)
    path = tmp_path / "haxby.npz"
    np.savez(path, bold=bold, label=label, run=np.zeros(20, dtype=int))
    serve(monkeypatch, "haxby", {"haxby_sub001_slice.npz": path})
    series = bold[:, 0, 0]
    time = np.arange(20.0)
    residual = series - np.polyval(np.polyfit(time, series, 1), time)
    residual /= residual.std()
    values = data.load_responses("haxby2001").values
    np.testing.assert_allclose(values[:, 0], [residual[5:11].mean(), residual[15:20].mean()], rtol=1e-9)
    assert values.shape == (2, 1)
    with pytest.raises(InputError, match=r"delay=1 volumes moves the cat block of run 0 out of the run"):
        data.load_responses("haxby2001", delay=1)


# --- the real data: counts and facts of their sources


def test_langloc(real_data: Path) -> None:
    stimuli = data.load_stimuli("langloc")
    assert Counter(stimuli.column("condition")) == {"sentence": 240, "nonword": 240}
    assert {len(text.split()) for text in stimuli.items} == {12}
    assert all(text == text.lower() for text in stimuli.items)
    lists = Counter(zip(stimuli.column("run"), stimuli.column("set"), stimuli.column("condition"), strict=True))
    assert len(lists) == 20
    assert set(lists.values()) == {24}
    assert len(set(stimuli.ids)) == 480
    assert stimuli.items[0] == "just the barest suggestion of a heel is found on teenage pumps"
    assert set(stimuli.provenance) >= SOURCE_FIELDS
    assert len(stimuli.provenance["files"]) == 10


def test_swjn(real_data: Path) -> None:
    stimuli = data.load_stimuli("swjn")
    assert Counter(stimuli.column("condition")) == dict.fromkeys(
        ("sentence", "word_list", "jabberwocky", "nonword"), 160
    )
    assert len(set(stimuli.items)) == 639
    assert {len(text.split()) for text in stimuli.items} == {11, 12}
    assert stimuli.column("condition")[0] == "word_list"


def test_elli_and_moseley(real_data: Path) -> None:
    elli = data.load_stimuli("elli")
    assert Counter(elli.column("condition")) == {"noun": 288, "verb": 288}
    assert set(Counter(elli.column("category")).values()) == {72}
    assert Counter(elli.column("run")) == {"odd": 288, "even": 288}
    assert elli.where(condition="noun").items[0] == "the garage the rink"
    assert set(elli.where(condition="verb").column("category")) == {"hand", "light", "mouth", "sound"}
    moseley = data.load_stimuli("moseley")
    both = Counter(zip(moseley.column("condition"), moseley.column("category"), strict=True))
    assert both == {(c, k): 40 for c in ("noun", "verb") for k in ("concrete", "abstract")}


@pytest.mark.slow
def test_blimp(real_data: Path) -> None:
    stimuli = data.load_stimuli("blimp")
    assert len(stimuli) == 134_000
    assert set(Counter(stimuli.column("uid")).values()) == {2000}
    assert len(set(stimuli.column("uid"))) == 67
    assert stimuli.column("condition")[:4].tolist() == ["good", "bad", "good", "bad"]
    pairs = stimuli.column("pair")
    np.testing.assert_array_equal(pairs[::2], pairs[1::2])
    assert len(set(pairs)) == 67_000
    one = data.load_stimuli("blimp", uid="adjunct_island")
    assert one.items[:2] == (
        "Who should Derek hug after shocking Richard?",
        "Who should Derek hug Richard after shocking?",
    )
    assert len(one) == 2000
    with pytest.raises(UnknownNameError, match=r"unknown BLiMP paradigm 'adjunct'\. Did you mean 'adjunct_island'"):
        data.load_stimuli("blimp", uid=["adjunct"])


def test_tuckute2024(real_data: Path) -> None:
    responses = data.load_responses("tuckute2024")
    assert responses.values.shape == (1000, 6)
    assert responses.rois == ["netw", "IFGorb", "IFG", "MFG", "AntTemp", "PostTemp"]
    assert responses.subjects == ["mean of 5"]
    assert responses.labels("column").tolist() == ["lang_LH_" + roi for roi in responses.rois]
    np.testing.assert_allclose(
        responses.data["ceiling"].values, [0.55915, 0.45220, 0.45248, 0.51545, 0.45771, 0.57890], atol=1e-5
    )
    assert np.isfinite(responses.values).all()
    np.testing.assert_allclose(
        responses.values[0], [0.421033, 0.171333, 0.503358, 0.496015, 0.312032, 0.479703], atol=1e-6
    )
    stimuli = data.load_stimuli("tuckute2024")
    assert stimuli.ids == responses.stimuli.ids == [f"B.{i}" for i in range(1, 1001)]
    assert stimuli.digest() == responses.stimuli.digest()
    assert sum(len(text.split()) == 6 for text in stimuli.items) == 996
    assert SOURCE_FIELDS | {"doi"} <= set(responses.provenance)
    assert not responses.simulated


def test_haxby2001(real_data: Path) -> None:
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
    from sklearn.svm import SVC

    responses = data.load_responses("haxby2001")
    stimuli = responses.stimuli
    assert responses.values.shape == (96, 446)
    assert (responses.rois, responses.subjects) == (["VT slice"], ["sub001"])
    assert set(Counter(stimuli.column("category")).values()) == {12}
    assert set(Counter(stimuli.column("group")).values()) == {8}
    assert stimuli.items == tuple(stimuli.column("category"))
    assert not np.isfinite(responses.data["ceiling"].values).any()

    def accuracy(values: np.ndarray) -> float:
        folds = {"groups": stimuli.column("group"), "cv": LeaveOneGroupOut()}
        return cross_val_score(SVC(kernel="linear"), values, stimuli.column("category"), **folds).mean()

    assert accuracy(responses.values) > 0.75  # chance is 1/8
    # The labels already include the haemodynamic delay: reading still later must not be the default.
    assert accuracy(data.load_responses("haxby2001", delay=2).values) < accuracy(responses.values) - 0.1


def test_alice(real_data: Path) -> None:
    responses = data.load_responses("alice")
    stimuli = responses.stimuli
    assert responses.design == "timeseries"
    assert responses.values.shape == (362, 27 * 6)
    assert responses.rois == ["LATL", "RATL", "LPTL", "LIPL", "LPreM", "LIFG"]
    assert len(responses.subjects) == 27
    assert "s33" not in responses.subjects
    np.testing.assert_array_equal(stimuli.column("time_s"), 20.0 + 2.0 * np.arange(362))
    assert stimuli.items[0] == "Alice was beginning to get very"
    spoken = [text for text in stimuli.items if text != "(silence)"]
    assert sum(len(text.split()) for text in spoken) == stimuli.column("n_words").sum() == 2127
    np.testing.assert_array_equal(np.array(stimuli.items) == "(silence)", stimuli.column("n_words") == 0)
    # No polynomial of time up to the fifth order is left.
    powers = np.vander(np.linspace(-1, 1, 362), 6)
    scale = np.linalg.norm(responses.values, axis=0) * np.linalg.norm(powers, axis=0)[:, None]
    assert np.abs(powers.T @ responses.values / scale).max() < 1e-9


def test_alice_listeners_agree_as_in_the_source(real_data: Path) -> None:
    responses = data.load_responses("alice")
    expected = {"LATL": 0.33, "RATL": 0.26, "LPTL": 0.43, "LIPL": 0.29, "LPreM": 0.26, "LIFG": 0.20}
    for roi, r in expected.items():
        values = responses.where(roi=roi).values
        others = (values.sum(axis=1, keepdims=True) - values) / 26
        found = [np.corrcoef(values[:, i], others[:, i])[0, 1] for i in range(27)]
        assert np.mean(found) == pytest.approx(r, abs=0.011)


def test_alice_comes_in_two_resolutions(real_data: Path) -> None:
    fine, coarse = data.load_responses("alice"), data.load_responses("alice", resolution="10mm")
    assert coarse.provenance["resolution"] == "10mm"
    assert fine.values.shape == coarse.values.shape
    assert np.abs(fine.values - coarse.values).max() > 0
    with pytest.raises(UnknownNameError, match=r"unknown resolution '8mm'.*6mm, 10mm"):
        data.load_responses("alice", resolution="8mm")


@pytest.mark.parametrize(
    ("name", "n_documents", "n_words"),
    [
        ("brown", 500, 1_022_434),
        ("wikitext2", 1160, 213_886),
        ("tinyshakespeare", 7222, 202_651),
        ("abc", 3189, 663_964),
        ("webtext", 3247, 300_502),
        ("inaugural", 1515, 138_096),
        ("state_union", 618, 349_711),
        ("movie_reviews", 2000, 1_492_681),
    ],
)
def test_corpora_lose_no_word(name: str, n_documents: int, n_words: int, real_data: Path) -> None:
    documents = data.load_text(name)
    assert len(documents) == n_documents
    assert sum(len(document.split()) for document in documents) == n_words
    assert all(document.strip() == document for document in documents)


@pytest.mark.slow
def test_imdb(real_data: Path) -> None:
    reviews = data.load_text("imdb")
    assert len(reviews) == 25_000
    assert not any("<br" in review for review in reviews)
    with pytest.raises(UnknownNameError, match=r"unknown split 'validation'.*train, test, unsup"):
        data.load_text("imdb", split="validation")


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        (verb, name)
        for verb in ("STIMULI", "RESPONSES")
        for name in getattr(data, verb)
        if name not in data.GENERATED and data.find_manifest(name)[0].access == "public"
    ],
)
@pytest.mark.slow
def test_everything_loaded_says_where_it_comes_from_and_survives_a_file(
    verb: str, name: str, real_data: Path, tmp_path: Path
) -> None:
    if verb == "STIMULI":
        loaded = data.load_stimuli(name)
    else:
        responses = data.load_responses(name)
        again = data.load_responses(responses.save(tmp_path / "saved.nc"))
        assert again.stimuli.digest() == responses.stimuli.digest()
        np.testing.assert_array_equal(again.values, responses.values)
        assert set(again.provenance) >= SOURCE_FIELDS
        loaded = again.stimuli
    manifest, _ = data.find_manifest(name)
    assert loaded.provenance["licence"] == manifest.licence
    assert loaded.provenance["citation"] == manifest.citation
    assert loaded.provenance["access"] == "public"
