"""Two gloo processes against one: the same updates, each image counted once, one answer on every rank."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from proxyless_arch.apps.scores import EvalResult
from proxyless_arch.arch.codec import write_spec
from proxyless_arch.base.errors import ElsewhereError, InputError
from proxyless_commands import train
from proxyless_nas import distributed
from search import imagenet_arch_search
from tests.processes import ended, free_port, ranks
from tests.scripts.mini import TRAIN, mini_net, same_run
from tests.torch_zoo import two_processes

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    statuses, complaints = ended(two_processes.main, [folder])
    assert statuses == [0, 0], complaints
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    return two_processes.run_cases()


@pytest.mark.parametrize("case", ["twins", "frozen", "accumulated", "short", "thawing"])
def test_two_processes_equal_one(both, alone, case):
    found, wanted = both[0]["cases"][case], alone[case]
    assert found["sums"][1:] == wanted["sums"][1:]
    assert found["sums"][0] == pytest.approx(wanted["sums"][0], rel=1e-5)
    for kind in ("net", "ema"):
        for name, tensor in wanted[kind].items():
            # torch's running variance is unbiased, n / (n - 1), and n is that of a share: at least 8 x 3 x 3 here
            rtol = 2 / (8 * 9) if name.endswith("running_var") else 1e-6
            torch.testing.assert_close(found[kind][name], tensor, rtol=rtol, atol=1e-7, msg=f"{kind} {name}")


def test_the_accumulated_case_is_the_frozen_one(alone):
    for name, tensor in alone["frozen"]["net"].items():
        torch.testing.assert_close(alone["accumulated"]["net"][name], tensor, rtol=1e-4, atol=2e-5)


def test_reductions_and_broadcasts(both):
    for rank, found in enumerate(each["checks"] for each in both):
        assert (found["rank"], found["world"], found["local"]) == (rank, 2, 2)
        assert found["sums"] == [[3.0] * 6, [1], [1.0, 1.0]]
        assert found["mean"] == [0.0, 1.5, 3.0, 4.5]
        assert found["value"] == {"from": 0}
        assert (found["same"], found["other"]) == (True, False)
        assert found["result"] == EvalResult(3, 4, 7, 0.5)


def test_one_rank_speaks_for_all(both):
    """A rank that wants to stop stops all; a rank with a NaN stops all before anything moves."""
    assert [each["checks"]["stop"] for each in both] == [True, True]
    assert [each["checks"]["refused"] for each in both] == [True, True]


def test_rank_0_trains_by_itself_what_one_process_would(both):
    world, net = both[0]["checks"]["alone"]
    _, expected = two_processes.alone_after_a_step()
    assert world == 1
    for name, tensor in expected.items():
        torch.testing.assert_close(net[name], tensor, rtol=0, atol=0, msg=name)


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")  # left over by a scheduler
    with distributed.init_from_environment("cpu") as device:
        assert device == torch.device("cpu")
        assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
        tensor = torch.ones(2)
        distributed.all_reduce_mean([tensor])
        distributed.broadcast([tensor])
        distributed.barrier()
        assert tensor.tolist() == [1, 1]
        assert distributed.broadcast_value(3) == 3
        assert distributed.same_on_all_ranks([tensor])
        own = InputError("own")
        with pytest.raises(InputError) as caught, distributed.fail_together():
            raise own
        assert caught.value is own


@pytest.mark.parametrize(("failed", "silent"), [([True, False], True), ([True, True], True), ([False, True], False)])
def test_a_library_ends_its_caller_in_no_rank(monkeypatch, failed, silent):
    """Seen from rank 1: an error of its own, or one that says that another rank has it."""
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "gathered", lambda value: [failed[0], value])
    own = InputError("own")
    with pytest.raises(ElsewhereError if silent else InputError) as caught, distributed.fail_together():
        if failed[1]:
            raise own
    assert caught.value.is_input if silent else caught.value is own


def test_devices_that_ranks_cannot_share(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--device"), distributed.init_from_environment("cpu:0"):
        pass


# -------------------------------------------------------------------------------------------------------- the scripts


def by_torchrun(words) -> str:
    """What train.py prints, started as a person starts it."""
    command = [*LAUNCH, str(ROOT / "train.py"), *map(str, words)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def forked(words) -> str:
    with ranks(train.main, words) as both:
        return "".join(child.must_succeed() for child in both)


@pytest.mark.parametrize("start", [forked, pytest.param(by_torchrun, marks=pytest.mark.slow)])
def test_train_counts_once_and_survives_a_killed_rank(start, tmp_path):
    write_spec(tmp_path / "mini.json", mini_net())
    words = [*TRAIN, "--epochs", "3", "--arch", str(tmp_path / "mini.json"), "--device", "cpu"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert start([*words, "--path", straight]).count("run folder") == 1  # rank 0 alone speaks
    result = json.loads((straight / "result.json").read_text())
    assert (result["n_test_images"], result["n_valid_images"], result["processes"]) == (360, 287, 2)

    metrics = broken / "metrics.jsonl"
    with ranks(train.main, [*words, "--path", broken]) as begun:
        while not (metrics.exists() and metrics.stat().st_size):  # one epoch is done
            time.sleep(0.005)
            assert begun[0].poll() is None
        begun[1].kill()
        assert begun[0].wait(60) != 0  # it does not wait for ever
    assert not (broken / "result.json").exists()
    statuses, complaints = ended(train.main, ["--path", broken, "--resume"])
    assert statuses == [0, 0], complaints
    same_run(straight, broken)


def rank_of(agent: int, rank: int) -> int | None:
    """The number of a process that torchrun's agent has started; None where it is another's."""
    for place in Path(f"/proc/{agent}/task").glob("*/children"):
        for child in map(int, place.read_text().split()):
            if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                return child
    return None


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not tell of its processes")
@pytest.mark.parametrize("victim", [0, 1])
def test_torchrun_goes_on_by_itself_where_a_rank_was_killed(victim, tmp_path):
    """The same words start a run and go on with it."""
    write_spec(tmp_path / "mini.json", mini_net())
    words = [*TRAIN, "--epochs", "3", "--arch", str(tmp_path / "mini.json"), "--device", "cpu", "--resume", "auto"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    forked([*words, "--run_dir", straight])
    restarting = [*LAUNCH, "--max-restarts=1", "--monitor-interval=0.1", str(ROOT / "train.py"), *words]
    with (
        open(tmp_path / "output", "w") as output,
        subprocess.Popen([*restarting, "--run_dir", broken], env=ENVIRONMENT, stdout=output, stderr=output) as agent,
    ):
        while not (broken / "checkpoint.pt").exists() and agent.poll() is None:
            time.sleep(0.01)
        os.kill(rank_of(agent.pid, victim), signal.SIGKILL)
        assert agent.wait(600) == 0, (tmp_path / "output").read_text()
    assert len(json.loads((broken / "environment.json").read_text())["resumed"]) == 1
    same_run(straight, broken)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not tell of its processes")
@pytest.mark.parametrize("victim", [0, 1])
def test_two_agents_go_on_by_themselves_where_a_process_of_one_was_killed(victim, tmp_path):
    """The other agent does not count the restart; both meet anew at once, and the run comes to the same bits."""
    write_spec(tmp_path / "mini.json", mini_net())
    words = [*TRAIN, "--epochs", "3", "--arch", str(tmp_path / "mini.json"), "--device", "cpu", "--resume", "auto"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    forked([*words, "--run_dir", straight])
    agents = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--max-restarts=1"]
    agents += ["--monitor-interval=0.1", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{free_port()}"]
    command = [sys.executable, *agents, "--rdzv_id=two", str(ROOT / "train.py"), *words, "--run_dir", str(broken)]
    with open(tmp_path / "output", "w") as output:
        begun = [subprocess.Popen(command, env=ENVIRONMENT, stdout=output, stderr=output) for _ in range(2)]
        try:
            while not (broken / "checkpoint.pt").exists() and begun[0].poll() is None:
                time.sleep(0.01)
            (number,) = [found for agent in begun if (found := rank_of(agent.pid, victim)) is not None]
            os.kill(number, signal.SIGKILL)
            assert [agent.wait(300) for agent in begun] == [0, 0], (tmp_path / "output").read_text()
        finally:
            for agent in begun:
                agent.kill()
    assert len(json.loads((broken / "environment.json").read_text())["resumed"]) == 1
    same_run(straight, broken)


def meeting(store, size):
    """What ``size`` processes of one attempt agree on; each is a thread."""
    with ThreadPoolExecutor(size) as pool:
        found = [pool.submit(distributed.agreed_attempt, store, number, size, 20.0) for number in range(size)]
        return [each.result() for each in found]


def test_processes_of_one_attempt_agree_and_none_takes_what_an_earlier_one_left(monkeypatch):
    monkeypatch.setattr(distributed, "MEETING_TICK_S", 0.001)
    store = torch.distributed.HashStore()
    first, second = meeting(store, 3), meeting(store, 3)
    assert len(set(first)) == len(set(second)) == 1
    assert first[0] != second[0]
    # of a third one rank 1 signed, and was killed before the others came
    with ThreadPoolExecutor(3) as pool:
        gone = [pool.submit(distributed.agreed_attempt, store, number, 3, 0.2) for number in (1, 2)]
        assert all(isinstance(each.exception(), RuntimeError) for each in gone)
    fourth = meeting(store, 2)  # and the next one has a process less
    assert len({*first, *second, *fourth}) == 3


@pytest.mark.parametrize("command", [train.main, imagenet_arch_search.main])
def test_what_rank_0_alone_is_refused_ends_both_ranks_with_one_message(command, tmp_path):
    write_spec(tmp_path / "mini.json", mini_net())
    (tmp_path / "metrics.jsonl").write_text("{}\n")  # the run folder is taken
    flags = [*TRAIN, "--arch", tmp_path / "mini.json"] if command is train.main else ["--target_hardware", "flops"]
    statuses, complaints = ended(command, [*flags, "--device", "cpu", "--path", tmp_path])
    assert statuses == [2, 2], complaints
    assert complaints[0].count("already contains a run") == complaints[0].count("\n") == 1
    assert complaints[1] == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "mini.json"]
