"""CIFAR-10: 60,000 colour images of 32×32 in 10 classes (Krizhevsky 2009), from a folder of yours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from robustdeploy.data.cifar import Cifar, cifar_source
from robustdeploy.data.image_folder import folder_source
from robustdeploy.data.images import Source, needed
from robustdeploy.errors import DataError

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# As Wong, Rice and Kolter (ICLR 2020) use them. Other code has 0.2023 …, the mean of each image's own deviation.
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


@dataclass(frozen=True)
class Cifar10:
    """CIFAR-10 as published (Python or binary form), or as image files in class folders."""

    def __call__(self, path: Path | None, size: int | None) -> Source:
        """Return the source at ``path``; image files are named as such, since they may not be the original pixels."""
        cifar = Cifar(
            name="cifar10",
            title="CIFAR-10",
            dataset="CIFAR10",
            python="cifar-10-batches-py",
            binary="cifar-10-batches-bin",
            files=(tuple(f"data_batch_{n}.bin" for n in range(1, 6)), ("test_batch.bin",)),
            label_bytes=1,
            classes=_CLASSES,
            mean=_MEAN,
            std=_STD,
        )
        layout = f"{cifar.layout}, or train/<class>/ and test/<class>/ with image files"
        folder = needed(path, cifar.name, layout)
        if found := cifar_source(cifar, folder, size):
            return found
        if not (folder / "train").is_dir():
            raise DataError(f"data set 'cifar10': {folder.absolute()} is not {layout}")
        images = folder_source(folder, size, "CIFAR-10 (image folder)", mirror=True)
        if images.classes != cifar.classes or images.image_shape[0] != 3:
            raise DataError(
                f"the image folder {folder.absolute()} is not CIFAR-10: its classes are {', '.join(images.classes)}; "
                "use the data set 'folder' for images of your own"
            )
        # The published statistics, so that a net trained on either form reads the same numbers.
        return replace(images, mean=_MEAN, std=_STD)


plugin = Cifar10
