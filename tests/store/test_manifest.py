from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.data import GENERATED, RESPONSES, STIMULI, TEXT
from topobrain.store.manifest import load_manifests, manifest_directory, read_manifest

NAMES = sorted(load_manifests())

GOOD = f"""
name = "toy"
title = "Toy"
kind = "text"
description = "Toy files."
origin = "example.org"
licence = "CC0"
citation = "Nobody (2000)"
access = "public"
simulated = false
provides = [{{ name = "toy-text", files = ["*.txt"], title = "Toy text" }}]
files = [
  {{ path = "a.txt", sha256 = "{"0" * 64}", bytes = 3 }},
  {{ path = "deep/b.bin", sha256 = "{"1" * 64}", bytes = 4, url = "https://example.org/b.bin" }},
]
"""


def write(tmp_path: Path, text: str, name: str = "toy") -> Path:
    path = tmp_path / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_hashes_and_sizes_equal_the_files_on_disk(name: str, real_data: Path) -> None:
    folder = real_data / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine")
    manifest = load_manifests()[name]
    on_disk = {
        path.relative_to(folder).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("README")
    }
    if any(file.sha256 is None for file in manifest.files):
        pytest.skip(f"the hashes of {name} are not published")
    assert {file.path: (file.sha256, file.bytes) for file in manifest.files} == on_disk


@pytest.mark.parametrize("name", NAMES)
def test_says_where_it_comes_from(name: str) -> None:
    manifest = load_manifests()[name]
    assert manifest.name == name
    assert not manifest.simulated
    assert "github.com/" in manifest.origin
    assert len(manifest.citation) > 20
    for file in manifest.files:
        # An address that names no commit may serve another file tomorrow: only where a hash would tell, or none is known.
        pinned = r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/\S+$"
        hub = (
            rf"https://(huggingface\.co/[^/]+/[^/]+/resolve/main|download\.pytorch\.org/models)/{re.escape(file.path)}$"
        )
        assert file.url is None or re.match(pinned if file.sha256 else hub, file.url)


def test_published_weights_are_named() -> None:
    manifests = load_manifests()
    taus = {
        name.removeprefix("toponets-"): manifests[name].paths() for name in manifests if name.startswith("toponets-")
    }
    assert taus == {
        "nanogpt": [f"tau_{tau}.pt" for tau in ("0.5", "1.0", "3.0", "50.0")],
        "resnet18": [f"all_topo_tau_{tau}.pt" for tau in ("0.5", "1.0", "5.0", "10.0", "20.0", "50.0")],
        "resnet50": ["all_topo_tau_30.0.pt"],
        "vit-b-32": ["tau_10.0.pt"],
    }
    for name in ("torchvision-resnet18", "torchvision-resnet50", "torchvision-vit-b-32"):
        (file,) = manifests[name].files
        assert file.sha256_prefix
        assert file.path.endswith(f"-{file.sha256_prefix}.pth")
    assert "model.safetensors" in manifests["gpt-neo-125m"].paths()
    assert manifests["topolm"].access == "request"
    assert not any(file.url for file in manifests["topolm"].files)


def test_every_loadable_name_has_a_source() -> None:
    provided = {part.name for manifest in load_manifests().values() for part in manifest.provides}
    assert provided | set(GENERATED) == {*STIMULI, *RESPONSES, *TEXT}
    assert not provided & set(GENERATED)


def test_stand_ins_are_generated_names() -> None:
    stand_ins = {p.stand_in for m in load_manifests().values() for p in m.provides if p.stand_in}
    assert stand_ins
    assert stand_ins <= set(GENERATED)


def test_floc_has_1584_pictures_of_11_categories() -> None:
    paths = load_manifests()["floc_224"].paths()
    categories = [path.split("/")[0] for path in paths]
    assert len(paths) == 1584
    assert {categories.count(name) for name in categories} == {144}


def test_part_names_its_files_only() -> None:
    manifest = load_manifests()["text_corpora"]
    assert manifest.paths("brown") == ["brown.txt"]
    assert "brown_tagged.tsv.gz" in manifest.paths()


def test_reads_a_good_manifest(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, GOOD))
    assert manifest.paths() == ["a.txt", "deep/b.bin"]
    assert manifest.paths("toy-text") == ["a.txt"]
    assert manifest.n_bytes == 7
    assert [file.url for file in manifest.files] == [None, "https://example.org/b.bin"]
    assert manifest.provenance("a.txt") == {
        "name": "toy",
        "citation": "Nobody (2000)",
        "licence": "CC0",
        "access": "public",
        "files": {"a.txt": "0" * 64},
    }


@pytest.mark.parametrize("left_out", [f', sha256 = "{"0" * 64}", bytes = 3', f'"{"0" * 64}", bytes = 3'])
def test_a_hash_nobody_published_may_be_left_out_with_the_size(tmp_path: Path, left_out: str) -> None:
    assert left_out in GOOD
    new = "" if left_out.startswith(",") else '""'
    manifest = read_manifest(write(tmp_path, GOOD.replace(left_out, new, 1)))
    assert (manifest.files[0].sha256, manifest.files[0].bytes) == (None, None)
    assert manifest.files[0].hash_words == "no hash of it is published"
    assert manifest.n_bytes == 4
    assert manifest.provenance("a.txt")["files"] == {"a.txt": None}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('licence = "CC0"\n', "", r"field 'licence' is missing; present: name, title"),
        ('licence = "CC0"', 'licence = " "', r"field 'licence' is empty"),
        ('licence = "CC0"', "licence = 3", r"field 'licence' is 3, expected text"),
        ("simulated = false", 'simulated = "no"', r"field 'simulated' is 'no', expected true or false"),
        ('licence = "CC0"', 'license = "CC0"', r"field 'licence' is missing"),
        ('title = "Toy"\n', 'title = "Toy"\nlicense = "x"\n', r"field 'license' is not known. Did you mean 'licence'"),
        (", bytes = 3 }", " }", r"field 'files\[0\]\.bytes' is missing; present: path, sha256"),
        (f'"{"0" * 64}"', '"", sha256_prefix = "f370"', r"'files\[0\]\.sha256_prefix' is 'f370', expected the first 6"),
        ("bytes = 3", 'bytes = 3, sha256_prefix = "000000"', r"'files\[0\]\.sha256_prefix' is '000000', expected"),
        ("bytes = 3", "bytes = true", r"field 'files\[0\]\.bytes' is True, expected a whole number"),
        ("bytes = 3", "bytes = -3", r"field 'files\[0\]\.bytes' is -3"),
        ("0" * 64, "0" * 63, r"field 'files\[0\]\.sha256' is '0+', expected 64 lower-case hexadecimal digits"),
        ('"a.txt"', '"../a.txt"', r"field 'files\[0\]\.path' is '\.\./a\.txt', expected a plain path"),
        ('"a.txt"', '"/etc/a.txt"', r"field 'files\[0\]\.path' is '/etc/a\.txt', expected a plain path"),
        ('"a.txt"', '"deep/b.bin"', r"field 'files' lists a path more than once: deep/b\.bin"),
        (
            "https://example.org/b.bin",
            "ftp://b",
            r"field 'files\[1\]\.url' is 'ftp://b', expected an http\(s\) address",
        ),
        ('files = ["*.txt"]', 'files = ["*.csv"]', r"name 'toy-text': no listed file matches '\*\.csv'"),
        ('files = ["*.txt"]', "files = []", r"field 'provides\[0\]\.files' is \[\], expected a list of file patterns"),
        ('name = "toy"', 'name = "tow"', r"field 'name' is 'tow', expected the file's own name 'toy'"),
        ("title =", "title", r"is not a readable TOML file: .*line 3"),
    ],
)
def test_a_bad_manifest_names_file_and_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)


def test_unknown_access_offers_the_known_ones(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace('access = "public"', 'access = "pubic"'))
    with pytest.raises(UnknownNameError, match=r"toy\.toml 'pubic'\. Did you mean 'public'\?.*request, generated"):
        read_manifest(path)


def test_two_data_sets_cannot_provide_one_name(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    write(tmp_path, GOOD.replace('name = "toy"', 'name = "doll"', 1), "doll")
    with pytest.raises(InputError, match=r"toy\.toml provides 'toy-text', the name of another data set"):
        load_manifests(tmp_path)


def test_missing_manifests_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"no data manifest in .*nowhere: expected one <name>\.toml"):
        load_manifests(tmp_path / "nowhere")


def test_the_returned_dictionary_is_the_callers_own() -> None:
    load_manifests().clear()
    assert sorted(load_manifests()) == NAMES
    assert manifest_directory().is_dir()
