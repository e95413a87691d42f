"""A quantization from its settings to its product: measure, choose, check the whole network, and write.

``run_quantization`` is what quantize.py does, for a program or a notebook:

    from compress import BitsConfig, run_quantization
    run_quantization(BitsConfig.of(arch="runs/photos", average_bits=4), "runs/bits")

The run folder is the product: a network, its weights and the plan, bits.json. Everything scored is in metrics.jsonl: a
run that is resumed takes the same way again, and asks for nothing twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from compress.bits.calibration import calibrate
from compress.bits.choices import uniform_path
from compress.bits.config import SETTINGS, BitsConfig
from compress.bits.environment import BitEnvironment
from compress.bits.haq import haq
from compress.bits.result import BitsResult, read_result
from compress.bits.session import BitJob, prepare
from compress.folder import top1_percent, write_config, write_environment
from compress.methods import Found, best, exact, random
from compress.opening import as_resumed, folder_of, opened
from compress.record import Record, read_record
from compress.scoring import Score, Watch, score_of, unseen
from hardware.projection import Limit
from proxyless_arch.arch import codec
from proxyless_arch.arch.bits import FLOAT32 as FLOAT_FORMAT
from proxyless_arch.arch.bits import PLAN_FILE, BitPlan, uniform_plan, write_plan
from proxyless_arch.arch.walk import total_macs, total_params
from proxyless_arch.base import runs
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json
from proxyless_arch.base.progress import Progress, speak
from proxyless_arch.base.strict import counted
from proxyless_arch.base.text import labeled, number_of, readable
from proxyless_arch.base.units import format_count
from proxyless_arch.base.words import DRY
from proxyless_arch.chain.page import write_chain
from proxyless_arch.data.streams import Stream, numpy_rng
from proxyless_arch.weights.files import save_safetensors
from proxyless_arch.weights.lookup import SPEC_FILE, WEIGHT_FILES
from proxyless_nas import distributed
from proxyless_nas.devices import device_name, pick_device
from proxyless_nas.network import ProxylessNet, build
from proxyless_nas.opening import ROOT, Say, be_silent
from proxyless_nas.quantized import build_quantized, exact_forward
from proxyless_nas.weights import load_named

COMMAND = "quantize.py"
HALVINGS = 6
"""Of the range of costs, to find the cheapest plan within --max_drop."""


class QuantizationStopped(runs.RunStopped):
    """A quantization ended by Ctrl-C or SIGTERM."""


def run_quantization(
    config: BitsConfig | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    say: Say | None = speak,
    command: Sequence[str] | None = None,
    dry_run: bool = False,
) -> BitsResult | None:
    """Choose the bits of a trained network.

    Args:
        config: the settings. A resumed run keeps its own; these may only repeat them.
        path: the run folder (default: a dated one under runs/).
        resume: go on with the run in ``path``.
        say: gets each line that is for a person; None for silence.
        command: the words of the command line, for environment.json.
        dry_run: say what would be done, and stop; nothing is written.

    Returns:
        The product; None of a dry run.

    Raises:
        InputError: settings, images, weights or prices that do not fit; nothing is written then.
        QuantizationStopped: a Ctrl-C; the run can be resumed.
    """
    tell = say or be_silent
    folder = folder_of(path, resume)
    if folder is not None and resume:
        config = as_resumed(SETTINGS.read(runs.config_to_resume(folder)), config, SETTINGS.free, SETTINGS.paths)
        runs.check_images_are_there(config.data_path, folder)
    config = config or BitsConfig()
    how = {"resume": resume, "dry_run": dry_run, "threads": config.torch_threads}
    with opened(COMMAND, QuantizationStopped, folder, tell, **how) as claim:
        device = pick_device(config.device)
        job = prepare(config, device, distributed.least_free(device))
        tell(header(job))
        if dry_run:
            runs.free_run_dir(folder, ROOT) if not resume else None
            tell(DRY)
            return None
        home = claim()
        tell(labeled("run folder", str(home)))
        return _quantize_in(job, home, tell, command, resume)


def _quantize_in(job: BitJob, home: Path, tell: Say, command: Sequence[str] | None, resume: bool) -> BitsResult:
    """To the product, from the start or from what the folder has."""
    words = list(command) if command is not None else [COMMAND, "--run_dir", str(home)]
    write_environment(home, words, job.device, resume)
    write_config(SETTINGS, job.config, job.training, home)
    return _Run(job, home, tell).finish()


def header(job: BitJob) -> str:
    """What is about to happen, for a person."""
    config, spec, table = job.config, job.spec, job.table
    n_formats = max(len(group.formats) for group in job.groups)
    lines = [
        (
            "network",
            f"{spec.name}: {format_count(total_macs(spec))} MACs, {format_count(total_params(spec))} parameters",
        ),
        ("weights", job.origin),
        (
            "data",
            f"{config.data_path or job.training.data.data_path or 'digits (scikit-learn, embedded)'}: "
            f"{sum(len(labels) for _, labels in job.calibration)} images to calibrate, "
            f"{sum(len(labels) for _, labels in job.choosing)} to choose by, {len(job.data.test)} to test",
        ),
        *[("note", note) for note in job.notes],
        ("choices", f"{counted(len(job.groups), 'layer')}, {counted(n_formats, 'format')} each"),
        ("target", _target_text(job)),
        ("reachable", f"{table.reachable} ({table.source})"),
        ("method", f"{config.method}, {counted(config.n_plans, 'plan')} scored"),
        ("runs on", f"{device_name(job.device)}, torch {torch.__version__}"),
        *job.memory.lines(),
    ]
    return "\n".join(labeled(*line) for line in lines)


def _target_text(job: BitJob) -> str:
    if job.target is None:
        return f"the cheapest plan within {job.config.drop:g} points of top-1 of float32, by {job.table.unit}"
    return f"at most {job.table.shown(job.target)} ({job.flag})"


class _Run:
    """A quantization on its way."""

    def __init__(self, job: BitJob, home: Path, tell: Say) -> None:
        self.job, self.home, self.tell = job, home, tell
        self.started = time.perf_counter()
        file = home / runs.METRICS_FILE
        lines, whole = read_record(file)
        self.metrics = runs.MetricsFile(home, whole if file.is_file() else None)
        self.record = Record.opened(self.metrics, lines)
        self.environment = environment_of(job, self.record, self._watch)

    def _watch(self, doing: str, total: float, unit: str) -> Progress:
        self.tell(doing)
        return Progress(total, unit, hidden=self.tell is be_silent)

    def finish(self) -> BitsResult:
        if not (self.home / runs.RESULT_FILE).is_file():
            parent = self._parent_scores()
            found, scored = self._within_drop() if self.job.target is None else self._at(self.job.target)
            self._write(found, scored, parent)
        self.metrics.close()
        write_chain(self.home)
        return read_result(self.home)

    # choosing

    def _at(self, target: float) -> tuple[Found, list[Found]]:
        """The best plan found that costs at most ``target``."""
        scored = self._choose(self.job.limits(target))
        if not scored:
            raise InputError("no plan of this method keeps to the target", self.job.flag)
        return best(scored), scored

    def _choose(self, limits: Sequence[Limit]) -> list[Found]:
        config, n = self.job.config, self.job.config.evaluations
        rng = numpy_rng(config.manual_seed, Stream.PRUNING_CHOICE)
        self.n_told = 0
        match config.method:
            case "exact":
                return exact(self.environment, limits, n, rng, self._tell_plan)
            case "random":
                return random(self.environment, limits, n, rng, self._tell_plan)
            case "uniform":
                path = uniform_path(self.job.groups, limits)
                found = Found(path, self.environment.score(path))
                self._tell_plan(found)
                return [found]
            case _:
                return haq(
                    self.environment, limits, n, config.manual_seed, self._tell_plan,
                    self._float_score().top1_percent, as_released=config.as_released,
                )  # fmt: skip

    def _tell_plan(self, found: Found) -> None:
        self.n_told += 1
        table = self.job.table
        self.tell(
            f"  plan {self.n_told:>3}/{self.job.config.n_plans}  {table.unit.short(table.of_path(found.path))}  "
            f"loss {number_of(found.score.loss, 1, 3)}  top-1 {found.score.top1_percent:.1f} %"
        )

    def _float_score(self) -> Score:
        """On the images that choose."""
        line = self.record.get("float")
        if line is None:
            environment = self.environment
            found = score_of(environment.float_net, environment.choosing, environment.device)
            line = self.record.put("float", **asdict(found))
        return Score(line["loss"], line["hits"], line["n_images"])

    def _within_drop(self) -> tuple[Found, list[Found]]:
        """The cheapest plan found within --max_drop of the float network's top-1, halving the range of costs."""
        job = self.job
        assert job.config.drop is not None
        least = self._float_score().top1_percent - job.config.drop
        taken = Found(job.whole, self.environment.score(job.whole))
        if taken.score.top1_percent < least:
            self.tell(
                f"  even the most bits lose {self._float_score().top1_percent - taken.score.top1_percent:.1f} points"
            )
            return taken, [taken]
        low, high, every = job.table.minimum, job.table.of_path(job.whole), [taken]
        for _ in range(HALVINGS):
            half = (low + high) / 2
            try:
                scored = self._choose(job.limits(half))
            except InputError:  # nothing costs so little
                scored = []
            good = [found for found in scored if found.score.top1_percent >= least]
            every += scored
            if good:
                taken = min(good, key=lambda each: job.table.of_path(each.path))
                high = job.table.of_path(taken.path)
            else:
                low = half
        return taken, every

    # the product

    def _parent_scores(self) -> dict[str, Any]:
        """Of the float network, as members of result.json."""
        found = self.record.get("parent")
        if found is None:
            net = self.environment.float_net
            valid, test = (top1_percent(net, images, self.job) for images in (self.job.data.valid, self.job.data.test))
            found = self.record.put("parent", valid=valid, test=test)
        floats = uniform_plan(self.job.spec, FLOAT_FORMAT, {})
        return {
            "parent": readable(self.job.spec.name),
            "parent_top1_percent": found["valid"],
            "parent_test_top1_percent": found["test"],
            "parent_size_bytes": floats.n_bytes(self.job.spec),
        }

    def _write(self, found: Found, scored: Sequence[Found], parent: dict[str, Any]) -> None:
        """The network, its weights, the plan, result.json."""
        job, plan = self.job, self.environment.plan(found.path)
        _, tensors = self.environment.network(found.path)
        forward = exact_forward(build_quantized(job.spec, tensors, plan), job.device)
        top1 = tuple(top1_percent(forward, images, job) for images in (job.data.valid, job.data.test))
        codec.write_spec(self.home / SPEC_FILE, job.spec)
        write_plan(self.home / PLAN_FILE, plan)
        provenance = {"command": "quantize", "run": readable(self.home.name), "of": readable(job.spec.name)}
        save_safetensors(self.home / WEIGHT_FILES[0], job.spec, tensors, provenance, plan)
        write_json(self.home / runs.RESULT_FILE, self._record(found, scored, plan, top1) | parent)

    def _record(
        self, found: Found, scored: Sequence[Found], plan: BitPlan, top1: Sequence[float | None]
    ) -> dict[str, Any]:
        """result.json."""
        job, table = self.job, self.job.table
        return {
            "hardware": job.config.hardware,
            "method": job.config.method,
            "unit": table.unit.value,
            "source": table.source,
            "target": job.target,
            "max_drop": job.config.drop,
            "cost": table.of_path(found.path),
            "size_bytes": plan.n_bytes(job.spec),
            "average_bits": plan.average_bits(job.spec),
            "plan": plan.digest,
            "evaluations": len(scored),
            "macs": total_macs(job.spec),
            "params": total_params(job.spec),
            "top1_percent": top1[0],
            "test_top1_percent": top1[1],
            "n_valid_images": len(job.data.valid),
            "n_test_images": len(job.data.test),
            "choosing_loss": found.score.loss,
            "choosing_top1_percent": found.score.top1_percent,
            "resolution": job.spec.resolution,
            "num_classes": job.spec.num_classes,
            "manual_seed": job.config.manual_seed,
            "images": job.data.fingerprint(),
            "scored": [{"cost": table.of_path(each.path), **asdict(each.score)} for each in scored],
            "wall_seconds": time.perf_counter() - self.started,
        }


def environment_of(job: BitJob, record: Record, watch: Watch = unseen) -> BitEnvironment:
    """What judges the formats of a network, calibrated."""
    n_images = sum(len(labels) for _, labels in job.calibration)
    with watch(f"calibrating on {counted(n_images, 'image')}", 2 * n_images, "img") as bar:
        facts = calibrate(_float_net(job), job.calibration, job.device, bar)
    return BitEnvironment(
        spec=job.spec,
        tensors=job.tensors,
        groups=job.groups,
        matches=job.matches,
        facts=facts,
        calibration=job.calibration,
        choosing=job.choosing,
        device=job.device,
        record=record,
        quantizer=job.config.quantizer,
        corrects=job.config.correct_biases,
        watch=watch,
    )


def _float_net(job: BitJob) -> ProxylessNet:
    net = build(job.spec)
    load_named(net, job.spec, job.tensors)
    return net.to(job.device).eval()
