"""Centres of numbers in one dimension, of which one stays 0."""

from __future__ import annotations

import numpy as np
import torch
from scipy.cluster.vq import kmeans2

from robustdeploy.prune.clusters import centres_of, nearest


def error(values, centres):
    return float((values - nearest(values, centres)).square().mean())


def test_well_apart_clusters_are_their_means_and_zero_stays():
    noise = torch.linspace(-0.01, 0.01, 5)
    values = torch.cat([-2 + noise, 1 + noise, 3 + noise, 0.02 + noise])
    centres = centres_of(values, 4)
    assert torch.allclose(centres, torch.tensor([-2.0, 0.0, 1.0, 3.0]), atol=1e-6)
    assert centres[1] == 0


def test_they_are_about_as_near_as_scipys_from_the_same_start():
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    start = np.sort(np.append(np.linspace(float(values.min()), float(values.max()), 15), 0.0))
    theirs, _ = kmeans2(values.numpy().astype(float)[:, None], start[:, None], iter=50, minit="matrix", missing="warn")
    ours = centres_of(values, 16)
    assert len(ours) == 16
    assert error(values, ours) < 1.1 * error(values, torch.from_numpy(np.sort(theirs[:, 0])).float())


def test_where_there_are_few_values_each_is_its_own_centre():
    values = torch.tensor([0.5, 0.5, -1.0])
    assert centres_of(values, 8).tolist() == [-1.0, 0.0, 0.5]
    assert nearest(values, centres_of(values, 8)).tolist() == values.tolist()


def test_all_on_one_side_and_all_but_alike():
    values = torch.linspace(1, 1.0001, 1000)
    centres = centres_of(values, 4)
    assert centres[0] == 0
    assert len(centres) <= 4
    assert float((values - nearest(values, centres)).abs().max()) < 1e-4
