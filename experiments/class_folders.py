"""Part of a data set as class folders, as a person would have them."""

from __future__ import annotations

from pathlib import Path

from proxyless_arch.data.datasets import ImageDataset, stratified_split


def subset(images: ImageDataset, count: int, seed: int) -> ImageDataset:
    """``count`` images, of each class in proportion."""
    return images.subset(stratified_split(images.labels, count, seed)[1])


def write_images(images: ImageDataset, folder: Path) -> None:
    """Class folders of lossless files."""
    for index in range(len(images)):
        home = folder / images.class_names[images.labels[index]]
        home.mkdir(parents=True, exist_ok=True)
        images.read(index).save(home / f"{index:05d}.png")
