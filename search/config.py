"""The settings of a search as frozen dataclasses; each field is a command-line flag and a JSON key.

Flag names are the official implementation's where they mean the same. A recipe (``search/recipes/*.json``) changes
defaults; a flag overrides the recipe; the effective config is saved in the run folder as ``config.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxyless_arch.apps.memory import whole_if_named
from proxyless_arch.apps.orientation import AUTO, CHOICES, EXIF
from proxyless_arch.apps.train_settings import IMAGES, images_of_network
from proxyless_arch.base import settings
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_json
from proxyless_arch.base.machine import PRECISIONS
from proxyless_arch.base.runs import config_to_resume
from proxyless_arch.base.settings import setting as _flag
from proxyless_arch.base.strict import listed
from proxyless_arch.base.units import Unit
from proxyless_arch.base.words import (
    ACCUMULATION,
    AUTO_KERNELS,
    BATCH_SIZE,
    DATA_EDITION,
    DATA_PATH,
    DEVICE,
    KERNEL_CHOICES,
    KERNELS,
    MEASURABLE,
    RESOLUTION,
    SEED,
    THREADS,
    TORCH_KERNELS,
    WORKERS,
)
from proxyless_arch.data.sources import EDITION
from proxyless_arch.space import tree, wide
from proxyless_arch.space.mbconv import IMAGENET
from proxyless_arch.space.named import SPACES, space_named

SMALL_IMAGE = 64  # pixels up to which an image is small: gentler strides, the whole image as input
RECIPE_DIR = Path(__file__).parent / "recipes"
FORMAT, VERSION = "proxyless-nas/search-config", 1
PARENT = "--from"
PATHS = ("data_path", "latency_table", "parent")
FREE = (
    "data_path",
    "latency_table",
    "device",
    "torch_threads",
    "kernels",
    "n_worker",
    "test_batch_size",
    "force_latency_table",
)
"""Settings that may be others when a run is resumed: its images and prices are compared by what is in them."""
SIDES = (8, 1024)  # pixels
TARGET_KEY = {Unit.MS: "target_latency_ms", Unit.MACS: "target_macs"}
"""The setting that asks for a cost in a unit."""
LEFT_OPEN = ("accumulation", "paths_per_step")
"""Settings that, left open, are those of the warm-up that another run did."""
LIMIT_KEY = {Unit.PARAMS: "max_params", Unit.MACS: "max_macs"}
"""The setting that limits a cost beside the target."""
SMALLEST_ROUND = 2  # networks of a predictor's rounds: a projection and a local move


def check_size(*sizes: int, flag: str) -> None:
    """Raises InputError for images that no search takes."""
    for size in sizes:
        if not SIDES[0] <= size <= SIDES[1]:
            raise InputError(f"expected an integer in {SIDES[0]}..{SIDES[1]}, got {size}", flag)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and how they are batched."""

    dataset: str = _flag(
        "digits",
        "digits (embedded), imagefolder, cifar10 or imagenet (class folders)",
        ("digits", "imagefolder", "cifar10", "imagenet"),
    )
    data_path: str | None = DATA_PATH.setting(None, " (with train/ and val/ or test/, or just one set)", common=True)
    valid_size: float = _flag(
        0.2,
        "architecture-validation images, held out of the weights' training: a count, or a fraction below 1",
        minimum=0.0001,
    )
    split_seed: int | None = _flag(
        None, "seed of which images are held out (default: --seed; with --from a run, its own)", older=None, minimum=0
    )
    resolution: int | None = RESOLUTION.setting(
        None,
        " (default: digits 16, cifar10 or space small, tiny or tree 32, else 224; with --from the network's)",
        aliases=("--resolutions",),
        minimum=SIDES[0],
        maximum=SIDES[1],
        common=True,
    )
    mixed_resolutions: str | None = _flag(
        None,
        "sizes that the images of a warm-up's steps have in random order, between commas, --resolution's among them "
        "(set by several --resolutions)",
        older=None,
    )
    resize_scale: float | None = _flag(
        None, "smallest share of the image that a random crop takes (default: 0.08)", minimum=0.01, maximum=1
    )
    augment: str | None = _flag(
        None, "training augmentation (default: by data set and space)", ("imagenet", "small", "digits", "none")
    )
    train_batch_size: int = BATCH_SIZE.setting(64, " of weight training", minimum=2, maximum=65536, common=True)
    accumulation: int | None = ACCUMULATION.setting(
        None,
        " (default: as few as fit the memory; a --batch_size that is given is computed whole)",
        older=1,
        minimum=1,
        maximum=65536,
    )
    test_batch_size: int = _flag(
        250, "images per evaluation batch, fewer where memory is short", minimum=1, maximum=65536
    )
    n_worker: int | None = WORKERS.setting(None, " (default: 0 for small sets in memory)", minimum=0, maximum=256)
    strict_data: bool = _flag(False, "an unreadable image is an error instead of a warning and a count")
    exif: str = EXIF.setting(AUTO, allowed=CHOICES, older=AUTO)
    data_edition: int = DATA_EDITION.setting(EDITION, minimum=1, maximum=EDITION, older=1)

    def __post_init__(self) -> None:
        """Raises InputError for a share of the images above 1, and for sizes without the run's own."""
        if self.valid_size >= 1 and self.valid_size != int(self.valid_size):
            problem = f"expected a fraction below 1 or a whole number of images, got {self.valid_size}"
            raise InputError(problem, "--valid_size")
        if self.mixed_resolutions is not None and self.resolution not in self.warmup_sizes:
            problem = f"expected --resolution ({self.resolution}) among them, got {self.mixed_resolutions}"
            raise InputError(problem, "--mixed_resolutions")

    @property
    def warmup_sizes(self) -> tuple[int, ...]:
        """Of a warm-up on several sizes: pixels, rising; empty where there is one. Raises InputError."""
        words = self.mixed_resolutions.split(",") if self.mixed_resolutions is not None else []
        if not all(len(word) <= 4 and word.isdecimal() for word in words) or len(words) == 1:
            problem = f"expected sizes between commas, two or more, got {self.mixed_resolutions!r}"
            raise InputError(problem, "--mixed_resolutions")
        check_size(*map(int, words), flag="--mixed_resolutions")
        return tuple(sorted(map(int, words)))


@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """Which networks there are."""

    space: str | None = _flag(
        None,
        "imagenet (stride 32), small (stride 8), tiny (12 blocks, stride 4); uib, uib_small, uib_tiny (the same with "
        "MobileNetV4's blocks); wide, wide_small, wide_tiny (expansions 1 to 6, and widths of stages); tree (the "
        "paper's CIFAR-10 space: pyramids of tree-structured cells) (default: by "
        "resolution)",
        tuple(SPACES),
    )
    parent: str | None = _flag(
        None,
        "a trained network, a run folder or a known name: search the smaller networks that share its weights, in place "
        "of a space",
        flag=PARENT,
        aliases=("--parent",),
        metavar="RUN_OR_NAME",
        older=None,
        common=True,
    )
    width_mult: float = _flag(1.0, "width multiplier", minimum=0.05, maximum=10)
    blocks_per_stage: int | None = _flag(
        None,
        f"blocks in each of the three stages of space tree (default: {tree.BLOCKS_PER_STAGE})",
        older=None,
        minimum=1,
        maximum=100,
    )
    final_width: int | None = _flag(
        None,
        f"output channels of the last block of space tree, before --width_mult (default: {tree.FINAL_WIDTH})",
        older=None,
        minimum=32,
        maximum=4096,
    )
    bn_momentum: float = _flag(0.1, "weight of the new batch in BN running statistics", minimum=1e-6, maximum=1)
    bn_eps: float = _flag(1e-3, "BN epsilon", minimum=1e-12, maximum=1)
    dropout: float = _flag(0.0, "dropout in front of the classifier", minimum=0, maximum=0.99)
    zero_gamma: bool = _flag(True, "start blocks with a skip as the identity (last BN scale 0)")

    def __post_init__(self) -> None:
        """Raises InputError for a setting that the space does not have."""
        for key in ("blocks_per_stage", "final_width"):
            if getattr(self, key) is not None and self.space != tree.NAME:
                name = self.space or "by default"
                raise InputError(f"has no meaning in space {name}: --space {tree.NAME} takes it", f"--{key}")


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """The phase in which only weights are trained, on uniformly sampled paths."""

    warmup_epochs: int = _flag(
        40, "epochs of weight training before alpha moves", minimum=0, maximum=100_000, common=True
    )
    warmup_lr: float = _flag(0.05, "initial learning rate of the warm-up (cosine to 0)", minimum=0)


@dataclass(frozen=True, kw_only=True)
class WeightOpt:
    """SGD on the weights."""

    n_epochs: int = _flag(120, "search epochs", minimum=0, maximum=100_000, common=True)
    init_lr: float = _flag(0.025, "initial learning rate of the search (cosine to 0)", minimum=0)
    momentum: float = _flag(0.9, "SGD momentum", minimum=0, maximum=0.9999)
    nesterov: bool = _flag(True, "Nesterov momentum")
    weight_decay: float = _flag(4e-5, "L2 penalty on the weights", minimum=0)
    no_decay_bn: bool = _flag(False, "no weight decay on BN scale, shift and the bias")
    label_smoothing: float = _flag(0.1, "label smoothing of the training loss", minimum=0, maximum=0.99)
    grad_clip: float | None = _flag(None, "clip the norm of the weight gradient", minimum=1e-9)
    paths_per_step: int | None = _flag(
        None,
        "paths that a weight step trains, each on its share of the batch: 1, or a multiple of the processes "
        "(default: one for each process)",
        older=1,
        minimum=1,
        maximum=65536,
    )
    shared_rule: str = _flag(
        "sandwich",
        "how weights that networks share (--from, --space wide) are trained; sandwich: each step the largest on "
        "labels, the smallest and random ones on what it says; largest_first (TuNAS): one network, the largest with a "
        "probability that falls from 1 to 0 over the first quarter of the warm-up",
        ("sandwich", "largest_first"),
        older="sandwich",
    )
    kernel_transform: bool = _flag(
        False,
        "where networks share weights: smaller kernels are the middle of larger ones times a matrix that is learned, "
        "the identity at first (once-for-all)",
        older=False,
    )
    sandwich_paths: int = _flag(
        2,
        "with sandwich: random networks that a weight step trains beside the largest and the smallest",
        older=2,
        minimum=0,
        maximum=100,
    )


@dataclass(frozen=True, kw_only=True)
class ArchOpt:
    """How alpha is updated."""

    arch_algo: str = _flag(
        "grad",
        "grad (binarized-path gradient), rl (REINFORCE), predictor (behind the warm-up, networks of the target are "
        "scored and a regression on their choices says which to score next) or random (networks of the target's cost, "
        "for comparison)",
        ("grad", "rl", "predictor", "random"),
    )
    n_archs: int = _flag(20, "networks that --arch_algo random draws", minimum=1, maximum=100_000)
    score_networks: int = _flag(
        256,
        "random networks that --arch_algo predictor scores to learn from",
        older=256,
        minimum=16,
        maximum=100_000,
    )
    rescore: int | None = _flag(
        None,
        "networks that are scored at the end, to take the best: grad and rl so many around the final probabilities "
        "(default: 64; 0 or --derive argmax: none), predictor so many in each of its rounds (default: 32)",
        older=0,
        minimum=0,
        maximum=10_000,
    )
    score_images: int = _flag(
        2000,
        "architecture-validation images that each of those networks is scored on, at most",
        older=2000,
        minimum=2,
        maximum=10_000_000,
    )
    arch_lr: float | None = _flag(
        None, "Adam learning rate of alpha (default: 60 / architecture steps, within 0.001..0.1)", minimum=0
    )
    arch_adam_beta1: float = _flag(0.0, "Adam beta1 of alpha", minimum=0, maximum=0.9999)
    arch_adam_beta2: float = _flag(0.999, "Adam beta2 of alpha", minimum=0, maximum=0.99999)
    arch_adam_eps: float = _flag(1e-8, "Adam epsilon of alpha", minimum=0)
    arch_weight_decay: float = _flag(0.0, "L2 penalty on alpha", minimum=0)
    arch_init_ratio: float = _flag(1e-3, "standard deviation of the initial alpha", minimum=0)
    grad_binary_mode: str = _flag(
        "full_v2", "operations that get a gate gradient in a step", ("full_v2", "full", "two")
    )
    grad_update_arch_param_every: int = _flag(5, "weight steps between architecture steps", minimum=1)
    grad_update_steps: int = _flag(1, "architecture steps each time", minimum=1)
    grad_data_batch: int | None = _flag(
        None, "images per architecture step (default: batch_size)", minimum=2, maximum=65536
    )
    arch_augment: bool = _flag(
        False,
        "augment the architecture-validation images like the training images (less noise with small shifts); "
        "not with --augment none",
    )
    arch_rest_epochs: int = _flag(
        0, "search epochs at the start in which alpha rests (official implementation: 1)", minimum=0, maximum=100_000
    )
    zero_rule: str = _flag(
        "ordinary",
        "ordinary: skipping a block is a choice like any other; release (the official implementation): a block that "
        "is skipped in a sample has no update",
        ("ordinary", "release"),
    )
    path_sampling: str = _flag(
        "alpha", "paths of the weight steps after the warm-up: from alpha, or uniform", ("alpha", "uniform")
    )
    rl_batch_size: int = _flag(10, "paths per REINFORCE update", minimum=1, maximum=10_000)
    rl_data_batch: int | None = _flag(
        None, "images per REINFORCE update (default: as for a gradient step)", minimum=2, maximum=65536
    )
    rl_update_steps_per_epoch: int | None = _flag(
        None,
        "REINFORCE updates per epoch, at most one per weight step (default: as grad_update_arch_param_every has it)",
        minimum=1,
    )
    rl_update_per_epoch: bool = _flag(False, "all those updates at the end of the epoch, as many as requested")
    rl_reward: str = _flag("absolute", "absolute (TuNAS) or paper: acc * (T / cost)^w", ("absolute", "paper"))
    rl_absolute_weight: float = _flag(0.3, "b of the absolute reward", minimum=0)
    rl_tradeoff_ratio: float = _flag(0.1, "w of the paper's reward", minimum=0)
    rl_baseline_rule: str = _flag(
        "others",
        "what is subtracted from a path's reward; others: the mean reward of the update's other paths (same images); "
        "past: an exponential mean over the updates before; release (the "
        "official implementation): that mean, moved by this update first",
        ("others", "past", "release"),
    )
    rl_baseline_momentum: float = _flag(0.95, "momentum of that exponential mean", minimum=0, maximum=1)
    rl_freeze: float = _flag(0.25, "share of the architecture steps before REINFORCE moves alpha", minimum=0, maximum=1)

    def __post_init__(self) -> None:
        """Raises InputError for updates per epoch without a number, for one path where the others' rewards are asked
        for, and for rounds of a predictor that are too small."""
        if self.rl_update_per_epoch and self.rl_update_steps_per_epoch is None:
            raise InputError("expected --rl_update_steps_per_epoch with it: how many updates", "--rl_update_per_epoch")
        if self.arch_algo == "predictor" and self.rescore and self.rescore < SMALLEST_ROUND:
            problem = f"expected {SMALLEST_ROUND} or more with --arch_algo predictor, got {self.rescore}"
            raise InputError(problem, "--rescore")
        if self.arch_algo == "rl" and self.rl_baseline_rule == "others" and self.rl_batch_size == 1:
            problem = "expected 2 paths or more for --rl_baseline_rule others, got 1 (past and release allow it)"
            raise InputError(problem, "--rl_batch_size")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the network must cost, and how the loss says so."""

    target_hardware: str = _flag("mobile", "what cost means", ("mobile", "cpu", "gpu8", "flops", "none"), common=True)
    target_latency_ms: float | None = _flag(
        None, "target latency in ms (default: 0.7 x the mean of the space)", minimum=1e-9, common=True
    )
    target_macs: float | None = _flag(
        None, "target in multiply-accumulates, with --target_hardware flops", minimum=1, common=True
    )
    max_params: float | None = _flag(
        None, "parameters that the network may have at most, beside its target", minimum=1, common=True
    )
    max_macs: float | None = _flag(
        None, "multiply-accumulates that the network may need at most, beside its target", minimum=1
    )
    latency_table: str | None = _flag(
        None, "latency table (ours, or YAML of the official implementation) or predictor JSON", common=True
    )
    latency_fallback: str | None = _flag(
        None,
        "latency source of a layer that the table lacks (default: nothing; a missing layer is an error)",
        ("predictor",),
    )
    runtime: str | None = _flag(
        None,
        "what runs networks with --target_hardware cpu: onnxruntime (default), litert or torch",
        ("onnxruntime", "litert", "torch"),
    )
    latency_threads: int = _flag(1, "threads of that runtime", minimum=1, maximum=1024)
    force_latency_table: bool = _flag(False, "use a latency table made for other conditions, or not validated")
    grad_reg_loss_type: str = _flag(
        "hard", "hard (lands on the target), or the paper's mul#log and add#linear", ("hard", "mul#log", "add#linear")
    )
    grad_reg_loss_lambda: float = _flag(0.1, "lambda of add#linear", minimum=0)
    grad_reg_loss_alpha: float = _flag(0.2, "alpha of mul#log", minimum=0)
    grad_reg_loss_beta: float = _flag(0.3, "beta of mul#log", minimum=0)
    hard_lambda: float = _flag(0.3, "initial weight of the hard target's penalty", minimum=0, maximum=100)
    derive: str = _flag(
        "projected",
        "projected (most probable network within the target's window) or argmax (the official implementation's)",
        ("projected", "argmax"),
    )
    window: float = _flag(
        0.99,
        "least share of the target that the projected network may cost; lower leaves it more choices",
        minimum=0.01,
        maximum=1,
    )
    final_temperature: float = _flag(
        0.3, "softmax temperature at the end of the search (hard target)", minimum=0.01, maximum=10
    )

    def __post_init__(self) -> None:
        """Raises InputError for flags that do not go together."""
        hardware = self.target_hardware
        for flag, given, takers in (
            ("--target_latency_ms", self.target_latency_ms, ("mobile", *MEASURABLE)),
            ("--target_macs", self.target_macs, ("flops",)),
            ("--latency_table", self.latency_table, ("mobile", *MEASURABLE)),
        ):
            if given is not None and hardware not in takers:
                hint = f"--target_hardware {listed(takers)} takes it"
                raise InputError(f"has no meaning with --target_hardware {hardware}: {hint}", flag)
        if hardware not in MEASURABLE and self.runtime is not None:
            raise InputError(f"nothing runs networks with --target_hardware {hardware}", "--runtime")
        limited = [key for key in LIMIT_KEY.values() if getattr(self, key) is not None]
        if limited and self.derive == "argmax":
            raise InputError("has no meaning with --derive argmax, which keeps to nothing", f"--{limited[0]}")
        if self.latency_fallback is not None and (hardware != "mobile" or self.latency_table is None):
            raise InputError(
                "the shipped predictor is a Pixel 1's: it fills the gaps of a table given with --target_hardware "
                "mobile",
                "--latency_fallback",
            )


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What happens to the derived network at the end of the run."""

    finetune_epochs: int = _flag(0, "epochs of training the derived network, reported apart", minimum=0, maximum=10_000)
    finetune_lr: float = _flag(0.02, "initial learning rate of the fine-tune (cosine to 0)", minimum=0)
    recalibration_images: int = _flag(2000, "training images for BN recalibration", minimum=2)
    recalibration: str = _flag(
        "best",
        "those images plain, augmented as in training, or best: whichever has the lower loss on the "
        "architecture-validation images",
        ("best", "plain", "augmented"),
    )


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Everything that determines a search."""

    recipe: str = "default"
    manual_seed: int = SEED.setting(0, common=True)
    device: str = DEVICE.setting("auto", common=True)
    torch_threads: int | None = THREADS.setting(
        None, " (default: torch's own choice)", aliases=("--torch_threads",), minimum=1, maximum=1024
    )
    kernels: str = KERNELS.setting(AUTO_KERNELS, allowed=KERNEL_CHOICES, older=TORCH_KERNELS)
    precision: str = _flag(
        "fp32",
        "of the layers while they are trained and scored: fp32, or bf16 (autocast; weights, alpha and losses stay in "
        "float32)",
        PRECISIONS,
        older="fp32",
        common=True,
    )
    data: DataConfig = field(default_factory=DataConfig)
    space: SpaceConfig = field(default_factory=SpaceConfig)
    warmup: Warmup = field(default_factory=Warmup)
    weights: WeightOpt = field(default_factory=WeightOpt)
    arch: ArchOpt = field(default_factory=ArchOpt)
    target: Target = field(default_factory=Target)
    finish: Finish = field(default_factory=Finish)

    @staticmethod
    def of(*, recipe: str | None = None, **given: Any) -> SearchConfig:
        """The settings that the command has with these flags: ``SearchConfig.of(data_path="photos/", n_epochs=60)``.

        Args:
            recipe: a name or a JSON file (default: by the data, see effective_config).
            given: settings by a spelling of their flags (``workers=2``) or as config.json names them (``n_worker=2``);
                a path may be a Path.

        Raises InputError for an unknown setting (with the nearest) or a value outside what is allowed.
        """
        return effective_config(settings.keywords(SearchConfig, given), recipe)


def effective_config(given: Mapping[str, Any], recipe: str | None = None) -> SearchConfig:
    """Defaults, then the recipe, then the flat settings ``given``.

    Without a recipe the embedded digits have theirs, and images of one's own have the default one. A search around a
    trained network has one as well, the images and the split of its run, and the predictor.
    """
    if given.get("parent") is not None:
        given = {"arch_algo": "predictor", **images_of_parent(given), **given}
        return whole_if_named(with_settings(from_recipe(recipe or "finetune"), given), given)
    if given.get("space") in wide.NAMES:
        given = {"arch_algo": "predictor", **given}
    is_digits = given.get("data_path") is None and given.get("dataset", "digits") == "digits"
    config = with_settings(from_recipe(recipe or ("digits" if is_digits else "default")), given)
    return whole_if_named(config, given)


@contextlib.contextmanager
def naming_the_parent() -> Iterator[None]:
    """What training says of its --arch is said of the search's --from."""
    try:
        yield
    except InputError as error:
        raise InputError(error.problem, PARENT if error.place == "--arch" else error.place, error.source) from None


def images_of_parent(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the images of the trained network that ``given`` names, split as they were for its training.

    Raises InputError for a network that is not there, and for a split that would hold out what it was trained on.
    """
    own = {name: given[name] for name in IMAGES if name in given}
    with naming_the_parent():
        told = images_of_network({"arch": given["parent"], **own})
    return {name: value for name, value in told.items() if (name, value) != ("valid_size", 0)}  # which a search needs


def resumed_config(run_dir: Path, given: Mapping[str, Any], recipe: str | None = None) -> SearchConfig:
    """The settings that a run was started with. ``given`` may change those of FREE; the others, and ``recipe``, it may
    only repeat."""
    saved = read_config(config_to_resume(run_dir), fill_missing=True)
    if recipe not in (None, saved.recipe):
        raise InputError(f"a resumed run keeps its recipe, {saved.recipe!r}; got {recipe!r}", "--recipe")
    wanted = with_settings(saved, given)
    changes_of_resume(saved, wanted)
    return wanted


def changes_of_resume(saved: SearchConfig, wanted: SearchConfig) -> tuple[str, ...]:
    """One line on what a resumed run has otherwise than it was started with, or none. Raises InputError where that is
    not among FREE."""
    return settings.resumed(saved, wanted, FREE, PATHS)


def anchored(config: SearchConfig) -> SearchConfig:
    """As a run folder has it: readable from any working directory."""
    return settings.anchored(config, PATHS)


def as_flags(config: SearchConfig) -> list[str]:
    """The words of a command line that give this config; see settings.as_flags."""
    return settings.as_flags(config, RECIPE_DIR)


def flags() -> dict[str, tuple[str | None, dataclasses.Field, Any]]:
    """``{flag: (group or None, dataclass field, type)}`` of every setting."""
    return settings.flags(SearchConfig)


def with_settings(config: SearchConfig, changes: Mapping[str, Any], source: str | None = None) -> SearchConfig:
    """``config`` with flat ``{flag: value}`` changes; see settings.with_settings."""
    return settings.with_settings(config, changes, source)


def default_resolution(dataset: str, space: str | None) -> int:
    """Pixels, where none are given: by the data set, then by the space."""
    if dataset == "digits":
        return 16
    if dataset == "cifar10":
        return 32
    return space_named(space or IMAGENET.name).resolution


def default_space(resolution: int) -> str:
    """The macro-architecture that suits a resolution, where none is given."""
    return "small" if resolution <= SMALL_IMAGE else "imagenet"


def recipe_names() -> list[str]:
    return settings.recipe_names(RECIPE_DIR)


def from_recipe(name: str) -> SearchConfig:
    """The defaults changed by a named recipe (or a recipe file given by its path)."""
    return settings.from_recipe(SearchConfig, RECIPE_DIR, name)


def to_dict(config: SearchConfig) -> dict[str, Any]:
    """The effective config as JSON data: flat settings under their flag names."""
    return settings.to_dict(config, FORMAT, VERSION)


def from_dict(value: Any, source: str, *, fill_missing: bool = False) -> SearchConfig:
    """The inverse of to_dict; see settings.from_dict."""
    return settings.from_dict(SearchConfig, value, FORMAT, VERSION, source, fill_missing=fill_missing)


def read_config(path: Path, *, fill_missing: bool = False) -> SearchConfig:
    return from_dict(read_json(path), str(path), fill_missing=fill_missing)


def add_flags(parser: argparse.ArgumentParser, *, takes_families: bool = False) -> None:
    """One flag per setting; see settings.add_flags. ``takes_families``: several targets between commas."""
    text = "; several, 4,6,8, give a family of networks"
    sizes = "; several, 160,192,224, are compared at one target, behind one warm-up"
    several = {**dict.fromkeys(TARGET_KEY.values(), text), "resolution": sizes}
    settings.add_flags(parser, SearchConfig, several if takes_families else {})
