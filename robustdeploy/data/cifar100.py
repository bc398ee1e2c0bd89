"""CIFAR-100: 60,000 colour images of 32×32 in 100 classes (Krizhevsky 2009), from a folder of yours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robustdeploy.data.cifar import Cifar, cifar_source
from robustdeploy.data.images import Source, needed
from robustdeploy.errors import DataError

_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""


@dataclass(frozen=True)
class Cifar100:
    """CIFAR-100 as published, in its Python or binary form; the 100 fine classes."""

    def __call__(self, path: Path | None, size: int | None) -> Source:
        """Return the source at ``path``."""
        cifar = Cifar(
            name="cifar100",
            title="CIFAR-100",
            dataset="CIFAR100",
            python="cifar-100-python",
            binary="cifar-100-binary",
            files=(("train.bin",), ("test.bin",)),
            label_bytes=2,
            classes=tuple(_CLASSES.split()),
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
        )
        folder = needed(path, cifar.name, cifar.layout)
        found = cifar_source(cifar, folder, size)
        if found is None:
            raise DataError(f"data set 'cifar100': {folder.absolute()} is not {cifar.layout}")
        return found


plugin = Cifar100
