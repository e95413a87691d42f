"""The trained network that a search is around: its weights, and what settings of a search have no meaning beside it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

from proxyless_arch.apps.train_settings import INHERIT, PRETRAINED, Start, TrainConfig, start_of
from proxyless_arch.apps.train_settings import effective_config as effective_training
from proxyless_arch.arch import catalog
from proxyless_arch.base.cli import command_line
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.datasets import ImageDataset
from proxyless_arch.space.search_space import SearchSpace
from proxyless_arch.space.shrinking import Freedom, space_around
from proxyless_arch.weights.files import NamedTensors
from proxyless_arch.weights.slicing import by_importance
from search.config import PARENT as FLAG
from search.config import SearchConfig, SpaceConfig, WeightOpt, naming_the_parent

NO_WEIGHTS = "this network has no weights: it takes a trained one"
FREEDOM = Freedom(most=5)
"""Of each block: five widths, from a fifth on. A search learns what each is worth from a few hundred networks."""


@dataclass(frozen=True)
class Parent:
    """The network that ``config`` names, for ``images``; read when it is asked for. Raises InputError."""

    config: SearchConfig
    images: ImageDataset

    @cached_property
    def start(self) -> Start:
        name, data = self.config.space.parent, self.config.data
        assert name is not None
        if name in catalog.known_names() and name not in catalog.trained_names():
            raise InputError(NO_WEIGHTS, FLAG, name)
        with naming_the_parent():
            found = start_of(self._training, self.images)
        if not found.tensors:
            raise InputError(NO_WEIGHTS, FLAG, name)
        if found.has_fresh_classifier:
            words = ["--pretrained"] if name in catalog.known_names() else []
            words += ["--data_path", data.data_path] if data.data_path is not None else []
            raise InputError(
                f"these images have other classes than the network was trained for; train it on them first: "
                f"{command_line('train.py', '--arch', name, *words)}",
                FLAG,
                name,
            )
        return found

    @property
    def _training(self) -> TrainConfig:
        """The settings with which train.py would take it up."""
        name, data = self.config.space.parent, self.config.data
        given = {
            "arch": name,
            "dataset": data.dataset,
            "data_path": data.data_path,
            "exif": data.exif,
            "data_edition": data.data_edition,
            "weights": PRETRAINED if name in catalog.known_names() else INHERIT,
            "image_size": data.resolution,
            "valid_size": data.valid_size,
            "split_seed": self.config.manual_seed if data.split_seed is None else data.split_seed,
        }
        return effective_training({key: value for key, value in given.items() if value is not None}, "finetune")[0]

    @cached_property
    def space(self) -> SearchSpace:
        try:
            return space_around(self.start.spec, FREEDOM)
        except InputError as error:
            raise InputError(error.problem, FLAG, self.config.space.parent) from None

    @cached_property
    def tensors(self) -> NamedTensors:
        """Of the largest network of the space: the trained ones, channels in the order of their importance."""
        return by_importance(self.start.tensors, self.start.spec)


def check_around(config: SearchConfig) -> None:
    """Raises InputError for settings that have no meaning where a search is around a trained network."""
    usual, asked = SpaceConfig(), config.space
    for field in fields(SpaceConfig):
        if field.name != "parent" and getattr(asked, field.name) != getattr(usual, field.name):
            raise InputError(f"has no meaning with {FLAG}: the network has its own", f"--{field.name}")


def check_sharing(config: SearchConfig, space: SearchSpace) -> None:
    """Raises InputError for settings that have no meaning where networks share weights, or where they do not."""
    weights, usual = config.weights, WeightOpt()
    if not space.shares_weights:
        for name in ("kernel_transform", "shared_rule", "sandwich_paths"):
            if getattr(weights, name) != getattr(usual, name):
                raise InputError("has no meaning where each operation has weights of its own", f"--{name}")
    elif weights.shared_rule == "sandwich" and weights.paths_per_step is not None:
        raise InputError("has no meaning with the sandwich rule: --sandwich_paths takes its place", "--paths_per_step")
    elif weights.shared_rule != "sandwich" and weights.sandwich_paths != usual.sandwich_paths:
        raise InputError(
            f"has no meaning with the rule {weights.shared_rule}: --paths_per_step takes its place", "--sandwich_paths"
        )
