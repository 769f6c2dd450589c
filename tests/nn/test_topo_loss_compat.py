"""The authors' interface: same names, order and numbers, and the documented exceptions."""

import copy
import inspect
import json
import logging
import math

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.nn import topo_loss
from topobrain.nn.topoloss_compat import (
    ChainedTauScheduler,
    LaplacianPyramid,
    LaplacianPyramidOnBias,
    LaplacianPyramidOnInput,
    TauScheduler,
    TopoLoss,
    find_cortical_sheet_size,
    get_layer_by_name,
    get_name_by_layer,
    laplacian_pyramid_loss,
    laplacian_pyramid_loss_on_bias,
)

KINDS = (LaplacianPyramid, LaplacianPyramidOnBias, LaplacianPyramidOnInput)


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 36), nn.ReLU(), nn.Linear(36, 10))


@pytest.fixture
def losses(model):
    return TopoLoss(
        losses=[
            LaplacianPyramid.from_layer(model=model, layer=model[0], factor_h=2.0, factor_w=2.0, scale=0.5),
            LaplacianPyramid.from_layer(model=model, layer=model[2], factor_h=3.0, factor_w=3.0, scale=10.0),
            LaplacianPyramid.from_layer(model=model, layer=model[4], factor_h=2.0, factor_w=2.0, scale=None),
        ]
    )


def test_totals_and_logs_are_those_of_the_package(model, losses):
    assert losses.compute(model=model).item() == pytest.approx(4.523493, abs=1e-6)
    assert losses.compute(model=model, do_scaling=False).item() == pytest.approx(0.689928, abs=1e-6)
    scaled = losses.compute(model=model, reduce_mean=False)
    assert {k: v.item() for k, v in scaled.items()} == pytest.approx({"0": 0.2734349, "2": 8.7735519}, abs=2e-6)
    assert list(losses.get_layerwise_topo_losses(model, do_scaling=False)) == ["0", "2", "4"]
    log = losses.get_wandb_logging_dict(model=model)
    assert log == pytest.approx({"0": 0.5468698, "2": 0.8773552, "4": 0.6455582, "mean": 0.689928}, abs=2e-6)
    assert all(isinstance(value, float) for value in log.values())
    losses.compute(model=model).backward()
    assert model[4].weight.grad is None
    assert model[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_have_the_packages_order(kind, model):
    fields = ["layer_name", "factor_h", "factor_w", "interpolation", "scale"]
    assert list(inspect.signature(kind).parameters)[:5] == fields
    order = ["model", "layer", "factor_h", "factor_w", "scale", "interpolation"]
    assert list(inspect.signature(kind.from_layer).parameters)[:6] == order
    assert kind.from_layer(model, model[2], 2.0, 3.0, 5.0, "nearest") == kind("2", 2.0, 3.0, "nearest", 5.0)
    assert kind("2", 2.0, 3.0) == kind("2", 2.0, 3.0, "bilinear", 1.0)


def test_every_kind_of_loss(model):
    def one(kind):
        return TopoLoss([kind("0", 2.0, 2.0)]).compute(model).item()

    assert one(LaplacianPyramid) == topo_loss(model[0].weight, factor=2).item()
    assert one(LaplacianPyramidOnBias) == topo_loss(model[0].bias, factor=2).item()
    assert one(LaplacianPyramidOnInput) == topo_loss(model[0].weight, factor=2, on="input").item()
    assert list(TopoLoss([LaplacianPyramidOnBias("0", 2.0, 2.0)]).get_layerwise_topo_losses(model)) == ["0"]


def test_functions_on_sheets():
    weight = torch.randn(96, 7, generator=torch.Generator().manual_seed(0))
    sheet = weight.view(8, 12, 7)
    loss = topo_loss(weight, factor=(2, 5)).item()
    assert laplacian_pyramid_loss(sheet, 5, 2).item() == loss
    assert laplacian_pyramid_loss(cortical_sheet=sheet, factor_h=2, factor_w=5).item() == loss
    bias = laplacian_pyramid_loss_on_bias(sheet[..., 0], factor_w=5, factor_h=2).item()
    assert bias == topo_loss(weight[:, 0], factor=(2, 5)).item()
    size = find_cortical_sheet_size(area=3072)
    assert (size.height, size.width) == (48, 64)
    assert (find_cortical_sheet_size(7).height, find_cortical_sheet_size(7).width) == (1, 7)
    for function, wrong in ((laplacian_pyramid_loss, weight), (laplacian_pyramid_loss_on_bias, sheet)):
        with pytest.raises(InputError, match="height, width"):
            function(wrong, 2, 2)


# deviations, in the order of the module's text


def test_factors_are_compared_with_the_axes_they_belong_to():
    with torch.random.fork_rng(devices=[]):
        wide = nn.Sequential(nn.Linear(3, 128))  # 8 x 16 units of 3 inputs
    assert TopoLoss([LaplacianPyramid("0", 5, 12)]).compute(wide).item() > 0
    with pytest.raises(InputError, match="factor 12 exceeds the sheet's height"):
        TopoLoss([LaplacianPyramid("0", 12, 5)]).compute(wide)


@pytest.mark.parametrize("wrong", [{"factor_h": 0.5}, {"factor_w": 0}, {"scale": -1.0}, {"scale": math.inf}])
def test_impossible_numbers_are_refused_at_construction(wrong):
    with pytest.raises(InputError):
        TopoLoss([LaplacianPyramid(**{"layer_name": "0", "factor_h": 2, "factor_w": 2, **wrong})])


def test_losses_on_one_layer_are_all_kept_and_counted(model):
    kinds = [LaplacianPyramid, LaplacianPyramidOnBias, LaplacianPyramid, LaplacianPyramid, LaplacianPyramidOnInput]
    losses = TopoLoss([kind("0", 2, 2) for kind in kinds])
    values = {name: loss.item() for name, loss in losses.get_layerwise_topo_losses(model).items()}
    assert list(values) == ["0", "0:bias", "0:output", "0:output#2", "0:input"]
    assert values["0"] == pytest.approx(0.5468698, abs=2e-6)
    assert values["0:bias"] == pytest.approx(0.5995568, abs=2e-6)
    assert losses.compute(model).item() == pytest.approx(sum(values.values()) / 5, abs=1e-6)


def test_no_losses_and_no_scales(model):
    with pytest.raises(InputError, match="at least one"):
        TopoLoss([])
    silent = TopoLoss([LaplacianPyramid("0", 2, 2, scale=None)])
    assert silent.compute(model).item() == 0
    assert silent.compute(model, reduce_mean=False) == {}
    assert silent.get_wandb_logging_dict(model)["mean"] == pytest.approx(0.5468698, abs=2e-6)


def test_a_prime_number_of_units_works():
    model = nn.Sequential(nn.Linear(20, 11))
    assert 0 < TopoLoss([LaplacianPyramid("0", 3, 3)]).compute(model).item() < 2


def test_layers_are_looked_for_when_the_loss_is_made_and_through_wrappers(model):
    with pytest.raises(InputError, match="is no layer of this Sequential"):
        LaplacianPyramid.from_layer(model, nn.Linear(30, 64), 2, 2)
    wrapped = nn.DataParallel(model)
    loss = LaplacianPyramid.from_layer(wrapped, model[2], 3, 3)
    assert loss.layer_name == get_name_by_layer(wrapped, model[2]) == "2"
    assert get_layer_by_name(wrapped, "2") is model[2]
    assert TopoLoss([loss]).compute(wrapped).item() == TopoLoss([loss]).compute(model).item()
    with pytest.raises(UnknownNameError, match="unknown layer 'fc'"):
        TopoLoss([LaplacianPyramid("fc", 2, 2)]).compute(model)
    bare = nn.Sequential(nn.Linear(4, 4, bias=False))
    with pytest.raises(InputError, match="no 'bias'"):
        LaplacianPyramidOnBias.from_layer(bare, bare[0], 2, 2)


def test_strict_layer_types():
    model = nn.Sequential(nn.ConvTranspose2d(3, 16, 2), Conv1D(16, 9), nn.Embedding(9, 16), nn.RNN(5, 16))
    for index in (0, 2, 3):
        with pytest.raises(InputError, match="strict_layer_type=False"):
            TopoLoss([LaplacianPyramid(str(index), 2, 2)]).compute(model)
    assert TopoLoss([LaplacianPyramid("1", 2, 2)]).compute(model).item() > 0
    losses = [LaplacianPyramid(str(index), 2, 2) for index in (0, 1, 2)]
    losses.append(LaplacianPyramid.from_layer(model, model[3], 2, 2, custom_weight_attribute_name="weight_hh_l0"))
    values = TopoLoss(losses, strict_layer_type=False).compute(model, reduce_mean=False)
    assert values["0"].item() == topo_loss(model[0].weight.transpose(0, 1), factor=2).item()
    assert values["3"].item() == topo_loss(model[3].weight_hh_l0, factor=2).item()


def test_saving_changes_nothing_and_keeps_everything(model, tmp_path):
    losses = [LaplacianPyramid("0", 2.0, 3.0, "nearest", None), LaplacianPyramidOnBias("0", 4.0, 4.0, scale=0.5)]
    losses.append(LaplacianPyramidOnInput("2", 2.0, 2.0))
    before = copy.deepcopy([loss.__dict__ for loss in losses])
    for strict in (True, False):
        whole = TopoLoss(losses, strict_layer_type=strict)
        whole.save_json(tmp_path / "losses.json")
        whole.save_json(tmp_path / "losses.json")
        again = TopoLoss.from_json(str(tmp_path / "losses.json"))
        assert again.losses == losses
        assert [type(loss) for loss in again.losses] == list(KINDS)
        assert again.strict_layer_type is strict
    assert [loss.__dict__ for loss in losses] == before


def test_damaged_files_are_told(tmp_path):
    with pytest.raises(DataFileError, match="cannot read"):
        TopoLoss.from_json(tmp_path / "none.json")
    (tmp_path / "half.json").write_text("[{")
    with pytest.raises(DataFileError, match="not JSON"):
        TopoLoss.from_json(tmp_path / "half.json")
    entry = {"name": "LaplacianPyramids", "layer_name": "0", "factor_h": 2, "factor_w": 2}
    (tmp_path / "name.json").write_text(json.dumps([entry]))
    with pytest.raises(UnknownNameError, match="'LaplacianPyramid'"):
        TopoLoss.from_json(tmp_path / "name.json")
    (tmp_path / "field.json").write_text(json.dumps([{**entry, "name": "LaplacianPyramid", "factorh": 2}]))
    with pytest.raises(UnknownNameError, match="'factor_h'"):
        TopoLoss.from_json(tmp_path / "field.json")


def scales(losses):
    return [loss.scale for loss in losses.losses]


def test_linear_schedules_set_scales_step_by_step(losses, caplog):
    scheduler = TauScheduler(losses, start_value=0.0, end_value=4.0, num_steps=4, verbose=True)
    assert scheduler.get_current_tau() == 0
    seen = []
    with caplog.at_level(logging.INFO, "topobrain.nn.topoloss_compat"):
        for _ in range(7):
            scheduler.step()
            seen.append(scales(losses)[0])
    assert seen == [0, 1, 2, 3, 4, 4, 4]
    assert scales(losses) == [4, 4, None]  # what only logs goes on only logging
    assert len(caplog.records) == 14
    scheduler.step(2)
    assert scales(losses)[:2] == [2, 2]


def test_cosine_schedules_stay_at_their_end(losses):
    scheduler = TauScheduler(losses, 2.0, 1.0, 10, mode="cosine_decay")
    assert scheduler.compute_value(5) == pytest.approx(1.5)
    assert [scheduler.compute_value(step) for step in (10, 15, 20)] == [1, 1, 1]
    assert TauScheduler(losses, 1.0, 2.0, 10, mode="cosine_decay").compute_value(5) == pytest.approx(1.5)
    with pytest.raises(UnknownNameError, match="'cosine_decay'"):
        TauScheduler(losses, 2.0, 1.0, 10, mode="cosine")
    with pytest.raises(InputError, match="TopoLoss"):
        TauScheduler("losses", 2.0, 1.0, 10)


def test_chained_schedules_follow_each_other(losses, tmp_path):
    chain = ChainedTauScheduler(
        [TauScheduler(losses, 0.0, 1.0, 5), TauScheduler(losses, 1.0, 0.5, 5, mode="cosine_decay")]
    )
    taus, set_to = [], []
    for _ in range(14):
        taus.append(chain.get_current_tau())
        chain.step()
        set_to.append(scales(losses)[0])
    assert taus == set_to
    assert taus[:6] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert taus[10:] == [0.5] * 4
    chain.save_json(tmp_path / "chain.json")
    again = ChainedTauScheduler.from_json(tmp_path / "chain.json", losses)
    assert [one.to_dict() for one in again.schedulers] == [one.to_dict() for one in chain.schedulers]
    chain.schedulers[1].save_json(tmp_path / "one.json")
    assert TauScheduler.from_json(tmp_path / "one.json", topo_loss=losses).compute_value(5) == 0.5
    with pytest.raises(InputError, match="at least one"):
        ChainedTauScheduler([])
