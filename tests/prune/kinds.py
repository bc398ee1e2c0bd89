"""Small nets with one difficulty each, as users bring them: what of them can be pruned, and what stays and why."""

from __future__ import annotations

from collections import namedtuple

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

SHAPE = (1, 8, 8)


def block(before, after, size=3, stride=1, groups=1):
    conv = nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class Net(nn.Module):
    """Layers by name, and a forward pass that is a function of them and the images."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, images):
        return self.run(self, images)


def pooled(maps):
    return maps.mean((2, 3))


def option_a():
    """He et al.'s option A by hand: subsampled, and padded with channels of zeros."""

    def run(net, x):
        x = net.stem(x)
        y = F.relu(net.two(net.one(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
        return net.fc(pooled(net.last(y)))

    two = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
    return Net(run, stem=block(1, 8), one=block(8, 16, stride=2), two=two, last=block(16, 16), fc=nn.Linear(16, 10))


def chunks():
    """YOLOv8's block: halves by chunk, one refined twice, everything concatenated."""

    def run(net, x):
        parts = list(net.first(net.stem(x)).chunk(2, 1))
        parts += [net.a(parts[-1])]
        parts += [net.b(parts[-1])]
        return net.fc(pooled(net.join(torch.cat(parts, 1))))

    layers = {"a": block(12, 12), "b": block(12, 12), "join": block(48, 16, 1), "fc": nn.Linear(16, 10)}
    return Net(run, stem=block(1, 16), first=block(16, 24, 1), **layers)


def thirds():
    def run(net, x):
        p, q, r = net.stem(x).chunk(3, 1)
        p = net.a(p) + p
        q = net.b(q + p)
        return net.fc(pooled(torch.cat([p, q, net.c(r) * q], 1)))

    return Net(run, stem=block(1, 24), a=block(8, 8), b=block(8, 8), c=block(8, 8), fc=nn.Linear(24, 10))


def unequal():
    """Parts of sizes that the code names, each with a residual."""

    def run(net, x):
        u, v = torch.split(net.stem(x), [8, 16], 1)
        return net.fc(pooled(net.mid(torch.cat([u + net.b(u), v + net.c(v)], 1))))

    return Net(run, stem=block(1, 24), b=block(8, 8), c=block(16, 16), mid=block(24, 20), fc=nn.Linear(20, 10))


class Blur(nn.Module):
    """A depthwise convolution with a fixed kernel, which is a buffer."""

    def __init__(self, channels):
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", (row[:, None] * row).repeat(channels, 1, 1, 1))

    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), self.kernel, stride=2, groups=x.shape[1])


def in_order(*layers):
    return Net(lambda net, x: net.fc(pooled(net.body(x))), body=nn.Sequential(*layers), fc=nn.Linear(16, 10))


def blurred():
    return in_order(block(1, 16), Blur(16), block(16, 24), block(24, 16))


def pixel_shuffled():
    conv = nn.Conv2d(16, 16, 3, padding=1)
    return in_order(block(1, 16, stride=2), conv, nn.PixelShuffle(2), block(4, 12), nn.PixelUnshuffle(2), block(48, 16))


def sigmoids():
    def run(net, x):
        return net.fc(F.softplus(net.b(torch.sigmoid(net.a(pooled(net.stem(x)))))))

    return Net(run, stem=block(1, 16), a=nn.Linear(16, 24), b=nn.Linear(24, 12), fc=nn.Linear(12, 10))


def prelus(parameters=None):
    acts = [nn.PReLU(parameters or width) for width in (12, 16)]
    convs = [nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 16, 3, padding=1)]
    return in_order(convs[0], acts[0], convs[1], nn.BatchNorm2d(16), acts[1])


def prelu_of_two_layers():
    def run(net, x):
        return net.fc(pooled(net.act(net.b(net.act(net.a(x))))))

    layers = {"a": nn.Conv2d(1, 16, 3, padding=1), "b": nn.Conv2d(16, 16, 3, padding=1)}
    return Net(run, act=nn.PReLU(16), fc=nn.Linear(16, 10), **layers)


def group_normed(affine=True):
    def run(net, x):
        x = F.relu(net.norm(net.stem(x)))
        return net.fc(pooled(F.relu(x + net.norm_2(net.b(F.relu(net.norm_1(net.a(x))))))))

    norms = {"norm": nn.GroupNorm(8, 24, affine=affine), "norm_1": nn.GroupNorm(8, 32, affine=affine)}
    convs = {"stem": nn.Conv2d(1, 24, 3), "a": nn.Conv2d(24, 32, 3, padding=1), "b": nn.Conv2d(32, 24, 3, padding=1)}
    return Net(run, **norms, norm_2=nn.GroupNorm(8, 24, affine=affine), **convs, fc=nn.Linear(24, 10))


def one_group():
    return in_order(nn.Conv2d(1, 12, 3), nn.GroupNorm(1, 12), nn.ReLU(), block(12, 16))


def instance_normed():
    norms = nn.InstanceNorm2d(12), nn.InstanceNorm2d(16, affine=True, track_running_stats=True)
    return in_order(nn.Conv2d(1, 12, 3), norms[0], nn.ReLU(), nn.Conv2d(12, 16, 3), norms[1], nn.ReLU())


def plain_batch_norm():
    norms = nn.BatchNorm2d(12, affine=False), nn.BatchNorm2d(16, affine=False)
    return in_order(nn.Conv2d(1, 12, 3), norms[0], nn.ReLU(), nn.Conv2d(12, 16, 3), norms[1], nn.ReLU())


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias)
        return x.permute(0, 3, 1, 2)


def convnext():
    """A block with layer normalisation and layer scale: only what is inside the block can go."""

    def run(net, x):
        x = net.stem(x)
        y = net.q(F.gelu(net.p(net.norm(net.dw(x).permute(0, 2, 3, 1))))) * net.scale
        return net.fc(pooled(x + y.permute(0, 3, 1, 2)))

    stem = nn.Sequential(nn.Conv2d(1, 16, 2, 2), LayerNorm2d(16))
    layers = {"dw": nn.Conv2d(16, 16, 3, padding=1, groups=16), "norm": nn.LayerNorm(16), "p": nn.Linear(16, 64)}
    scale = nn.Parameter(torch.full((16,), 1e-6))
    return Net(run, stem=stem, **layers, q=nn.Linear(64, 16), scale=scale, fc=nn.Linear(16, 10))


def resnext():
    def run(net, x):
        x = net.stem(x)
        return net.fc(pooled(F.relu(x + net.block(x), inplace=True)))

    inner = nn.Sequential(block(24, 32, 1), block(32, 32, groups=8), nn.Conv2d(32, 24, 1), nn.BatchNorm2d(24))
    return Net(run, stem=block(1, 24), block=inner, fc=nn.Linear(24, 10))


def ghost():
    """A depthwise convolution with two outputs for each channel."""

    def run(net, x):
        x = net.a(x)
        return net.fc(pooled(net.b(torch.cat([x, net.cheap(x)], 1))))

    return Net(run, a=block(1, 12), cheap=block(12, 24, groups=12), b=block(36, 16), fc=nn.Linear(16, 10))


def shuffled(maps, groups):
    n, c, h, w = maps.shape
    return maps.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def shuffle_net():
    """ShuffleNetV1: convolutions in groups, whose outputs are shuffled by views."""

    def run(net, x):
        x = net.stem(x)
        y = net.second(net.norm(net.dw(shuffled(net.first(x), 2))))
        return net.fc(pooled(F.relu(x + y)))

    second = nn.Sequential(nn.Conv2d(24, 32, 1, groups=2, bias=False), nn.BatchNorm2d(32))
    dw, norm = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24)
    layers = {"first": block(32, 24, 1, groups=2), "dw": dw, "norm": norm, "second": second}
    return Net(run, stem=block(1, 32), **layers, fc=nn.Linear(32, 10))


def shuffle_net_2():
    def unit(net, x):
        a, b = x.chunk(2, 1)
        return shuffled(torch.cat([a, net.branch(b)], 1), 2)

    def run(net, x):
        return net.fc(pooled(net.last(net.units(net.stem(x)))))

    def branch():
        dw = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16))
        return nn.Sequential(block(16, 16, 1), dw, block(16, 16, 1))

    units = nn.Sequential(*(Net(unit, branch=branch()) for _ in range(2)))
    return Net(run, stem=block(1, 32), units=units, last=block(32, 24, 1), fc=nn.Linear(24, 10))


def squeezed():
    """Squeeze and excitation, with a sigmoid and a hard one."""

    def run(net, x):
        x = net.stem(x)
        x = x * torch.sigmoid(net.up(F.relu(net.down(pooled(x)))))[:, :, None, None]
        x = net.mid(x)
        x = x * F.hardsigmoid(net.up_2(F.silu(net.down_2(F.adaptive_avg_pool2d(x, 1)))))
        return net.fc(pooled(x))

    first = {"stem": block(1, 24), "down": nn.Linear(24, 8), "up": nn.Linear(8, 24)}
    second = {"mid": block(24, 16), "down_2": nn.Conv2d(16, 8, 1), "up_2": nn.Conv2d(8, 16, 1)}
    return Net(run, **first, **second, fc=nn.Linear(16, 10))


def attended():
    """CBAM: attention over channels and over places."""

    def run(net, x):
        x = net.stem(x)
        x = x * torch.sigmoid(net.mlp(F.adaptive_avg_pool2d(x, 1)) + net.mlp(F.adaptive_max_pool2d(x, 1)))
        x = x * torch.sigmoid(net.place(torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)))
        return net.fc(pooled(net.mid(x)))

    mlp = nn.Sequential(nn.Conv2d(24, 6, 1), nn.ReLU(), nn.Conv2d(6, 24, 1))
    place = nn.Conv2d(2, 1, 3, padding=1)
    return Net(run, stem=block(1, 24), mlp=mlp, place=place, mid=block(24, 20), fc=nn.Linear(20, 10))


def u_net():
    """Transposed convolutions: plain, in groups, depthwise; beside a skip connection."""

    def run(net, x):
        a = net.a(x)
        maps = torch.cat([a, F.relu(net.up(net.b(a)))], 1)
        return net.fc(pooled(net.depthwise(net.up_2(net.mid(maps)))))

    up_2 = nn.Sequential(nn.ConvTranspose2d(16, 12, 3, 2, 1, 1, groups=2, bias=False), nn.BatchNorm2d(12), nn.ReLU())
    ups = {"up": nn.ConvTranspose2d(24, 12, 2, 2), "up_2": up_2}
    depthwise = nn.ConvTranspose2d(12, 12, 2, 2, groups=12)
    convs = {"a": block(1, 12), "b": block(12, 24, stride=2), "mid": block(24, 16)}
    return Net(run, **convs, **ups, depthwise=depthwise, fc=nn.Linear(12, 10))


def rows():
    """One-dimensional layers over the rows of the image."""

    def run(net, x):
        x = F.relu(net.norm(net.a(x.flatten(1, 2))))
        x = F.gelu(net.groups(x + net.b(x)))
        return net.fc(F.relu(net.instance(net.up(x))).mean(2))

    convs = {"a": nn.Conv1d(8, 24, 3, padding=1), "b": nn.Conv1d(24, 24, 3, padding=1, groups=24)}
    norms = {"norm": nn.BatchNorm1d(24), "groups": nn.GroupNorm(6, 24), "instance": nn.InstanceNorm1d(16, affine=True)}
    return Net(run, **convs, **norms, up=nn.ConvTranspose1d(24, 16, 2, 2), fc=nn.Linear(16, 10))


def max_out():
    def run(net, x):
        x = net.a(x)
        n, c, h, w = x.shape
        one, other = net.b(x.view(n, c // 2, 2, h, w).max(2)[0]).chunk(2, 1)
        return net.fc(pooled(torch.maximum(one, other)))

    layers = {"a": nn.Conv2d(1, 32, 3, padding=1), "b": nn.Conv2d(16, 24, 3, padding=1)}
    return Net(run, **layers, fc=nn.Linear(12, 10))


def gated():
    body = (
        nn.Conv2d(1, 32, 3),
        nn.GLU(1),
        nn.Conv2d(16, 24, 3),
        nn.ChannelShuffle(2),
        nn.Conv2d(24, 16, 1),
        nn.Hardtanh(),
    )
    return in_order(*body)


def self_attention():
    def run(net, x):
        x = net.a(x)
        q, k, v = (layer(x).flatten(2) for layer in (net.q, net.k, net.v))
        seen = v @ torch.softmax(q.transpose(1, 2) @ k, -1).transpose(1, 2)
        return net.fc(pooled(net.last(x + seen.view(x.shape))))

    layers = {"q": nn.Conv2d(16, 8, 1), "k": nn.Conv2d(16, 8, 1), "v": nn.Conv2d(16, 16, 1)}
    return Net(run, a=block(1, 16), **layers, last=block(16, 20), fc=nn.Linear(20, 10))


def named_view():
    def run(net, x):
        return net.fc(net.b(net.a(x)).view(-1, 128))

    return Net(run, a=block(1, 16), b=block(16, 8, stride=2), fc=nn.Linear(128, 10))


def pools():
    """Padding and pooling of every kind, and resizing."""

    def run(net, x):
        x = F.interpolate(F.max_pool2d(F.relu(net.a(x)), 2), scale_factor=2, mode="bilinear")
        x = F.avg_pool2d(F.elu(net.b(F.pad(x, (1, 1, 1, 1), mode="replicate"))), 2)
        x = net.lp(F.relu(net.c(F.interpolate(x, size=8))))
        return net.fc(torch.cat([x.amax((2, 3)), x.mean((2, 3)), x.flatten(2).max(2)[0], x.sum((2, 3))], 1))

    reflect = nn.Conv2d(1, 16, 3, padding=1, padding_mode="reflect")
    circular = nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular")
    return Net(run, a=reflect, b=circular, c=block(16, 12), lp=nn.LPPool2d(2, 2), fc=nn.Linear(48, 10))


def written_into():
    """Half of a map is overwritten in place."""

    def run(net, x):
        x = net.a(x) * 1.0
        half = x.shape[1] // 2
        x[:, :half] = net.b(x[:, half:].clone())
        return net.fc(pooled(net.c(x)))

    return Net(run, a=block(1, 16), b=block(8, 8), c=block(16, 12), fc=nn.Linear(12, 10))


def twice():
    """One module at two places of a sequence, dropout, identity, and blocks that are left out by chance."""
    same, drop = block(16, 16), torchvision.ops.StochasticDepth(0.2, "row")
    body = nn.Sequential(block(1, 16), same, nn.Identity(), same, nn.Dropout2d(0.1))
    run = lambda net, x: net.fc(pooled(net.last((y := net.body(x)) + net.drop(net.more(y)))))  # noqa: E731
    return Net(run, body=body, more=block(16, 16), drop=drop, last=block(16, 24), fc=nn.Linear(24, 10))


Outputs = namedtuple("Outputs", "aux logits")
FORMS = {
    "tuple": lambda logits, aux: (logits, aux),
    "list": lambda logits, aux: [logits, aux],
    "mapping": lambda logits, aux: {"aux": aux, "out": logits},
    "named tuple": lambda logits, aux: Outputs(aux, logits),
}


def supervised(form="tuple"):
    """An auxiliary head while it trains."""

    def run(net, x):
        x = net.one(x)
        logits = net.fc(pooled(net.two(x)))
        return FORMS[form](logits, net.aux(pooled(x))) if net.training else logits

    return Net(run, one=block(1, 16), two=block(16, 24, stride=2), fc=nn.Linear(24, 10), aux=nn.Linear(16, 10))


def computed(wrap):
    """One layer's weight is computed from others'."""
    return in_order(wrap(nn.Conv2d(1, 12, 3)), nn.ReLU(), block(12, 20), block(20, 16))


class Standardised(nn.Conv2d):
    """Weight standardisation (Qiao et al. 2019)."""

    def forward(self, x):
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (std + 1e-5), self.bias)


def cosine():
    """Class vectors are a bare parameter, the features' length is taken out."""

    def run(net, x):
        return 10 * F.linear(F.normalize(pooled(net.body(x))), F.normalize(net.classes))

    body = nn.Sequential(block(1, 16), block(16, 24), block(24, 16))
    return Net(run, body=body, classes=nn.Parameter(torch.randn(10, 16)))


PARAMETRIZED, OLD = torch.nn.utils.parametrizations, torch.nn.utils
LEFT = "its weight is computed from other parameters"
KINDS = {
    # name: how it is made, the groups and their sizes, and some of the layers that stay with a part of the reason
    "option A": (option_a, {"last.0": 16, "stem.0": 8, "one.0": 16}, {"two.0": "8 of its 16 channels stay: padding"}),
    "chunks": (chunks, {"join.0": 16, "b.0": 12, "a.0": 12, "first.0": 12, "stem.0": 16}, {}),
    "thirds": (thirds, {"c.0": 8, "stem.0": 8}, {}),
    "unequal parts": (unequal, {"mid.0": 20}, {"stem.0": "splits it into parts of 8 and 16 channels"}),
    "blur": (blurred, {"body.3.0": 16, "body.2.0": 24}, {"body.0.0": "coupled to the buffer body.1.kernel"}),
    "pixel shuffle": (pixel_shuffled, {"body.5.0": 16, "body.3.0": 12, "body.1": 4, "body.0.0": 16}, {}),
    "sigmoids": (sigmoids, {"b": 12, "a": 24, "stem.0": 16}, {}),
    "PReLU": (lambda: prelus(1), {"body.2": 16, "body.0": 12}, {}),
    "PReLU per channel": (prelus, {"body.2": 16, "body.0": 12}, {}),
    "PReLU of two layers": (prelu_of_two_layers, {"b": 16}, {}),
    "group norm": (group_normed, {"b": 8, "a": 8}, {}),
    "group norm without weights": (lambda: group_normed(False), {"b": 8, "a": 8}, {}),
    "one group": (one_group, {"body.3.0": 16}, {"body.0": "body.1 normalises 12 of its channels together"}),
    "instance norm": (instance_normed, {"body.3": 16, "body.0": 12}, {}),
    "batch norm without weights": (plain_batch_norm, {"body.3": 16, "body.0": 12}, {}),
    "synchronised batch norm": (
        lambda: nn.SyncBatchNorm.convert_sync_batchnorm(in_order(block(1, 12), block(12, 16))),
        {"body.1.0": 16, "body.0.0": 12},
        {},
    ),
    "ConvNeXt": (convnext, {"p": 64}, {"q": "the normalisation in stem.1 takes all its channels together"}),
    "ResNeXt": (resnext, {"block.2": 24, "block.1.0": 8}, {}),
    "ghost": (ghost, {"b.0": 16, "cheap.0": 12}, {}),
    "ShuffleNet": (shuffle_net, {"second.0": 16, "dw": 6}, {}),
    "ShuffleNetV2": (
        shuffle_net_2,
        {"last.0": 24, "units.1.branch.2.0": 8, "units.1.branch.1.0": 16, "units.0.branch.1.0": 16},
        {},
    ),
    "squeeze and excitation": (squeezed, {"up_2": 16, "down_2": 8, "up": 24, "down": 8}, {}),
    "CBAM": (attended, {"mid.0": 20, "mlp.0": 6}, {"stem.0": "mean takes all its channels", "place": "one channel"}),
    "U-Net": (u_net, {"depthwise": 6, "mid.0": 8, "up": 12, "b.0": 24, "a.0": 12}, {}),
    "rows": (rows, {"up": 16, "b": 6}, {}),
    "MaxOut": (max_out, {"b": 12, "a": 16}, {}),
    "gates": (gated, {"body.4": 16, "body.2": 12, "body.0": 16}, {}),
    "self-attention": (self_attention, {"last.0": 20}, {"q": "the operation bmm reads it"}),
    "a view by number": (named_view, {"a.0": 16}, {"b.0": "does it name a number of channels?"}),
    "pools": (pools, {"c.0": 12, "b": 16, "a": 16}, {}),
    "written in place": (written_into, {"c.0": 12, "b.0": 8}, {}),
    "twice": (twice, {"last.0": 24, "more.0": 16}, {}),
    **{
        f"a {form} while training": (lambda form=form: supervised(form), {"two.0": 24, "one.0": 16}, {})
        for form in FORMS
    },
    "weight norm": (lambda: computed(PARAMETRIZED.weight_norm), {"body.3.0": 16, "body.2.0": 20}, {"body.0": LEFT}),
    "spectral norm": (lambda: computed(PARAMETRIZED.spectral_norm), {"body.3.0": 16, "body.2.0": 20}, {"body.0": LEFT}),
    "old spectral norm": (lambda: computed(OLD.spectral_norm), {"body.3.0": 16, "body.2.0": 20}, {"body.0": LEFT}),
    "weight standardisation": (
        lambda: in_order(Standardised(1, 12, 3), nn.GroupNorm(4, 12), block(12, 20), block(20, 16)),
        {"body.3.0": 16, "body.2.0": 20},
        {"body.0": "whose weight is computed from other parameters"},
    ),
    "cosine": (cosine, {"body.0.0": 16, "body.1.0": 24}, {"body.2.0": "takes all its channels together"}),
}


def made(num_classes, name):
    """Make the net of a kind, as a recipe that names this function does."""
    return KINDS[name][0]()
