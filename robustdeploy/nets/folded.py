"""Folded: the same function with its batch norms inside the convolutions before them, laid out for speed.

Attacks follow a net's gradient to the pixels thousands of times per image; ``benchmarks/following.py`` times it.
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from robustdeploy.nets.channel_pad import ChannelPad
from robustdeploy.nets.layout import lay_channels_last

_NORM_AFTER = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}
_TOLERANCE = 1e-4
"""Of the scores, relative to the largest: what rounding in another order may change."""


def folded(net: nn.Module, example: Tensor) -> nn.Module:
    """Return a faster copy of ``net``, which must be in eval mode, or ``net`` itself where there can be none.

    A batch norm goes into a convolution's weights where nothing else reads what the convolution puts out; ``forward``
    stays the net's own. Where torch.fx cannot tell that from the code, only the layout of the weights changes. A copy
    that cannot score ``example`` (N×C×H×W, pixels in [0, 1]), or not as the net does, is not used.
    """
    try:
        # A copy, since the caller's net keeps its batch norms.
        copied = copy.deepcopy(net)
    except (RuntimeError, TypeError):  # a net may hold what cannot be copied
        return net
    for conv, norm in _pairs(net):
        layers = copied.get_submodule(conv), copied.get_submodule(norm)
        _replace(copied, conv, fuse_conv_bn_eval(*layers))  # type: ignore[type-var, arg-type]
        _replace(copied, norm, nn.Identity())
    lay_channels_last(copied)
    for module in copied.modules():
        if isinstance(module, ChannelPad):
            module.multiplies = True
    return copied if _same_scores(net, copied, example) else net


def _pairs(net: nn.Module) -> list[tuple[str, str]]:
    """Return the names of each convolution that can take in a batch norm, and of that batch norm."""
    try:
        graph = fx.Tracer().trace(net)
    except Exception:  # the tracer runs the net's own code on stand-ins, which may raise anything
        return []
    # With all names of a module: one under two names is met under either, and must count twice.
    modules = dict(net.named_modules(remove_duplicate=False))
    calls = Counter(id(modules[str(node.target)]) for node in graph.nodes if node.op == "call_module")
    # Code that reads a layer's weight by itself would find the folded one.
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    names = Counter(id(module) for module in modules.values())
    owners = Counter(id(tensor) for module in net.modules() for tensor in module._parameters.values())

    def is_its_own(name: str) -> bool:
        """Whether the module under ``name`` is called once, and shares neither itself nor its weights."""
        module = modules[name]
        alone = calls[id(module)] == names[id(module)] == 1 and name not in read
        shared = any(tensor is not None and owners[id(tensor)] > 1 for tensor in module._parameters.values())
        # A hook sees what the layer puts out, which folding changes.
        return alone and not shared and not module._forward_hooks and not module._forward_pre_hooks

    found = []
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        # A second reader would get the normalised output in place of the convolution's own.
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        conv, norm = str(before.target), str(node.target)
        # The very types: a subclass may compute something else in its forward.
        fits = _NORM_AFTER.get(type(modules[conv])) is type(modules[norm])
        if fits and modules[norm].running_mean is not None and is_its_own(conv) and is_its_own(norm):
            found.append((conv, norm))
    return found


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, module)


def _same_scores(net: nn.Module, other: nn.Module, example: Tensor) -> bool:
    with torch.no_grad():
        expected = net(example)
        try:
            found = other(example)
        except Exception:  # the net's own code may ask a layer for what only a batch norm has
            return False
    scale = float(expected.abs().max())
    # Scores of exactly zero have no scale, and any rounding would be infinitely far from them.
    return bool(torch.isfinite(found).all()) and float((expected - found).abs().max()) <= _TOLERANCE * max(scale, 1e-30)
