"""A quantization from its settings to its product: measure, choose, check the whole network, and write.

``run_quantization`` is what quantize.py does, for a program or a notebook:

    from compress import BitsConfig, run_quantization
    run_quantization(BitsConfig.of(arch="runs/photos", average_bits=4), "runs/bits")

The run folder is the product: a network, its weights and the plan, bits.json. Everything scored is in metrics.jsonl: a
run that is resumed takes the same way again, and asks for nothing twice.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compress.bits.calibration import calibrate
from compress.bits.choices import uniform_path
from compress.bits.config import SETTINGS, BitsConfig
from compress.bits.environment import BitEnvironment
from compress.bits.haq import haq
from compress.bits.result import BitsResult, read_result
from compress.bits.session import BitJob, prepare
from compress.folder import top1_percent
from compress.methods import Found, best, cheapest, exact, random
from compress.opening import Kind, Opening, run
from compress.record import Record
from compress.run import Run
from compress.run import header as described
from compress.scoring import Score, Watch, score_of, unseen
from hardware.projection import Limit
from proxyless_arch.arch import codec
from proxyless_arch.arch.bits import FLOAT32 as FLOAT_FORMAT
from proxyless_arch.arch.bits import PLAN_FILE, BitPlan, uniform_plan, write_plan
from proxyless_arch.arch.walk import total_macs, total_params
from proxyless_arch.base import runs
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json
from proxyless_arch.base.progress import speak
from proxyless_arch.base.strict import counted
from proxyless_arch.base.text import readable
from proxyless_arch.chain.page import write_chain
from proxyless_arch.data.streams import Stream, numpy_rng
from proxyless_arch.weights.files import save_safetensors
from proxyless_arch.weights.lookup import SPEC_FILE, WEIGHT_FILES
from proxyless_nas import distributed
from proxyless_nas.network import ProxylessNet, build
from proxyless_nas.opening import Say
from proxyless_nas.quantized import build_quantized, exact_forward
from proxyless_nas.weights import load_named

COMMAND = "quantize.py"


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

    Arguments as of compress.run_pruning. Returns the product; None of a dry run.

    Raises:
        InputError: settings, images, weights or prices that do not fit; nothing is written then.
        QuantizationStopped: a Ctrl-C; the run can be resumed.
    """
    how = {"resume": resume, "say": say, "command": command, "dry_run": dry_run}
    return run(Kind(COMMAND, SETTINGS, QuantizationStopped, _prepared, header, None, _finish), config, path, **how)


def _prepared(config: BitsConfig, opening: Opening) -> BitJob:
    return prepare(config, opening.device, distributed.least_free(opening.device))


def _finish(job: BitJob, home: Path, tell: Say) -> BitsResult:
    return _Run(job, home, tell).finish()


def header(job: BitJob) -> str:
    """What is about to happen, for a person."""
    config, table = job.config, job.table
    n_formats = max(len(group.formats) for group in job.groups)
    lines = [
        ("choices", f"{counted(len(job.groups), 'layer')}, {counted(n_formats, 'format')} each"),
        ("target", _target_text(job)),
        ("reachable", f"{table.reachable} ({table.source})"),
        ("method", f"{config.method}, {counted(config.n_plans, 'plan')} scored"),
    ]
    return described(job, lines)


def _target_text(job: BitJob) -> str:
    if job.target is None:
        return f"the cheapest plan within {job.config.drop:g} points of top-1 of float32, by {job.table.unit}"
    return f"at most {job.table.shown(job.target)} ({job.flag})"


class _Run(Run[BitJob]):
    """A quantization on its way."""

    def __init__(self, job: BitJob, home: Path, tell: Say) -> None:
        super().__init__(job, home, tell)
        self.environment = environment_of(job, self.record, self.doing)

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
                return exact(self.environment, limits, n, rng, self.tell_plan)
            case "random":
                return random(self.environment, limits, n, rng, self.tell_plan)
            case "uniform":
                path = uniform_path(self.job.groups, limits)
                found = Found(path, self.environment.score(path))
                self.tell_plan(found)
                return [found]
            case _:
                return haq(
                    self.environment, limits, n, config.manual_seed, self.tell_plan,
                    self._float_score().top1_percent, as_released=config.as_released,
                )  # fmt: skip

    def _float_score(self) -> Score:
        """On the images that choose."""
        line = self.record.get("float")
        if line is None:
            environment = self.environment
            found = score_of(environment.float_net, environment.choosing, environment.device)
            line = self.record.put("float", **asdict(found))
        return Score(line["loss"], line["hits"], line["n_images"])

    def _within_drop(self) -> tuple[Found, list[Found]]:
        """The cheapest plan found within --max_drop of the float network's top-1."""
        job = self.job
        assert job.config.drop is not None
        least = self._float_score().top1_percent - job.config.drop
        whole = Found(job.whole, self.environment.score(job.whole))
        if whole.score.top1_percent < least:
            lost = self._float_score().top1_percent - whole.score.top1_percent
            self.tell(f"  even the most bits lose {lost:.1f} points")
            return whole, [whole]
        found, tries = cheapest(self._affordable, job.table, whole, least)
        return found, [whole, *itertools.chain(*tries)]

    def _affordable(self, target: float) -> list[Found]:
        try:
            return self._choose(self.job.limits(target))
        except InputError:  # nothing costs so little
            return []

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
            "wall_seconds": self.watch.seconds,
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
