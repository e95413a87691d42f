"""The steps that bench_search.py times: those of a search, and of the plain training step of the same path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from proxyless_arch.arch.spec import imagenet_preprocessing
from proxyless_arch.data.streams import TorchStream
from proxyless_arch.space.named import space_named

PLAIN, WEIGHT, FOLDED = "plain", "weight step", "folded forward"
SCORED = "scored path"
CLASSES = 10
LIKELY = 10.0
"""Alpha of the choices of the path, where that of the others is near 0."""


@dataclass(frozen=True)
class Case:
    """Images of a size in batches, in the space of that size; ``weight``: the goal of the weight step."""

    space: str
    pixels: int
    batch: int
    weight: float


CASES = {"32": Case("small", 32, 64, 0.43), "224": Case("imagenet", 224, 8, 0.55)}


class Tasks:
    """The steps of one case, made when they are first asked for."""

    def __init__(self, case: Case, device: str = "auto", kernels: str = "auto", seed: int = 0) -> None:
        import torch

        from proxyless_nas.devices import pick_device
        from proxyless_nas.fast import kernels_in_use
        from search.algorithm.controllers import step_rng
        from search.algorithm.gates import sample_path

        self.device, self.seed, self.wanted = pick_device(device), seed, kernels
        self.kernels = kernels_in_use(kernels, self.device)
        ordinary = imagenet_preprocessing(case.pixels)
        preprocessing = replace(ordinary, resolution=case.pixels, resize=case.pixels)
        self.space = space_named(case.space).build(num_classes=CLASSES, preprocessing=preprocessing)
        rng = step_rng(seed, TorchStream.STEP_TIMING)
        self.path = sample_path([torch.zeros(len(ops)) for ops in self.space.choices], rng)
        self.images = torch.randn(case.batch, 3, case.pixels, case.pixels, generator=rng).to(self.device)
        self.labels = torch.randint(self.space.num_classes, (case.batch,), generator=rng).to(self.device)

    def named(self, name: str) -> Callable[[], object]:
        if name in (PLAIN, "null"):
            return self._plain()
        if name.startswith("plain, "):
            return self._plain(channels_last=True, kernels="kernels" in name, bf16="bf16" in name)
        if name == WEIGHT:
            search = self._search("full_v2")
            return lambda: search.weight_step(self._nhwc(), self.labels)
        if name in (FOLDED, SCORED):
            return self._folded() if name == FOLDED else self._scored()
        search = self._search("rl" if name.startswith("REINFORCE") else name)
        return lambda: search.arch_step(self._nhwc(), self.labels)

    def _nhwc(self) -> Any:
        import torch

        return self.images.contiguous(memory_format=torch.channels_last)

    def _network(self) -> Any:
        """The network of the path, alone."""
        from proxyless_nas.network import build

        return build(self.space.spec_for(self.path)).to(self.device)

    def _plain(self, channels_last: bool = False, kernels: bool = False, bf16: bool = False) -> Callable[[], object]:
        import torch
        from torch.nn import functional as F

        from proxyless_nas.fast import accelerate
        from proxyless_nas.steps import sgd

        memory = torch.channels_last if channels_last else torch.contiguous_format
        net = self._network().to(memory_format=memory).train()
        if kernels:
            accelerate(net, self.kernels)
        optimizer = sgd(net, lr=0.01, momentum=0.9, nesterov=True, weight_decay=4e-5, no_decay_bn=False)

        def step() -> None:
            images = self.images.contiguous(memory_format=memory)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                logits = net(images).float()
            F.cross_entropy(logits, self.labels, label_smoothing=0.1).backward()
            optimizer.step()

        return step

    def _search(self, mode: str) -> Any:
        """A search whose weight steps take the one path, and whose architecture steps hardly ever draw another."""
        import torch

        from hardware.cost import price_by, price_space
        from search.config import SearchConfig
        from search.run.loop import Search, schedule_of

        batch = len(self.labels)
        algorithm = {"arch_algo": "rl"} if mode == "rl" else {"grad_binary_mode": mode}
        config = SearchConfig.of(
            data_path="none", dataset="imagefolder", batch_size=batch, target_hardware="flops", warmup_epochs=0,
            kernels=self.wanted, seed=self.seed, **algorithm,
        )  # fmt: skip
        table = price_space(self.space, price_by(None))
        schedule = schedule_of(config, 1_000_000 * batch)
        search = Search(config, self.space, table, table.uniform_expected, schedule, self.device)
        with torch.no_grad():
            for alpha, choice in zip(search.alphas, self.path, strict=True):
                alpha[choice] = LIKELY
        search.sampled_path = lambda number=0: self.path  # type: ignore[method-assign]
        return search

    def _folded(self) -> Callable[[], object]:
        from proxyless_nas.inference import prepared

        forward = prepared(self._network().eval(), self.device)
        return lambda: forward(self.images)

    def _scored(self) -> Callable[[], object]:
        from proxyless_nas.steps import evaluate
        from search.run.scoring import ImageLosses, folded

        supernet = self._search("two").supernet
        forward = folded(supernet, self.path, supernet.network(self.path), self.device)
        return lambda: evaluate(forward, [(self._nhwc(), self.labels)], self.device, ImageLosses())
