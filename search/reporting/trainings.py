"""Which trainings of train.py belong to which networks of searches, and whether they can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from proxyless_arch.apps.train_settings import TrainConfig
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.settings import flags
from proxyless_arch.weights.lookup import SPEC_FILE
from search.reporting.run_folder import Run, TrainedRun

INDIFFERENT = frozenset(
    {"recipe", "arch", "manual_seed", "split_seed", "device", "save_every_seconds", "test_batch_size", "n_worker"}
    | {"dataset", "data_path"}  # with_trained has compared the images
)
"""Settings of train.py that need not agree in trainings that are compared; the test images are looked at themselves."""


def with_trained(runs: Sequence[Run], trained: Sequence[TrainedRun]) -> list[Run]:
    """The runs, each with the trainings of its own networks (the searched one, or the random ones).

    Raises:
        InputError: a training of a network that none of the runs has, or on other images or another resolution.
    """
    found: list[Run] = []
    strangers = list(trained)
    for run in runs:
        named = run.result["networks"] if run.result is not None and run.is_random else []
        specs = {entry["spec"]: read_spec(run.folder / entry["spec"]) for entry in named}
        if run.spec is not None:
            specs[SPEC_FILE] = run.spec
        own: dict[str, list[TrainedRun]] = {}
        for each in trained:
            for file, spec in specs.items():
                if _same_network(each.spec, spec):
                    _check_comparable(each, spec, run)
                    own.setdefault(file, []).append(each)
                    strangers = [other for other in strangers if other is not each]
        found.append(replace(run, trained=own))
    if strangers:
        names = ", ".join(str(run.folder) for run in runs)
        raise InputError(f"its network is none of {names}", "--trained", str(strangers[0].folder))
    return found


def _same_network(left: ArchSpec, right: ArchSpec) -> bool:
    """Whether the two differ in nothing but what train.py may change: name, preprocessing, dropout and class names."""
    here = (left.stem, left.blocks, left.feature_mix, left.bn, left.padding, left.num_classes)
    return here == (right.stem, right.blocks, right.feature_mix, right.bn, right.padding, right.num_classes)


def _check_comparable(trained: TrainedRun, spec: ArchSpec, run: Run) -> None:
    own = trained.settings
    unknown = [name for name in ("dataset", "data_path") if name not in own]
    if unknown:
        problem = f"which images it was trained on is not recorded: config.json has no {' and no '.join(unknown)}"
        raise InputError(problem, "--trained", str(trained.folder))
    for what, ours, theirs in (
        ("images", *_images_of(trained, run)),
        ("resolution", trained.spec.resolution, spec.resolution),
    ):
        if ours != theirs:
            problem = f"trained with other {what} than {run.folder} has: {ours}, not {theirs}"
            raise InputError(problem, "--trained", str(trained.folder))


def _images_of(trained: TrainedRun, run: Run) -> tuple[str | None, str | None]:
    """What tells the images of a training and of a search apart: where they are, unless their test images are equal."""
    own, searched = trained.settings, run.settings
    tested = ((run.result or {}).get("images") or {}).get("test_names")
    if tested is not None and tested == trained.result.get("test_images"):
        return tested, tested
    return _images(own["dataset"], own["data_path"]), _images(searched["dataset"], searched.get("data_path"))


def _images(dataset: str | None, path: str | None) -> str | None:
    return str(Path(path).resolve()) if path is not None else dataset


def unlike(trained: Sequence[TrainedRun]) -> tuple[list[str], list[str]]:
    """The settings that matter for accuracy (the seed is not among them), and the test images: those in which trainings
    differ, and those that were not recorded of each of them, with the folders concerned. One training is unlike none.
    """
    differ, unknown = [], []
    for name in flags(TrainConfig) if len(trained) > 1 else ():
        if name in INDIFFERENT:
            continue
        known = [each.settings[name] for each in trained if name in each.settings]
        if any(value != known[0] for value in known):
            differ.append(name)
        if len(known) < len(trained):
            silent = [each.folder.name for each in trained if name not in each.settings]
            unknown.append(f"{name} (in {', '.join(silent)})")
    tested = [each.result.get("test_images") for each in trained]
    if len({images for images in tested if images is not None}) > 1:
        differ.append("the test images")
    if silent := [each.folder.name for each, images in zip(trained, tested, strict=True) if images is None]:
        unknown += [f"the test images (in {', '.join(silent)})"] if len(trained) > 1 else []
    return differ, unknown
