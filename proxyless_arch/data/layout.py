"""Which folders of a source are its classes, and which its training, validation and test images."""

from __future__ import annotations

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import counted
from proxyless_arch.data.sources import LAYOUT, Lister

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""The parts of a data set, and the folder names each may have."""
MAX_FOLDER_DEPTH = 8


def find_splits(lister: Lister) -> dict[str, str]:
    """Split name -> its folder; {'': folder} when the class folders are not divided into splits."""
    top = ""
    folders, images = lister(top)
    split_names = [name for names in SPLITS.values() for name in names]
    if len(folders) == 1 and not images and folders[0] not in split_names:
        inner_folders, inner_images = lister(folders[0])
        if inner_folders and not inner_images:
            top, folders = folders[0], inner_folders
    found: dict[str, str] = {}
    for split, names in SPLITS.items():
        for name in names:
            folder = join(top, name)
            # A folder without folders is a class called 'train', or ImageNet's test set, which has no labels.
            if split not in found and name in folders and lister(folder)[0]:
                found[split] = folder
    return found or {"": top}


def choose_split(splits: dict[str, str], split: str | None, path: str) -> str:
    there = ", ".join(f"{folder}/" for folder in splits.values() if folder) or "class folders only"
    if split is None and len(splits) == 1:
        return next(iter(splits))
    order = {"eval": ("test", "val", ""), "train": ("train",), "val": ("val",), "test": ("test",), None: ()}
    if split not in order:
        raise InputError(f"expected 'train', 'val', 'test' or 'eval', got {split!r}", "split")
    for name in order[split]:
        if name in splits:
            return name
    if split is None:
        raise InputError(f"say which one to read: found {there}", "split", path)
    wanted = "test/ or val/" if split == "eval" else f"{split}/"
    raise InputError(f"expected {wanted}, found {there}", "split", path)


def class_names(lister: Lister, folder: str, path: str) -> tuple[str, ...]:
    class_names, loose_images = lister(folder)
    if not class_names:
        found = f"{counted(len(loose_images), 'image')} and no folder" if loose_images else "no folder and no image"
        raise InputError(f"{LAYOUT}, found {found}", folder, path)
    return tuple(class_names)


def check_same_classes(split: str, classes: tuple[str, ...], other: str, others: tuple[str, ...], path: str) -> None:
    if classes == others:
        return
    parts = []
    for name, only in ((split, set(classes) - set(others)), (other, set(others) - set(classes))):
        if only:
            shown = ", ".join(sorted(only)[:5]) + (", ..." if len(only) > 5 else "")
            parts.append(f"{len(only)} only in {name} ({shown})")
    raise InputError(f"expected the same class folders in {split} and {other}: {'; '.join(parts)}", source=path)


def images_under(lister: Lister, folder: str, depth: int = 0) -> list[str]:
    if depth > MAX_FOLDER_DEPTH:
        raise InputError(f"folders nested more than {MAX_FOLDER_DEPTH} deep (a link that loops?)", folder)
    folders, images = lister(folder)
    found = [join(folder, image) for image in images]
    for inner in folders:
        found += images_under(lister, join(folder, inner), depth + 1)
    return found


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
