"""Images without labels, as a person names them: files one by one, folders, archives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import is_url
from proxyless_arch.data.datasets import ImageDataset, any_images
from proxyless_arch.data.sources import FolderSource, LeftOut, Source, refuse_archive

ARCHIVE = ".zip"


@dataclass(frozen=True)
class SeveralSources:
    """Images from several sources; a name is the decimal index of one."""

    images: tuple[tuple[Source, str], ...]

    def place(self, name: str) -> str:
        source, inner = self.images[int(name)]
        return source.place(inner)

    def read(self, name: str) -> Any:
        source, inner = self.images[int(name)]
        return source.read(inner)


def images_at(paths: Sequence[str]) -> ImageDataset:
    """The images that paths name, in order: files, and all images below folders and in .zip archives.

    The label of each is its index, so that a batch tells which images are in it. A named file is taken whatever its
    name ends in: whether it is an image shows when it is read.

    Raises:
        InputError: nothing at a path, or no image in a folder or an archive.
    """
    each = [_images_of(path) for path in paths]
    found = tuple(image for images, _ in each for image in images)
    left_out = sum((beside for _, beside in each), LeftOut())
    indices = np.arange(len(found), dtype=np.int64)
    return ImageDataset(SeveralSources(found), tuple(map(str, indices.tolist())), indices, (), left_out)


def _images_of(path: str) -> tuple[list[tuple[Source, str]], LeftOut]:
    where = Path(path)
    if not where.exists() and not is_url(path):
        raise InputError("no such image, folder or .zip", source=path)
    if where.is_file() and where.suffix.lower() != ARCHIVE:
        refuse_archive(where)
        return [(FolderSource(""), path)], LeftOut()
    images = any_images(path)
    return [(images.source, name) for name in images.names], images.left_out
