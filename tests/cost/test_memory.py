from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from robustdeploy.core.recipe import Choice
from robustdeploy.cost.memory import Trace, images_at_once, peak_bytes, training_bytes, without_values
from robustdeploy.errors import BudgetError
from robustdeploy.nets.build import build_net
from robustdeploy.nets.channel_pad import ChannelPad

IMAGE = 3 * 8 * 8 * 4
"""Bytes of the image that all nets here read."""


class Calls(nn.Module):
    """A net that is one function of its image, so that a test can say what runs when."""

    def __init__(self, run, **modules) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, images):
        return self.run(self, images)


def conv(before: int, after: int, size: int = 1, **more: object) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, **more)


MAP = 64 * 4
"""Bytes of one channel of 8×8."""
BY_HAND = {
    "a layer needs its input and its output": (Calls(lambda net, x: net.a(x), a=conv(3, 5)), IMAGE + 5 * MAP),
    "the largest pair counts": (nn.Sequential(conv(3, 10), conv(10, 20), conv(20, 4)), 30 * MAP),
    "normalisation, ReLU and dropout write over their input": (
        nn.Sequential(conv(3, 10), nn.BatchNorm2d(10), nn.ReLU(), nn.Dropout(), nn.ReLU6(), nn.Hardswish(), nn.PReLU()),
        13 * MAP,
    ),
    "so does one that torch runs in place": (nn.Sequential(conv(3, 10), nn.ReLU(inplace=True)), 13 * MAP),
    "softmax over channels does not": (nn.Sequential(conv(3, 10), nn.Softmax(1)), 20 * MAP),
    "pooling does not": (nn.Sequential(conv(3, 10), nn.MaxPool2d(3, 1, 1)), 20 * MAP),
    "an addition writes over one of two": (
        Calls(lambda net, x: net.a(x) + net.b(x), a=conv(3, 10), b=conv(3, 10)),
        23 * MAP,
    ),
    "what is read later stays": (
        Calls(lambda net, x: net.c(F.relu(h := net.a(x))) + h, a=conv(3, 10), c=conv(10, 10)),
        30 * MAP,  # the map itself, its ReLU beside it, and what the second layer gives
    ),
    "the image stays for a later layer": (
        Calls(lambda net, x: net.b(net.a(x)) + x, a=conv(3, 10), b=conv(10, 3)),
        (3 + 10 + 3) * MAP,
    ),
    "a view is no copy": (
        Calls(lambda net, x: net.b(net.a(x).flatten(1)[:, :128]), a=conv(3, 10), b=nn.Linear(128, 4)),
        13 * MAP,
    ),
    "a view keeps what it shows": (
        Calls(lambda net, x: net.b((h := net.a(x))[:, :2]) + h[:, 8:], a=conv(3, 10), b=conv(2, 2)),
        13 * MAP,  # the ten channels and the image; two more later
    ),
    "joined maps exist twice for a moment": (
        Calls(lambda net, x: torch.cat([net.a(x), net.b(x)], 1), a=conv(3, 4), b=conv(3, 6)),
        20 * MAP,
    ),
    "a gate is small beside its map": (
        Calls(
            lambda net, x: (h := net.a(x)) * torch.sigmoid(net.g(h.mean((2, 3), keepdim=True))),
            a=conv(3, 9),
            g=conv(9, 9),
        ),
        12 * MAP,
    ),
    "assigning into a map reads it": (
        Calls(lambda net, x: _assigned(net, x), a=conv(3, 10), b=conv(10, 10)),
        20 * MAP,
    ),
    "a channel pad is one layer": (Calls(lambda net, x: net.p(x), p=ChannelPad(3, 12, 2)), IMAGE + 12 * MAP // 4),
    "parameters do not count": (Calls(lambda net, x: x * net.w.view(3, 1, 1), w=nn.Parameter(torch.ones(3))), IMAGE),
}


def _assigned(net, x):
    maps = net.a(x)
    maps[:, 0] = 0
    return net.b(maps)


@pytest.mark.parametrize("case", BY_HAND, ids=lambda case: case.replace(" ", "-"))
def test_the_peak_is_what_one_counts_by_hand(case):
    net, expected = BY_HAND[case]
    assert peak_bytes(net, (3, 8, 8)) == expected


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        # In a basic block the stream stays beside the inner map and what the second convolution gives.
        ("resnet20", (3, 32, 32), 3 * 16 * 32 * 32),
        # Two maps of 64 channels at the full size, without the pooled one.
        ("vgg16_bn", (3, 64, 64), 2 * 64 * 64 * 64),
    ],
)
def test_known_nets_cost_what_their_widest_block_does(name, shape, expected):
    net = build_net(Choice(name=name), 10, shape, [0.5] * 3, [0.25] * 3)
    assert peak_bytes(net, shape) == 4 * expected


class Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, ChannelPad) or super().is_leaf_module(module, name)


POINTWISE = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Dropout, nn.Hardswish, nn.Hardsigmoid)
WORDS = ("relu", "add", "sub", "truediv", "mul", "hardtanh", "dropout", "iadd")


def peak_by_fx(net, shape) -> int:
    """The same count made another way: a symbolic trace, shapes from a real run, and memory freed as one walks."""
    net = copy.deepcopy(net).eval()
    graph = Tracer().trace(net)
    module = fx.GraphModule(net, graph)
    ShapeProp(module).propagate(torch.zeros(1, *shape))
    modules, names = dict(module.named_modules()), {}
    size = {}
    for node in module.graph.nodes:
        meta = node.meta.get("tensor_meta")
        size[node] = meta.shape.numel() * 4 if hasattr(meta, "shape") else 0
    held, most = {}, 0  # pieces of memory, each with the nodes whose values are in it
    left = {node: set(node.users) for node in module.graph.nodes}
    for node in module.graph.nodes:
        if node.op in ("get_attr", "output"):
            continue
        layer = modules.get(node.target) if node.op == "call_module" else None
        name = getattr(node.target, "__name__", str(node.target))
        inputs = [n for n in node.all_input_nodes if n in names]
        dying = [n for n in inputs if left[n] <= {node}]
        is_view = name in ("flatten", "view", "getitem") or isinstance(layer, (nn.Flatten, nn.Identity, nn.Dropout))
        over = isinstance(layer, POINTWISE) or (node.op != "call_module" and name in WORDS)
        same = [n for n in dying if size[n] == size[node] and held[names[n]] == {n}]
        if is_view:
            names[node] = names[inputs[0]]
        elif over and same:
            names[node] = names[same[0]]
        else:
            names[node] = (len(held), size[node])
        held.setdefault(names[node], set()).add(node)
        most = max(most, sum(bytes_ for (_, bytes_), nodes in held.items() if nodes))
        for n in inputs:
            left[n].discard(node)
            if not left[n]:
                held[names[n]].discard(n)
    return most


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet8", (3, 16, 16)),
        ("resnet20", (3, 32, 32)),
        ("preact-resnet18", (3, 16, 16)),
        ("wide-resnet", (3, 16, 16)),
        ("torchvision.models:resnet18", (3, 64, 64)),
        ("torchvision.models:vgg11_bn", (3, 32, 32)),
        ("mobilenet_v2", (3, 32, 32)),
    ],
)
def test_another_way_to_count_agrees(name, shape):
    """On nets that fx can trace; those that look at shapes, as our vgg16-bn does, it cannot."""
    options = {"depth": 10, "width": 1} if name == "wide-resnet" else {}
    net = build_net(Choice(name=name, options=options), 10, shape, [0.5] * 3, [0.25] * 3)
    assert peak_bytes(net, shape) == peak_by_fx(net, shape)


def test_a_net_may_look_at_shapes_but_not_at_values():
    looks = Calls(lambda net, x: net.a(x) if min(x.shape[-2:]) >= 8 else x, a=conv(3, 5))
    assert peak_bytes(looks, (3, 8, 8)) == IMAGE + 5 * MAP
    decides = Calls(lambda net, x: net.a(x) if x.sum() > 0 else x, a=conv(3, 5))
    with pytest.raises(BudgetError, match=r"activation memory of this net cannot be counted, .* decides nothing by"):
        peak_bytes(decides, (3, 8, 8))


def test_the_net_is_left_as_it_was_and_nothing_is_computed():
    net = build_net(Choice(name="resnet8"), 10, (3, 16, 16), [0.5] * 3, [0.25] * 3)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    peak_bytes(net, (3, 16, 16))
    assert all(module.training for module in net.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any("forward" in vars(module) for module in net.modules())
    blank = without_values(net)
    assert all(parameter.is_meta for parameter in blank.parameters())
    assert [p.shape for p in blank.parameters()] == [p.shape for p in net.parameters()]
    pads = [module for module in blank.modules() if isinstance(module, ChannelPad)]
    assert all(not pad.index.is_meta for pad in pads)
    assert pads


def test_a_trace_follows_layers_of_other_widths():
    net = nn.Sequential(conv(3, 10), nn.ReLU(), conv(10, 20), nn.BatchNorm2d(20), nn.Flatten(), nn.Linear(20 * 64, 4))
    trace = Trace(net, (3, 8, 8))
    places = dict(zip(("image", "first", "second", "scores"), trace.activations.sizes, strict=True))
    assert places == {"image": IMAGE, "first": 10 * MAP, "second": 20 * MAP, "scores": 16}
    assert trace.sizes({"0": 7, "2": 5, "3": 5, "5": 4}) == (IMAGE, 7 * MAP, 5 * MAP, 16)
    assert trace.activations.peak == 30 * MAP


def test_memory_is_counted_as_float32_whatever_the_type():
    net = Calls(lambda net, x: net.a(x), a=conv(3, 5)).half()
    as_half: Tensor = torch.zeros(1, 3, 8, 8, dtype=torch.half)
    assert net.a.weight.dtype == as_half.dtype
    counted = Calls(lambda net, x: net.a(x.half()), a=net.a)
    assert peak_bytes(counted, (3, 8, 8)) == IMAGE + 5 * MAP


def test_what_a_training_step_takes_grows_with_batch_and_area_and_bounds_how_many_images_go_at_once() -> None:
    net = build_net(Choice(name="resnet8"), 10, (3, 32, 32), [0.5] * 3, [0.5] * 3)
    one = training_bytes(net, (3, 32, 32), 1)
    assert one is not None
    assert training_bytes(net, (3, 32, 32), 8) == 8 * one
    large = training_bytes(net, (3, 1024, 1024), 1)
    assert large == pytest.approx(1024 * one, rel=0.01)
    assert images_at_once(net, (3, 32, 32), 256) == 256
    assert images_at_once(net, (3, 1024, 1024), 256) == 4 * 2**30 // large < 10


class Replacing(nn.Module):
    """A net that replaces its own buffer in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(1, 2)
        self.register_buffer("average", torch.zeros(2, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        self.average = 0.9 * self.average + 0.1 * maps.mean((0, 2, 3))[:, None, None]
        return maps - self.average


def test_a_buffer_that_the_pass_replaces_is_none_of_the_maps() -> None:
    assert peak_bytes(Replacing(), (1, 8, 8)) >= 4 * (1 + 2) * 64


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("normalise", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_a_weight_that_is_computed_from_parameters_is_none_of_the_maps(normalise) -> None:
    normalised = nn.Sequential(conv(1, 4), normalise(conv(4, 64, 3)))
    scaled = Calls(
        lambda net, x: F.conv2d(net.a(x), net.b.weight * net.b.weight.norm()), a=conv(1, 4), b=conv(4, 64, 3)
    )
    assert peak_bytes(normalised, (1, 8, 8)) == peak_bytes(scaled, (1, 8, 8)) == 4 * (4 * 64 + 64 * 36)
