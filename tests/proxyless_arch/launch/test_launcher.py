"""Jobs wherever they are done: the same files, a failure that is told and stops nobody, and no job left behind."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxyless_arch.base.cli import BAD_INPUT, FAILED, INTERRUPTED
from proxyless_arch.base.errors import InputError, StoppedError
from proxyless_arch.base.settings import with_settings
from proxyless_arch.launch import launcher, process
from proxyless_arch.launch.launcher import Ended, Job, Launcher, LaunchFlags, all_done, options_of
from tests.proxyless_arch.launch import made_engines

MADE = "tests.proxyless_arch.launch.made_jobs"
REHEARSAL = Launcher("slurm", options={"cluster": "local"})
LAUNCHERS = {
    "here": (Launcher(), None),
    "two processes": (Launcher("local", 2), None),
    "a fake of Ray": (Launcher("ray"), made_engines.ray),
    "a fake of submitit": (REHEARSAL, made_engines.submitit),
    "submitit": (REHEARSAL, None),
    "Ray": (Launcher("ray", 2), None),
}
OPTIONAL = {"submitit": "submitit", "Ray": "ray"}


@pytest.fixture
def chosen(request, monkeypatch):
    """A launcher of LAUNCHERS, by its name."""
    found, fake = LAUNCHERS[request.param]
    if request.param in OPTIONAL and importlib.util.find_spec(OPTIONAL[request.param]) is None:
        pytest.skip(f"{OPTIONAL[request.param]} is not installed")
    if fake is not None:
        monkeypatch.setitem(sys.modules, found.kind.replace("slurm", "submitit"), fake({}))
    return found


def writing(folder: Path, count: int) -> list[Job]:
    return [
        Job(f"part/{i}", f"{MADE}:write", {"path": str(folder / f"{i}.json"), "value": i * i}) for i in range(count)
    ]


@pytest.mark.parametrize("chosen", LAUNCHERS, indirect=True)
def test_the_same_files_come_and_a_failure_is_told_and_stops_nobody(chosen, tmp_path, capfd):
    bad = Job("bad", f"{MADE}:refuse", {"problem": "expected 3, got 4"})
    jobs = [*writing(tmp_path, 2)[:1], bad, *writing(tmp_path, 2)[1:]]
    ends = {end.name: end for end in chosen.run(lambda ended: jobs, tmp_path)}
    assert [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(2)] == [{"value": 0}, {"value": 1}]
    assert {name: end.status for name, end in ends.items()} == {"part/0": 0, "bad": BAD_INPUT, "part/1": 0}
    assert ends["bad"].told.splitlines()[-1] == "error: --it: expected 3, got 4"
    assert ends["bad"].line.startswith("bad: ")
    if not chosen.is_here:
        assert (tmp_path / "jobs" / "bad.log").read_text().startswith("first line")
        assert (tmp_path / "jobs" / "part-1.log").read_text() == "writing 1\n"
        assert "writing" not in capfd.readouterr().out


@pytest.mark.parametrize("chosen", ["here", "two processes"], indirect=True)
def test_what_another_job_leaves_lets_the_next_one_begin(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "LISTING_S", 0.05)
    first, second, third = writing(tmp_path, 3)

    def listed(ended):
        return [
            first,
            *([second] if (tmp_path / "0.json").exists() else []),
            *([third] if second.name in ended else []),
        ]

    assert [end.name for end in chosen.run(listed, tmp_path)] == ["part/0", "part/1", "part/2"]


def test_no_more_than_so_many_at_a_time(tmp_path, monkeypatch):
    left, most = [1] * 5, [0]

    class Fake:
        most, tick_s = 2, 0

        def begin(self, request, slot):
            running.append(slot)
            most[0] = max(most[0], len(running))
            assert len(set(running)) == len(running)  # each has a slot (a GPU) of its own

            class Running:
                def status(self):
                    left.pop()
                    running.remove(slot)
                    return 0

            return Running()

    running: list[int] = []
    monkeypatch.setattr(Launcher, "_place", lambda self, home: Fake())
    ends = list(Launcher("ray").run(lambda ended: writing(tmp_path, 5), tmp_path))
    assert (len(ends), left, most) == (5, [], [2])


def waiting(folder: Path, count: int) -> list[Job]:
    return [Job(f"{i}", f"{MADE}:wait_to_be_stopped", {"path": str(folder / str(i))}) for i in range(count)]


def wait_for(files) -> None:
    end = time.monotonic() + 60
    while not all(file.exists() for file in files) and time.monotonic() < end:
        time.sleep(0.02)
    assert all(file.exists() for file in files)


@pytest.mark.parametrize(
    "chosen", ["two processes", "submitit", pytest.param("Ray", marks=pytest.mark.slow)], indirect=True
)
def test_an_interrupt_ends_all_jobs_which_keep_what_they_have(chosen, tmp_path, monkeypatch):
    def listed(ended):
        if (tmp_path / "jobs" / "1.json").exists():
            wait_for(tmp_path / f"{i}.begun" for i in range(2))
            os.kill(os.getpid(), signal.SIGTERM)
        return waiting(tmp_path, 2)

    monkeypatch.setattr(launcher, "LISTING_S", 0.2)
    with pytest.raises(KeyboardInterrupt):
        all_done(chosen.run(listed, tmp_path), "run")
    wait_for(tmp_path / f"{i}.kept" for i in range(2))


def test_a_job_ends_with_the_process_that_began_it(tmp_path):
    (job,) = waiting(tmp_path, 1)
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"function": job.function, "arguments": job.arguments}))
    program = "import sys, time; from proxyless_arch.launch.process import Process, Path; Process(Path(sys.argv[1]))"
    words = [sys.executable, "-c", f"{program}; time.sleep(60)", str(request)]
    starter = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": process.import_paths()})
    try:
        wait_for([tmp_path / "0.begun"])
    finally:
        starter.kill()
        starter.wait()
    wait_for([tmp_path / "0.kept"])


def test_a_job_that_does_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "GRACE_S", 0)
    (job,) = waiting(tmp_path, 1)
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"function": job.function, "arguments": job.arguments}))
    running = process.Process(request)
    with process.ended_at_last(running):
        pass
    assert running.status() == -signal.SIGKILL


def test_a_fault_has_its_last_lines(tmp_path):
    (end,) = Launcher("local", 2).run(lambda ended: [Job("x", f"{MADE}:crash", {})], tmp_path)
    assert (end.status, end.told.splitlines()[-1]) == (FAILED, "ZeroDivisionError: a fault")


def ended(*ends: Ended):
    yield from ends


def test_the_names_of_what_failed_are_the_error():
    good, bad = Ended("a", 0, "", 0.0), Ended("b", BAD_INPUT, "one\nerror: expected 3", 0.0)
    worse = Ended("c", INTERRUPTED, "", 0.0)
    said: list[str] = []
    all_done(ended(good), "run", said.append)
    with pytest.raises(InputError, match="b: expected 3"):
        all_done(ended(good, bad), "run", said.append)
    with pytest.raises(StoppedError, match=r"2 .*b, c"):
        all_done(ended(bad, good, worse), "run", said.append)
    assert len(said) == 6


def test_what_ray_is_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    calls: dict = {}
    monkeypatch.setitem(sys.modules, "ray", made_engines.ray(calls))
    flags = with_settings(LaunchFlags(), {"launcher": "ray", "launcher_options": "num_gpus=1,address=here:1"})
    assert list(flags.chosen.run(lambda ended: [], tmp_path)) == []
    (address,), options = calls["init"]
    assert (address, calls["remote"]["num_gpus"]) == ("here:1", 1)
    assert str(process.ROOT) in options["runtime_env"]["env_vars"]["PYTHONPATH"]


def test_what_slurm_is_asked(tmp_path, monkeypatch):
    calls: dict = {}
    monkeypatch.setitem(sys.modules, "submitit", made_engines.submitit(calls))
    before = os.environ.get("PYTHONPATH")
    found = Launcher("slurm", options={"timeout_min": 60})
    assert [end.status for end in found.run(lambda ended: writing(tmp_path, 1), tmp_path)] == [0]
    assert (calls["cluster"], calls["options"]) == ("slurm", {"timeout_min": 60})
    assert calls["environment"].startswith(str(process.ROOT))
    assert os.environ.get("PYTHONPATH") == before
    with pytest.raises(InputError) as caught:
        list(Launcher("slurm", options={"timeout": 60}).run(lambda ended: [], tmp_path))
    assert caught.value.place == "--launcher_options"


@pytest.mark.parametrize(("kind", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed_is_named(kind, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install .*\[{kind}\]"):
        list(Launcher(kind).run(lambda ended: [], tmp_path))


@pytest.mark.parametrize(
    "given",
    [{"launcher_options": "fast"}, {"launcher_options": "a=1,,b=2"}, {"launcher": "lokal"}, {"jobs": 0}],
)
def test_wrong_flags(given):
    with pytest.raises(InputError) as caught:
        with_settings(LaunchFlags(), given)
    assert caught.value.place == f"--{next(iter(given))}"


@pytest.mark.parametrize(("kind", "options"), [("local", {"num_gpus": 1}), ("ray", {"gpus": 1})])
def test_options_of_another_launcher(kind, options, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", made_engines.ray({}))
    with pytest.raises(InputError) as caught:
        list(Launcher(kind, 2, options).run(lambda ended: [], tmp_path))
    assert caught.value.place == "--launcher_options"


def test_options_are_numbers_where_they_can_be():
    assert options_of("a=1, b=.5,c=x=y") == {"a": 1, "b": 0.5, "c": "x=y"}


def test_jobs_of_one_machine_share_its_cores_and_gpus(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launcher, "usable_cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert launcher.shares(3, 2) == {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "3"}
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert launcher.shares(16, 1) == {}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(launcher, "GPUS", Path("/nowhere"))
    assert launcher.shares(16, 1) == {}
