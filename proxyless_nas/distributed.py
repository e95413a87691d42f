"""Several processes that train one network: ranks, reductions, broadcasts. With one process nothing here does anything.

Start them with ``torchrun --nproc_per_node=N script.py ...``; it sets RANK, WORLD_SIZE and LOCAL_RANK. One network is
trained through DistributedDataParallel (train/training.py). A supernet's gradients are all-reduced explicitly, in one
flat message per step: parameters without one (the paths that were not sampled) are simply left out of the list.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import hashlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

# Imported before there is a group: its functions take the default group as the default of an argument, and the first
# step of an optimizer imports it. Imported later it would keep the group, and gloo's threads, alive past
# destroy_process_group; the interpreter then aborts now and then as it ends.
import torch.distributed.nn.functional
from torch import Tensor

from proxyless_arch.apps.memory import Free
from proxyless_arch.base import memory
from proxyless_arch.base.errors import ElsewhereError, InputError
from proxyless_nas.devices import pick_device
from proxyless_nas.heartbeat import Heartbeat

TIMEOUT = datetime.timedelta(minutes=30)
"""A rank that is silent for so long is taken for dead (rank 0 may be writing files, or reading a large data set)."""
MEETING_TICK_S = 0.05

_by_itself = False


@contextlib.contextmanager
def by_itself() -> Iterator[None]:
    """Within it this process is the only one: what rank 0 does while the others do not take part."""
    global _by_itself
    before, _by_itself = _by_itself, True
    try:
        yield
    finally:
        _by_itself = before


def is_active() -> bool:
    """Whether a process group is up, and this process is not by_itself."""
    return not _by_itself and dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process, 0 .. world_size() - 1."""
    return dist.get_rank() if is_active() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if is_active() else 1


def local_size() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) if is_active() else 1


def is_main() -> bool:
    """Whether this process writes files and speaks."""
    return rank() == 0


@contextlib.contextmanager
def init_from_environment(device: str = "auto") -> Iterator[torch.device]:
    """Join the process group that torchrun describes, and yield this process's device; leave it at the end.

    Within another such block its group is used. Without torchrun's variables (or with one process) there is none. The
    backend follows the device: nccl for cuda, where each process takes the GPU of its local rank, gloo for the CPU.

    Args:
        device: as for devices.pick_device.

    Raises:
        InputError: a device that is not there, mps or one numbered GPU with several processes, or more processes than
            GPUs.
    """
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    picked = pick_device(device)
    if dist.is_available() and dist.is_initialized():  # within another such block
        yield torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if picked.type == "cuda" else picked
        return
    if n_processes == 1 or "RANK" not in os.environ:
        yield picked
        return
    if picked.type == "mps" or picked.index is not None:
        raise InputError(f"{n_processes} processes: expected auto, cpu or cuda, got {device!r}", "--device")
    if picked.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise InputError(
                f"local process {local} has no GPU: there are {torch.cuda.device_count()}; lower --nproc_per_node",
                "--device",
            )
        picked = torch.device("cuda", local)
        torch.cuda.set_device(picked)
    dist.init_process_group("nccl" if picked.type == "cuda" else "gloo", timeout=TIMEOUT, **_meeting_place())
    try:
        with Heartbeat.of_environment(dist.get_rank(), n_processes, TIMEOUT.total_seconds()):
            yield picked
    finally:
        gc.collect()  # a DistributedDataParallel in a circle of references would outlive its group
        dist.destroy_process_group()


def _meeting_place() -> dict[str, Any]:
    """Where processes meet that torchrun started anew (--max-restarts), as arguments of init_process_group; else none.

    Its agents keep one store for all attempts, in which the addresses of processes that have ended still stand; torch
    takes them for those of today where the agents' counts of restarts differ, as they do on several machines: only the
    agent whose process failed counts. Each attempt meets under a name of its own.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    on_one_machine = os.environ.get("GROUP_WORLD_SIZE") == "1"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if on_one_machine and attempt == "0":
        return {}
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    number, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    agent = dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=TIMEOUT)
    if not on_one_machine:
        attempt = agreed_attempt(dist.PrefixStore("meeting", agent), number, size, TIMEOUT.total_seconds())
    return {"store": dist.PrefixStore(f"attempt {attempt}", agent), "rank": number, "world_size": size}


def agreed_attempt(store: Any, number: int, size: int, patience: float) -> str:
    """A name that all processes of this attempt have, and none of an earlier one: it is held by rank 0 and each other
    one of those that are alive.

    Rank 0 draws it, each other process signs it with a name of its own, and rank 0 says whose signatures it has. A
    process that finds itself not among them looks at what is left from an attempt before, and waits for another name.

    Raises:
        RuntimeError: not all came within ``patience`` seconds.
    """
    own, end = uuid.uuid4().hex, time.monotonic() + patience
    if number == 0:
        store.set("attempt", own)
        signed = [store.get(f"{own}/{other}").decode() for other in range(1, size)]  # waits
        store.set(f"{own}/complete", ",".join(signed))
        return own
    signed_last = ""
    while time.monotonic() < end:
        found = store.get("attempt").decode()
        if found != signed_last:
            store.set(f"{found}/{number}", own)
            signed_last = found
        if store.check([f"{found}/complete"]) and own in store.get(f"{found}/complete").decode().split(","):
            return found
        time.sleep(MEETING_TICK_S)
    raise RuntimeError(f"connection closed by peer: rank {number} found no others within {patience:g} s")


def least_free(device: torch.device) -> Free:
    """The memory free to each process: the least that any has, of a machine that some share. Every rank must call it.

    Apple's GPU (mps) computes in the machine's own memory.
    """
    own = memory.free_memory()
    machine = own // local_size() if own is not None else None
    has_gpu = device.type == "cuda"
    gpu = torch.cuda.mem_get_info(device)[0] if has_gpu else None
    found = gathered((machine, gpu))
    least = [None if None in column else min(column) for column in zip(*found, strict=True)]
    return Free(least[0], least[1], has_gpu)


def all_reduce_sum(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, in place, by its sum over the ranks: one message per (device, dtype).

    Every rank must give tensors of the same shapes in the same order.
    """
    if world_size() == 1:
        return
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    with torch.no_grad():
        for group in groups.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
            dist.all_reduce(flat)
            for tensor, summed in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
                tensor.copy_(summed.view(tensor.shape))


def all_reduce_mean(tensors: Sequence[Tensor]) -> None:
    """Replace each floating-point tensor, in place, by its mean over the ranks."""
    all_reduce_sum(tensors)
    if world_size() > 1:
        with torch.no_grad():
            for tensor in tensors:
                tensor.div_(world_size())


def summed(*values: float) -> list[float]:
    """Each number summed over the ranks, in double precision (a flag is how many ranks raised it)."""
    if world_size() == 1:
        return [float(value) for value in values]
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def broadcast(tensors: Sequence[Tensor], source: int = 0) -> None:
    """Replace each tensor, in place, by the one of rank ``source``."""
    if world_size() > 1:
        with torch.no_grad():
            for tensor in tensors:
                # a channels_last tensor is not contiguous, and collectives move bytes in order
                sent = tensor.detach().contiguous()
                dist.broadcast(sent, source)
                tensor.copy_(sent)


def broadcast_value(value: Any, source: int = 0) -> Any:
    """Rank ``source``'s value (anything that pickles; the ranks trust each other)."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, source)
    return box[0]


def gathered(value: Any) -> list[Any]:
    """Every rank's value (anything that pickles), in the order of the ranks. Every rank must call it, and gets all."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """What one rank cannot do, none goes on after: they meet at the end of the block, and every rank ends at once.

    For what the ranks do apart (rank 0 alone makes the run folder); there may be no collective in the block.

    Raises:
        InputError, OSError: on the first rank whose block raised it, which is the one to report it.
        ElsewhereError: on all other ranks, which have nothing to say.
    """
    error: InputError | OSError | None = None
    try:
        yield
    except (InputError, OSError) as caught:
        error = caught
    failed = gathered(error is not None)
    if error is not None and failed.index(True) == rank():
        raise error
    if True in failed:
        raise ElsewhereError(is_input=True)


def barrier() -> None:
    """Wait for every rank."""
    if world_size() > 1:
        dist.barrier()


def same_on_all_ranks(tensors: Sequence[Tensor]) -> bool:
    """Whether every rank has these tensors, bit for bit. Every rank must call it."""
    if world_size() == 1:
        return True
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return len(set(gathered(digest.digest()))) == 1
