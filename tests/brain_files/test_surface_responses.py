from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from topobrain._checks import DataFileError, InputError
from topobrain.brain_files import responses_from_surface
from topobrain.stimuli import StimulusSet

N, LEFT, RIGHT = 5, 12, 9


@pytest.fixture
def stimuli() -> StimulusSet:
    return StimulusSet([f"sentence {n}" for n in range(N)], name="toy")


@pytest.fixture
def sides() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    left, right = (generator.standard_normal((N, n)).astype(np.float32) for n in (LEFT, RIGHT))
    left[:, [0, 7]] = 0  # the medial wall as most tools write it
    right[:, 3] = np.nan  # and as others do
    left[2, 5] = 0  # a single zero is a response
    return {"left": left, "right": right}


def gifti(rows: np.ndarray, path: Path) -> Path:
    arrays = [
        nibabel.gifti.GiftiDataArray(row, intent="NIFTI_INTENT_NONE", datatype="NIFTI_TYPE_FLOAT32") for row in rows
    ]
    nibabel.save(nibabel.gifti.GiftiImage(darrays=arrays), path)
    return path


def mgh(rows: np.ndarray, path: Path) -> Path:
    nibabel.save(nibabel.MGHImage(np.ascontiguousarray(rows.T[:, None, None, :]), np.eye(4)), path)
    return path


def label_gifti(keys: np.ndarray, names: dict[int, str], path: Path) -> Path:
    table = nibabel.gifti.GiftiLabelTable()
    for key, name in names.items():
        label = nibabel.gifti.GiftiLabel(key)
        label.label = name
        table.labels.append(label)
    array = nibabel.gifti.GiftiDataArray(
        keys.astype(np.int32), intent="NIFTI_INTENT_LABEL", datatype="NIFTI_TYPE_INT32"
    )
    nibabel.save(nibabel.gifti.GiftiImage(darrays=[array], labeltable=table), path)
    return path


KEPT = ([1, 2, 3, 4, 5, 6, 8, 9, 10, 11], [0, 1, 2, 4, 5, 6, 7, 8])


@pytest.mark.parametrize("form", ["gifti", "mgh", "mgz", "one each", "template", "array", "mapping"])
def test_vertices_are_columns_without_the_medial_wall(stimuli, sides, tmp_path: Path, form: str) -> None:
    given: object = sides
    if form == "gifti":
        given = {
            "L": gifti(sides["left"], tmp_path / "l.func.gii"),
            "R": gifti(sides["right"], tmp_path / "r.func.gii"),
        }
    elif form in ("mgh", "mgz"):
        given = {h: mgh(sides[s], tmp_path / f"{h}.betas.{form}") for h, s in (("rh", "right"), ("lh", "left"))}
    elif form == "one each":
        given = {s: [gifti(row[None], tmp_path / f"{s}{n}.shape.gii") for n, row in enumerate(sides[s])] for s in sides}
    elif form == "template":
        for letter, side in (("L", "left"), ("R", "right")):
            for label, row in zip(stimuli.ids, sides[side], strict=True):
                gifti(row[None], tmp_path / f"hemi-{letter}_{label}.shape.gii")
        given = str(tmp_path / "hemi-{hemi}_{stimulus}.shape.gii")
    elif form == "mapping":
        given = {
            s: {k: gifti(r[None], tmp_path / f"{s}{k}.gii") for k, r in zip(stimuli.ids, sides[s], strict=True)}
            for s in sides
        }
    brain = responses_from_surface(given, stimuli, subject="s1")
    expected = np.concatenate([sides["left"][:, KEPT[0]], sides["right"][:, KEPT[1]]], axis=1)
    np.testing.assert_array_equal(brain.values, expected)
    assert brain.values.dtype == np.float32
    assert brain.labels("hemisphere").tolist() == ["left"] * 10 + ["right"] * 8
    assert brain.data["vertex"].values.tolist() == KEPT[0] + KEPT[1]
    assert (brain.data.attrs["n_vertices_left"], brain.data.attrs["n_vertices_right"]) == (LEFT, RIGHT)
    assert brain.provenance["extraction"]["n_vertices_left_out"] == {"left": 2, "right": 1}


def test_the_medial_wall_can_be_kept(stimuli, sides) -> None:
    brain = responses_from_surface(sides, stimuli, medial_wall="keep", space="own mesh")
    np.testing.assert_array_equal(brain.values, np.concatenate(list(sides.values()), axis=1))
    assert brain.data.attrs["space"] == "own mesh"


def test_the_space_follows_from_the_number_of_vertices(stimuli) -> None:
    brain = responses_from_surface({"left": np.ones((N, 10242), dtype=np.float32)}, stimuli)
    assert brain.data.attrs["space"] == "fsaverage5"
    assert "n_vertices_right" not in brain.data.attrs


def test_a_mask_chooses_vertices(stimuli, sides, tmp_path: Path) -> None:
    masks = {
        "left": np.arange(LEFT) < 4,
        "right": gifti((np.arange(RIGHT) > 6)[None].astype(np.float32), tmp_path / "m.gii"),
    }
    brain = responses_from_surface(sides, stimuli, mask=masks)
    assert brain.data["vertex"].values.tolist() == [1, 2, 3, 7, 8]
    with pytest.raises(InputError, match="mask has no right hemisphere"):
        responses_from_surface(sides, stimuli, mask={"left": masks["left"]})
    with pytest.raises(InputError, match=r"mask of the left hemisphere has shape \(3,\)"):
        responses_from_surface(sides, stimuli, mask={**masks, "left": np.ones(3)})
    with pytest.raises(InputError, match="no vertex is left"):
        responses_from_surface(sides, stimuli, mask={"left": np.zeros(LEFT), "right": np.zeros(RIGHT)})


def test_labels_name_vertices_and_give_means_equal_to_nilearns(stimuli, sides, tmp_path: Path) -> None:
    from nilearn.maskers import SurfaceLabelsMasker
    from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage

    keys = {"left": np.array([0, 1, 1, 2, 2, 2, 1, 0, 0, 2, 1, 1]), "right": np.array([1, 1, 2, 0, 2, 2, 1, 1, 0])}
    names = {0: "???", 1: "V1", 2: "V2"}
    files = {s: label_gifti(keys[s], names, tmp_path / f"{s}.label.gii") for s in keys}
    vertices = responses_from_surface(sides, stimuli, labels=files)
    assert vertices.labels("roi").tolist() == [
        names[k] for s, kept in zip(keys, KEPT, strict=True) for k in keys[s][kept] if k
    ]
    means = responses_from_surface(sides, stimuli, labels=files, average=True)
    assert means.labels("roi").tolist() == ["V1", "V2"] * 2
    assert means.labels("hemisphere").tolist() == ["left", "left", "right", "right"]
    meshes = {
        s: InMemoryMesh(np.random.default_rng(1).random((n, 3)), np.array([[0, 1, 2]]))
        for s, n in (("left", LEFT), ("right", RIGHT))
    }
    mesh = PolyMesh(**meshes)
    # nilearn has one column a label for both hemispheres: distinct labels make them comparable.
    atlas = SurfaceImage(mesh, {"left": keys["left"], "right": np.where(keys["right"] > 0, keys["right"] + 2, 0)})
    shown = SurfaceImage(mesh, {s: np.nan_to_num(sides[s]).T for s in sides})
    oracle = SurfaceLabelsMasker(labels_img=atlas, reports=False).fit().transform(shown)
    np.testing.assert_allclose(means.values, oracle, atol=1e-6)
    read = responses_from_surface(shown, stimuli)
    np.testing.assert_array_equal(read.values, vertices_all(sides))


def vertices_all(sides: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([sides["left"][:, KEPT[0]], sides["right"][:, KEPT[1]]], axis=1)


def test_annotations_of_freesurfer_are_read(stimuli, sides, tmp_path: Path) -> None:
    colours = np.array([[25, 5, 25, 0, 0], [10, 20, 30, 0, 0], [40, 50, 60, 0, 0]])
    colours[:, 4] = colours[:, 0] + colours[:, 1] * 2**8 + colours[:, 2] * 2**16
    keys = np.array([0, 1, 1, 2, 2, 2, 1, -1, 0, 2, 1, 1])
    nibabel.freesurfer.write_annot(tmp_path / "lh.annot", keys, colours, [b"unknown", b"V1", b"V2"], fill_ctab=False)
    brain = responses_from_surface({"lh": sides["left"]}, stimuli, labels={"lh": tmp_path / "lh.annot"}, average=True)
    expected = np.stack([sides["left"][:, keys == k].mean(axis=1) for k in (1, 2)], axis=1)
    np.testing.assert_allclose(brain.values, expected, atol=1e-6)
    with pytest.raises(InputError, match="labels 12 vertices, the images have 9: they lie on different meshes"):
        responses_from_surface({"rh": sides["right"]}, stimuli, labels={"rh": tmp_path / "lh.annot"})


@pytest.mark.parametrize("kind", ["dtseries", "dscalar"])
def test_the_cortex_of_a_cifti_file_is_read(stimuli, sides, tmp_path: Path, kind: str) -> None:
    from nibabel import cifti2

    left = cifti2.BrainModelAxis.from_surface(np.array(KEPT[0]), LEFT, name="CortexLeft")
    right = cifti2.BrainModelAxis.from_surface(np.array(KEPT[1]), RIGHT, name="CortexRight")
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[0, 0, :2] = True
    deep = cifti2.BrainModelAxis.from_mask(mask, affine=np.eye(4), name="ThalamusLeft")
    rows = cifti2.SeriesAxis(0, 2, N) if kind == "dtseries" else cifti2.ScalarAxis(stimuli.ids)
    data = np.concatenate([sides["left"][:, KEPT[0]], sides["right"][:, KEPT[1]], np.ones((N, 2))], axis=1)
    path = tmp_path / f"x.{kind}.nii"
    nibabel.save(cifti2.Cifti2Image(data.astype(np.float32), (rows, left + right + deep)), path)
    brain = responses_from_surface(path, stimuli)
    np.testing.assert_array_equal(brain.values, vertices_all(sides))
    assert brain.data["vertex"].values.tolist() == KEPT[0] + KEPT[1]
    assert brain.data.attrs["n_vertices_left"] == LEFT
    assert brain.provenance["extraction"]["structures_left_out"] == {"thalamus_left": 2}


def test_cleaning_is_nilearns_and_missing_values_stay(stimuli, sides) -> None:
    from nilearn.signal import clean

    left = sides["left"].copy()
    left[3, 4] = np.nan
    brain = responses_from_surface({"left": left}, stimuli, detrend=True, standardize="zscore_sample")
    kept = np.delete(np.array(KEPT[0]), 3)  # vertex 4
    expected = clean(left[:, kept], detrend=True, standardize="zscore_sample")
    np.testing.assert_allclose(np.delete(brain.values, 3, axis=1), expected, atol=1e-5)
    assert np.isnan(brain.values[:, 3]).all()
    with pytest.raises(InputError, match="a filter needs t_r"):
        responses_from_surface(sides, stimuli, high_pass=0.01)
    with pytest.raises(InputError, match=r"no option 'detrnd'\. Did you mean 'detrend'"):
        responses_from_surface(sides, stimuli, detrnd=True)


def test_repeats_are_averaged(stimuli, sides) -> None:
    double = {s: np.concatenate([rows, rows + 2]) for s, rows in sides.items()}
    brain = responses_from_surface(double, stimuli, order=stimuli.ids * 2, medial_wall="keep")
    np.testing.assert_allclose(brain.values[:, 1], sides["left"][:, 1] + 1, atol=1e-6)


def test_what_is_missing_or_does_not_fit_is_named(stimuli, sides, tmp_path: Path) -> None:
    left = gifti(sides["left"], tmp_path / "sub_hemi-L.func.gii")
    with pytest.raises(DataFileError, match=r"no surface file .*hemi-R\.func\.gii. Did you mean 'sub_hemi-L"):
        responses_from_surface(str(tmp_path / "sub_hemi-{hemi}.func.gii"), stimuli)
    with pytest.raises(InputError, match="the right hemisphere is missing"):
        responses_from_surface({"left": left, "right": None}, stimuli)
    with pytest.raises(InputError, match=r"is one hemisphere, or none: give both"):
        responses_from_surface(left, stimuli)
    with pytest.raises(InputError, match="unknown hemisphere 'up'"):
        responses_from_surface({"up": left}, stimuli)
    with pytest.raises(InputError, match=r"different numbers of images: \{'left': 5, 'right': 3\}"):
        responses_from_surface({**sides, "right": sides["right"][:3]}, stimuli)
    with pytest.raises(InputError, match="3 volumes for 5 stimuli"):
        responses_from_surface({s: rows[:3] for s, rows in sides.items()}, stimuli)
    with pytest.raises(InputError, match=r"has 9 vertices, .* has 12: expected one mesh"):
        responses_from_surface({"left": [left, gifti(sides["right"], tmp_path / "other.func.gii")]}, stimuli)
    infinite = {"left": sides["left"].copy()}
    infinite["left"][1, 2] = np.inf
    with pytest.raises(InputError, match="infinite value at stimulus 's0001', voxel 1"):
        responses_from_surface(infinite, stimuli)
    points = nibabel.gifti.GiftiDataArray(np.zeros((4, 3), dtype=np.float32), intent="NIFTI_INTENT_POINTSET")
    nibabel.save(nibabel.gifti.GiftiImage(darrays=[points]), tmp_path / "lh.white.gii")
    with pytest.raises(DataFileError, match="holds a mesh, or nothing"):
        responses_from_surface({"left": tmp_path / "lh.white.gii"}, stimuli)
    whole = left.read_bytes()
    (tmp_path / "half.func.gii").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataFileError, match=r"half\.func\.gii cannot be read"):
        responses_from_surface({"left": tmp_path / "half.func.gii"}, stimuli)
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, N)), np.eye(4)), tmp_path / "volume.nii.gz")
    with pytest.raises(DataFileError, match="A volume is read with responses_from_nifti"):
        responses_from_surface({"left": tmp_path / "volume.nii.gz"}, stimuli)
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, N)), np.eye(4)), tmp_path / "x.dscalar.nii")
    with pytest.raises(DataFileError, match="no CIFTI-2 file"):
        responses_from_surface(tmp_path / "x.dscalar.nii", stimuli)


def test_a_vertex_with_a_missing_value_is_left_out_of_its_mean_in_every_image(stimuli, sides) -> None:
    rows = sides["left"].copy()
    rows[:, :6] = np.arange(1.0, 7.0) * np.arange(1, N + 1)[:, None]
    rows[2, 1] = np.nan
    rows[0, 4:6] = np.nan
    names = ["a"] * 4 + ["b"] * 2 + [""] * (rows.shape[1] - 6)
    brain = responses_from_surface({"left": rows}, stimuli, labels={"left": names}, average=True)
    assert brain.rois == ["a", "b"]
    expected = np.arange(1, N + 1) * np.mean([1.0, 3.0, 4.0])
    np.testing.assert_allclose(brain.values[:, 0], expected, rtol=1e-6)
    assert np.isnan(brain.values[:, 1]).all()  # no vertex of b has a value in every image


def test_means_of_whole_numbers_are_not_rounded(stimuli) -> None:
    rows = np.tile(np.array([1, 2]), (N, 1))
    brain = responses_from_surface({"left": rows}, stimuli, labels={"left": ["a", "a"]}, average=True)
    np.testing.assert_array_equal(brain.values, np.full((N, 1), 1.5))


def test_what_is_no_number_or_no_region_is_named(stimuli, sides) -> None:
    for wrong in (sides["left"].astype(object), sides["left"].astype(str), sides["left"] * 1j):
        with pytest.raises(
            InputError, match=r"values of the left hemisphere are an array of (object|<U|complex).*real numbers"
        ):
            responses_from_surface({"left": wrong}, stimuli)
    with pytest.raises(InputError, match=r"a ceiling is given for 'alll', which is no region. Did you mean 'all'"):
        responses_from_surface(sides, stimuli, ceiling={"alll": 0.5})
    with pytest.raises(InputError, match="ceiling holds 'x': expected real numbers"):
        responses_from_surface(sides, stimuli, ceiling={"all": "x"})
    assert (responses_from_surface(sides, stimuli, ceiling={"all": 0.5}).data["ceiling"].values == 0.5).all()
