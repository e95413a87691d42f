"""How much memory is left, read from folders that look like /proc and /sys of a machine, a container and a job."""

import resource
import sys

import pytest

from proxyless_arch.base import memory
from proxyless_arch.base.memory import format_bytes, free_memory, resident_bytes

GB = 10**9


@pytest.fixture
def system(tmp_path, monkeypatch):
    """``system({path: content})``: a root with 20 GB available and these files; this process has no limits."""
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def made(files):
        machine = {"proc/meminfo": f"MemTotal: 9 kB\nMemAvailable:  {20 * GB // 1024} kB\n"}
        for name, content in {**machine, **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        return tmp_path

    return made


def test_without_groups_it_is_what_the_machine_has(system):
    assert free_memory(system({})) == 20 * GB // 1024 * 1024


def test_a_container_leaves_its_limit_less_its_use_and_cached_files_can_go(system):
    group = {"memory.max": f"{8 * GB}\n", "memory.high": "max\n", "memory.current": f"{3 * GB}\n"}
    stat = {"memory.stat": f"anon 5\ninactive_file {GB}\n"}
    files = {f"sys/fs/cgroup/{name}": text for name, text in (group | stat).items()}
    assert free_memory(system({"proc/self/cgroup": "0::/\n", **files})) == 6 * GB


def test_the_narrowest_of_nested_groups_counts(system):
    files = {"proc/self/cgroup": "0::/jobs/one\n"}
    for folder, limit in (("jobs", 4 * GB), ("jobs/one", 9 * GB)):
        files[f"sys/fs/cgroup/{folder}/memory.max"] = f"{limit}\n"
        files[f"sys/fs/cgroup/{folder}/memory.current"] = f"{GB}\n"
    assert free_memory(system(files)) == 3 * GB
    files["sys/fs/cgroup/jobs/one/memory.high"] = f"{2 * GB}\n"
    assert free_memory(system(files)) == GB


def test_groups_of_the_first_version(system):
    files = {
        "proc/self/cgroup": "7:pids:/x\n4:cpu,memory:/docker/abc\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GB}\n",
        "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {GB // 2}\n",
    }
    assert free_memory(system(files)) == 3 * GB // 2


def test_a_limit_of_the_shell(system, monkeypatch):
    root = system({"proc/self/status": "VmSize:\t1000000 kB\nVmData:\t500000 kB\n"})
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (3 * GB, 3 * GB))
    assert free_memory(root) == 3 * GB - 1_000_000 * 1024


def test_nothing_is_left_below_none(system):
    files = {"sys/fs/cgroup/memory.max": "10\n", "sys/fs/cgroup/memory.current": "99\n", "proc/self/cgroup": "0::/\n"}
    assert free_memory(system(files)) == 0


def test_where_no_system_tells_it_is_what_is_installed_or_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    monkeypatch.setattr(memory.os, "sysconf_names", {})
    assert free_memory(tmp_path) is None
    assert resident_bytes(tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_what_this_process_holds():
    held = resident_bytes()
    assert resident_bytes(field="VmHWM") > 0.9 * held > 10**6  # the two are counted at their own moments


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 MB"), (994e6, "994 MB"), (996e6, "1.0 GB"), (1.26e9, "1.3 GB"), (9.96e9, "10 GB"), (28.4e9, "28 GB")],
)
def test_bytes_for_a_person(count, text):
    assert format_bytes(count) == text
