"""The host's side: a torch net that scores 8-bit images and can be attacked by its gradient. Numpy in, numpy out."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from robustdeploy.attacks.ball import ball
from robustdeploy.attacks.distance.protocol import Distance
from robustdeploy.attacks.losses import margin_loss
from robustdeploy.attacks.patches.protocol import PatchAttack
from robustdeploy.attacks.protocol import GradientAttack, input_gradient
from robustdeploy.core.trust import Trust
from robustdeploy.cost.memory import images_at_once
from robustdeploy.data.images import pixels
from robustdeploy.data.noise import Noise
from robustdeploy.evaluate.paths import Paths, paths
from robustdeploy.nets.folded import folded
from robustdeploy.nets.graph import GraphNet, graph_of
from robustdeploy.nets.steady import unsteadiness
from robustdeploy.nets.store import load_info, load_net
from robustdeploy.nets.twin import load_twin
from robustdeploy.onboard.criterion import CLASSIFICATION, Floats
from robustdeploy.onboard.types import Bytes, Labels, Pixels, Scores, Threat
from robustdeploy.train.features import latent, moves

Learnt = Pixels | None
_GREY = 1e-3
"""Grey levels by which a pixel in float32 may miss a whole one."""
DIRECTIONS = 8
"""Random directions in which each image's gradient is tried."""


@dataclass(frozen=True)
class HostNet:
    """A net on the host, in float32 and eval mode."""

    net: nn.Module
    device: torch.device
    followed: nn.Module
    """The same function, faster: what gradients are followed through. It proposes images and judges none."""
    at_once: int = 256
    """Images that are scored or attacked at a time; fewer than these where they are large."""
    graph: GraphNet | None = None
    """The same net, where it is an ONNX file that others made."""

    @property
    def followable(self) -> bool:
        """Whether it has gradients to follow; an ONNX file without a twin in torch has none."""
        return self.graph is None or self.graph.followable

    @property
    def labels_alone(self) -> bool:
        """Whether all that it answers is a label."""
        return self.graph is not None and self.graph.given.scores == "labels"

    @property
    def unsaturated(self) -> bool:
        """Whether gradients are followed on what goes into the softmax whose probabilities the net answers."""
        return self.graph is not None and self.graph.unsaturated is not None

    def __call__(self, images: Pixels) -> Scores:
        """Score pixels, as a Model for query attacks."""
        parts = []
        for part in self._parts(len(images)):
            with torch.no_grad():
                parts.append(self.net(torch.from_numpy(images[part]).to(self.device)).float().cpu().numpy())
        return np.concatenate(parts)

    def score(self, images: Bytes, batch: int = 256) -> Scores:
        """Score 8-bit images."""
        parts, batch = [], min(batch, self.at_once)
        for start in range(0, len(images), batch):
            with torch.no_grad():
                parts.append(self.net(self._pixels(images[start : start + batch])).float().cpu().numpy())
        return np.concatenate(parts)

    def attack(
        self, attack: GradientAttack, images: Bytes, labels: Labels, threat: Threat, key: int, ids: Labels
    ) -> Bytes:
        """Let ``attack`` propose an image for each input; proposals are rounded to 8 bits."""
        return self.rounded(self.proposed(attack, images, labels, threat, key, ids))

    def proposed(
        self, attack: GradientAttack, images: Bytes, labels: Labels, threat: Threat, key: int, ids: Labels
    ) -> Pixels:
        """Let ``attack`` propose an image for each input, as it comes."""
        parts = []
        for part in self._parts(len(images)):  # an image's result does not depend on the others
            noise, labelled = (torch.from_numpy(each[part]).to(self.device) for each in (ids, labels))
            found = attack(self.followed, self._pixels(images[part]), labelled, threat, Noise(key, noise))
            parts.append(found.detach().float().cpu().numpy())
        return np.concatenate(parts)

    @staticmethod
    def rounded(images: Pixels) -> Bytes:
        """Round pixels to 8 bits."""
        # What an attack makes of a gradient that is not finite is no number, and 8 bits hold none.
        whole: Bytes = np.clip(np.round(np.nan_to_num(images * 255)), 0, 255).astype(np.uint8)
        return whole

    def lost_to_rounding(self, proposed: Pixels, found: Bytes, labels: Labels) -> npt.NDArray[np.bool_]:
        """Return one bit per image: labelled wrong as it was proposed, and right as it is stored."""
        lost = np.zeros(len(found), np.bool_)
        between = np.abs(proposed * 255 - found).reshape(len(found), -1).max(1) > _GREY
        # Attacks that round while they search cost nothing here.
        if between.any():
            wrong = ~CLASSIFICATION.right(self(proposed[between]), labels[between])
            lost[between] = wrong & CLASSIFICATION.right(self.score(found[between]), labels[between])
        return lost

    def nearest(self, distance: Distance, images: Bytes, labels: Labels, key: int, ids: Labels) -> Pixels:
        """Let ``distance`` propose the nearest wrong image of each input, or estimate how far it is: in floats."""
        parts = []
        for part in self._parts(len(images)):
            noise = Noise(key, torch.from_numpy(ids[part]).to(self.device))
            labelled = torch.from_numpy(labels[part]).to(self.device)
            # The net itself and not its faster twin: on a boundary their rounding would decide.
            found = distance(self.net, self._pixels(images[part]), labelled, noise)
            parts.append(found.detach().float().cpu().numpy())
        return np.concatenate(parts)

    def patched(
        self, attack: PatchAttack, images: Bytes, labels: Labels, side: int, noise: tuple[int, Labels], learnt: Learnt
    ) -> tuple[Bytes, Labels]:
        """Let ``attack`` fill a square of each image; return all of it in 8 bits, and each square's row and column.

        ``noise`` is its key with the images' ids, ``learnt`` what ``learn`` returned.
        """
        given = None if learnt is None else torch.from_numpy(learnt).to(self.device)
        parts = []
        for part in self._parts(len(images)):
            drawn = Noise(noise[0], torch.from_numpy(noise[1][part]).to(self.device))
            labelled = torch.from_numpy(labels[part]).to(self.device)
            found, places = attack(self.followed, self._pixels(images[part]), labelled, side, drawn, given)
            parts.append((self.rounded(found.detach().float().cpu().numpy()), places.cpu().numpy()))
        return np.concatenate([one for one, _ in parts]), np.concatenate([at for _, at in parts]).astype(np.int64)

    def learnt(self, attack: Any, images: Bytes, labels: Labels, side: int, key: int) -> Pixels:
        """Let a patch attack learn on ``images``, which nobody is judged on."""
        noise = Noise(key, torch.arange(len(images), device=self.device))
        patch = attack.learn(self.followed, self._pixels(images), torch.from_numpy(labels).to(self.device), side, noise)
        learnt: Pixels = patch.detach().float().cpu().numpy()
        return learnt

    def moves(self, images: Bytes, attacked: Bytes) -> dict[str, Floats]:
        """Return by layer how far the latent features of each image are moved, on average over the features."""
        parts = []
        for part in self._parts(len(images)):
            both = torch.cat([self._pixels(attacked[part]), self._pixels(images[part])])
            with torch.no_grad(), latent(self.net) as maps:
                self.net(both)
            found = moves(maps, len(both) // 2)
            parts.append({name: moved.double().cpu().numpy() for name, moved in found.items()})
        return {name.removeprefix("net."): np.concatenate([each[name] for each in parts]) for name in parts[0]}

    def zero_gradients(self, images: Bytes, labels: Labels) -> int:
        """Count images at which the margin between the two best scores has no gradient at all, in float64.

        A net that computes in float32 whatever it is given is asked in that.
        """
        if len(images) > self.at_once:
            return sum(self.zero_gradients(images[p], labels[p]) for p in self._parts(len(images)))
        pixels = self._pixels(images)
        try:
            # In float64, since saturation in float32 is the loss's matter and is counted by itself.
            pixels = pixels.double().requires_grad_()
            scores = _copied_in_double(self.net)(pixels)
        except RuntimeError:
            pixels = self._pixels(images).requires_grad_()
            scores = self.net(pixels)
        own = scores.gather(1, torch.from_numpy(labels).to(self.device)[:, None]).squeeze(1)
        # The highest wrong score, as in the margin of Carlini and Wagner: it does not saturate as a softmax does.
        others = scores.scatter(1, torch.from_numpy(labels).to(self.device)[:, None], -torch.inf).max(1).values
        margin = (own - others).sum()
        # Somewhere the graph is cut: a detached tensor or a step in numpy.
        if not margin.requires_grad:
            return len(images)
        (gradient,) = torch.autograd.grad(margin, pixels, allow_unused=True)
        return len(images) if gradient is None else int((gradient.flatten(1).abs().amax(1) == 0).sum())

    def lost_gradients(self, images: Bytes, labels: Labels) -> tuple[int, int]:
        """Count images at which the cross-entropy's gradient is zero, and is not finite, as attacks follow it."""
        lost = wild = 0
        for part in self._parts(len(images)):
            labelled = torch.from_numpy(labels[part]).to(self.device)
            gradient, _ = input_gradient(self.followed, self._pixels(images[part]), labelled)
            sizes = gradient.flatten(1).abs().amax(1)
            finite = torch.isfinite(sizes)
            lost, wild = lost + int((sizes == 0).sum()), wild + int((~finite).sum())
        return lost, wild

    def paths(self, images: Bytes, labels: Labels, threat: Threat, key: int) -> Paths:
        """Look along the steps of attacks; see there."""
        ids, found = torch.arange(len(labels), device=self.device), []
        for part in self._parts(len(labels)):
            labelled = torch.from_numpy(labels[part]).to(self.device)
            pixels, noise = self._pixels(images[part]), Noise(key, ids[part])
            found.append(paths(self.net, self.followed, pixels, labelled, threat, noise))
        return Paths(np.concatenate([one.flat for one in found]), np.concatenate([one.inner for one in found]))

    def faithful_gradients(self, images: Bytes, labels: Labels, threat: Threat, key: int) -> float:
        """Return how often the gradient foretells whether the margin rises or falls along a random direction.

        It is asked at random places in the ball, for steps from one grey level to eps both ways, and the best of the
        step sizes counts: a net that rounds, and passes gradients straight through, is told well by larger steps.
        The scores come without a gradient being kept, so that a net cannot know that it is being looked at.
        """
        ids = torch.arange(len(labels), device=self.device)
        right = [self._foretold(images[p], labels[p], threat, Noise(key, ids[p])) for p in self._parts(len(labels))]
        return float(max(np.sum(right, axis=0)) / (DIRECTIONS * len(labels)))

    def _foretold(self, images: Bytes, labels: Labels, threat: Threat, noise: Noise) -> list[int]:
        """Count for each step size the directions, of ``DIRECTIONS`` per image, that the gradient tells rightly."""
        labelled = torch.from_numpy(labels).to(self.device)
        room = ball(self._pixels(images), threat)
        places = room.whole(room.anywhere(noise, 0))
        # At random places and not at the images: there a net could be prepared to have a good gradient.
        gradient, _ = input_gradient(self.followed, places, labelled, margin_loss)
        most = threat.each(images[0].size)
        sizes = sorted({1, max(1, most // 2), most})
        right = dict.fromkeys(sizes, 0)
        for number in range(DIRECTIONS):
            direction = noise.uniform(1 + number, tuple(places.shape[1:])).round() * 2 - 1
            for size in sizes:
                # Clipped as an attack's images are, so that the step that is foretold is the one that is taken.
                ahead, behind = ((places + way * size / 255 * direction).clamp(0, 1) for way in (1, -1))
                foretold = (gradient * (ahead - behind)).flatten(1).sum(1).sign()
                with torch.no_grad():
                    # By the net itself, whose answers count, and not by its faster twin.
                    change = margin_loss(self.net(ahead), labelled) - margin_loss(self.net(behind), labelled)
                right[size] += int(((change.sign() == foretold) & (foretold != 0)).sum())
        return list(right.values())

    def unsteadiness(self, images: Bytes) -> str | None:
        """Say why an image's scores are not its own, naming the layer at fault; None where they are."""
        return unsteadiness(self.net, self._pixels(images))

    def _parts(self, count: int) -> list[slice]:
        return [slice(start, start + self.at_once) for start in range(0, count, self.at_once)]

    def _pixels(self, images: Bytes) -> torch.Tensor:
        return pixels(torch.from_numpy(images).to(self.device))


def to_bytes(images: torch.Tensor) -> Bytes:
    """Round pixels in [0, 1] to 8-bit images."""
    rounded: Bytes = torch.round(images * 255).clamp(0, 255).to(torch.uint8).cpu().numpy()
    return rounded


def _copied_in_double(net: nn.Module) -> nn.Module:
    return copy.deepcopy(net).double()


def load_host_net(folder: Path, device: str, trust: Trust = False, twin: Path | None = None) -> HostNet:
    """Load the net saved in ``folder``, or the twin of its file in low precision; ``trust`` is as for ``load_net``."""
    on = torch.device(device)
    # Its weights need no gradient: attacks ask for that of the image, and memory stays free.
    net = load_net(folder, trust=trust).to(on).eval().requires_grad_(False)
    shape = load_info(folder).image_shape
    if twin is not None:
        lowered = load_twin(twin).to(on).requires_grad_(False)
        # Each rounding keeps a map of its own for the backward pass.
        return HostNet(lowered, on, lowered, max(1, images_at_once(net, shape, HostNet.at_once) // 2))
    graph = graph_of(net)
    if graph is not None and not graph.followable:
        return HostNet(net, on, net, graph=graph)
    # Of a generator of its own, so that loading a net moves no other random numbers.
    example = torch.rand(8, *shape, generator=torch.Generator().manual_seed(0))
    return HostNet(net, on, folded(net, example.to(on)), images_at_once(net, shape, HostNet.at_once), graph)
