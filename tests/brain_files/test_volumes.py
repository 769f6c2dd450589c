from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from topobrain._checks import DataFileError, InputError
from topobrain.brain_files import responses_from_nifti, save_map
from topobrain.responses import BrainResponses
from topobrain.stats.ceiling import noise_ceiling
from topobrain.stimuli import StimulusSet

SHAPE = (4, 5, 3)
AFFINE = np.array([[2.0, 0.1, 0, -10], [0, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])  # sheared: no qform can hold it
N = 6


@pytest.fixture
def stimuli() -> StimulusSet:
    return StimulusSet([f"sentence {n}" for n in range(N)], name="toy")


@pytest.fixture
def data() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((*SHAPE, N)).astype(np.float32)


@pytest.fixture
def inside() -> np.ndarray:
    return np.random.default_rng(1).random(SHAPE) < 0.5


def image(array: np.ndarray, affine: np.ndarray = AFFINE) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(array.astype(np.int16) if array.dtype == bool else array, affine)


def atlas() -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[0], labels[1], labels[3, :2] = 3, 11, 7
    return labels


@pytest.mark.slow
def test_every_voxel_of_the_mask_is_a_column_with_its_place(stimuli, data, inside, tmp_path: Path) -> None:
    path = tmp_path / "betas.nii.gz"
    nibabel.save(image(data), path)
    nibabel.save(image(inside), tmp_path / "mask.nii.gz")
    brain = responses_from_nifti(path, stimuli, mask=tmp_path / "mask.nii.gz", subject="s1", space="MNI152Lin")
    assert brain.values.dtype == np.float32
    np.testing.assert_array_equal(brain.values, data[inside].T)
    i, j, k = (brain.data[name].values for name in "ijk")
    np.testing.assert_array_equal(brain.values, data[i, j, k].T)
    np.testing.assert_allclose(brain.data.attrs["affine"].reshape(4, 4), AFFINE, atol=1e-6)
    assert brain.data.attrs["shape"].tolist() == list(SHAPE)
    assert brain.data.attrs["space"] == "MNI152Lin"
    assert brain.provenance["files"] == ["betas.nii.gz"]
    again = BrainResponses.load(brain.save(tmp_path / "saved.nc"))
    assert again.values.dtype == np.float32
    np.testing.assert_array_equal(again.data.attrs["affine"], brain.data.attrs["affine"])


@pytest.mark.parametrize("way", ["list", "mapping", "template", "memory"])
def test_images_come_one_a_stimulus_or_together(stimuli, data, inside, tmp_path: Path, way: str) -> None:
    for n, label in enumerate(stimuli.ids):
        nibabel.save(image(data[..., n]), tmp_path / f"beta_{label}.nii")
    files = [tmp_path / f"beta_{label}.nii" for label in stimuli.ids]
    given = {
        "list": files,
        "mapping": dict(reversed(list(zip(stimuli.ids, files, strict=True)))),  # its order says nothing
        "template": str(tmp_path / "beta_{stimulus}.nii"),
        "memory": [image(data[..., n]) for n in range(N)],
    }[way]
    np.testing.assert_array_equal(responses_from_nifti(given, stimuli, mask=image(inside)).values, data[inside].T)


def test_float64_images_stay_float64_and_scaled_integers_become_float32(stimuli, data, inside, tmp_path: Path) -> None:
    double = responses_from_nifti(image(data.astype(np.float64) + 1e-12), stimuli, mask=image(inside))
    assert double.values.dtype == np.float64
    np.testing.assert_array_equal(double.values, (data.astype(np.float64) + 1e-12)[inside].T)
    whole = nibabel.Nifti1Image(data.astype(np.float64), AFFINE)
    whole.set_data_dtype(np.int16)  # nibabel chooses the slope
    nibabel.save(whole, tmp_path / "scaled.nii.gz")
    scaled = responses_from_nifti(tmp_path / "scaled.nii.gz", stimuli, mask=image(inside))
    assert scaled.values.dtype == np.float32
    np.testing.assert_allclose(scaled.values, data[inside].T, atol=2e-4)


def test_missing_values_stay_missing_and_spoil_only_their_voxel(stimuli, data, inside) -> None:
    data[tuple(np.argwhere(inside)[4])] = [0, 1, np.nan, 3, 4, 5]
    plain = responses_from_nifti(image(data), stimuli, mask=image(inside))
    np.testing.assert_array_equal(plain.values, data[inside].T)  # NaN at the same place
    scaled = responses_from_nifti(image(data), stimuli, mask=image(inside), standardize="zscore_sample")
    assert np.isnan(scaled.values[:, 4]).all()
    others = np.delete(data[inside].T, 4, axis=1)
    expected = (others - others.mean(0)) / others.std(0, ddof=1)
    np.testing.assert_allclose(np.delete(scaled.values, 4, axis=1), expected, atol=1e-5)
    assert plain.missing().iloc[0].to_dict() == {
        "first": "s0002",
        "last": "s0002",
        "n_stimuli": 1,
        "n_voxels": 1,
        "subjects": "group",
        "rois": "all",
    }


def test_an_infinite_value_is_named_with_its_file_and_voxel(stimuli, data, inside, tmp_path: Path) -> None:
    data[1, 2, 0, 3] = np.inf  # nilearn would read 0
    for n in range(N):
        nibabel.save(image(data[..., n]), tmp_path / f"{n}.nii")
    with pytest.raises(InputError, match=r"3\.nii holds an infinite value in volume 3 at voxel \(1, 2, 0\)"):
        responses_from_nifti([tmp_path / f"{n}.nii" for n in range(N)], stimuli, mask=image(inside))


def test_regions_are_means_of_voxels_that_have_values(stimuli, data) -> None:
    data[0, 0, 0, 2] = np.nan  # one voxel of region 3 lacks one image: it is left out of all its means
    names = {3: "V1", 7: "V4", 11: "V2", 20: "not there"}
    brain = responses_from_nifti(image(data), stimuli, labels=image(atlas()), names=names)
    assert brain.rois == ["V1", "V4", "V2"]
    complete = np.isfinite(data).all(axis=3)
    expected = np.stack([data[(atlas() == n) & complete].mean(axis=0) for n in (3, 7, 11)], axis=1)
    np.testing.assert_allclose(brain.values, expected, atol=1e-6)
    assert brain.provenance["extraction"]["n_voxels_without_values"] == 1
    assert np.isnan(data[0, 0, 0, 2])  # nilearn writes zeros into the array that it is given: not into ours
    assert "i" not in brain.data.coords


def test_a_region_outside_the_images_stays_unknown(stimuli, data) -> None:
    data[3, :2] = np.nan
    brain = responses_from_nifti(image(data), stimuli, labels=image(atlas()), names={3: "V1", 7: "V4", 11: "V2"})
    assert brain.rois == ["V1", "V4", "V2"]
    assert np.isnan(brain.values[:, 1]).all()
    assert np.isfinite(brain.values[:, [0, 2]]).all()
    assert brain.provenance["extraction"]["regions_without_voxels"] == ["V4"]


def test_voxels_can_carry_their_region_instead(stimuli, data, inside) -> None:
    brain = responses_from_nifti(image(data), stimuli, mask=image(inside), labels=image(atlas()), average=False)
    both = inside & (atlas() > 0)
    np.testing.assert_array_equal(brain.values, data[both].T)
    assert brain.labels("roi").tolist() == [str(n) for n in atlas()[both]]
    assert set(brain.data["i"].values.tolist()) <= {0, 1, 3}


def test_names_come_from_a_bids_table(stimuli, data, tmp_path: Path) -> None:
    pd.DataFrame({"index": [3, 7, 11], "name": ["a", "b", "c"], "color": ["#000"] * 3}).to_csv(
        tmp_path / "dseg.tsv", sep="\t", index=False
    )
    brain = responses_from_nifti(image(data), stimuli, labels=image(atlas()), names=tmp_path / "dseg.tsv")
    assert brain.rois == ["a", "b", "c"]
    with pytest.raises(InputError, match=r"labels 11 of .* have no name; named are 3, 7"):
        responses_from_nifti(image(data), stimuli, labels=image(atlas()), names={3: "a", 7: "b"})
    with pytest.raises(InputError, match="names are not unique: a"):
        responses_from_nifti(image(data), stimuli, labels=image(atlas()), names={3: "a", 7: "b", 11: "a"})


def test_maps_are_solved_by_least_squares(stimuli, data) -> None:
    maps = np.random.default_rng(3).random((*SHAPE, 2)).astype(np.float32)
    brain = responses_from_nifti(image(data), stimuli, maps=image(maps), names=["visual", "language"])
    expected = np.linalg.lstsq(maps.reshape(-1, 2), data.reshape(-1, N), rcond=None)[0].T
    np.testing.assert_allclose(brain.values, expected, atol=1e-4)
    assert brain.rois == ["visual", "language"]
    with pytest.raises(InputError, match="2 maps: expected a list of one name each"):
        responses_from_nifti(image(data), stimuli, maps=image(maps), names=["visual"])
    with pytest.raises(InputError, match="expected 4D"):
        responses_from_nifti(image(data), stimuli, maps=image(maps[..., 0]))


def test_runs_are_cleaned_one_by_one(stimuli, data, inside) -> None:
    drift = data + np.concatenate([np.zeros(3), np.full(3, 100.0)]).astype(np.float32)
    runs = [image(drift[..., :3]), image(drift[..., 3:])]
    brain = responses_from_nifti(runs, stimuli, mask=image(inside), standardize="zscore_sample", design="timeseries")
    rows = drift[inside].T
    expected = np.concatenate([(r - r.mean(0)) / r.std(0, ddof=1) for r in (rows[:3], rows[3:])])
    np.testing.assert_allclose(brain.values, expected, atol=1e-4)
    assert brain.design == "timeseries"


def test_smoothing_is_nilearns(stimuli, data, inside) -> None:
    from nilearn.image import smooth_img

    brain = responses_from_nifti(image(data), stimuli, mask=image(inside), smoothing_fwhm=4)
    expected = smooth_img(image(data), 4).get_fdata()[inside].T
    np.testing.assert_allclose(brain.values, expected, atol=1e-5)


def test_a_mask_is_computed_where_none_is_given(stimuli) -> None:
    bold = np.zeros((12, 12, 12, N), dtype=np.float32)
    bold[3:9, 3:9, 3:9] = 1000 + np.random.default_rng(0).standard_normal((6, 6, 6, N))
    brain = responses_from_nifti(image(bold), stimuli)
    assert 0 < brain.values.shape[1] <= 6**3
    assert (brain.values > 900).all()
    assert brain.provenance["extraction"]["mask"] == "computed by nilearn (background)"


def test_repeats_are_averaged_and_give_the_ceiling(stimuli, inside) -> None:
    generator = np.random.default_rng(5)
    signal = generator.standard_normal((N, int(inside.sum())))
    shown = signal[None] + generator.standard_normal((3, *signal.shape))
    order = [label for _ in range(3) for label in stimuli.ids]
    shuffle = generator.permutation(3 * N)
    data = np.zeros((*SHAPE, 3 * N))
    data[inside] = shown.reshape(3 * N, -1)[shuffle].T
    brain = responses_from_nifti(image(data), stimuli, mask=image(inside), order=[order[n] for n in shuffle])
    np.testing.assert_allclose(brain.values, shown.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(brain.data["ceiling"].values, noise_ceiling(shown), atol=1e-12)
    assert brain.provenance["repeats"] == [3]
    with pytest.raises(
        InputError, match=r"order names 'x0001' \(volume 1\), which is no stimulus\. Did you mean 's0001'"
    ):
        responses_from_nifti(image(data[..., :2]), stimuli, mask=image(inside), order=["s0001", "x0001"])
    with pytest.raises(InputError, match="order never names 5 of the stimuli: s0001"):
        responses_from_nifti(image(data[..., :2]), stimuli, mask=image(inside), order=["s0000", "s0000"])


def test_the_ceiling_may_be_a_number_an_image_or_one_a_region(stimuli, data, inside) -> None:
    ceiling = np.random.default_rng(2).random(SHAPE)
    brain = responses_from_nifti(image(data), stimuli, mask=image(inside), ceiling=image(ceiling))
    np.testing.assert_allclose(brain.data["ceiling"].values, ceiling[inside])
    brain = responses_from_nifti(image(data), stimuli, labels=image(atlas()), ceiling={"7": 0.5})
    np.testing.assert_array_equal(brain.data["ceiling"].values, [np.nan, 0.5, np.nan])
    with pytest.raises(InputError, match=r"given for '77', which is no region. Did you mean '7'"):
        responses_from_nifti(image(data), stimuli, labels=image(atlas()), ceiling={"77": 0.5})
    with pytest.raises(InputError, match="regions take one number each"):
        responses_from_nifti(image(data), stimuli, labels=image(atlas()), ceiling=image(ceiling))


def test_other_grids_are_refused_or_resampled_on_request(stimuli, data, inside) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 1
    with pytest.raises(InputError, match=r"another grid than .*origin -9 -20 5, against .*origin -10 -20 5"):
        responses_from_nifti([image(data[..., 0]), image(data[..., 1], moved)], stimuli, mask=image(inside))
    with pytest.raises(InputError, match=r"the mask .* lies on another grid than the images: 2 x 5 x 3 voxels"):
        responses_from_nifti(image(data), stimuli, mask=image(inside[:2]))
    # A finer atlas of the same regions: nearest neighbour brings every voxel its label back.
    fine = np.diag([0.5, 0.5, 1, 1])
    small = image(atlas().repeat(2, axis=0).repeat(2, axis=1), AFFINE @ fine)
    with pytest.raises(InputError, match="resample=True"):
        responses_from_nifti(image(data), stimuli, labels=small)
    brain = responses_from_nifti(image(data), stimuli, labels=small, resample=True)
    expected = np.stack([data[atlas() == n].mean(axis=0) for n in (3, 7, 11)], axis=1)
    np.testing.assert_allclose(brain.values, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, m: {"images": image(d[..., 0])}, "one volume .3D.: expected 4D"),
        (lambda d, m: {"images": image(d[..., :4])}, "4 volumes for 6 stimuli, expected one each"),
        (lambda d, m: {"images": [image(d), image(d)]}, "12 volumes for 6 stimuli.*order="),
        (lambda d, m: {"images": image(d[..., 0, 0])}, "expected a volume .3D. or volumes .4D."),
        (lambda d, m: {"images": []}, "no image was given"),
        (lambda d, m: {"mask": image(np.zeros(SHAPE, dtype=bool))}, "is empty: no voxel is left"),
        (
            lambda d, m: {"mask": image(m), "labels": image(np.where(m, 0, 4).astype(np.int16)), "average": False},
            "is empty",
        ),
        (lambda d, m: {"labels": image(np.zeros(SHAPE, dtype=np.int16))}, "holds no label"),
        (lambda d, m: {"labels": image(np.full(SHAPE, 0.5))}, "no atlas of labels.*maps="),
        (lambda d, m: {"labels": image(atlas()), "maps": image(d)}, "both labels and maps"),
        (lambda d, m: {"smoothing": 4}, "NiftiMasker has no option 'smoothing'. Did you mean 'smoothing_fwhm'"),
        (lambda d, m: {"labels": image(atlas()), "stategy": "mean"}, "NiftiLabelsMasker.*Did you mean 'strategy'"),
        (lambda d, m: {"high_pass": 0.01}, "cannot|nilearn"),
        (lambda d, m: {"mask": image(d)}, "expected a mask of one volume"),
        (lambda d, m: {"images": {"s0000": image(d[..., 0])}}, "5 stimuli have no image: s0001"),
        (
            lambda d, m: {"images": {f"s{n:04d}": image(d[..., 0]) for n in range(7)}},
            "1 images belong to no stimulus: s0006",
        ),
    ],
)
def test_what_does_not_fit_is_explained(stimuli, data, inside, change, message: str) -> None:
    given = {"images": image(data), "mask": image(inside), **change(data, inside)}
    if "labels" in given and "average" not in given:
        given.pop("mask")
    with pytest.raises(InputError, match=message):
        responses_from_nifti(given.pop("images"), stimuli, **given)


def test_missing_and_truncated_files_are_named(stimuli, data, tmp_path: Path) -> None:
    nibabel.save(image(data), tmp_path / "betas.nii.gz")
    with pytest.raises(DataFileError, match=r"no image .*betas\.nii\. Did you mean 'betas\.nii\.gz'"):
        responses_from_nifti(tmp_path / "betas.nii", stimuli)
    whole = (tmp_path / "betas.nii.gz").read_bytes()
    (tmp_path / "half.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataFileError, match=r"half\.nii\.gz cannot be read"):
        responses_from_nifti(tmp_path / "half.nii.gz", stimuli)
    (tmp_path / "text.nii.gz").write_text("no image")
    with pytest.raises(DataFileError, match=r"text\.nii\.gz cannot be read as a brain image"):
        responses_from_nifti(tmp_path / "text.nii.gz", stimuli)
    with pytest.raises(DataFileError, match="Its folder does not exist"):
        responses_from_nifti(tmp_path / "nowhere" / "x.nii.gz", stimuli)


def test_what_was_read_can_be_written_and_read_again(stimuli, data, inside, tmp_path: Path) -> None:
    brain = responses_from_nifti(image(data), stimuli, mask=image(inside))
    (path,) = save_map(brain.values, tmp_path / "again.nii.gz", like=brain)
    again = responses_from_nifti(path, stimuli, mask=image(inside))
    np.testing.assert_array_equal(again.values, brain.values)
    np.testing.assert_allclose(again.data.attrs["affine"], brain.data.attrs["affine"], atol=1e-6)


def test_a_ceiling_on_another_grid_is_refused(stimuli, data, inside) -> None:
    ceiling, moved = np.random.default_rng(2).random(SHAPE), AFFINE.copy()
    moved[0, 3] += 2.0
    with pytest.raises(
        InputError, match=r"the ceiling an image in memory .* lies on another grid than the images: .*origin"
    ):
        responses_from_nifti(image(data), stimuli, mask=image(inside), ceiling=image(ceiling, moved))
    with pytest.raises(InputError, match="ceiling holds 'high': expected real numbers"):
        responses_from_nifti(image(data), stimuli, labels=image(atlas()), ceiling={"7": "high"})


@pytest.mark.parametrize("label", [2**31, 2**40, -(2**31)])
def test_labels_of_more_than_32_bits_are_refused(stimuli, data, label: int) -> None:
    numbers = np.zeros(SHAPE, dtype=np.int64)
    numbers[0, 0, 0] = label
    with pytest.raises(InputError, match=rf"has the label {label}: expected whole numbers below 2\^31"):
        responses_from_nifti(image(data), stimuli, labels=nibabel.Nifti1Image(numbers, AFFINE, dtype=np.int64))


def test_two_maps_of_one_name_are_refused(stimuli, data) -> None:
    with pytest.raises(InputError, match="names are not unique: IFG name more than one map"):
        responses_from_nifti(image(data), stimuli, maps=image(data[..., :2]), names=["IFG", "IFG"])
