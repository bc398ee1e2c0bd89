"""Split images into two sides by what they show, never by the order of files."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from robustdeploy.data.images import Images


@dataclass(frozen=True)
class Split:
    """Two sides and the digest of which image is where."""

    train: Images
    held_out: Images
    digest: str
    """SHA-256 over both sides; the same for the same images in any order."""


def split(images: Images, share: float) -> Split:
    """Hold out ``share`` of each class: the first ⌈share·n⌉ in the order of the SHA-256 of their bytes.

    Equal images, and images of one group, stay on one side; so a class may give a few more than its share.
    """
    import torch  # a data set is found, and refused, without it

    hashes = image_hashes(images)
    keys = hashes if images.groups is None else _group_keys(hashes, images.groups.tolist())
    chosen = _first_keys(keys, images.labels.tolist(), share)
    held = torch.tensor([key in chosen for key in keys], dtype=torch.bool)
    return Split(images.select(~held), images.select(held), _digest(hashes, images.labels.tolist(), held.tolist()))


def image_hashes(images: Images) -> list[bytes]:
    """Return the SHA-256 of the bytes of each image."""
    return [hashlib.sha256(row.tobytes()).digest() for row in images.images.contiguous().numpy()]


def repeated(images: Images) -> int:
    """Return how many images repeat one that comes before them."""
    return len(images) - len(set(image_hashes(images)))


def shared(ours: Images, theirs: Images) -> int:
    """Return how many images of ``theirs`` are also in ``ours``, byte for byte."""
    known = set(image_hashes(ours))
    return sum(h in known for h in image_hashes(theirs))


def _group_keys(hashes: list[bytes], groups: list[int]) -> list[bytes]:
    """Return for each image the smallest hash among all that groups or copies join it with."""
    keys = hashes
    while True:  # a round carries the smallest hash over one more join; few rounds reach everybody
        smallest: dict[int | bytes, bytes] = {}
        for key, group, image_hash in zip(keys, groups, hashes, strict=True):
            # Groups are numbers and hashes bytes, so one table holds both without a clash.
            smallest[group] = min(key, smallest.get(group, key))
            smallest[image_hash] = min(key, smallest.get(image_hash, key))
        joined = [min(smallest[g], smallest[h]) for g, h in zip(groups, hashes, strict=True)]
        if joined == keys:
            return keys
        keys = joined


def _first_keys(keys: list[bytes], labels: list[int], share: float) -> set[bytes]:
    classes: dict[int, list[bytes]] = {}
    for key, label in zip(keys, labels, strict=True):
        classes.setdefault(label, []).append(key)
    # Chosen by key: a copy under another label carries the same key and goes along.
    return {key for members in classes.values() for key in sorted(members)[: math.ceil(share * len(members))]}


def _digest(hashes: list[bytes], labels: list[int], held: list[bool]) -> str:
    # Sorted, so that the digest is of a set: the order of files says nothing of the data.
    rows = sorted(
        bytes([side]) + label.to_bytes(8, "big") + image_hash
        for image_hash, label, side in zip(hashes, labels, held, strict=True)
    )
    return hashlib.sha256(b"".join(rows)).hexdigest()
