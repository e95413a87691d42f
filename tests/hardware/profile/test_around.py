"""The layers that a pruning chooses from: profiled as those of a space are."""

import json
from dataclasses import replace

import pytest

from compress.pruning.choices import price_groups
from compress.pruning.config import PruneConfig
from hardware import profile_latency
from hardware.cost import price_by
from hardware.latency import load_latency_source
from hardware.profile import device as profiler
from hardware.profile.device import ProfileSettings, Sitting, profile_device
from proxyless_arch.arch.codec import write_spec
from proxyless_arch.arch.spec import imagenet_preprocessing
from proxyless_arch.base.cli import BAD_INPUT
from proxyless_arch.space.named import space_named
from proxyless_arch.space.shrinking import groups_of, whole_path
from tests.errors import refused
from tests.hardware.fake_device import FakeDevice

SPACE = space_named("tiny").build(num_classes=10, preprocessing=imagenet_preprocessing(16))
SPEC = SPACE.spec_for(SPACE.same_choice(0))
QUICK = {"quick": True, "rounds": 1, "design_nets": 20, "validation_nets": 40, "method": "isolated"}


@pytest.fixture
def network(tmp_path):
    write_spec(tmp_path / "net.json", SPEC)
    return str(tmp_path / "net.json")


def test_all_that_a_pruning_may_make_has_a_price(network, tmp_path):
    device = FakeDevice(isolated_error=0, overhead_ms=0)
    settings = ProfileSettings(parent=network, output=tmp_path / "out", **QUICK)
    profile_device(settings, device, say=lambda line: None)
    table = load_latency_source(tmp_path / "out" / "table.json")
    groups = groups_of(SPEC, PruneConfig().freedom)
    prices = price_groups(SPEC, groups, price_by(table))
    truth = price_groups(SPEC, groups, price_by(Truth(device)))
    for path in (whole_path(groups), prices.min_path):
        assert prices.of_path(path) == pytest.approx(truth.of_path(path), rel=0.02)
    assert table.provenance["space"].startswith(f"around {SPEC.name} ") and table.provenance["num_classes"] == 10


class Truth:
    source, offset_ms = "the device", 0.0

    def __init__(self, device):
        self.price_ms = device.cost_ms

    def extrapolated(self, call):
        return ()


def test_a_dry_run_says_how_long_and_leaves_what_is_there(network, tmp_path, monkeypatch, capsys):
    device, out = FakeDevice(), tmp_path / "out"
    monkeypatch.setattr(profiler, "runtime_named", lambda *_: device)
    words = ["--from", network, "--quick", "--rounds", "1", "--design_nets", "20", "--validation_nets", "40"]
    words += ["--output", str(out), "--dry_run"]
    n_ops = len(Sitting.of(ProfileSettings(parent=network, **QUICK), device).plan.ops)

    def said(*more):
        assert profile_latency.main([*words, *more]) == 0
        return capsys.readouterr().out

    first = said()
    assert f"{n_ops} timings of operations" in first and "nothing was written" in first and not out.exists()
    kept = ProfileSettings(parent=network, output=out, **QUICK | {"method": "in_network"})
    profile_device(kept, device, say=lambda line: None)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert "0 timings of operations" in said()
    assert f"{n_ops} timings of operations" in said("--fresh")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_images_that_the_strides_leave_no_pixel_of_are_not_timed(network, capsys):
    """The tiny space's come to 4, the imagenet one's to 32."""
    for words, size in ((["--space", "imagenet"], 31), (["--space", "wide"], 10)):
        assert profile_latency.main([*words, "--resolution", str(size), "--dry_run"]) == BAD_INPUT
        assert f"got {size}" in capsys.readouterr().err
    assert SPACE.reduction == 4
    with refused("--resolution", "4 or more", "got 3"):
        SPACE.check_side(3, "--resolution")


def test_another_network_of_that_name_is_another_table(network, tmp_path):
    one = Sitting.of(ProfileSettings(parent=network, **QUICK), FakeDevice())
    write_spec(tmp_path / "other.json", replace(SPACE.spec_for(SPACE.same_choice(1)), name=SPEC.name))
    other = Sitting.of(ProfileSettings(parent=str(tmp_path / "other.json"), **QUICK), FakeDevice())
    assert one.folder != other.folder and one.conditions["resolution"] == 16
    assert Sitting.of(ProfileSettings(parent=network, resolution=24, **QUICK), FakeDevice()).conditions[
        "resolution"
    ] == 24  # fmt: skip


@pytest.mark.parametrize(
    ("more", "place"),
    [
        (["--space", "tiny"], "--space"),
        (["--num_classes", "7"], "--num_classes"),
        (["--export_ops", "phone"], "--from"),
        (["--width_multiple", "0"], "--width_multiple"),
        (["--from", "nowhere"], "--from"),
        (["--resolution", "4"], "--resolution"),
    ],
)
def test_what_has_no_meaning_is_refused(more, place, network, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert profile_latency.main(["--from", network, *more]) == BAD_INPUT
    assert place in capsys.readouterr().err
    assert not (tmp_path / "phone").exists()


def test_the_command_has_what_was_asked(network):
    command = ProfileSettings(parent=network, runtime="litert").command()
    assert f"--from {network}" in command and "--space" not in command and "--num_classes" not in command


def test_a_network_of_no_squares_is_refused(network, tmp_path):
    oblong = replace(SPEC, preprocessing=replace(SPEC.preprocessing, resolution=(16, 24), resize=(16, 24)))
    write_spec(tmp_path / "oblong.json", oblong)
    file = tmp_path / "oblong.json"
    with refused("--from", source=file):
        profiler.subject_of(ProfileSettings(parent=str(file)))


def test_the_next_command_prunes_by_it(network, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(profiler, "runtime_named", lambda *wanted: FakeDevice(isolated_error=0))
    words = ["--from", network, "--quick", "--rounds", "2", "--method", "isolated", "--output", str(tmp_path / "out")]
    assert profile_latency.main(words) == 0
    out = capsys.readouterr().out
    assert f"prune.py --arch {network} --target_hardware cpu" in out and "table.json --keep 0.5" in out
    assert json.loads((tmp_path / "out" / "validation.json").read_text())["passed"] is True
