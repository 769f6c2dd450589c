"""Reading meshes from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from topobrain._checks import DataFileError


def read_gifti(path: Path) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Return coordinates, faces and hemisphere of a GIFTI mesh."""
    import nibabel

    if not path.is_file():
        raise DataFileError(f"no mesh file {path}")
    try:
        image = nibabel.load(path)
        places = image.get_arrays_from_intent("NIFTI_INTENT_POINTSET")
        faces = image.get_arrays_from_intent("NIFTI_INTENT_TRIANGLE")
    except Exception as error:  # nibabel, gzip and expat each have errors of their own
        raise DataFileError(f"{path} cannot be read as a GIFTI mesh: {error}") from error
    if len(places) != 1 or len(faces) != 1:
        raise DataFileError(
            f"{path} is no GIFTI mesh: expected one array of points and one of triangles, got {len(places)} and {len(faces)}"
        )
    said = str(places[0].meta.get("AnatomicalStructurePrimary", ""))
    side = {"CortexLeft": "left", "CortexRight": "right"}.get(said)
    return np.asarray(places[0].data), np.asarray(faces[0].data), side


def read_freesurfer(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates and faces of a FreeSurfer geometry file."""
    import nibabel.freesurfer

    if not path.is_file():
        raise DataFileError(f"no mesh file {path}")
    try:
        places, faces = nibabel.freesurfer.read_geometry(str(path))
    except Exception as error:  # whatever the bytes of another format do to the reader
        raise DataFileError(f"{path} cannot be read as a FreeSurfer geometry: {error}") from error
    return np.asarray(places), np.asarray(faces).astype(np.int64)
