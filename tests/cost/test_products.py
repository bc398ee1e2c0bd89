"""Products of every kind: the right number by hand, from torch twice and from the exported graph."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from robustdeploy.cost import flop_counter
from robustdeploy.cost.module import layer_macs, macs, products, repeated_macs, weight_macs
from robustdeploy.cost.onnx_graph import macs as onnx_macs
from robustdeploy.cost.products import _ACTIVATIONS as ACTIVATIONS
from robustdeploy.cost.products import _run as run
from robustdeploy.cost.sparse import nonzero_macs, onnx_nonzero_macs
from robustdeploy.errors import BudgetError
from robustdeploy.export.metadata import OnnxMetadata
from robustdeploy.export.onnx_file import export_onnx

SHAPE = (1, 8, 8)
NO_METADATA = OnnxMetadata(
    recipe_sha256="", threat="", norm="", eps=0, ops_ratio=1, macs=0, classes="", input_mean="", input_std=""
)


class Calls(nn.Module):
    """A net that is one function of its image, the layers that this needs, and a linear layer on what it gives."""

    def __init__(self, run, features, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)
        self.fc = nn.Linear(features, 10)

    def forward(self, images):
        return self.fc(self.run(self, images).flatten(1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_the_shape_of_an_activation_is_the_one_that_torch_gives(name, layout):
    images = torch.rand(2, 3, 4, 5).to(memory_format=layout)
    for operator in (getattr(torch.ops.aten, each, None) for each in (name, f"{name}_")):
        if operator is not None:
            theirs, ours = operator.default(images.clone()), run(operator.default, (images.to("meta"),), {})
            assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)


def weights(*shape):
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(0)))


def vit():
    """Torchvision's own, on the one grey channel shown three times."""
    transformer = torchvision.models.VisionTransformer(8, 2, 2, 2, 24, 48, num_classes=12)
    return Calls(lambda net, x: net.vit(x.expand(-1, 3, -1, -1)), 12, vit=transformer)


def row_lstm():
    """An LSTM over the columns of a small map."""
    return Calls(
        lambda net, x: net.rnn(F.relu(net.b(F.relu(net.a(x)))).permute(0, 3, 1, 2).flatten(2))[0][:, -1],
        16,
        a=nn.Conv2d(1, 16, 3, padding=1),
        b=nn.Conv2d(16, 12, 3, 2, padding=1),
        rnn=nn.LSTM(48, 16, batch_first=True),
    )


def cells(net, x):
    """A cell called by hand, row by row."""
    hidden = x.new_zeros(x.shape[0], 5)
    for row in range(8):
        hidden = net.cell(x[:, 0, row], hidden)
    return hidden


def einsum_attention(net, x):
    q, k, v = (torch.einsum("blc,cd->bld", x[:, 0], part) for part in net.qkv.unbind())
    return torch.einsum("bqk,bkd->bqd", torch.einsum("bqd,bkd->bqk", q, k).softmax(-1), v)


def functional(net, x):
    """Products that no layer makes."""
    maps = F.conv2d(x, net.kernel, padding=1)  # 4 channels of 8×8
    wide = F.conv_transpose2d(maps, net.transposed, stride=2).mean((2, 3))  # 3 channels from 8×8 places
    rows = torch.baddbmm(maps[:, 0], maps[:, 1], maps[:, 2]) @ net.matrix  # 8×8 by 8×8, then by 8×5
    return torch.cat([wide, F.linear(rows.mean(1), net.linear), torch.mv(rows[:, 0], net.vector)[:, None]], 1)


def transformed(net, x):
    """A spatial transformer: making its grid is a part of the interpolation, which does not count."""
    theta = net.theta(x.flatten(1)).view(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


def profiled(net, x):
    with torch.profiler.record_function("half"):
        return x[:, 0] @ net.part


def positions(net, x):
    """Weights that a small network computes from positions alone, once for all images."""
    return x[:, 0] @ net.mlp(net.places).view(8, 5)


BY_HAND = {
    # 16 patches of 12 numbers; 17 tokens of 24: queries, keys and values, scores, values, output, two layers behind.
    "vit": (
        vit,
        16 * 24 * 12 + 2 * (17 * 24 * 72 + 2 * 17 * 17 * 24 + 17 * 24 * 24 + 2 * 17 * 24 * 48) + 24 * 12 + 120,
    ),
    "lstm": (row_lstm, 64 * 16 * 9 + 16 * 12 * 16 * 9 + 4 * 4 * 16 * (48 + 16) + 160),
    "two GRUs back and forth": (
        lambda: Calls(
            lambda net, x: net.rnn(x[:, 0])[0][:, -1], 10, rnn=nn.GRU(8, 5, 2, bidirectional=True, batch_first=True)
        ),
        2 * 8 * 15 * (8 + 5) + 2 * 8 * 15 * (10 + 5) + 100,
    ),
    "recurrent cells": (lambda: Calls(cells, 5, cell=nn.GRUCell(8, 5)), 8 * 15 * (8 + 5) + 50),
    "the fast path of an encoder": (
        lambda: Calls(
            lambda net, x: net.encoder(x[:, 0]),
            64,
            encoder=nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1),
        ),
        8 * 8 * 24 + 2 * 8 * 8 * 8 + 8 * 8 * 8 + 2 * 8 * 8 * 16 + 640,
    ),
    "attention to something else": (
        lambda: Calls(
            lambda net, x: net.attend(net.query.expand(x.shape[0], -1, -1), x[:, 0], x[:, 0])[0],
            16,
            attend=nn.MultiheadAttention(8, 2, batch_first=True),
            query=weights(1, 2, 8),
        ),
        # The two queries are the same for every image, but each image's are projected.
        2 * 8 * 8 + 2 * 8 * 8 * 8 + 2 * 2 * 8 * 8 + 2 * 8 * 8 + 160,
    ),
    "fused attention": (
        lambda: Calls(lambda net, x: F.scaled_dot_product_attention(x, x, x), 64),
        2 * 8 * 8 * 8 + 640,
    ),
    "attention by einsum": (
        lambda: Calls(einsum_attention, 32, qkv=weights(3, 8, 4)),
        3 * 8 * 8 * 4 + 2 * 64 * 4 + 320,
    ),
    "a bilinear form": (
        lambda: Calls(lambda net, x: net.form(x[:, 0, 0], x[:, 0, 1, :3]), 5, form=nn.Bilinear(8, 3, 5)),
        5 * 8 * 3 + 5 * 3 + 50,
    ),
    "products that no layer makes": (
        lambda: Calls(
            functional,
            8,
            kernel=weights(4, 1, 3, 3),
            transposed=weights(4, 3, 2, 2),
            matrix=weights(8, 5),
            linear=weights(4, 5),
            vector=weights(5),
        ),
        64 * 4 * 9 + 64 * 4 * 3 * 4 + 8 * 8 * 8 + 8 * 8 * 5 + 4 * 5 + 5 + 80,
    ),
    "a spatial transformer": (lambda: Calls(transformed, 64, theta=nn.Linear(64, 6)), 64 * 6 + 640),
    "weights made of positions": (
        lambda: Calls(
            positions, 40, places=weights(8, 2), mlp=nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 5))
        ),
        8 * 8 * 5 + 400,
    ),
    "a part that is marked for a profile": (lambda: Calls(profiled, 32, part=weights(8, 4)), 8 * 8 * 4 + 320),
    "heads by vmap": (
        lambda: Calls(
            lambda net, x: torch.func.vmap(lambda head: x.flatten(1) @ head)(net.heads).mean(0),
            4,
            heads=weights(3, 64, 4),
        ),
        3 * 64 * 4 + 40,
    ),
    "nothing that adds up": (
        lambda: Calls(lambda net, x: F.interpolate(x, (5, 7), mode="bilinear") * torch.sigmoid(x.mean()), 35),
        350,
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", BY_HAND, ids=lambda case: case.replace(" ", "-"))
@pytest.mark.alike(6)
def test_every_count_is_the_one_by_hand(case, tmp_path):
    make, expected = BY_HAND[case]
    net = make().eval()
    export_onnx(net, SHAPE, tmp_path / "net.onnx", 20, NO_METADATA)
    assert macs(net, SHAPE) == flop_counter.macs(net, SHAPE) == onnx_macs(tmp_path / "net.onnx") == expected
    assert sum(layer_macs(net, SHAPE).values()) == expected
    zeros = expected - nonzero_macs(net, SHAPE)
    assert expected - onnx_nonzero_macs(tmp_path / "net.onnx") == zeros == (24 * 12 if case == "vit" else 0)


class SameTwice(nn.Module):
    """One block is computed at two places from the same input: for a gate and for the features."""

    def __init__(self):
        super().__init__()
        self.stem, self.squeeze = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.gate, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, 10)

    def forward(self, images):
        images = F.relu_(self.stem(images))
        gate = torch.sigmoid(self.gate(F.relu(self.squeeze(images)).mean((2, 3), keepdim=True)))
        return self.fc((F.relu(self.squeeze(images)) * gate).mean((2, 3)))


def test_what_is_computed_twice_from_the_same_numbers_counts_once_as_in_the_graph(tmp_path):
    net = SameTwice().eval()
    export_onnx(net, SHAPE, tmp_path / "net.onnx", 20, NO_METADATA)
    block = 64 * 8 * 8 * 9
    once = 64 * 8 * 9 + block + 8 * 8 + 80
    assert macs(net, SHAPE) == onnx_macs(tmp_path / "net.onnx") == once
    assert repeated_macs(net, SHAPE) == block
    assert flop_counter.macs(net, SHAPE) == once + block


def test_what_was_written_to_or_drawn_between_is_not_the_same_twice():
    conv = nn.Conv2d(1, 4, 1)

    def run(net, images):
        first = net.conv(images)
        images = images.clone()
        images[:, :, 0] = 0
        second = net.conv(images)
        images += 1
        return torch.cat([first, second, net.conv(images), net.conv(torch.rand_like(images))])

    net = Calls(run, 256, conv=conv)
    assert macs(net, SHAPE) - 4 * 2560 == 4 * 64 * 4
    assert repeated_macs(net, SHAPE) == 0


def test_a_product_is_of_the_layer_whose_weights_it_is_by():
    attend = nn.MultiheadAttention(8, 2, batch_first=True)
    net = nn.Sequential(nn.Flatten(1, 2), Calls(lambda net, x: net.attend(x, x, x)[0], 64, attend=attend))
    counted = layer_macs(net, SHAPE)
    own = 8 * 8 * 8
    assert counted == {"1.attend": 3 * own + 2 * own, "1.attend.out_proj": own, "1.fc": 640}
    by_weight = weight_macs(net, SHAPE)
    assert by_weight == {"1.attend.in_proj_weight": 3 * own, "1.attend.out_proj.weight": own, "1.fc.weight": 640}
    with torch.no_grad():
        attend.in_proj_weight[:12] = 0
        attend.out_proj.weight[:2] = 0
    assert macs(net, SHAPE) - nonzero_macs(net, SHAPE) == 3 * own // 2 + own // 4


def test_a_layer_is_counted_by_its_computed_weights_in_full():
    conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3))
    assert layer_macs(conv, SHAPE) == {"": 36 * 36} == {"": nonzero_macs(conv, SHAPE)}
    assert weight_macs(conv, SHAPE) == {}


REFUSED = {
    "aten._fft_r2c": lambda x: torch.fft.rfft2(x).abs(),
    "aten._cdist_forward": lambda x: torch.cdist(x[:, 0], x[:, 0]),
    "aten._linalg_det": lambda x: torch.linalg.det(x[:, 0])[:, None],
    "aten._linalg_svd": lambda x: torch.linalg.svdvals(x[:, 0]),
    "torchvision.deform_conv2d": lambda x: torchvision.ops.deform_conv2d(
        x, x.new_zeros(len(x), 2, 8, 8), x.new_zeros(1, 1, 1, 1)
    ),
    "product of complex or sparse": lambda x: torch.matmul(torch.complex(x, x), torch.complex(x, x)).abs(),
    "takes 128 MACs for two images and 192": lambda x: x[:, :, 0],
    "computes other products for three images than for two": lambda x: x @ x if len(x) == 3 else x,
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_counted_is_refused_and_named(said):
    if said.startswith("takes"):
        net = Calls(lambda net, x: (x[:, 0, 0] @ x[:, 0, 0].T).expand(len(x), -1) @ x[:, 0, 0] * x[:, 0, 0], 8)
        said = "a net must treat each image alike"
    else:
        net = nn.Sequential(nn.Identity(), Calls(lambda net, x, run=REFUSED[said]: run(x), 64))
    with pytest.raises(BudgetError) as told:
        products(net, SHAPE)
    assert said in str(told.value)
    assert "cannot be counted" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_net_that_decides_by_values_is_counted_as_it_runs_on_black_images():
    decides = Calls(
        lambda net, x: net.a(x) if x.sum() > 0 else net.b(x), 64, a=nn.Conv2d(1, 1, 1), b=nn.Conv2d(1, 1, 3, padding=1)
    )
    decides.train()
    assert macs(decides, SHAPE) == 64 * 9 + 640
    assert all(module.training for module in decides.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in decides.modules())


def test_counting_leaves_the_net_and_torch_as_they_were():
    net = vit()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state, fast = torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    macs(net, SHAPE)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert net.training
