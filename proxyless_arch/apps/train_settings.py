"""What train.py is asked to do: its settings, which network on which images, and what it starts from. No framework.

Flag names are those of the search (and of the official implementation) where they mean the same; timm's are aliases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from proxyless_arch.apps.evaluation import NO_BITS, expected_folders, for_images, resize_for
from proxyless_arch.apps.memory import whole_if_named
from proxyless_arch.apps.orientation import AUTO, CHOICES, EXIF, turns_upright
from proxyless_arch.arch import catalog
from proxyless_arch.arch.spec import GREY, RGB, ArchSpec, Preprocessing, with_classes
from proxyless_arch.arch.tree import TreeBlock
from proxyless_arch.base import settings
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_json
from proxyless_arch.base.runs import CONFIG_FILE, RESULT_FILE, check_images_are_there, config_to_resume
from proxyless_arch.base.settings import setting
from proxyless_arch.base.sides import Sides, height_width
from proxyless_arch.base.strict import Node, listed
from proxyless_arch.base.words import (
    ACCUMULATION,
    ARCH,
    AUTO_KERNELS,
    BATCH_SIZE,
    DATA_EDITION,
    DATA_PATH,
    DEVICE,
    IN_CHANS,
    KERNEL_CHOICES,
    KERNELS,
    RESOLUTION,
    SEED,
    THREADS,
    TORCH_KERNELS,
    WORKERS,
)
from proxyless_arch.data.datasets import (
    DATASETS,
    ImageDataset,
    SearchData,
    check_classes,
    digits,
    has_own_test,
    load_for_search,
    open_folder,
)
from proxyless_arch.data.images import Augment
from proxyless_arch.data.sources import EDITION
from proxyless_arch.weights.demo import demo_weights, is_demo
from proxyless_arch.weights.fetch import find_weights
from proxyless_arch.weights.files import NamedTensors, WeightFile, matched, read_tensors
from proxyless_arch.weights.lookup import JUDGED_FILE, find_network
from proxyless_arch.weights.pretrained import described

RECIPE_DIR = Path(__file__).parent / "train_recipes"
FORMAT, VERSION = "proxyless-arch/training-config", 1
IMAGES = ("dataset", "data_path", "valid_size", "split_seed", "data_edition")
"""What a run records of its images and their split."""
PATHS = ("data_path", "arch", "weights", "teacher", "bits")
FREE = ("data_path", "device", "torch_threads", "kernels", "n_worker", "test_batch_size", "save_every_seconds")
"""Settings that may be others when a run is resumed: its images are compared by what is in them."""
NO_TEACHER = "none"
INHERIT, SCRATCH, PRETRAINED = "inherit", "scratch", "pretrained"
CLASSIFIER = "classifier."
"""What the names of the classifier's tensors begin with."""
SMALL_IMAGE = 64
"""Up to this side in pixels an image is used whole, and is shifted instead of cropped at random."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Which images, and how they are batched."""

    dataset: str | None = setting(
        None, "digits (embedded), or class folders: imagefolder, cifar10, imagenet (default: by --data_path)", DATASETS
    )
    data_path: str | None = DATA_PATH.setting(None, " (with train/ and val/ or test/, or just one set)", common=True)
    valid_size: float = setting(
        0.05,
        "training images held out to choose the best epoch: a count, or a fraction below 1; 0 trains on all of them "
        "and keeps the last epoch",
        minimum=0,
    )
    split_seed: int | None = setting(
        None,
        "seed of which images are held out (default: a run folder's own for its images, else --seed)",
        minimum=0,
        maximum=2**31 - 1,
    )
    image_size: Sides | None = RESOLUTION.setting(
        None, " (default: the network's)", minimum=8, maximum=4096, common=True
    )
    in_chans: int | None = IN_CHANS.setting(None, minimum=GREY, maximum=RGB, older=None)
    augment: str | None = setting(
        None,
        "strong (photos, as in the official implementation), imagenet (milder colors), small (shift and flip), digits "
        "(shift) or none (default: by data and size)",
        ("strong", "imagenet", "small", "digits", "none"),
    )
    resize_scale: float = setting(
        0.08,
        "smallest share of the image that a random crop of strong or imagenet takes",
        older=0.08,
        minimum=0.01,
        maximum=1,
    )
    cutout: int = setting(
        0, "side in pixels of a square that is cut out of each training image", older=0, minimum=0, maximum=4096
    )
    train_batch_size: int = BATCH_SIZE.setting(
        256, " of training, over all processes", minimum=2, maximum=1_000_000, common=True
    )
    test_batch_size: int = setting(250, "images per evaluation batch and process", minimum=1, maximum=65536)
    n_worker: int | None = WORKERS.setting(None, ", for each process (default: by cores)", minimum=0, maximum=256)
    strict_data: bool = setting(False, "an unreadable image is an error instead of a warning and a count")
    exif: str = EXIF.setting(AUTO, allowed=CHOICES, older=AUTO)
    data_edition: int = DATA_EDITION.setting(EDITION, minimum=1, maximum=EDITION, older=1)


def _some_bits(bits: int) -> int:
    """A setting's check: a sign and a step take two."""
    if bits == 1:
        raise InputError("expected 0 or 2..8 bits, got 1: inputs with a sign need 2")
    return bits


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """SGD and its schedule."""

    n_epochs: int = setting(
        300, "epochs, warm-up included", aliases=("--epochs",), minimum=0, maximum=100_000, common=True
    )
    warmup_epochs: int = setting(
        5,
        "epochs in which the learning rate grows linearly; with --fits_run a quarter of the run at most",
        minimum=0,
        maximum=100_000,
    )
    fits_run: bool = setting(
        True, "a short run has a shorter warm-up, and BN statistics that move on faster", older=False
    )
    init_lr: float = setting(
        0.05, "learning rate after the warm-up (then a cosine to 0)", aliases=("--lr",), minimum=0, common=True
    )
    fit_classifier: bool = setting(
        False,
        "behind trained layers, first fit a fresh classifier to their features: logistic regression",
        older=False,
    )
    epoch_by: str = setting(
        "accuracy",
        "in what an epoch must beat a classifier that was fitted first, on the images held out: accuracy, or loss "
        "(clearly)",
        ("accuracy", "loss"),
        older="accuracy",
    )
    freeze_epochs: int = setting(
        0,
        "epochs at the start that train the classifier alone; all else, BN included, stays as it is",
        older=0,
        minimum=0,
        maximum=100_000,
        common=True,
    )
    backbone_lr_mult: float = setting(
        1.0,
        "learning rate of all but the classifier, as a multiple of the classifier's",
        older=1.0,
        minimum=0,
        maximum=1000,
        common=True,
    )
    freeze_bn: bool = setting(
        False, "normalize by the BN statistics there are, in training as in evaluation", older=False
    )
    class_weights: str = setting(
        "none",
        "balanced: in the loss, each class counts alike, however few images it has",
        ("none", "balanced"),
        older="none",
    )
    momentum: float = setting(0.9, "SGD momentum", minimum=0, maximum=0.9999)
    nesterov: bool = setting(True, "Nesterov momentum")
    weight_decay: float = setting(4e-5, "L2 penalty on the weights", aliases=("--wd",), minimum=0)
    no_decay_bn: bool = setting(True, "no weight decay on BN scale, shift and the bias")
    label_smoothing: float = setting(
        0.1, "label smoothing of the training loss", aliases=("--smoothing",), minimum=0, maximum=0.99
    )
    distillation: float = setting(
        0.7,
        "share of the loss that is the teacher, where there is one; the rest is the labels",
        older=0.7,
        minimum=0,
        maximum=1,
    )
    grad_clip: float | None = setting(None, "clip the norm of the gradient", aliases=("--clip_grad",), minimum=1e-9)
    lipschitz: float = setting(
        0.0,
        "strength of a penalty on layers that expand, 3e-4 in Defensive Quantization; 0: none",
        older=0.0,
        minimum=0,
        maximum=1,
    )
    activation_bits: int = setting(
        0,
        "train with what layers take in (but the image) rounded to so many bits, 2 to 8; 0: not rounded",
        older=0,
        minimum=0,
        maximum=8,
        check=_some_bits,
    )
    accumulation: int | None = ACCUMULATION.setting(
        None,
        " (default: as few as fit the memory; a --batch_size that is given is computed whole)",
        older=1,
        minimum=1,
        maximum=65536,
    )
    path_drop: float = setting(
        0.0,
        "probability that a branch of a tree-structured cell is left out, image by image",
        older=0.0,
        minimum=0,
        maximum=0.99,
    )
    dropout: float | None = setting(
        None, "dropout in front of the classifier (default: the spec's)", aliases=("--drop",), minimum=0, maximum=0.99
    )
    zero_gamma: bool = setting(False, "from scratch, start blocks with a skip as the identity (last BN scale 0)")
    ema_decay: float = setting(
        0.9999,
        "EMA decay of the weights, which grows with the steps taken; 0: no EMA",
        aliases=("--model_ema_decay",),
        minimum=0,
        maximum=0.999999,
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that determines a training run."""

    recipe: str = "default"
    arch: str | None = ARCH.setting(None, common=True)
    weights: str | None = setting(
        None,
        "what to start from: a weight file, or inherit, scratch or pretrained (default: a run folder's own weights, "
        "else scratch)",
        common=True,
        shortcuts={
            "--inherit": (INHERIT, "start from the weights in the run folder"),
            "--from_scratch": (SCRATCH, "start from random weights"),
            "--pretrained": (PRETRAINED, "start from the published weights of a released network"),
        },
    )
    teacher: str = setting(
        NO_TEACHER,
        "a trained network whose outputs are learnt beside the labels: a run folder, a known name or a weight file",
        older=NO_TEACHER,
        common=True,
    )
    bits: str = setting(
        NO_BITS,
        "train under a bit plan, bits.json of quantize.py: weights and inputs of layers are rounded as it says, the "
        "clips of inputs are learnt, and the plan with them lies beside the weights",
        older=NO_BITS,
        metavar="FILE",
        common=True,
    )
    manual_seed: int = SEED.setting(0, common=True)
    device: str = DEVICE.setting("auto", common=True)
    torch_threads: int | None = THREADS.setting(
        None,
        " (default: OMP_NUM_THREADS, or the cores that reading leaves)",
        aliases=("--torch_threads",),
        older=None,
        minimum=1,
        maximum=1024,
    )
    kernels: str = KERNELS.setting(AUTO_KERNELS, allowed=KERNEL_CHOICES, older=TORCH_KERNELS)
    precision: str = setting(
        "fp32",
        "fp32, bf16 (autocast) or fp16 (autocast and loss scaling; cuda only)",
        ("fp32", "bf16", "fp16"),
        common=True,
    )
    save_every_seconds: float = setting(300.0, "time between checkpoints within an epoch; 0: every step", minimum=0)
    data: Images = field(default_factory=Images)
    optimization: Optimization = field(default_factory=Optimization)

    @staticmethod
    def of(*, recipe: str | None = None, **given: Any) -> TrainConfig:
        """The settings that the command has with these flags: ``TrainConfig.of(arch="runs/mine", n_epochs=60)``.

        Args:
            recipe: a name or a JSON file (default: see effective_config).
            given: settings by a spelling of their flags (``workers=2``) or as config.json names them (``n_worker=2``);
                a path may be a Path.

        Raises InputError for an unknown setting (with the nearest) or a value outside what is allowed.
        """
        return effective_config(settings.keywords(TrainConfig, given), recipe)[0]


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The effective settings as JSON data: flat, under their flag names."""
    return settings.to_dict(config, FORMAT, VERSION)


def from_dict(value: Any, source: str, *, fill_missing: bool = False) -> TrainConfig:
    """The inverse of to_dict; see settings.from_dict."""
    return settings.from_dict(TrainConfig, value, FORMAT, VERSION, source, fill_missing=fill_missing)


def read_config(path: Path, *, fill_missing: bool = False) -> TrainConfig:
    """The settings of a run folder's config.json. Raises InputError for a bad file, or one of another command."""
    return from_dict(read_json(path), str(path), fill_missing=fill_missing)


def changes_of_resume(saved: TrainConfig, wanted: TrainConfig) -> tuple[str, ...]:
    """One line on what a resumed run has otherwise than it was started with, or none. Raises InputError where that is
    not among FREE."""
    return settings.resumed(saved, wanted, FREE, PATHS)


def anchored(config: TrainConfig) -> TrainConfig:
    """As a run folder has it: readable from any working directory."""
    words = (*catalog.known_names(), INHERIT, SCRATCH, PRETRAINED, NO_TEACHER, NO_BITS)
    return settings.anchored(config, [name for name in PATHS if to_dict(config)[name] not in words])


def read_recorded(path: Path) -> dict[str, Any]:
    """The settings that a run folder's config.json has, which may be an older one; nothing is filled in."""
    return settings.recorded(TrainConfig, read_json(path), FORMAT, VERSION, str(path))


def resumed_config(run_dir: Path, given: Mapping[str, Any], recipe: str | None = None) -> TrainConfig:
    """The settings that a run was started with. ``given`` may change those of FREE; the others, and ``recipe``, it may
    only repeat."""
    saved = read_config(config_to_resume(run_dir), fill_missing=True)
    if recipe not in (None, saved.recipe):
        raise InputError(f"a resumed run keeps its recipe, {saved.recipe!r}; got {recipe!r}", "--recipe")
    wanted = settings.with_settings(saved, given)
    changes_of_resume(saved, wanted)
    return wanted


def recipe_names() -> list[str]:
    return settings.recipe_names(RECIPE_DIR)


# ---------------------------------------------------------------------------------------------- what is trained on


def effective_config(given: Mapping[str, Any], recipe: str | None) -> tuple[TrainConfig, tuple[str, ...]]:
    """(the settings in force, what was decided for the user, one line each).

    The recipe changes the defaults, the data of a run folder given as ``arch`` come next, and flags win.

    Args:
        given: the flags given, under their setting names.
        recipe: of --recipe; None takes that of the run folder whose images they are, or chooses by the data.

    Raises:
        InputError: no network, an unknown one, or a network whose images must be named.
    """
    if not given.get("arch"):
        raise InputError("name the network to train: a known name, a spec file or a run folder", "--arch")
    spec, own_weights = find_network(given["arch"], "--arch")
    is_run = Path(given["arch"]).is_dir()
    weights = given.get("weights") or (INHERIT if own_weights is not None else SCRATCH)
    inferred, notes = _data_of(given, spec, is_run, weights == INHERIT)
    name, why = (recipe, "") if recipe else _recipe_for(given, inferred, is_run, weights != SCRATCH)
    config = settings.from_recipe(TrainConfig, RECIPE_DIR, name)
    config = settings.with_settings(config, {**inferred, **given, "weights": weights})
    config = whole_if_named(config, given)
    return config, notes if recipe else (*notes, f"recipe {name}{why}; --recipe names another")


def _recipe_for(
    given: Mapping[str, Any], inferred: Mapping[str, Any], is_run: bool, is_trained: bool
) -> tuple[str, str]:
    """(the recipe where none is named, why that one).

    A run folder trained further on its own images keeps its recipe: a search leaves weights that shared their training
    with all other networks, and need all of it. Weights that come from other images are fine-tuned.
    """
    is_digits = inferred.get("dataset", given.get("dataset")) == "digits"
    recorded = _images_of_run(Path(given["arch"])) if is_run else {}
    is_same = bool(recorded) and _are_those_of(given, recorded)
    if is_trained and not (is_same and given.get("weights") in (None, INHERIT)):
        return "finetune", ", since it starts from trained weights"
    name = read_json(Path(given["arch"]) / CONFIG_FILE).get("recipe") if is_same else None
    if name == "finetune" and not is_trained:  # a run of it that is to start from scratch
        name = None
    if is_digits and name != "finetune":
        return "digits", ", for these data"
    # a search has others too
    return (name, ", that of the run") if name in recipe_names() else ("default", "")


def _data_of(
    given: Mapping[str, Any], spec: ArchSpec, is_run: bool, inherits: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Settings that say which images and which of them are held out, where the flags do not, and a line on it.

    Images of a run folder are split as the run did: its weights have seen the others.
    """
    recorded = _images_of_run(Path(given["arch"])) if is_run else {}
    if recorded and _are_those_of(given, recorded):
        unknown = [f"--{name}" for name in ("valid_size", "split_seed") if name not in {**recorded, **given}]
        if unknown:  # today's defaults might train on images that the run held out
            problem = "not recorded, so the run's split of its images is not known: give it"
            raise InputError(problem, " and ".join(unknown), str(Path(given["arch"]) / "config.json"))
        for name in ("valid_size", "split_seed") if inherits else ():
            is_other = name in given and name in recorded and given[name] != recorded[name]
            if is_other and given.get("valid_size") != 0:  # 0: nothing is held out but a test set that lies apart
                raise InputError(
                    f"the weights were trained on images that this split would hold out: expected the run's, "
                    f"{recorded[name]:g}, got {given[name]:g}; train.py --from_scratch takes any split",
                    f"--{name}",
                )
        path = given.get("data_path", recorded.get("data_path"))
        check_images_are_there(path, Path(given["arch"]))
        told = _told_of_images(Path(given["arch"])) if inherits and recorded["dataset"] != "digits" else None
        if told is not None and told != _opened(**{**recorded, "data_path": path}).fingerprint(told):
            problem = (
                "not the images that the run had: a split of them would hold out some that its weights were trained "
                "on; bring those back, or start over with --from_scratch"
            )
            raise InputError(problem, "--data_path", path)
        what = "scikit-learn's embedded digits" if recorded["dataset"] == "digits" else path
        named = "data_path" in given or "dataset" in given
        line = (
            f"the split of the run: {what}"
            if named
            else f"no --data_path given: the images and split of the run, {what}"
        )
        return {name: value for name, value in recorded.items() if name not in given}, (line,)
    if given.get("data_path") is not None:
        return ({} if "dataset" in given else {"dataset": "imagefolder"}), ()
    if given.get("dataset") is not None:
        return {}, ()
    if spec.num_classes == 10:
        return {"dataset": "digits"}, (
            "no --data_path given: training on scikit-learn's embedded 8x8 digits, since the network has 10 classes",
        )
    raise InputError(
        f"{spec.name!r} has {spec.num_classes} classes: give the images to train on (a folder or .zip of class "
        "folders), or --dataset digits",
        "--data_path",
    )


def images_of_network(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of images (IMAGES) that the network ``given["arch"]`` tells, where ``given`` does not: of a run
    folder its images and their split. Raises InputError as effective_config does."""
    spec, own_weights = find_network(given["arch"], "--arch")
    return _data_of(given, spec, Path(given["arch"]).is_dir(), own_weights is not None)[0]


def _images_of_run(folder: Path) -> dict[str, Any]:
    """What a run folder of the search or of train.py records of its images; empty where it does not name them."""
    file = folder / "config.json"
    if not file.is_file():
        return {}
    found = {key: member.value for key, member in Node(read_json(file)).items()}
    if found.get("dataset") is None:
        return {}
    if found.get("split_seed") is None:  # a search splits by its own seed
        found["split_seed"] = found.get("manual_seed")
    if found["dataset"] != "digits":
        found.setdefault("data_edition", 1)  # of a run from before there were two
    return {name: found[name] for name in IMAGES if found.get(name) is not None}


def _are_those_of(given: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    """Whether the flags name the images of the run ``given["arch"]``, wherever they are now, or none."""
    path, dataset = given.get("data_path"), given.get("dataset")
    if path is None:
        return dataset is None or dataset == recorded["dataset"] == "digits"
    there = recorded.get("data_path")
    if there is not None and Path(path).resolve() == Path(there).resolve():
        return True
    told = _told_of_images(Path(given["arch"]))
    if there is None or told is None or any(name not in recorded for name in IMAGES):
        return False
    try:
        return told == _opened(**{**recorded, "data_path": path}).fingerprint(told)
    except InputError:
        return False


def _told_of_images(run_dir: Path) -> Any:
    """The fingerprint of a run's images in its result; None where it has none, being older or not at its end."""
    file = run_dir / RESULT_FILE
    told = dict(Node(read_json(file)).items()).get("images") if file.is_file() else None
    return told.value if told is not None else None


def open_data(config: TrainConfig) -> SearchData:
    """The images to train on, to choose the best epoch by (none with ``valid_size`` 0), and to test on.

    Raises:
        InputError: nothing there, another layout, one class alone, or sizes that do not fit.
    """
    data = config.data
    assert data.dataset is not None
    seed = config.manual_seed if data.split_seed is None else data.split_seed
    return _opened(data.dataset, data.data_path, data.valid_size, seed, data.data_edition)


def _opened(dataset: str, data_path: str | None, valid_size: float, split_seed: int, data_edition: int) -> SearchData:
    if valid_size:
        size = valid_size if valid_size < 1 else int(valid_size)
        return load_for_search(dataset, data_path, size, split_seed, data_edition)
    if dataset == "digits":
        train, test = digits()
    elif data_path is None:
        raise InputError(f"{dataset} needs a folder or a .zip with one folder per class", "data_path")
    else:
        own = has_own_test(data_path, data_edition)
        train = open_folder(data_path, "train" if own else None, data_edition)
        test = open_folder(data_path, "eval", data_edition) if own else train.subset([])
        check_classes(train, data_path)
    return SearchData(train=train, valid=train.subset([]), test=test)


def augment_for(config: TrainConfig, resolution: Sides) -> Augment | None:
    """The random changes of the training images; ``strong`` is the official implementation's default.

    ``Deviation:`` its strong colors turn the hue by up to 0.1 as well; this pipeline has no hue.
    """
    found, cutout = _augment(config, resolution), config.data.cutout
    if cutout and found is None:
        raise InputError("has no meaning with --augment none", "--cutout")
    return found and replace(found, scaled_decoding=config.data.data_edition > 1, cutout=cutout)


def _augment(config: TrainConfig, resolution: Sides) -> Augment | None:
    side = min(height_width(resolution))
    small = "small" if side <= SMALL_IMAGE else "strong"
    match config.data.augment or ("digits" if config.data.dataset == "digits" else small):
        case "digits":
            return Augment.digits(side)
        case "small":
            return Augment.small(side)
        case "imagenet":
            return replace(Augment.imagenet(), min_scale=config.data.resize_scale)
        case "strong":
            return Augment(min_scale=config.data.resize_scale, brightness=0.4, contrast=0.4, saturation=0.4)
        case _:
            return None


# ------------------------------------------------------------------------------------------------- what it starts from


@dataclass(frozen=True, kw_only=True)
class Start:
    """The network before its first step.

    Args:
        spec: with the classes and preprocessing it is trained for.
        tensors: weights to load; empty from scratch, without the classifier's where that is fresh.
        origin: where they come from, in words.
        notes: what was changed, one line each.
        former_classifier: the weight matrix of a trained classifier that a fresh one replaces, (classes, features).
    """

    spec: ArchSpec
    tensors: NamedTensors
    origin: str
    notes: tuple[str, ...] = ()
    former_classifier: np.ndarray | None = None

    @property
    def has_fresh_classifier(self) -> bool:
        """Whether all but the classifier has been trained."""
        return bool(self.tensors) and not any(name.startswith(CLASSIFIER) for name in self.tensors)


def start_of(config: TrainConfig, images: ImageDataset) -> Start:
    """What ``config`` says to start from, fitted to the classes of the images.

    A classifier for other classes (another number, or the same number with other names) is replaced by a fresh one.

    The images that a run held out judge whatever starts from it: of a classifier that was fitted to them in the end,
    the one before that is taken (JUDGED_FILE).

    Raises:
        InputError: weights that are not there, or those of another network.
    """
    assert config.arch is not None
    spec, own_weights = find_network(config.arch, "--arch")
    if own_weights is not None and (before := own_weights.with_name(JUDGED_FILE)).is_file():
        own_weights = before
    found, origin = _weights(config, spec, own_weights)
    if config.data.in_chans is not None:
        spec, found = for_images(spec, found, config.data.in_chans)
    tensors: NamedTensors = {}
    if found is not None:
        tensors = dict(found.tensors)
        spec = described(_with_classes_of(tensors, spec), found)
    spec, notes = _fit_classes(spec, images, bool(tensors))
    former = tensors.get(f"{CLASSIFIER}linear.weight") if notes else None
    if notes:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(CLASSIFIER)}
    if config.data.image_size is not None:
        spec = replace(spec, preprocessing=_preprocessing_at(spec.preprocessing, config.data.image_size))
    if config.optimization.dropout is not None:
        spec = replace(spec, classifier=replace(spec.classifier, dropout_rate=config.optimization.dropout))
    if config.optimization.path_drop and not any(isinstance(block.op, TreeBlock) for block in spec.blocks):
        raise InputError(f"has no meaning for {spec.name}: there are no branches", "--path_drop")
    exif = _turns_upright(config, spec, images)
    spec = replace(spec, preprocessing=replace(spec.preprocessing, exif=exif))
    taken = (found.note,) if found is not None and found.note else ()
    return Start(spec=spec, tensors=tensors, origin=origin, notes=(*taken, *notes), former_classifier=former)


def _turns_upright(config: TrainConfig, spec: ArchSpec, images: ImageDataset) -> bool | None:
    """The field ``exif`` of the preprocessing; as it is where there is nothing to turn, and for images of before."""
    data, trained = config.data, spec.preprocessing.exif
    if data.dataset == "digits" or (data.exif == AUTO and data.data_edition == 1):
        return trained
    return turns_upright(data.exif, images.class_names, config.weights == PRETRAINED, trained)


def _weights(config: TrainConfig, spec: ArchSpec, own: Path | None) -> tuple[WeightFile | None, str]:
    assert config.arch is not None
    match config.weights:
        case "scratch":
            return None, "random (from scratch)"
        case "inherit":
            if own is None:
                raise InputError(
                    "expected a run folder with weights, or a weight file that holds its network, to inherit from",
                    "--arch",
                    config.arch,
                )
            return _read(own, spec), f"inherited from {own}"
        case "pretrained":
            if is_demo(config.arch):
                return demo_weights(config.arch), catalog.demo(config.arch).requirement
            if config.arch not in catalog.RELEASES:
                names = listed(catalog.trained_names())
                raise InputError(f"only {names} have published weights: others take --weights FILE", "--pretrained")
            path = find_weights(config.arch)
            return _read(path, spec), f"the published ones, {path}"
        case _:
            assert config.weights is not None
            return _read(Path(config.weights), spec), config.weights


def _read(path: Path, spec: ArchSpec) -> WeightFile:
    """The weights in a file for ``spec``'s network, with the number of classes that they have."""
    found = read_tensors(path)
    bias = found.tensors.get("classifier.linear.bias")
    classes = bias.shape[0] if bias is not None and bias.ndim == 1 and len(bias) else spec.num_classes
    return matched(found, spec if classes == spec.num_classes else with_classes(spec, classes), str(path))


def _with_classes_of(tensors: NamedTensors, spec: ArchSpec) -> ArchSpec:
    """A known network whose weights were trained for another number of classes has that many."""
    bias = tensors.get(f"{CLASSIFIER}linear.bias")
    return spec if bias is None or len(bias) == spec.num_classes else with_classes(spec, len(bias))


def _fit_classes(spec: ArchSpec, images: ImageDataset, has_weights: bool) -> tuple[ArchSpec, tuple[str, ...]]:
    names = images.class_names
    if len(names) != spec.num_classes:
        counts = f"the classifier for {spec.num_classes} classes is replaced by a fresh one for {len(names)}"
        return with_classes(spec, len(names), names), (counts,)
    expected = expected_folders(names, spec)
    if not expected:
        return replace(spec, class_names=names), ()
    if names == expected:
        return spec, ()
    spec = replace(spec, class_names=names)
    if not has_weights:
        return spec, ()
    first = next(index for index, name in enumerate(names) if name != expected[index])
    note = f"class {first} is {names[first]!r}, not {expected[first]!r}: the classifier is replaced by a fresh one"
    return spec, (note,)


def _preprocessing_at(preprocessing: Preprocessing, resolution: Sides) -> Preprocessing:
    resize = resolution if max(height_width(resolution)) <= SMALL_IMAGE else resize_for(resolution, preprocessing)
    return replace(preprocessing, resolution=resolution, resize=resize)
