"""CLEVER: an estimate of the distance that no attack goes below, from gradients nearby (Weng et al., ICLR 2018).

The lead of the label over another class cannot fall faster than its steepest slope in the ball. That is the end of a
reverse Weibull distribution, fitted to the largest slopes of many samples. It is an estimate and no bound: a net that
hides its gradients looks far from every boundary (Goodfellow, 2018).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robustdeploy.attacks.distance.protocol import l2_norms, linearised, per_image
from robustdeploy.attacks.losses import likeliest
from robustdeploy.core.bounds import Count, Positive
from robustdeploy.data.noise import Noise

_RADII = {"l2": 2.0, "linf": 0.1}
_BEYOND = 2.0
"""Times the largest slope seen beyond which no fit is believed."""
_LEVEL = 0.05
"""Significance at which a fit that does not describe the slopes is put aside."""


@dataclass(frozen=True)
class Clever:
    """The lead at the image over the steepest slope around it, the least of all classes; never more than ``radius``."""

    norm: Literal["l2", "linf"] = "l2"
    """In which the distance is told."""
    groups: Count = 30
    """Largest slopes that the distribution is fitted to."""
    samples: Count = 64
    """Samples of which each of those is the largest."""
    radius: Positive | None = None
    """Of the ball around the image that is sampled; unset: 2 in l2, 0.1 in linf."""
    candidates: Count = 10
    """Classes that are looked at, the best-scored ones beside the label."""
    box: bool = True
    """Cut samples to pixels in [0, 1]."""
    limit: Count = 20
    """Test images to use, the first of those that are attacked."""

    estimates: ClassVar[bool] = True

    @property
    def metric(self) -> str:
        """``clever_l2`` or ``clever_linf``."""
        return f"clever_{self.norm}"

    @property
    def label(self) -> str:
        """``clever-l2-box`` and the like."""
        return f"clever-{self.norm}{'-box' if self.box else ''}"

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        """Return one estimate per image."""
        radius = _RADII[self.norm] if self.radius is None else self.radius
        with torch.no_grad():
            scores = net(images).float()
        others = likeliest(scores, labels, self.candidates)
        leads = scores.gather(1, labels[:, None]) - scores.gather(1, others)
        found = []
        for index in range(len(images)):
            one = slice(index, index + 1)
            steepest = self._steepest(
                net,
                images[one],
                labels[one],
                others[one],
                noise.select(torch.tensor([index], device=images.device)),
                radius,
            )
            found.append(min(radius, _least(leads[index].double().cpu().numpy(), steepest)))
        return torch.tensor(found, device=images.device)

    def _steepest(
        self, net: nn.Module, image: Tensor, label: Tensor, others: Tensor, noise: Noise, radius: float
    ) -> npt.NDArray[np.float64]:
        """Return the largest slope of each lead in every group of samples: groups × classes."""
        shape, largest = (self.samples, *image.shape[1:]), []
        labels, classes = label.expand(self.samples), others.expand(self.samples, -1)
        for group in range(self.groups):
            samples = image + self._moves(noise, group, shape, radius)
            _, slopes = linearised(net, samples.clamp(0, 1) if self.box else samples, labels, classes)
            # The norm that is dual to the distance's: of two, itself; of the largest, the sum.
            sizes = slopes.square().sum(2).sqrt() if self.norm == "l2" else slopes.abs().sum(2)
            largest.append(sizes.amax(0).double().cpu().numpy())
        return np.array(largest)

    def _moves(self, noise: Noise, group: int, shape: tuple[int, ...], radius: float) -> Tensor:
        """Return moves that are uniform in the ball."""
        # Between the 24 bits that a draw has, so that the ends are never met.
        draws = noise.uniform(2 * group, shape)[0] + 2.0**-25
        if self.norm == "linf":
            return radius * (2 * draws - 1)
        # A normal direction is uniform, and the share of a ball within r grows with r to the number of pixels.
        normal = torch.erfinv(2 * draws - 1)
        lengths = radius * noise.uniform(2 * group + 1, shape[:1])[0] ** (1 / normal[0].numel())
        return normal * per_image(lengths / l2_norms(normal), normal)


def _least(leads: npt.NDArray[np.float64], largest: npt.NDArray[np.float64]) -> float:
    """Return the least of the leads over the steepest slopes; a lead that nothing moves is infinitely far."""
    least = np.inf
    tops = np.maximum(largest.max(0), 1e-300)
    # The nearest class first: one that is farther off even at the steepest that a fit may say needs none.
    for index in np.argsort(leads / tops):
        if leads[index] / (_BEYOND * tops[index]) < least and tops[index] > 1e-300:
            least = min(least, float(leads[index] / weibull_end(largest[:, index])))
    return least


def weibull_end(largest: npt.NDArray[np.float64]) -> float:
    """Return where a reverse Weibull distribution ends that is fitted to ``largest``, by maximum likelihood.

    Where none describes them (Kolmogorov and Smirnov's test), and where they do not differ, it is the largest of them.
    So it is where the fit has its end far off: the likelihood is flat there, and the end could be anywhere.
    """
    from scipy.stats import kstest, weibull_max

    top = float(largest.max())
    if len(largest) < 3 or not top > 0 or np.ptp(largest) < 1e-6 * top:
        return top
    scaled, end, fits = largest / top, 1.0, _LEVEL
    # From several shapes, as in the paper's code: the likelihood has more than one hill.
    for shape in (0.1, 1.0, 5.0, 20.0):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            fitted = weibull_max.fit(scaled, shape, loc=1.0, scale=float(np.ptp(scaled)))
            p = float(kstest(scaled, "weibull_max", fitted).pvalue)
        if np.isfinite(fitted).all() and 1 <= fitted[1] <= _BEYOND and p > fits:
            end, fits = float(fitted[1]), p
    return top * end


plugin = Clever
