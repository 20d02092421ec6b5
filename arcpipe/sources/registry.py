"""The datasets that have a name. A new one is one file and one line here."""

from __future__ import annotations

from arcpipe.sources.cifar import CIFAR10
from arcpipe.sources.digits import DIGITS
from arcpipe.sources.imagenette import IMAGENETTE, IMAGENETTE320
from arcpipe.sources.mnist import FASHION_MNIST, MNIST
from arcpipe.sources.named import NamedSet

SETS: dict[str, NamedSet] = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion-mnist": FASHION_MNIST,
    "cifar10": CIFAR10,
    "imagenette": IMAGENETTE,
    "imagenette320": IMAGENETTE320,
}
"""By the names that SOURCE may have, the embedded dataset first."""
