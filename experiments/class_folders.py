"""Part of a data set as class folders, as a person would have them."""

from __future__ import annotations

from pathlib import Path

from proxyless_arch.data.datasets import ImageDataset, open_folder, stratified_split


def subset(images: ImageDataset, count: int, seed: int) -> ImageDataset:
    """``count`` images, of each class in proportion."""
    return images.subset(stratified_split(images.labels, count, seed)[1])


def write_images(images: ImageDataset, folder: Path) -> None:
    """Class folders of lossless files."""
    for index in range(len(images)):
        home = folder / images.class_names[images.labels[index]]
        home.mkdir(parents=True, exist_ok=True)
        images.read(index).save(home / f"{index:05d}.png")


def write_parts(source: str, folder: Path, n_train: int, n_test: int) -> Path:
    """``folder`` with train/ and test/ of class folders, images of those of ``source``; written once."""
    for part, count in (("train", n_train), ("test", n_test)):
        if not (folder / "test").exists():
            write_images(subset(open_folder(source, part), count, 0), folder / part)
    return folder
