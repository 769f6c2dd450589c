from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from topobrain._checks import DataFileError, UnknownNameError
from topobrain.store import files as store_module
from topobrain.store.files import fetch, fetch_files, find_manifest, status, store_directory
from topobrain.store.manifest import DataFile, Manifest, load_manifests

Toy = Callable[..., Manifest]
CONTENTS = {"a.txt": b"alpha\n", "deep/b.bin": bytes(range(200))}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fill(store: Path, contents: dict[str, bytes] = CONTENTS) -> Path:
    for path, data in contents.items():
        target = store / "toy" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return store / "toy"


def everything_in(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


# --- where the store is


def test_the_store_is_the_folder_of_the_environment(store: Path) -> None:
    assert store_directory() == store


def test_without_the_environment_the_store_is_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TOPOBRAIN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store_directory().parts[-2:] == ("topobrain", "data")


@pytest.mark.parametrize(("make_file", "state"), [(True, "a file"), (False, "missing")])
def test_an_environment_that_is_no_folder_is_an_error_when_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: Toy, make_file: bool, state: str
) -> None:
    target = tmp_path / "not_a_folder"
    if make_file:
        target.write_text("x")
    monkeypatch.setenv("TOPOBRAIN_DATA", str(target))
    assert store_directory() == target
    for read in (fetch_files, status):
        with pytest.raises(
            DataFileError, match=rf"TOPOBRAIN_DATA is '.*not_a_folder', which is {state}: expected a folder"
        ):
            read(toy(CONTENTS))


# --- files that are there


def test_files_with_the_right_hash_are_used_without_a_network(store: Path, toy: Toy, server) -> None:
    folder = fill(store)
    found = fetch_files(toy(CONTENTS, url=server.url))
    assert found == {"a.txt": folder / "a.txt", "deep/b.bin": folder / "deep/b.bin"}
    assert server.asked == []


def test_only_the_files_asked_for_are_looked_at(store: Path, toy: Toy) -> None:
    folder = fill(store, {"a.txt": CONTENTS["a.txt"]})
    assert fetch_files(toy(CONTENTS), ["a.txt"]) == {"a.txt": folder / "a.txt"}


def test_a_wrong_hash_names_both_hashes_and_leaves_the_file(store: Path, toy: Toy, server) -> None:
    server.pages["/a.txt"] = CONTENTS["a.txt"]
    folder = fill(store, {**CONTENTS, "a.txt": b"alphA\n"})
    before = everything_in(store)
    with pytest.raises(DataFileError) as caught:
        fetch_files(toy(CONTENTS, url=server.url))
    message = str(caught.value)
    assert f"{folder / 'a.txt'} is not the file of data set 'toy'" in message
    assert f"its sha256 is {sha(b'alphA' + bytes([10]))}, expected {sha(CONTENTS['a.txt'])}" in message
    assert "It was left as it is" in message
    assert everything_in(store) == before
    assert server.asked == []


def test_a_truncated_file_is_called_truncated_with_both_sizes(store: Path, toy: Toy) -> None:
    fill(store, {**CONTENTS, "deep/b.bin": CONTENTS["deep/b.bin"][:150]})
    before = everything_in(store)
    with pytest.raises(DataFileError, match=r"deep/b\.bin .*it is truncated, 150 of 200 bytes") as caught:
        fetch_files(toy(CONTENTS))
    assert sha(CONTENTS["deep/b.bin"]) in str(caught.value)
    assert sha(CONTENTS["deep/b.bin"][:150]) in str(caught.value)
    assert everything_in(store) == before


def test_a_longer_file_names_both_sizes(store: Path, toy: Toy) -> None:
    fill(store, {**CONTENTS, "a.txt": b"alpha\nbeta"})
    with pytest.raises(DataFileError, match=r"it has 10 bytes, expected 6"):
        fetch_files(toy(CONTENTS))


def test_a_folder_in_the_place_of_a_file_is_an_error(store: Path, toy: Toy) -> None:
    (store / "toy" / "a.txt").mkdir(parents=True)
    with pytest.raises(DataFileError, match=r"a\.txt is not the file of data set 'toy': it is not a plain file"):
        fetch_files(toy(CONTENTS), ["a.txt"])


def test_an_altered_file_is_reported_before_anything_is_downloaded(store: Path, toy: Toy, server) -> None:
    server.pages["/a.txt"] = CONTENTS["a.txt"]
    fill(store, {"deep/b.bin": b"other"})
    with pytest.raises(DataFileError, match=r"deep/b\.bin is not the file"):
        fetch_files(toy(CONTENTS, url=server.url))
    assert server.asked == []


def test_a_read_only_store_is_read_and_nothing_is_written(store: Path, toy: Toy) -> None:
    folder = fill(store)
    for path in [*folder.rglob("*"), folder, store]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before, when = everything_in(store), store.stat().st_mtime_ns
    try:
        assert list(fetch_files(toy(CONTENTS))) == ["a.txt", "deep/b.bin"]
        assert status(toy(CONTENTS)).state == "verified"
        assert everything_in(store) == before  # also where the tests run as a user who may write anywhere
        assert store.stat().st_mtime_ns == when
    finally:
        for path in [store, folder, folder / "deep"]:
            path.chmod(0o755)


def test_an_unchanged_file_is_hashed_once_and_a_changed_one_again(
    store: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(store)
    hashed: list[str] = []
    digest = hashlib.file_digest

    def counted(stream, name):
        hashed.append(Path(stream.name).name)
        return digest(stream, name)

    monkeypatch.setattr(store_module.hashlib, "file_digest", counted)
    for _ in range(3):
        fetch_files(toy(CONTENTS))
    assert sorted(hashed) == ["a.txt", "b.bin"]
    (folder / "a.txt").write_bytes(b"ALPHA\n")
    os.utime(folder / "a.txt", ns=(1, 1))
    with pytest.raises(DataFileError, match=r"a\.txt is not the file"):
        fetch_files(toy(CONTENTS))


# --- status


def test_status_says_what_is_wrong_with_each_file(store: Path, toy: Toy) -> None:
    manifest = toy(CONTENTS)
    assert status(manifest).state == "missing"
    folder = fill(store, {"a.txt": CONTENTS["a.txt"]})
    assert status(manifest).state == "incomplete"
    assert status(manifest).files == {"a.txt": "verified", "deep/b.bin": "missing"}
    assert status(manifest, ["a.txt"]).state == "verified"
    fill(store)
    assert str(status(manifest)) == "verified"
    (folder / "deep/b.bin").write_bytes(b"short")
    assert status(manifest).state == "altered"
    assert "truncated, 5 of 200 bytes" in status(manifest).files["deep/b.bin"]
    (folder / "a.txt").unlink()
    assert status(manifest).state == "altered"  # worse than incomplete: fetching again does not mend it


# --- downloads


def test_missing_files_are_downloaded_and_verified(store: Path, toy: Toy, server) -> None:
    server.pages = {f"/{path}": data for path, data in CONTENTS.items()}
    fill(store, {"a.txt": CONTENTS["a.txt"]})
    found = fetch_files(toy(CONTENTS, url=server.url))
    assert server.asked == ["/deep/b.bin"]
    assert found["deep/b.bin"].read_bytes() == CONTENTS["deep/b.bin"]
    assert sorted(p.name for p in (store / "toy").rglob("*") if p.is_file()) == ["a.txt", "b.bin"]
    fetch_files(toy(CONTENTS, url=server.url))
    assert server.asked == ["/deep/b.bin"]


def test_a_download_with_the_wrong_hash_leaves_nothing(store: Path, toy: Toy, server) -> None:
    server.pages["/a.txt"] = b"something else"
    with pytest.raises(DataFileError) as caught:
        fetch_files(toy(CONTENTS, url=server.url), ["a.txt"])
    message = str(caught.value)
    assert f"{server.url}/a.txt does not serve the a.txt of data set 'toy'" in message
    assert sha(b"something else") in message
    assert sha(CONTENTS["a.txt"]) in message
    assert "nothing was kept" in message
    assert [path for path in store.rglob("*") if path.is_file()] == []


def test_an_address_that_is_gone_is_an_error(store: Path, toy: Toy, server) -> None:
    with pytest.raises(DataFileError, match=r"tried http://127\.0\.0\.1:\d+/a\.txt \(HTTPError: 404"):
        fetch_files(toy(CONTENTS, url=server.url), ["a.txt"])
    assert [path for path in store.rglob("*") if path.is_file()] == []


def test_without_a_network_the_error_says_what_to_do(store: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:  # bound and never listening: nothing answers at this port
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(DataFileError) as caught:
            fetch_files(toy(CONTENTS, url=url), ["a.txt"])
    message = str(caught.value)
    assert f"tried {url}/a.txt (ConnectionError" in message
    assert "Origin: example.org/toy. Licence: CC0-toy." in message
    assert f"save the file as {store / 'toy' / 'a.txt'} (sha256 {sha(CONTENTS['a.txt'])})" in message
    assert "Simulated data of the same form need no file: 'simulated-toy'." in message


def test_a_place_that_cannot_be_written_is_named(store: Path, toy: Toy, server) -> None:
    server.pages["/deep/b.bin"] = CONTENTS["deep/b.bin"]
    fill(store, {"deep": b"a file where a folder must be"})
    with pytest.raises(DataFileError, match=r"(cannot write|cannot look at) .*toy/deep/b\.bin"):
        fetch_files(toy(CONTENTS, url=server.url), ["deep/b.bin"])
    assert (store / "toy" / "deep").read_bytes() == b"a file where a folder must be"


# --- files whose hash nobody published


def unpublished(url: str | None, prefix: str | None = None, access: str = "public") -> Manifest:
    file = DataFile("w.pt", None, None, f"{url}/w.pt" if url else None, prefix)
    return Manifest(
        "toy", "Toy", "model", "Weights.", "example.org/toy", "none stated", "Nobody (2000)", access, False, (file,)
    )


def test_the_hash_of_the_first_download_is_recorded_and_held_to(
    store: Path, server, caplog: pytest.LogCaptureFixture
) -> None:
    server.pages["/w.pt"] = b"weights"
    manifest = unpublished(server.url)
    path = fetch_files(manifest)["w.pt"]
    assert path.read_bytes() == b"weights"
    assert (store / "toy" / "w.pt.sha256").read_text() == f"{sha(b'weights')}  w.pt\n"
    assert sorted(part.name for part in (store / "toy").iterdir()) == ["w.pt", "w.pt.sha256"]
    assert "unverified: no published hash" in caplog.text
    assert sha(b"weights") in caplog.text
    caplog.clear()
    assert fetch_files(manifest)["w.pt"] == path
    assert server.asked == ["/w.pt"]
    assert caplog.text == ""
    assert status(manifest).state == "unverified"
    assert status(manifest).files["w.pt"] == "unverified: no published hash; the same as when it was first used"
    path.write_bytes(b"wEights")
    with pytest.raises(DataFileError) as caught:
        fetch_files(manifest)
    assert sha(b"wEights") in str(caught.value)
    assert f"{sha(b'weights')}, which w.pt.sha256 keeps" in str(caught.value)
    assert status(manifest).state == "altered"
    assert path.read_bytes() == b"wEights"


def test_a_second_download_must_be_the_file_of_the_first(store: Path, server) -> None:
    server.pages["/w.pt"] = b"weights"
    manifest = unpublished(server.url)
    fetch_files(manifest)["w.pt"].unlink()
    server.pages["/w.pt"] = b"other weights"
    with pytest.raises(DataFileError, match=r"does not serve the w\.pt .*nothing was kept: .*w\.pt\.sha256 keeps"):
        fetch_files(manifest)
    assert [part.name for part in (store / "toy").iterdir()] == ["w.pt.sha256"]
    (store / "toy" / "w.pt.sha256").unlink()
    assert fetch_files(manifest)["w.pt"].read_bytes() == b"other weights"


def test_a_published_beginning_of_the_hash_is_checked(store: Path, server) -> None:
    server.pages["/w.pt"] = b"weights"
    manifest = unpublished(server.url, sha(b"weights")[:8])
    fetch_files(manifest)
    assert (
        status(manifest)
        .files["w.pt"]
        .startswith(f"unverified: no published hash; its sha256 begins with {sha(b'weights')[:8]} as published")
    )
    wrong = unpublished(server.url, "00000000")
    assert "expected one that begins with 00000000" in status(wrong).files["w.pt"]
    with pytest.raises(DataFileError, match=r"w\.pt is not the file .*begins with 00000000"):
        fetch_files(wrong)
    for part in (store / "toy").iterdir():
        part.unlink()
    with pytest.raises(DataFileError, match=r"nothing was kept: .*begins with 00000000.*save the file as .*00000000"):
        fetch_files(wrong)
    assert not (store / "toy").exists()  # an empty folder would look like a data set


def test_an_empty_answer_is_no_file(store: Path, server) -> None:
    server.pages["/w.pt"] = b""
    with pytest.raises(DataFileError, match=r"nothing was kept: it is empty"):
        fetch_files(unpublished(server.url))
    assert not (store / "toy").exists()  # an empty folder would look like a data set


def test_a_file_placed_by_hand_is_recorded_when_it_is_first_fetched(store: Path) -> None:
    fill(store, {"w.pt": b"by hand"})
    manifest = unpublished(None, access="request")
    assert status(manifest).files["w.pt"] == "unverified: no published hash; not recorded yet (fetch it once)"
    assert not (store / "toy" / "w.pt.sha256").exists()
    fetch_files(manifest)
    assert (store / "toy" / "w.pt.sha256").read_text().split()[0] == sha(b"by hand")
    (store / "toy" / "w.pt.sha256").write_text("what is this")
    with pytest.raises(DataFileError, match=r"w\.pt\.sha256 holds no sha256: .*Delete it"):
        fetch_files(manifest)


def test_verified_and_unverified_together_are_unverified(store: Path, toy: Toy) -> None:
    fill(store, {"a.txt": CONTENTS["a.txt"], "w.pt": b"weights"})
    both = replace(toy({"a.txt": CONTENTS["a.txt"]}), files=(*toy(CONTENTS).files[:1], DataFile("w.pt", None, None)))
    assert status(both).state == "unverified"
    (store / "toy" / "w.pt").unlink()
    assert status(both).state == "incomplete"


@pytest.mark.parametrize("prefix", [None, "f37072fd"])
def test_without_a_network_it_says_what_from_where_and_where_to_put_it(
    store: Path, monkeypatch: pytest.MonkeyPatch, prefix: str | None
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(DataFileError) as caught:
            fetch_files(unpublished(url, prefix))
    message = str(caught.value)
    assert f"w.pt of data set 'toy' is not in {store / 'toy'} and could not be downloaded: tried {url}/w.pt" in message
    assert "there is no network here, or the server is down" in message
    known = f"only the beginning of its sha256 is published: {prefix}" if prefix else "no hash of it is published"
    assert f"save the file as {store / 'toy' / 'w.pt'} ({known})" in message
    assert not (store / "toy").exists()  # an empty folder would look like a data set


# --- files that cannot be downloaded


def test_a_missing_file_without_address_says_where_it_comes_from(store: Path, toy: Toy) -> None:
    with pytest.raises(DataFileError) as caught:
        fetch_files(toy(CONTENTS))
    message = str(caught.value)
    assert f"data set 'toy' lacks a.txt, deep/b.bin in {store / 'toy'}" in message
    assert "no address is known" in message
    assert "Origin: example.org/toy. Licence: CC0-toy." in message
    assert "point TOPOBRAIN_DATA to a folder that holds 'toy/'" in message
    assert "Simulated data of the same form need no file: 'simulated-toy'." in message


def test_the_stand_in_is_offered_only_for_what_it_stands_in_for(store: Path, toy: Toy) -> None:
    with pytest.raises(DataFileError, match=r"lacks deep/b\.bin") as caught:
        fetch_files(toy(CONTENTS), ["deep/b.bin"])
    assert "Simulated" not in str(caught.value)


def test_data_on_request_are_not_downloaded(store: Path, toy: Toy, server) -> None:
    server.pages["/a.txt"] = CONTENTS["a.txt"]
    with pytest.raises(DataFileError, match=r"they must be requested from their authors"):
        fetch_files(toy(CONTENTS, url=server.url, access="request"), ["a.txt"])
    assert server.asked == []


def test_the_localizer_missing_from_the_store_points_to_its_source_and_its_stand_in(store: Path) -> None:
    with pytest.raises(DataFileError) as caught:
        fetch("langloc")
    message = str(caught.value)
    assert "epflneuroailab/topolm" in message
    assert "'langloc_stimuli/'" in message
    assert "'simulated-langloc'" in message
    assert "swjn" not in message


# --- names


def test_unknown_names_are_answered_with_near_ones(store: Path, toy: Toy) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown data set 'tuckute'\. Did you mean 'tuckute2024'"):
        fetch("tuckute")
    with pytest.raises(UnknownNameError, match=r"unknown file of data set 'toy' 'b\.txt'\. Did you mean 'a\.txt'"):
        fetch_files(toy(CONTENTS), ["b.txt"])


def test_a_loadable_name_stands_for_its_files() -> None:
    manifest, paths = find_manifest("brown")
    assert (manifest.name, paths) == ("text_corpora", ["brown.txt"])
    assert len(find_manifest("langloc")[1]) == 10
    assert find_manifest("langloc_stimuli")[1] == load_manifests()["langloc_stimuli"].paths()
