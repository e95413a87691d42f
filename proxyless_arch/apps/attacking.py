"""What attack.py is asked to do, what it counts, and what that says. No framework in here.

A network that is hard to attack because its gradients mislead is not robust: the next attacker needs none. So the signs
of that stand beside the figures (Athalye et al. 2018; Carlini et al. 2019; Croce and Hein 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np

from proxyless_arch.apps.evaluation import EXPORTED_SUFFIXES, NO_BITS, NetworkConfig
from proxyless_arch.apps.label_map import AUTO, STRICT
from proxyless_arch.apps.orientation import AUTO as AUTO_EXIF
from proxyless_arch.apps.orientation import CHOICES, EXIF
from proxyless_arch.apps.scores import score_interval, shown_percent
from proxyless_arch.base import settings
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.run_settings import RunSettings
from proxyless_arch.base.runs import read_whole_lines
from proxyless_arch.base.schema import amount, count, judge, mapping, quantity
from proxyless_arch.base.settings import setting
from proxyless_arch.base.strict import Node, counted, nearest
from proxyless_arch.base.words import (
    ARCH,
    BATCH_SIZE,
    DATA_PATH,
    DEVICE,
    RESOLUTION,
    SAVE_JSON,
    SEED,
    THREADS,
    new_file,
)
from proxyless_arch.data.images import as_image

FORMAT, VERSION = "proxyless-arch/attack-config", 1
RECORD_FORMAT, RECORD_VERSION = "proxyless-arch/attack", 1
WHITE = 255
FGSM, R_FGSM, PGD, APGD_CE, APGD_DLR, TRANSFER, SQUARE = ATTACKS = (
    "fgsm", "r_fgsm", "pgd", "apgd_ce", "apgd_dlr", "transfer", "square",
)  # fmt: skip
GRADIENT, NO_GRADIENT = ATTACKS[:5], ATTACKS[5:]
"""Attacks along the network's own gradient, and those that never see it."""
NEEDS = {APGD_DLR: 3}
"""Classes that an attack needs."""
BY_CHANCE = 0.01
"""Of the images: by so many two attacks may differ for no reason."""
IDENTITY = ("images", "weights")
"""What each batch of a run that is resumed must have been made of."""
ADVERSARIAL, LABEL_MAP, CURVE = "adversarial", "label_map.json", "amplification.svg"
PATHS = ("arch", "weights", "data_path", "transfer_from", "bits")
FREE = ("data_path", "device", "threads", "save_json")
"""Settings that may be others when a run is resumed."""
NETWORK, IMAGES, ATTACK, RUN = "what is attacked", "its images", "the attacks", "how it runs"


# ------------------------------------------------------------------------------------------------------- the flags


def pixel_range(text: str) -> str:
    """A setting's check: a share of the range of pixels, ``8/255`` or ``0.03``, from one step of 8 bits to all."""
    problem = f"expected a share of the range of pixels, from 1/{WHITE} to 1, as 8/{WHITE} or 0.03, got {text!r}"
    try:
        value = Fraction(text.replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        raise InputError(problem) from None
    if "_" in text or not Fraction(1, WHITE) <= value <= 1:
        hint = f"; {text} of {WHITE} steps is {text}/{WHITE}" if 1 < value <= WHITE and value.denominator == 1 else ""
        raise InputError(problem + hint)
    return text


def steps_of(epsilon: str) -> int:
    """Whole steps of 1/255 within epsilon: images have 8 bits."""
    return math.floor(Fraction(epsilon.replace(" ", "")) * WHITE)


def attack_names(text: str) -> str:
    """A setting's check: names of attacks with commas between them."""
    for name in text.split(","):
        if name not in ATTACKS:
            raise InputError(f"expected {', '.join(ATTACKS)}, or several, got {name!r}{nearest(name, ATTACKS)}")
    return text


def _new_file(text: str) -> str:
    return str(new_file(Path(text)))


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """Everything that determines an evaluation under attack."""

    recipe: str = "default"
    arch: str | None = ARCH.setting(None, ", with its weights", group=NETWORK, common=True)
    weights: str | None = setting(
        None, "a weight file (default: the network's own, or its published ones)", group=NETWORK, metavar="FILE"
    )
    bits: str | None = setting(
        None,
        f"a bit plan under which it is attacked (default: the one that its weights are for); {NO_BITS}: as float",
        group=NETWORK,
        metavar="FILE",
        common=True,
    )
    data_path: str | None = DATA_PATH.setting(None, "; or the word digits", group=IMAGES, common=True)
    label_map: str = setting(
        AUTO, f"which class each folder is: {AUTO}, {STRICT} or a JSON file, as of eval.py", group=IMAGES, metavar="MAP"
    )
    limit: int = setting(500, "at most this many images, evenly spaced", group=IMAGES, minimum=1, common=True)
    image_size: int | None = RESOLUTION.setting(
        None, " (default: the network's)", group=IMAGES, minimum=8, maximum=4096
    )
    exif: str = EXIF.setting(AUTO_EXIF, allowed=CHOICES, group=IMAGES)
    save_images: bool = setting(True, "keep the worst image found of each, as a lossless file", group=IMAGES)
    epsilon: str = setting(
        "8/255",
        "by how much a pixel may change, as a share of its range; images have 8 bits, so whole steps of 1/255 count",
        aliases=("--eps",),
        group=ATTACK,
        common=True,
        check=pixel_range,
    )
    attacks: str | None = setting(
        None,
        f"which, with commas between them: {', '.join(ATTACKS)} (default: all that are possible)",
        group=ATTACK,
        metavar="NAMES",
        common=True,
        check=attack_names,
    )
    transfer_from: str | None = setting(
        None,
        "a second network of the same classes: what fools it is tried on the first",
        group=ATTACK,
        metavar="NET",
        common=True,
    )
    steps: int = setting(20, "of pgd, and of transfer on the second network", group=ATTACK, minimum=2, common=True)
    apgd_steps: int = setting(50, "of each apgd", group=ATTACK, minimum=4)
    restarts: int = setting(1, "random starts of pgd and apgd", group=ATTACK, minimum=1, common=True)
    queries: int = setting(1000, "answers that square may ask for, of each image", group=ATTACK, minimum=2, common=True)
    batch_size: int | None = BATCH_SIZE.setting(
        None, " (default: 50, or as many as fit the memory)", group=RUN, minimum=1, maximum=65536
    )
    manual_seed: int = SEED.setting(0, group=RUN)
    device: str = DEVICE.setting("auto", group=RUN)
    threads: int | None = THREADS.setting(None, group=RUN, minimum=1, maximum=1024)
    save_json: str | None = SAVE_JSON.setting(None, group=RUN, metavar="FILE", check=_new_file, common=True)

    def __post_init__(self) -> None:
        if self.attacks is not None and TRANSFER in self.attacks.split(",") and self.transfer_from is None:
            raise InputError(f"{TRANSFER} needs a second network: give it with --transfer_from", "--attacks")
        if Path(self.arch or "").suffix.lower() in EXPORTED_SUFFIXES:
            raise InputError(
                f"an exported file has no gradients to attack along: give its network, got {self.arch}", "--arch"
            )

    @staticmethod
    def of(**given: Any) -> AttackConfig:
        """The settings that the command has with these flags: ``AttackConfig.of(arch="runs/mine", epsilon="4/255")``.

        Raises InputError for an unknown setting (with the nearest) or a value outside what is allowed.
        """
        return settings.with_settings(AttackConfig(), settings.keywords(AttackConfig, given))

    @property
    def network(self) -> NetworkConfig:
        """For evaluation.load_network."""
        if not self.arch:
            raise InputError("name the network to attack: a known name, a run folder or a weight file", ARCH.flag)
        weights = None if self.weights is None else Path(self.weights)
        return NetworkConfig(
            arch=self.arch, weights=weights, bits=self.bits, resolution=self.image_size, exif=self.exif
        )

    def names(self, n_classes: int) -> tuple[str, ...]:
        """The attacks in force. Raises InputError for one that so few classes do not allow."""
        if self.attacks is not None:
            chosen = tuple(name for name in ATTACKS if name in self.attacks.split(","))
            for name in chosen:
                if n_classes < NEEDS.get(name, 0):
                    raise InputError(f"{name} needs {NEEDS[name]} classes, the network has {n_classes}", "--attacks")
            return chosen
        possible = (name for name in ATTACKS if n_classes >= NEEDS.get(name, 0))
        return tuple(name for name in possible if name != TRANSFER or self.transfer_from is not None)


SETTINGS = RunSettings(AttackConfig, FORMAT, VERSION, FREE, PATHS)


# --------------------------------------------------------------------------------------------------- what is counted


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Sums over images.

    ``held``: images that are right after each attack; ``all_held``: after all of them; ``zero_gradients``: of the
    images that are right, those whose gradient is 0 in all pixels; ``by_step``: sums of PGD's margins, at its start
    and behind each step; ``queries``: sums of square's; ``amplification``: by network, sums of D by place over
    ``n_amplified`` images.
    """

    n_images: int = 0
    clean: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    all_held: int = 0
    zero_gradients: int = 0
    by_step: Sequence[float] = ()
    queries: int = 0
    amplification: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    n_amplified: int = 0

    def plus(self, other: Self) -> Self:
        """The sums of both."""
        counts = {
            name: getattr(self, name) + getattr(other, name)
            for name in ("n_images", "clean", "all_held", "zero_gradients", "queries", "n_amplified")
        }
        names = dict.fromkeys([*self.amplification, *other.amplification])
        return replace(
            self,
            **counts,
            held=_summed(self.held, other.held),
            by_step=[a + b for a, b in zip(self.by_step, other.by_step, strict=True)] if self.by_step and other.by_step
            else list(self.by_step or other.by_step),
            amplification={
                name: _summed(self.amplification.get(name, {}), other.amplification.get(name, {})) for name in names
            },
        )  # fmt: skip

    def means(self) -> dict[str, dict[str, float]]:
        """D by network and place."""
        n = max(1, self.n_amplified)
        return {name: {place: total / n for place, total in sums.items()} for name, sums in self.amplification.items()}


def _summed(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in dict.fromkeys([*one, *other])}


def alarms(tally: Tally) -> list[str]:
    """Signs that the gradients mislead and that the network is weaker than the attacks along them say; best none."""
    held, chance = tally.held, BY_CHANCE * tally.n_images
    found = []
    along = {name: held[name] for name in GRADIENT if name in held}
    for name, words in ((SQUARE, "sees answers alone"), (TRANSFER, "never sees this network")):
        if name in held and along and held[name] < (least := min(along.values())) - chance:
            found.append(
                f"{name}, which {words}, leaves {held[name]} images right, the best attack along the gradient {least}: "
                "the gradients mislead"
            )
    if FGSM in held and PGD in held and held[FGSM] < held[PGD] - chance:
        found.append(
            f"fgsm leaves {held[FGSM]} images right, pgd with its many steps {held[PGD]}: more steps should fool more"
        )
    if tally.zero_gradients:
        found.append(
            f"the gradient is 0 for {tally.zero_gradients} of {counted(tally.clean, 'image')}: nothing to follow"
        )
    if len(tally.by_step) > 2 and held.get(PGD) and tally.by_step[-1] >= tally.by_step[1]:
        found.append(f"{len(tally.by_step) - 1} steps of pgd do no more than one")
    return found


def shown_row(name: str, hits: int, n_images: int) -> tuple[str, str, str, str]:
    """A line of the table: name, percent, counts, interval."""
    percent = 100 * hits / n_images
    low, high = score_interval(percent, n_images)
    return name, shown_percent(percent, n_images), f"{hits} of {n_images}", f"{low:.1f} to {high:.1f}"


def as_record(tally: Tally, names: Sequence[str]) -> dict[str, Any]:
    """The figures of result.json: accuracy as it is and after each attack and all, with 95% intervals (Wilson)."""
    counts = {"clean": tally.clean, **{name: tally.held[name] for name in names}, "all": tally.all_held}
    scores = {}
    for name, hits in counts.items():
        percent = 100 * hits / tally.n_images
        interval = [round(end, 4) for end in score_interval(percent, tally.n_images)]
        scores[name] = {"hits": hits, "percent": round(percent, 6), "interval_95": interval}
    return {
        "n_images": tally.n_images,
        "accuracy": scores,
        "alarms": alarms(tally),
        "zero_gradients": tally.zero_gradients,
        "pgd_margin_by_step": [total / max(1, tally.clean) for total in tally.by_step],
        "square_queries_mean": tally.queries / max(1, tally.clean) if SQUARE in names else None,
        "amplification": tally.means(),
        "n_amplified": tally.n_amplified,
    }


# ---------------------------------------------------------------------------------------------------------- its files


def read_batches(
    path: Path, names: Sequence[str], pgd_steps: int, sizes: Sequence[int]
) -> tuple[list[dict[str, Any]], int]:
    """The lines of metrics.jsonl, one per batch that is done, and their bytes; none where there is no file.

    Args:
        names: of the attacks.
        pgd_steps: of PGD, which has a margin before the first one, too.
        sizes: images of each batch.

    Raises:
        InputError: a line that is none of such a run.
    """
    lines, end = read_whole_lines(path)
    if len(lines) > len(sizes):
        raise InputError(f"expected {counted(len(sizes), 'batch', 'batches')}, got {len(lines)}", source=str(path))
    for number, line in enumerate(lines):
        try:
            _judge_batch(Node(line), number, names, pgd_steps, sizes[number])
        except InputError as error:
            raise InputError(error.problem, f"line {number + 1}: {error.place}", str(path)) from None
    return lines, end


def _judge_batch(line: Node, number: int, names: Sequence[str], pgd_steps: int, size: int) -> None:
    judge(line, {"batch": lambda node: node.exactly(number), "sums": mapping}, ("batch", "sums", *IDENTITY))
    sums = Node(line.value["sums"], "sums").fields([each.name for each in fields(Tally)])
    for name in ("n_images", "clean", "all_held", "zero_gradients", "n_amplified"):
        sums[name].integer(0, size if name == "n_images" else sums["n_images"].value)
    count(sums["queries"])
    for node in sums["held"].fields(names).values():
        node.integer(0, sums["clean"].value)
    if PGD in names and sums["clean"].value:
        sums["by_step"].elements(pgd_steps + 1, pgd_steps + 1)
    for node in sums["by_step"].elements(0, pgd_steps + 1 if PGD in names else 0):
        quantity(node)
    for _, network in sums["amplification"].items():
        for _, node in network.items():
            amount(node)


def folder_name(name: str, label: int) -> str:
    """Of a class: its name, or its number where that is no name of a folder."""
    is_plain = name not in ("", ".", "..") and not set(name) & set('/\\:*?"<>|\0') and name == name.strip(" .")
    return name if is_plain and len(name.encode()) < 200 else f"{label:04d}"


def save_image(pixels: np.ndarray, path: Path) -> None:
    """uint8 (H, W, 3) as a lossless file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    as_image(pixels).save(path)
