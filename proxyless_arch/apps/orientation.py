"""Whether photos are turned upright before a network sees them (``--exif``).

Cameras store photos as the sensor lay and say in EXIF how to turn them. What was done to the images belongs to the
weights: it is the field ``exif`` of their preprocessing. What a person's own images need is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxyless_arch.apps.prediction import imagenet_classes
from proxyless_arch.arch.released_tree import CIFAR10_CLASSES
from proxyless_arch.base.words import Word
from proxyless_arch.data.sources import EDITION

CHOICES = AUTO, YES, NO = ("auto", "yes", "no")
EXIF = Word(
    "--exif",
    (),
    "turn photos upright by their EXIF orientation: yes, no or auto (yes, except for ImageNet and CIFAR-10 with "
    "released weights, whose accuracies were measured without)",
)


def like_imagenet(class_names: Sequence[str]) -> bool:
    """Whether all class folders are called by ImageNet's wnids."""
    return bool(class_names) and set(class_names) <= set(imagenet_classes())


def turns_upright(choice: str, class_names: Sequence[str], released_weights: bool, trained: bool | None = None) -> bool:
    """Whether photos are to be turned.

    Args:
        choice: of ``--exif``.
        class_names: of the images.
        released_weights: whether the network has, or starts from, published ones.
        trained: whether the weights were trained on turned photos; None where nobody said.
    """
    if choice != AUTO:
        return choice == YES
    if trained is not None:
        return trained
    is_measured = like_imagenet(class_names) or tuple(class_names) == CIFAR10_CLASSES
    return not (released_weights and is_measured)


def in_words(exif: bool | None) -> str:
    """For a header."""
    return "EXIF orientation applied" if exif else "EXIF orientation not applied"


class Images(Protocol):
    """The settings of a run that say which images it has."""

    @property
    def dataset(self) -> str | None: ...

    @property
    def data_edition(self) -> int: ...


def note_on_edition(data: Images) -> tuple[str, ...]:
    """One line where folders are read as runs of before did; else none."""
    if data.dataset == "digits" or data.data_edition == EDITION:
        return ()
    return (f"folders are read as before December 2026 (data_edition={data.data_edition})",)
