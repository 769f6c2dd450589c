"""Verbs on what there is: models, data sets, and the machine itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from topobrain._checks import InputError
from topobrain.cli.output import Json, print_rows


@dataclass(frozen=True)
class Models:
    """List the models that can be loaded by name, or import a weight file in a published layout."""

    action: tyro.conf.Positional[Literal["list", "import"]] = "list"
    """list: every name. import: turn FILE into a model DIRECTORY (safetensors); nothing in the file is run."""
    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """import: FILE DIRECTORY. TopoNets, nanoGPT, TopoLM, torchvision and transformers layouts are understood."""
    name: str | None = None
    """import: name of the model (default: the file's)."""
    n_heads: int | None = None
    """import: attention heads, where neither file nor width tells."""
    positions: Path | None = None
    """import: file of TopoLM's unit positions."""
    layout: str = "auto"
    """import: layout of the file, where its names mislead (nanogpt: a TopoLM without its positions)."""
    as_json: Json = False

    def run(self) -> int:
        """Print name and description of every registered model, or import one."""
        from topobrain.models import list_models

        if self.action == "import":
            return self.import_file()
        if self.paths:
            raise InputError(
                "`topobrain models list` takes no path; did you mean `topobrain models import FILE DIRECTORY`?"
            )

        rows = [{"name": name, "what": what} for name, what in list_models().items()]
        rows.append(
            {"name": "hf:<id or directory>", "what": "any causal or masked transformer of the Hugging Face hub"}
        )
        rows.append({"name": "<directory>", "what": "a model directory written by topobrain or transformers"})
        rows.append({"name": "<module>:<factory>", "what": "your own: a factory in an importable module"})
        print_rows(rows, self.as_json)
        return 0

    def import_file(self) -> int:
        """Write the model directory and say what is in it."""
        from topobrain.models.directories import load_directory
        from topobrain.models.published import import_checkpoint

        if len(self.paths) != 2:
            raise InputError("give the weight file and the directory to write: topobrain models import FILE DIRECTORY")
        file, directory = self.paths
        target = import_checkpoint(
            file, directory, name=self.name, layout=self.layout, n_heads=self.n_heads, positions=self.positions
        )
        model = load_directory(target, device="cpu")
        n = sum(parameter.numel() for parameter in model.module.parameters())
        row = {"model": model.name, "parameters": n, "layers": len(model.sheets), "directory": str(target.resolve())}
        print_rows([row], self.as_json)
        return 0


@dataclass(frozen=True)
class Data:
    """List, fetch or verify data sets; list the localizers."""

    action: tyro.conf.Positional[Literal["list", "localizers", "fetch", "verify"]] = "list"
    """list: what there is, and what of it is verified here. localizers: stimuli with their contrasts, by name. fetch:
    download. verify: check every file's hash."""
    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Data sets to fetch or verify (verify: all that are there, if none is named)."""
    as_json: Json = False

    def run(self) -> int:
        """Do the action."""
        from topobrain.data import list_data
        from topobrain.store import fetch, find_manifest, load_manifests, status, store_directory

        if self.action == "list":
            table = list_data()
            if self.as_json:
                print_rows(table.to_dict("records"), True)
            else:
                print(f"store: {store_directory()}")
                print_rows(table[["name", "kind", "access", "status", "megabytes", "title"]].to_dict("records"), False)
            return 0
        if self.action == "localizers":
            from topobrain.data import list_localizers

            print_rows(list_localizers().to_dict("records"), self.as_json)
            return 0
        if self.action == "fetch":
            if not self.names:
                raise InputError("name the data sets to fetch: topobrain data fetch NAME ...")
            found_files = [{"name": n, "file": str(path)} for n in self.names for path in fetch(n).values()]
            print_rows(found_files, self.as_json)
            return 0
        manifests = [find_manifest(name)[0] for name in self.names] or list(load_manifests().values())
        rows: list[dict[str, Any]] = []
        wrong = False
        for manifest in manifests:
            found = status(manifest)
            rows.append({"name": manifest.name, "status": found.state, "files": len(found.files)})
            fine = ("verified", "missing", "unverified")  # unverified: no hash is published
            bad = {path: what for path, what in found.files.items() if not what.startswith(fine)}
            wrong |= bool(bad) or (bool(self.names) and found.state not in ("verified", "unverified"))
            rows.extend({"name": f"  {path}", "status": what, "files": ""} for path, what in bad.items())
        print_rows(rows, self.as_json)
        return 1 if wrong else 0


@dataclass(frozen=True)
class Doctor:
    """Say whether this machine is ready: versions, device, store, cache, optional parts."""

    as_json: Json = False

    def run(self) -> int:
        """Check, print, and return 1 if something needed is wrong."""
        from topobrain.doctor import PROBLEM, diagnose

        rows = list(diagnose())
        print_rows(rows, self.as_json)
        return 1 if any(row["state"] == PROBLEM for row in rows) else 0
