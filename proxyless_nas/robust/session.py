"""An evaluation under attack from its settings to its record: open, attack batch by batch, count, write.

``run_attack`` is what attack.py does, for a program or a notebook:

    from proxyless_nas.robust.session import AttackConfig, run_attack
    run_attack(AttackConfig.of(arch="runs/photos", data_path="photos/", epsilon="4/255"), "runs/attacked")

Each batch is a line of metrics.jsonl, and its images are files, when the next one begins: a run that is resumed attacks
none again. Everything random is a function of (seed, batch, attack).
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxyless_arch.apps import evaluation
from proxyless_arch.apps.attack_pictures import draw_curves
from proxyless_arch.apps.attacking import (
    ADVERSARIAL,
    APGD_CE,
    APGD_DLR,
    ATTACKS,
    CURVE,
    FGSM,
    IDENTITY,
    LABEL_MAP,
    PGD,
    R_FGSM,
    RECORD_FORMAT,
    RECORD_VERSION,
    SETTINGS,
    SQUARE,
    TRANSFER,
    WHITE,
    AttackConfig,
    Tally,
    alarms,
    as_record,
    folder_name,
    read_batches,
    save_image,
    shown_row,
    steps_of,
)
from proxyless_arch.apps.evaluation import DIGITS, Network
from proxyless_arch.apps.memory import HEAP, Free, Plan, Reading, image_bytes, places, plan
from proxyless_arch.apps.next_commands import network_words, reporting
from proxyless_arch.apps.per_class import numbered
from proxyless_arch.apps.prediction import class_names
from proxyless_arch.apps.scores import hits_in_top
from proxyless_arch.arch import catalog
from proxyless_arch.arch.bits import BitPlan
from proxyless_arch.arch.memory import BYTES, training_bytes
from proxyless_arch.arch.preprocessing import preprocessing_to_dict
from proxyless_arch.arch.spec import RGB, ArchSpec, Preprocessing
from proxyless_arch.arch.walk import total_params, walk
from proxyless_arch.base import runs
from proxyless_arch.base.cli import command_line
from proxyless_arch.base.errors import InputError, LeftOutWarning
from proxyless_arch.base.files import write_json
from proxyless_arch.base.machine import network_threads
from proxyless_arch.base.progress import Progress, speak
from proxyless_arch.base.strict import counted
from proxyless_arch.base.text import align, labeled
from proxyless_arch.base.timing import Stopwatch, wall_ms
from proxyless_arch.base.words import ARCH, DATA_PATH, DRY
from proxyless_arch.chain.commands import export_words
from proxyless_arch.chain.reading import is_in_chain
from proxyless_arch.data.batches import Sample, eval_steps, read_batch
from proxyless_arch.data.datasets import ImageDataset, SearchData
from proxyless_arch.data.images import normalize
from proxyless_arch.data.streams import TorchStream, torch_seed
from proxyless_arch.weights.files import NamedTensors
from proxyless_arch.weights.lookup import find_trained
from proxyless_nas import distributed
from proxyless_nas.devices import device_name, pick_device
from proxyless_nas.inference import prepared
from proxyless_nas.network import ProxylessNet, build
from proxyless_nas.quantized import build_quantized, exact_forward
from proxyless_nas.robust.amplification import amplification
from proxyless_nas.robust.attacks import answer, apgd, fgsm, look, pgd, r_fgsm, vanishes
from proxyless_nas.robust.ball import Ball, Forward, Found, dlr, pixel_forward
from proxyless_nas.robust.square import square
from proxyless_nas.weights import load_named

__all__ = ["AttackConfig", "AttackStopped", "run_attack"]
ROOT = Path(__file__).resolve().parents[2]
COMMAND = "attack.py"
USUAL_BATCH, TIMED = 50, 8
KEPT = "finished batches are kept"
COPIES = 4
"""Of the weights: the network, as float and rounded, the scorer, and the second network."""
FLOAT, ROUNDED = "float", "bit plan"
"""The networks whose errors are followed."""
BACKWARD = 3
"""Times a forward pass: what a look along the gradient takes."""
HELD = 1e9
"""Added to the margin of an image that eval.py gets right still, be it by its last digit."""
Say = Callable[[str], Any]


class AttackStopped(runs.RunStopped):
    """An evaluation ended by Ctrl-C or SIGTERM."""


# --------------------------------------------------------------------------------------------------------- the job


@dataclass(frozen=True, kw_only=True)
class Job:
    """Settings with everything they refer to found, opened and checked.

    ``net``: what is attacked, under ``bits`` where there are any; ``float_net``: the same as float; ``source``: of
    transfer, on pixels. ``batches``: which images make up each.
    """

    config: AttackConfig
    network: Network
    net: ProxylessNet
    float_net: ProxylessNet
    source: Forward | None
    images: ImageDataset
    batches: Sequence[Sequence[Sample]]
    names: tuple[str, ...]
    device: torch.device
    memory: Plan
    notes: tuple[str, ...] = ()

    @property
    def spec(self) -> ArchSpec:
        return self.network.spec

    @property
    def bits(self) -> BitPlan | None:
        return self.network.bits

    @property
    def steps(self) -> int:
        return steps_of(self.config.epsilon)

    @property
    def n_images(self) -> int:
        return sum(map(len, self.batches))

    @property
    def followed(self) -> dict[str, ProxylessNet]:
        """The networks whose errors are followed."""
        return {FLOAT: self.float_net, **({ROUNDED: self.net} if self.bits is not None else {})}

    @cached_property
    def scorer(self) -> Callable[[Tensor], Tensor]:
        """The forward pass with which eval.py scores."""
        return prepared(self.net, self.device) if self.bits is None else exact_forward(self.net, self.device)

    def is_right(self, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Of uint8 (N, H, W, 3) images: (N,) of bool, as eval.py has it."""
        how = self.spec.preprocessing
        images = torch.from_numpy(normalize(pixels, how.mean, how.std)).permute(0, 3, 1, 2)
        return hits_in_top(self.scorer(images).cpu().numpy(), labels, 1)

    def read(self, samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray, tuple[InputError, ...]]:
        """(the network's view of images, uint8 (N, H, W, 3); their numbers; those that cannot be read)."""
        as_they_are = replace(self.spec.preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        batch = read_batch(numbered(self.images), as_they_are, None, 0, samples)
        return np.rint(batch.images * WHITE).astype(np.uint8), batch.labels, batch.errors


def prepare(config: AttackConfig) -> Job:
    """Open everything. Raises InputError before anything is written."""
    if not config.data_path:
        raise InputError("give labelled images to attack: a folder or .zip of class folders, or digits", DATA_PATH.flag)
    network = evaluation.load_network(config.network)
    _check_images(network.spec.preprocessing)
    names = config.names(network.spec.num_classes)
    images, labels = evaluation.open_labelled(config.data_path, network.spec, config.label_map)
    images = images.read_once()
    network = evaluation.oriented(network, config.network, images, labels)
    spec, device = network.spec, pick_device(config.device)
    float_net = network_of(spec, network.tensors, None, device)
    wanted = config.batch_size or min(USUAL_BATCH, len(images), config.limit)
    memory = memory_plan(spec, wanted, distributed.least_free(device))
    size = config.batch_size or memory.part_images
    return Job(
        config=replace(config, batch_size=size),
        network=network,
        net=float_net if network.bits is None else network_of(spec, network.tensors, network.bits, device),
        float_net=float_net,
        source=source_of(config, spec, device) if TRANSFER in names else None,
        images=images,
        batches=eval_steps(len(images), size, config.limit),
        names=names,
        device=device,
        memory=memory,
        notes=(*network.notes, *note_on_steps(config.epsilon)),
    )


def network_of(spec: ArchSpec, tensors: NamedTensors, bits: BitPlan | None, device: torch.device) -> ProxylessNet:
    """In eval mode; its weights have no gradients, its input has."""
    if bits is not None:
        net = build_quantized(spec, tensors, bits)
    else:
        net = build(spec)
        load_named(net, spec, tensors)
    return net.eval().requires_grad_(False).to(device)


def source_of(config: AttackConfig, spec: ArchSpec, device: torch.device) -> Forward:
    """The second network, on pixels of the first one's images. Raises InputError for one of other classes."""
    assert config.transfer_from is not None
    flag = "--transfer_from"
    trained = find_trained(config.transfer_from, place=flag, flag=flag)
    theirs = trained.spec
    if theirs.num_classes != spec.num_classes or (theirs.class_names or spec.class_names) != spec.class_names:
        problem = f"expected a network of the same {spec.num_classes} classes, got {theirs.num_classes} (or others)"
        raise InputError(problem, flag, config.transfer_from)
    net = network_of(theirs, trained.weights.tensors, trained.weights.bits, device)
    return pixel_forward(net, theirs.preprocessing)


def memory_plan(spec: ArchSpec, images: int, free: Free) -> Plan:
    """For batches of so many images, forward and backward."""
    here = places(
        free,
        fixed=COPIES * BYTES * total_params(spec),
        per_image=training_bytes(walk(spec), spec.padding),
        reading=Reading(image_bytes=image_bytes(spec.preprocessing), readers=0),
        heap=HEAP,
    )
    return plan(here, images, None)


def note_on_steps(epsilon: str) -> tuple[str, ...]:
    """Where epsilon is no number of whole steps."""
    steps = steps_of(epsilon)
    if abs(float(Fraction(epsilon.replace(" ", ""))) * WHITE - steps) < 1e-9:
        return ()
    return (f"epsilon {epsilon} is taken as {steps}/{WHITE}: images have 8 bits",)


# ------------------------------------------------------------------------------------------------------ the attacks


def attacked(job: Job, name: str, ball: Ball, labels: Tensor, batch: int) -> Found:
    """What one attack makes of a batch."""
    config, forward = job.config, pixel_forward(job.net, job.spec.preprocessing)
    number = ATTACKS.index(name)
    rng = torch.Generator().manual_seed(torch_seed(config.manual_seed, TorchStream.ATTACK, batch, number))
    many = {"steps": config.apgd_steps, "restarts": config.restarts}
    match name:
        case "fgsm":
            return fgsm(forward, ball, labels)
        case "r_fgsm":
            return r_fgsm(forward, ball, labels, rng)
        case "pgd":
            return pgd(forward, ball, labels, rng, steps=config.steps, restarts=config.restarts)
        case "apgd_ce":
            return apgd(forward, ball, labels, rng, **many)
        case "apgd_dlr":
            return apgd(forward, ball, labels, rng, loss=dlr, **many)
        case "square":
            return square(forward, ball, labels, rng, queries=config.queries)
        case _:
            assert job.source is not None
            found = pgd(job.source, ball, labels, rng, steps=config.steps, restarts=config.restarts)
            return Found(found.pixels, answer(forward, found.pixels, labels), torch.ones(len(labels)))


@dataclass(frozen=True)
class BatchResult:
    """A batch: its sums, and the worst image found of each, uint8 (N, H, W, 3) with their (N,) numbers."""

    tally: Tally
    worst: np.ndarray
    numbers: np.ndarray


def attack_batch(job: Job, number: int, on_attack: Callable[[int], None]) -> BatchResult:
    """Attack the images of a batch that the network gets right; the others are fooled as they are."""
    pixels, numbers, errors = job.read(job.batches[number])
    for error in errors:
        warnings.warn(f"image left out: {error}", LeftOutWarning, stacklevel=2)
    labels = job.images.labels[numbers]
    right = job.is_right(pixels, labels) if len(numbers) else np.zeros(0, bool)
    worst, tally = pixels.copy(), Tally(n_images=len(numbers), clean=int(right.sum()), held=dict.fromkeys(job.names, 0))
    if not right.any():
        on_attack(len(job.batches[number]) * len(job.names))
        return BatchResult(tally, worst, numbers)
    answers = torch.from_numpy(labels[right]).to(job.device)
    ball = Ball(torch.from_numpy(pixels[right]).permute(0, 3, 1, 2).float().to(job.device), job.steps)
    found, held = {}, {}
    for name in job.names:
        found[name] = attacked(job, name, ball, answers, number)
        held[name] = job.is_right(as_bytes(found[name].pixels), labels[right])
        on_attack(len(job.batches[number]))
    worst[right] = _worst(ball, found, held)
    forward = pixel_forward(job.net, job.spec.preprocessing)
    gradient = look(forward, ball, ball.pixels, answers).gradient
    tally = replace(
        tally,
        held={name: int(kept.sum()) for name, kept in held.items()},
        all_held=int(np.logical_and.reduce(list(held.values())).sum()),
        zero_gradients=int(vanishes(gradient).sum()),
        by_step=[mean * len(answers) for mean in found[PGD].by_step] if PGD in found else [],
        queries=int(found[SQUARE].queries.sum()) if SQUARE in found else 0,
        **_followed(job, ball.pixels, found[PGD if PGD in found else job.names[0]].pixels),
    )
    return BatchResult(tally, worst, numbers)


def _worst(ball: Ball, found: Mapping[str, Found], held: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of each image one that fools the network where there is one, and of those that with the least margin."""
    best, least = as_bytes(ball.pixels), np.full(len(ball.pixels), np.inf)
    for name, each in found.items():
        margins = each.margins.cpu().numpy().astype(np.float64) + np.where(held[name], HELD, 0.0)
        better = margins < least
        best[better], least[better] = as_bytes(each.pixels)[better], margins[better]
    return best


def as_bytes(pixels: Tensor) -> np.ndarray:
    """(N, 3, H, W) of whole numbers as uint8 (N, H, W, 3)."""
    return pixels.permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)


def _followed(job: Job, pixels: Tensor, noisy: Tensor) -> dict[str, Any]:
    """The amplification of a batch, for its Tally."""
    sums = {name: amplification(net, pixels, noisy).sums for name, net in job.followed.items()}
    return {"amplification": sums, "n_amplified": len(pixels)}


# ---------------------------------------------------------------------------------------------------------- the run


def run_attack(
    config: AttackConfig | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    say: Say | None = speak,
    command: Sequence[str] | None = None,
    dry_run: bool = False,
) -> dict[str, Any] | None:
    """Score a network on images that are changed to fool it.

    Args:
        config: the settings. A resumed run keeps its own; these may only repeat them.
        path: the run folder (default: a dated one under runs/).
        resume: go on with the run in ``path``.
        say: gets each line that is for a person; None for silence.
        command: the words of the command line, for environment.json.
        dry_run: say what would be done, and stop; nothing is written.

    Returns:
        result.json; None of a dry run.

    Raises:
        InputError: settings, images or weights that do not fit; nothing is written then.
        AttackStopped: a Ctrl-C; the run can be resumed.
    """
    tell = say or (lambda line: None)
    folder = Path(path) if path is not None else None
    config = config or AttackConfig()
    if resume and folder is None:
        raise InputError("needs the run folder: add --run_dir FOLDER", "--resume")
    job = prepare(config)
    torch.set_num_threads(config.threads or network_threads(0, "OMP_NUM_THREADS"))
    tell(header(job))
    tell(labeled("expected", expected(job)))
    if dry_run:
        tell(DRY)
        return None
    with contextlib.ExitStack() as held:
        if resume and folder is not None:
            home = folder
            held.enter_context(runs.locked(home))
        else:
            home = held.enter_context(runs.claimed(folder, ROOT))
        held.enter_context(runs.sigterm_interrupts())
        held.enter_context(runs.naming_the_way_on(COMMAND, home, KEPT))
        tell(labeled("run folder", str(home)))
        words = list(command) if command is not None else [COMMAND, "--run_dir", str(home)]
        facts = runs.environment(words, torch=torch.__version__, numpy=np.__version__, device=device_name(job.device))
        runs.write_environment(home, facts, resume)
        own = SETTINGS.anchored(job.config, (*catalog.known_names(), evaluation.NO_BITS))
        write_json(home / runs.CONFIG_FILE, SETTINGS.to_dict(own))
        try:
            return _attack_in(job, home, tell, words)
        except KeyboardInterrupt:
            message = f"stopped; {KEPT}: continue with\n  {runs.resume_command(COMMAND, home)}"
            tell(f"\n{message}")
            raise AttackStopped(message, home) from None


def _attack_in(job: Job, home: Path, tell: Say, words: Sequence[str]) -> dict[str, Any]:
    """All batches that metrics.jsonl does not have, and the record."""
    watch = Stopwatch()
    done, end = read_batches(home / runs.METRICS_FILE, job.names, job.config.steps, [*map(len, job.batches)])
    identity = _identity(job)
    for name in (name for line in done for name in identity if line[name] != identity[name]):
        raise InputError(f"not the {name} that this run was started with", "--resume", str(home))
    tallies = [_tally_of(line) for line in done]
    if done:
        tell(
            labeled("resumed", f"behind {sum(tally.n_images for tally in tallies)} of {counted(job.n_images, 'image')}")
        )
    if job.config.save_images:
        write_json(home / LABEL_MAP, _label_map(job))
    with (
        runs.MetricsFile(home, end if done or (home / runs.METRICS_FILE).is_file() else None) as metrics,
        Progress(job.n_images * len(job.names), "attack", done=_attacks_in(job, len(done))) as bar,
    ):
        for number in range(len(done), len(job.batches)):
            found = attack_batch(job, number, bar.update)
            if job.config.save_images:
                _save(job, found, home / ADVERSARIAL)
            metrics.append({"batch": number, **identity, "sums": asdict(found.tally)})
            tallies.append(found.tally)
    return _finish(job, home, tell, words, functools.reduce(Tally.plus, tallies), watch.seconds)


def _attacks_in(job: Job, n_batches: int) -> int:
    return sum(map(len, job.batches[:n_batches])) * len(job.names)


def _identity(job: Job) -> dict[str, Any]:
    """Of what is attacked: a run that is resumed must find it again."""
    none = job.images.subset([])
    images = SearchData(train=none, valid=none, test=job.images).fingerprint()["test_names"]
    return dict(zip(IDENTITY, (images, job.network.weights_blob_sha1), strict=True))


def _tally_of(line: Mapping[str, Any]) -> Tally:
    return Tally(**line["sums"])


def _folder_of(job: Job, label: int) -> str:
    names = class_names(job.spec) if len(job.images.class_names) != job.spec.num_classes else job.images.class_names
    return folder_name(names[label], label)


def _label_map(job: Job) -> dict[str, int]:
    """The class of each folder of images, for eval.py --label_map."""
    return {_folder_of(job, label): label for label in sorted(set(job.images.labels.tolist()))}


def _save(job: Job, found: BatchResult, folder: Path) -> None:
    for pixels, number in zip(found.worst, found.numbers.tolist(), strict=True):
        label = int(job.images.labels[number])
        save_image(pixels, folder / _folder_of(job, label) / f"{number:06d}.png")


def _finish(job: Job, home: Path, tell: Say, words: Sequence[str], tally: Tally, seconds: float) -> dict[str, Any]:
    if not tally.n_images:
        raise InputError("not one of the images can be read", DATA_PATH.flag, job.config.data_path)
    config, network = job.config, job.network
    record = {
        "format": RECORD_FORMAT,
        "version": RECORD_VERSION,
        "command": shlex.join(["python", *words]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "arch": config.arch,
        "weights": network.weights,
        "weights_blob_sha1": network.weights_blob_sha1,
        "bits": job.bits.digest if job.bits is not None else None,
        "transfer_from": config.transfer_from,
        "data": config.data_path,
        "preprocessing": preprocessing_to_dict(job.spec.preprocessing),
        "epsilon": config.epsilon,
        "epsilon_steps_of_255": job.steps,
        **{name: getattr(config, name) for name in ("steps", "apgd_steps", "restarts", "queries", "manual_seed")},
        **as_record(tally, job.names),
        "wall_seconds": round(seconds, 2),
    }
    write_json(home / runs.RESULT_FILE, record)
    if tally.n_amplified:
        draw_curves(tally.means(), home / CURVE)
    evaluation.save_record(Path(config.save_json) if config.save_json else None, record)
    tell(summary(job, home, tally))
    return record


# ------------------------------------------------------------------------------------------------------- what is said


def header(job: Job) -> str:
    """What is about to happen, for a person."""
    config, spec = job.config, job.spec
    lines = [
        ("network", f"{spec.name}, {counted(spec.num_classes, 'class', 'classes')}"),
        ("weights", job.network.weights),
        *([("bits", f"{job.bits}; gradients pass through rounding")] if job.bits is not None else []),
        ("data", f"{config.data_path}: {counted(job.n_images, 'image')} of {len(job.images)}"),
        ("images", evaluation.describe_preprocessing(spec.preprocessing)),
        *[("note", note) for note in job.notes],
        ("attacks", f"{', '.join(job.names)}; each pixel by {job.steps}/{WHITE} at most"),
        ("runs on", f"{device_name(job.device)}, torch {torch.__version__}, batches of {config.batch_size}"),
        *job.memory.lines(),
    ]
    return "\n".join(labeled(*line) for line in lines)


def expected(job: Job) -> str:
    """How long it takes at most: an image that fools the network early takes less."""
    config = job.config
    passes = {
        FGSM: BACKWARD + 1,
        R_FGSM: BACKWARD + 1,
        PGD: BACKWARD * config.steps * config.restarts,
        TRANSFER: BACKWARD * config.steps * config.restarts,
        APGD_CE: BACKWARD * config.apgd_steps * config.restarts,
        APGD_DLR: BACKWARD * config.apgd_steps * config.restarts,
        SQUARE: config.queries,
    }
    forward = pixel_forward(job.net, job.spec.preprocessing)
    count = min(TIMED, job.config.batch_size or TIMED)
    pixels = torch.zeros(count, *job.spec.preprocessing.chw, device=job.device)
    labels = torch.zeros(count, dtype=torch.int64, device=job.device)
    answer(forward, pixels, labels)
    each = wall_ms(lambda: answer(forward, pixels, labels)) / 1000 / count
    total = job.n_images * each * sum(passes[name] for name in job.names)
    return f"at most about {runs.format_seconds(total)}"


def summary(job: Job, home: Path, tally: Tally) -> str:
    """The end, for a person."""
    counts = {
        "as they are": tally.clean,
        **{name: tally.held[name] for name in job.names},
        "all attacks": tally.all_held,
    }
    rows = [("right", "", "images", "95 % interval"), *(shown_row(*row, tally.n_images) for row in counts.items())]
    signs = alarms(tally)
    lines = [("ALARM", sign) for sign in signs] or [("alarms", "none: no sign that the gradients mislead")]
    lines.append(("note", "a measurement, no defence: a better attack may leave fewer"))
    curve = [CURVE] if tally.n_amplified else []
    files = [runs.RESULT_FILE, *curve, *([f"{ADVERSARIAL}/"] if job.config.save_images else [])]
    lines.append(("files", f"{home}: {', '.join(files)}"))
    lines += [("" if number else "next", line) for number, line in enumerate(after_attack(job, home))]
    return "\n".join(["", *(f"  {line}" for line in align(rows)), *(labeled(*line) for line in lines)])


def _check_images(preprocessing: Preprocessing) -> None:
    """Images are saved and scored again as squares of RGB. Raises InputError for others."""
    if preprocessing.channels != RGB:
        raise InputError("expected a network of RGB images, got one of grey images", ARCH.flag)
    _ = preprocessing.side


def after_attack(job: Job, home: Path) -> list[str]:
    """Score the saved images, which are of the network's size and are not resized; export the network; and the page of
    a run that was attacked, beside those of the runs before it."""
    found: list[Sequence[str]] = []
    side, run = job.spec.preprocessing.side, Path(str(job.config.arch))
    if job.config.save_images:
        network = network_words(replace(job.config.network, resolution=side, resize=side))
        data = ("--data_path", str(home / ADVERSARIAL), "--label_map", str(home / LABEL_MAP))
        found.append(("eval.py", *network, *data))
    images = None if job.config.data_path == DIGITS else job.config.data_path
    if run.is_dir() and (words := export_words(run, images, job.bits, job.spec)) is not None:
        found.append(words)
    if is_in_chain(run):
        found.append(reporting(home))
    return [command_line(*words) for words in found]
