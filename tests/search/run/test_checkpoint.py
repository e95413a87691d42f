"""A checkpoint is whole or it is the one before; a file that is none is refused without being run."""

import errno
import os
import pickle

import pytest
import torch

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import atomic_path
from proxyless_arch.base.runs import PREVIOUS_FILE
from proxyless_arch.base.strict import shown
from proxyless_nas.train import checkpointing
from search.run.checkpoint import FORMAT, VERSION, Checkpoint, load, save
from tests.errors import refused


def state(step=7):
    rng = torch.Generator().manual_seed(step)
    return Checkpoint(
        config={"manual_seed": 3, "data_path": None, "width_mult": 0.1},
        step=step,
        supernet={"first_conv.conv.weight": torch.randn(4, 3, 3, 3, generator=rng)},
        optimizer={"state": {0: {"momentum_buffer": torch.randn(5, generator=rng)}}, "param_groups": [{"lr": 0.1}]},
        controller={"alphas": [torch.randn(3, generator=rng)], "optimizer": {}, "step": 2, "lam": 0.3, "deviation": 0},
        sums={"train_loss": 1 / 3},
        metrics_offset=123,
        wall_seconds=4.5,
        data={"train_images": 7},
        unreadable=["a.jpg"],
    )


def assert_equal(left, right):
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for ours, theirs in zip(left, right, strict=True):
            assert_equal(ours, theirs)
    else:
        assert left == right


def test_round_trip(tmp_path):
    path = tmp_path / "new folder" / "checkpoint.pt"
    save(path, state())
    assert_equal(vars(state()), vars(load(path)))
    save(path, state(8))
    assert load(path).step == 8
    assert {each.name for each in path.parent.iterdir()} == {"checkpoint.pt", PREVIOUS_FILE}


@pytest.mark.parametrize("place", range(0, 200, 7))
def test_any_flipped_bit_is_noticed_and_the_one_before_is_read(tmp_path, place):
    path = tmp_path / "checkpoint.pt"
    save(path, state())
    save(path, state(8))
    content = bytearray(path.read_bytes())
    content[-1 - place if place % 2 else place * len(content) // 200] ^= 1 << place % 8
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=PREVIOUS_FILE):
        assert load(path).step == 7
    save(path, state(9))  # the damaged one is the one before now
    assert load(path).step == 9


def test_one_without_its_hash_is_read(tmp_path):
    """As checkpoints were until the last two were kept."""
    path = tmp_path / "checkpoint.pt"
    torch.save({"format": FORMAT, "version": VERSION, **vars(state())}, path)
    assert_equal(vars(load(path)), vars(state()))


def test_a_file_system_without_hard_links_keeps_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    for step in (7, 8):
        save(tmp_path / "checkpoint.pt", state(step))
    assert load(tmp_path / "checkpoint.pt").step == 8
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_one_that_has_torchs_generator_is_read_without_it(tmp_path):
    """As checkpoints had until dropout was seeded in every step."""
    path = tmp_path / "checkpoint.pt"
    save(path, state())
    torch.save({**torch.load(path, weights_only=True), "torch_rng": [torch.get_rng_state()]}, path)
    assert_equal(vars(load(path)), vars(state()))


def test_a_cut_file_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save(path, state())
    whole = path.read_bytes()
    for eighths in range(8):
        path.write_bytes(whole[: len(whole) * eighths // 8])
        with pytest.raises(InputError, match="not a readable checkpoint") as caught:
            load(path)
        assert str(path) in str(caught.value)
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError):
        load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"hello",
        b"\x80\x02}q\x00.",
        b"PK\x03\x04",
        b"PK\x05\x06" + bytes(18),
        b"\x00" * 1000,
        b"c__main__\n",
    ],
    ids=repr,
)
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="checkpoint"):
        load(path)


def test_damaged_bytes_are_refused_or_without_effect(tmp_path):
    """Whatever a few flipped bits do, it is our error, or (in a date, say) nothing at all: never another state."""
    path = tmp_path / "checkpoint.pt"
    save(path, state())
    whole = path.read_bytes()
    rng = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in torch.randint(len(whole), (3,), generator=rng).tolist():
            damaged[place] ^= 1 << int(torch.randint(8, (1,), generator=rng))
        path.write_bytes(damaged)
        try:
            loaded = load(path)
        except InputError:
            refused += 1
        else:
            assert_equal(vars(loaded), vars(state()))
    assert refused > 100


@pytest.mark.parametrize(
    "value", [{"format": "something else"}, {"a": 1}, [1, 2], torch.zeros(3), "text", None], ids=str
)
def test_a_torch_file_of_someone_else_is_refused(tmp_path, value):
    path = tmp_path / "checkpoint.pt"
    torch.save(value, path)
    with refused("", "not a checkpoint", source=path):
        load(path)


def test_another_version_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for version in (VERSION + 1, str(VERSION), None):
        torch.save({"format": FORMAT, "version": version, **vars(state())}, path)
        with pytest.raises(InputError, match=f"version: expected version {VERSION}, got {shown(version)}"):
            load(path)


def test_missing_fields_are_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    fields = {name: value for name, value in vars(state()).items() if name not in ("sums", "step")}
    torch.save({"format": FORMAT, "version": VERSION, **fields}, path)
    with pytest.raises(InputError, match="missing step, sums"):
        load(path)


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "checkpoint.pt"):
        with pytest.raises(InputError, match="no checkpoint here"):
            load(path)


class Attack:
    """Unpickled, it creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_checkpoint_does_not_run(tmp_path, write):
    path, marker = tmp_path / "checkpoint.pt", tmp_path / "ran"
    write({"format": FORMAT, "version": VERSION, "config": Attack(marker)}, path)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load(path)
    assert not marker.exists()
    Attack(marker).__reduce__()[0](marker, "w").close()  # the attack would have worked
    assert marker.exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()], ids=repr)
def test_a_failed_save_leaves_the_one_before(tmp_path, monkeypatch, error):
    path = tmp_path / "checkpoint.pt"
    save(path, state())
    before, when = path.read_bytes(), path.stat().st_mtime_ns
    written = []

    def fails_half_way(file, *parts):
        with atomic_path(file) as temporary:
            temporary.write_bytes(b"half a checkpoint")
            written.append(temporary)
            raise error

    monkeypatch.setattr(checkpointing, "write_bytes", fails_half_way)
    with pytest.raises(type(error)):
        save(path, state(8))
    assert written
    assert written[0] != path
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == when
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.pt"]
    monkeypatch.undo()
    assert load(path).step == 7
