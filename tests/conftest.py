from __future__ import annotations

import gc
import hashlib
import http.server
import os
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from small_models import make_tiny_models_quick

from topobrain.store.manifest import DataFile, Manifest, Part

SELDOM = (50_000, 20, 20)
"""How seldom garbage in circles is searched for: with the usual numbers the search took a tenth of the tests' time."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what collection makes out of every later search for garbage: all of it stays until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(*SELDOM)
        gc.enable()


@pytest.fixture
def real_data() -> Path:
    """Folder of the real data sets; tests that need it are skipped where there is none."""
    given = os.environ.get("TOPOBRAIN_DATA", "")
    if not given:
        pytest.skip("TOPOBRAIN_DATA is not set: the real data sets are not on this machine")
    return Path(given)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of its own."""
    folder = tmp_path / "store"
    folder.mkdir()
    monkeypatch.setenv("TOPOBRAIN_DATA", str(folder))
    return folder


@pytest.fixture
def toy() -> Callable[..., Manifest]:
    """Make the manifest of a data set ``toy`` from file contents: ``toy({"a.txt": b"..."}, url="http://...")``."""

    def build(contents: dict[str, bytes], url: str | None = None, access: str = "public") -> Manifest:
        files = tuple(
            DataFile(path, hashlib.sha256(data).hexdigest(), len(data), f"{url}/{path}" if url else None)
            for path, data in contents.items()
        )
        return Manifest(
            name="toy",
            title="Toy",
            kind="text",
            description="Toy files.",
            origin="example.org/toy",
            licence="CC0-toy",
            citation="Nobody (2000)",
            access=access,
            simulated=False,
            files=files,
            provides=(Part("toy-text", ("*.txt",), "Toy text", stand_in="simulated-toy"),),
        )

    return build


class Server:
    """A web server on this machine: ``pages`` maps a path to its bytes, ``asked`` lists the paths asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                page = outer.pages.get(self.path)
                self.send_response(404 if page is None else 200)
                self.end_headers()
                self.wfile.write(page or b"")

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server()
    thread = threading.Thread(target=running.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.http.shutdown()
    thread.join()
    running.http.server_close()


# Read when huggingface_hub is first imported, so it cannot wait for a fixture: no test may reach the network.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True, scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this test session: nothing is read from, or left in, the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOPOBRAIN_CACHE", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


@pytest.fixture
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tiny Topoformers of this test quick."""
    make_tiny_models_quick(monkeypatch)
