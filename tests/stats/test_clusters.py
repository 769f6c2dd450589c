import numpy as np
import pytest
from scipy import ndimage

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.sheet import Sheet
from topobrain.surface import Surface


def noise(sheet, seed=0, fwhm=2.0):
    return sheet.smooth(np.random.default_rng(seed).standard_normal(sheet.n_units), fwhm) * 3


def grown_one_by_one(t, sheet, seed_threshold, grow_threshold, min_size, mask):
    """The growth rule as it is stated: from the best unit that is left, always take the best neighbour."""
    joined = sheet.neighbours("rook").toarray() > 0
    free = np.isfinite(t) if mask is None else np.isfinite(t) & mask
    found = []
    while free.any():
        peak = int(np.argmax(np.where(free, t, -np.inf)))
        if not (t[peak] >= seed_threshold and t[peak] > grow_threshold):
            break
        cluster = [peak]
        free[peak] = False
        while True:
            candidates = np.flatnonzero(
                joined[cluster].any(axis=0) & free & (np.nan_to_num(t, nan=-9e9) > grow_threshold)
            )
            if not candidates.size:
                break
            best = int(candidates[np.argmax(t[candidates])])
            cluster.append(best)
            free[best] = False
        if len(cluster) >= min_size:
            found.append(cluster)
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("sheet", "options", "masked"),
    [
        (Sheet.grid(12, 15), (1.0, 0.0, 5), False),
        (Sheet.grid(12, 15, wrapped=True), (1.0, 0.0, 5), True),
        (Sheet(170, 12, 15), (2.0, 0.5, 1), True),
        (Sheet.grid(9, 9).with_places(np.random.default_rng(0).permutation(81)), (0.5, 0.5, 2), False),
    ],
)
def test_clusters_equal_those_grown_one_by_one(sheet, options, masked, seed):
    t = noise(sheet, seed)
    t[::17] = np.nan
    mask = np.random.default_rng(seed).random(sheet.n_units) < 0.8 if masked else None
    expected = grown_one_by_one(t, sheet, *options, mask)
    assert expected
    threshold, above, min_size = options
    found = stats.grow_clusters(t, sheet, seed_threshold=threshold, grow_threshold=above, min_size=min_size, mask=mask)
    assert found.sizes.tolist() == [len(cluster) for cluster in expected]
    assert found.peaks.tolist() == [cluster[0] for cluster in expected]
    for number, cluster in enumerate(expected):
        assert np.flatnonzero(found.labels == number).tolist() == sorted(cluster)
    assert (found.labels >= 0).sum() == found.sizes.sum()


def test_a_planted_patch_is_recovered_exactly():
    sheet, t = Sheet.grid(20, 20), np.random.default_rng(0).normal(-3, 0.5, (20, 20))
    t[5:11, 8:14] = np.random.default_rng(1).uniform(4, 9, (6, 6))
    t[15, 2:5] = 5.0  # three units: too few
    found = stats.grow_clusters(t.ravel(), sheet)
    assert found.sizes.tolist() == [36]
    inside = np.zeros((20, 20), dtype=bool)
    inside[5:11, 8:14] = True
    assert np.array_equal(found.labels == 0, inside.ravel())
    assert found.peaks[0] == np.where(inside, t, 0).argmax()


def test_units_at_the_threshold_do_not_join():
    t = np.array([2.0, 0.0, 0.0, 1.5, 1e-9])
    found = stats.grow_clusters(t, Sheet.grid(1, 5), min_size=1)
    assert found.labels.tolist() == [0, -1, -1, 1, 1]


def test_clusters_close_around_a_torus_and_touch_at_corners_only_as_queens():
    t = np.full((6, 6), -1.0)
    t[0, 3], t[5, 3], t[1, 4] = 3, 2, 2.5
    for sheet, neighbours, sizes in [
        (Sheet.grid(6, 6), None, [1, 1, 1]),
        (Sheet.grid(6, 6), "queen", [2, 1]),
        (Sheet.grid(6, 6, wrapped=True), "rook", [2, 1]),
        (Sheet.grid(6, 6, wrapped=True), "queen", [3]),
    ]:
        assert stats.grow_clusters(t.ravel(), sheet, min_size=1, neighbours=neighbours).sizes.tolist() == sizes


def test_a_map_without_a_seed_has_no_cluster():
    for t in (np.full(30, 0.9), np.full(30, np.nan)):
        found = stats.grow_clusters(t, Sheet.grid(5, 6))
        assert (found.labels == -1).all()
        assert found.sizes.size == found.peaks.size == 0


@pytest.mark.parametrize(
    ("neighbours", "structure"), [("queen", np.ones((3, 3))), ("rook", None), (None, np.ones((3, 3)))]
)
def test_connected_clusters_equal_those_of_scipy(neighbours, structure):
    mask = np.random.default_rng(2).random((15, 20)) < 0.4
    expected, n = ndimage.label(mask, structure=structure)
    found = stats.connected_clusters(mask.ravel(), Sheet.grid(15, 20), neighbours=neighbours)
    assert found.sizes.size == n
    assert sorted(found.sizes) == sorted(np.bincount(expected[mask])[1:])
    assert (np.diff(found.sizes) <= 0).all()
    pairs = np.unique(np.stack([found.labels, expected.ravel()]), axis=1)
    assert pairs.shape[1] == n + 1  # one name of ours for each of theirs, and none for outside
    for number, peak in enumerate(found.peaks):
        assert np.flatnonzero(found.labels == number)[0] == peak
    large = stats.connected_clusters(mask.ravel(), Sheet.grid(15, 20), neighbours=neighbours, min_size=4)
    assert large.sizes.tolist() == [size for size in found.sizes if size >= 4]
    assert np.array_equal(large.labels, np.where(found.labels < large.sizes.size, found.labels, -1))


def test_clusters_on_a_mesh_follow_its_edges():
    mesh = Surface.icosphere(2)
    height = mesh.coordinates[:, 2] / np.abs(mesh.coordinates[:, 2]).max()
    found = stats.connected_clusters(np.abs(height) > 0.6, mesh)
    assert found.sizes.size == 2  # two caps
    assert len(np.unique(np.sign(height[found.labels == 0]))) == 1
    grown = stats.grow_clusters(height, mesh, seed_threshold=0.9, grow_threshold=0.6, min_size=5)
    assert np.array_equal(grown.labels >= 0, height > 0.6)
    with pytest.raises(InputError, match="mesh"):
        stats.grow_clusters(height, mesh, neighbours="rook")


def test_patches_are_neither_specks_nor_half_the_sheet():
    t = np.zeros((20, 20))
    t[:3, :3], t[6:10, 6:10], t[12:, 10:] = 5, 6, 9
    sheet = Sheet.grid(20, 20, spacing=2.0)  # a unit covers 4
    found = stats.threshold_patches(t.ravel(), sheet, threshold=4, min_area=40, max_area=200)
    assert found.sizes.tolist() == [16]
    assert (found.labels.reshape(20, 20)[6:10, 6:10] == 0).all()
    assert (found.labels >= 0).sum() == 16
    everything = stats.threshold_patches(t.ravel(), sheet, threshold=4, min_area=0, max_area=1e9)
    assert everything.sizes.tolist() == [80, 16, 9]  # the highest first
    assert stats.threshold_patches(t.ravel(), sheet, threshold=9, min_area=0).sizes.size == 0
    with pytest.raises(InputError, match="min_area"):
        stats.threshold_patches(t.ravel(), sheet, threshold=4, min_area=10, max_area=5)


@pytest.mark.parametrize("sheet", [Sheet.grid(7, 9, spacing=0.5), Sheet.grid(7, 9, wrapped=True), Sheet(60, 7, 9)])
def test_the_radius_until_all_labels_are_met_equals_a_search(sheet):
    preference = np.random.default_rng(3).integers(-1, 4, sheet.n_units)
    found = stats.radius_until_all(preference, sheet)
    distance = sheet.distances()
    for unit in range(sheet.n_units):
        if preference[unit] < 0:
            assert np.isnan(found[unit])
            continue
        order, met = np.argsort(distance[unit], kind="stable"), set()
        for other in order:
            met |= {int(preference[other])} - {-1}
            if len(met) == 4:
                break
        assert found[unit] == distance[unit, other]


def test_a_label_that_never_occurs_is_never_met():
    sheet, preference = Sheet.grid(4, 4), np.arange(16) % 4
    assert np.isnan(stats.radius_until_all(preference, sheet, labels=range(5))).all()
    assert (stats.radius_until_all(preference, sheet, labels=[0]) == np.tile([0, 1, 2, 3], 4)).all()
    assert (stats.radius_until_all(np.zeros(16, dtype=int), sheet) == 0).all()
    assert np.isnan(stats.radius_until_all(np.full(16, -1), sheet)).all()


def test_pinwheels_have_a_smaller_radius_than_large_domains():
    sheet = Sheet.grid(32, 32, wrapped=True)
    angle = np.random.default_rng(0).standard_normal((2, 1024))
    radius = []
    for fwhm in (2, 8):
        real, imaginary = sheet.smooth(angle, fwhm)
        preferred = np.floor((np.arctan2(imaginary, real) + np.pi) / (2 * np.pi) * 8).astype(int) % 8
        radius.append(np.mean(stats.radius_until_all(preferred, sheet)))
    assert radius[1] > 2 * radius[0]


def test_maps_and_masks_that_do_not_fit_are_refused():
    sheet, t = Sheet.grid(4, 4), np.arange(16.0)
    with pytest.raises(InputError, match="each of 16 units"):
        stats.grow_clusters(t[1:], sheet)
    with pytest.raises(InputError, match="seed"):
        stats.grow_clusters(t, sheet, seed_threshold=0.0, grow_threshold=1.0)
    with pytest.raises(InputError, match="mask"):
        stats.grow_clusters(t, sheet, mask=t)
    with pytest.raises(InputError, match="min_size"):
        stats.grow_clusters(t, sheet, min_size=0)
    with pytest.raises(InputError, match="True or False"):
        stats.connected_clusters(t, sheet)
    with pytest.raises(InputError, match="whole number"):
        stats.radius_until_all(t, sheet)
    with pytest.raises(UnknownNameError, match="rook"):
        stats.connected_clusters(t > 3, sheet, neighbours="rok")
    with pytest.raises(InputError, match=r"Sheet\.for_width"):
        stats.grow_clusters(t, Sheet.none(16))
