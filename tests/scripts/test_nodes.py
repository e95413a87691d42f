"""torchrun on several machines: two agents here, each in a folder of its own that the other does not see."""

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from proxyless_arch.arch.codec import write_spec
from tests.scripts.mini import mini_net

ROOT = Path(__file__).resolve().parents[2]
SEARCH = (
    "search/imagenet_arch_search.py --space tiny --width_mult 0.1 --resolution 8 --valid_size 1300 --batch_size 16 "
    "--warmup_epochs 1 --n_epochs 1 --target_hardware flops --recalibration plain"
)
TRAIN = "train.py --arch {spec} --dataset digits --epochs 1 --batch_size 64 --resolution 8"


def on_two_machines(words, tmp_path):
    """Run a command by two agents of one process each; returns the folder of each machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agent = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d"]
    agent += [f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=two"]
    script, *rest = shlex.split(words)
    homes = [tmp_path / "first", tmp_path / "second"]
    started = []
    for home in homes:
        home.mkdir()
        command = [sys.executable, *agent, str(ROOT / script), *rest, "--device", "cpu", "--run_dir", "run"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=home, env=environment, text=True, **pipes))
    try:
        ended = [(process.communicate(timeout=600), process.returncode) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [status for _, status in ended] == [0, 0], ended
    return homes


@pytest.mark.slow
@pytest.mark.parametrize("command", [SEARCH, TRAIN], ids=["search", "train"])
def test_one_machine_has_the_run_and_the_other_needs_no_disk_of_its(command, tmp_path):
    spec = tmp_path / "net.json"
    write_spec(spec, mini_net(resolution=8))
    homes = on_two_machines(command.format(spec=spec), tmp_path)
    runs = [home / "run" for home in homes if (home / "run").exists()]
    assert len(runs) == 1  # of the process that torchrun gave rank 0
    (run,) = runs
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    assert json.loads((run / "result.json").read_text())
    assert (run / "weights.safetensors").is_file()
