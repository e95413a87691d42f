"""Machine code that is kept: the same bits without compiling; what is not whole or not one's own is never run."""

import os
from pathlib import Path

import pytest
import torch

from proxyless_nas.fast import compiler, expand_kernel, kernel_cache
from proxyless_nas.fast.expand_kernel import Layer, Moments
from tests.torch_zoo.test_depthwise import images

compiled = pytest.mark.skipif(compiler.version() is None, reason="needs the extra [fast]: llvmlite")
LAYER = Layer(3, 1, (1, 1), 6, 7, 6, 7)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path / "proxyless_nas" / "kernels"
    expand_kernel._compiled.cache_clear()


@pytest.fixture
def passes(monkeypatch):
    """How many times something was compiled."""
    binding, made = compiler.llvm(), []
    build = binding.create_pass_builder
    monkeypatch.setattr(binding, "create_pass_builder", lambda *given: made.append(given) or build(*given))
    return made


def computed():
    """By a kernel that this process does not have yet."""
    expand_kernel._compiled.cache_clear()
    x, first, taps = images(2, 8, 6, 7), images(32, 8, 1, 1, seed=1), images(32, 1, 3, 3, seed=2)
    norm = torch.ones(32), torch.zeros(32), 1e-3
    return expand_kernel.forward(x, Moments.of(x), first, norm, taps, norm, (0.0, 6.0), LAYER)


def files(folder):
    return list(folder.iterdir()) if folder.exists() else []


@compiled
def test_what_is_kept_is_not_compiled_again_and_computes_the_same_bits(folder, passes):
    first = computed()
    assert len(passes) == len(files(folder)) == 1
    assert all(map(torch.equal, computed(), first))
    assert len(passes) == 1


@compiled
@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "anyone's", "in anyone's folder"])
def test_what_is_damaged_or_could_be_anothers_is_compiled(folder, passes, how):
    first = computed()
    (file,) = files(folder)
    whole = file.read_bytes()
    changed = {"flipped": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], "cut": whole[:-1], "empty": b""}
    file.write_bytes(changed.get(how, whole))
    if how == "anyone's":
        file.chmod(0o602)
    if how == "in anyone's folder":
        folder.chmod(0o770)
    assert all(map(torch.equal, computed(), first))
    assert len(passes) == 2
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (whole, 0o600)  # and it is whole again


@compiled
def test_code_under_anothers_name_is_not_run(folder, passes):
    first = computed()
    (own,) = files(folder)
    kernel_cache.store("other", own.read_bytes()[kernel_cache.DIGEST :])
    (folder / "other").replace(own)
    assert all(map(torch.equal, computed(), first))
    assert len(passes) == 2


def test_no_moment_lets_others_write(folder, monkeypatch):
    """Whatever the umask: the file is made so, and not changed behind that."""
    modes, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda one, other: modes.append(one.stat().st_mode) or replace(one, other))
    before = os.umask(0)
    try:
        kernel_cache.store("name", b"code")
    finally:
        os.umask(before)
    assert kernel_cache.load("name") == b"code"
    assert [mode & 0o777 for mode in (*modes, (folder / "name").stat().st_mode)] == [0o600, 0o600]
    assert len(files(folder)) == 1


@compiled
def test_another_users_file_is_not_run(folder, passes, monkeypatch):
    computed()
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    computed()
    assert len(passes) == 2


@compiled
@pytest.mark.parametrize("place", ["a file", "none"])
def test_nothing_is_lost_where_nothing_can_be_kept(tmp_path, passes, monkeypatch, place):
    if place == "a file":
        (tmp_path / "proxyless_nas").write_text("")
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError()))
    assert all(map(torch.equal, computed(), computed()))
    assert len(passes) == 2


def test_a_name_is_of_each_part():
    assert kernel_cache.key_of("ab", "c") != kernel_cache.key_of("a", "bc")
    assert kernel_cache.key_of("ab", "c") == kernel_cache.key_of("ab", "c") != kernel_cache.key_of("ab", "c", "")


def test_the_first_written_make_room(folder, monkeypatch):
    monkeypatch.setattr(kernel_cache, "MOST_FILES", 3)
    for number in range(5):
        kernel_cache.store(f"{number}", b"%d" % number)
        os.utime(folder / f"{number}", (number, number))
    assert [kernel_cache.load(f"{number}") for number in range(5)] == [None, None, b"2", b"3", b"4"]
