"""Which prices a pruning takes, and whether it measures here: as a search does."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import compress.pruning.device as devices
from compress.pruning.config import PruneConfig
from compress.pruning.session import price
from hardware.profile import pricing
from hardware.profile.device import ProfileSettings, subject_of
from hardware.profile.trust import MAX_MOVED
from hardware.table import LookupTable, layer_key
from proxyless_arch.arch import catalog
from proxyless_arch.arch.codec import write_spec
from proxyless_arch.arch.shrink import shrink
from proxyless_arch.arch.spec import imagenet_preprocessing, with_channels
from proxyless_arch.arch.walk import walk
from proxyless_arch.base.cli import INTERRUPTED
from proxyless_arch.space.named import space_named
from proxyless_arch.space.shrinking import Freedom, change_of, groups_of, layers_of, whole_path
from proxyless_arch.weights.files import save_safetensors
from proxyless_commands import prune
from tests.errors import refused
from tests.hardware.fake_device import FakeDevice
from tests.proxyless_arch.nets import random_tensors

PREDICTOR = Path(__file__).resolve().parents[2] / "hardware" / "tables" / "amd_epyc_onnxruntime_predictor.json"
SPEC = catalog.load("proxyless_mobile")
TINY = space_named("tiny").build(num_classes=10, preprocessing=imagenet_preprocessing(16))
MINI = TINY.spec_for(TINY.same_choice(0))


def latency_source(file, spec=SPEC, hardware="cpu", **given):
    config = PruneConfig(target_hardware=hardware, latency_table=str(file), **given)
    return devices.latency_source(config, spec)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Writes a predictor as if it were made by the device that is here, simulated."""
    here = FakeDevice()
    monkeypatch.setattr(pricing, "runtime_named", lambda *wanted: here)
    record = json.loads(PREDICTOR.read_text())
    record["provenance"] |= {name: value for name, value in here.facts().items() if name in record["provenance"]}

    def write(**changes):
        path = tmp_path / "predictor.json"
        path.write_text(json.dumps(record | {"provenance": record["provenance"] | changes}))
        return path

    return write


def test_a_file_of_another_machine_prices_and_is_not_measured(made):
    source, device = latency_source(PREDICTOR)
    assert (source.provenance["device"], device) == ("AMD EPYC", None)


@pytest.mark.parametrize(("moved", "known"), [(1.0, True), (1 + 2 * MAX_MOVED, False)])
def test_a_file_of_this_machine_is_measured_beside_its_anchor(moved, known, made, monkeypatch):
    monkeypatch.setattr("hardware.profile.trust.Anchor.now", lambda anchor: 4.0)
    _, device = latency_source(made(anchor_ms=4.0 / moved))
    assert device.anchor.runtime.name == "fake"
    assert device.reference_ms == (4.0 if known else None)


@pytest.mark.parametrize("hardware", ["cpu", "mobile"])
@pytest.mark.parametrize(
    ("changes", "named"),
    [({"batch_size": 8}, "8"), ({"resolution": 160}, "160"), ({"dtype": "float16"}, "'float16'")],
)
def test_other_conditions_are_refused_unless_forced(hardware, changes, named, made):
    path = made(device="elsewhere", **changes)
    with refused("provenance", *changes, named, "--force_latency_table", source=path):
        latency_source(path, hardware=hardware)
    latency_source(path, hardware=hardware, force_latency_table=True)


def test_another_runtime_than_was_asked_for_is_refused(made):
    path = made(device="elsewhere", runtime="litert")
    latency_source(path)
    with refused("provenance", "runtime", "'litert'", "'onnxruntime'", source=path):
        latency_source(path, runtime="onnxruntime")
    here = made(runtime="litert")
    with refused("provenance", "runtime", "'litert'", "'fake'", source=here):
        latency_source(here)


def test_other_pixels_than_the_networks_are_refused(made):
    small = replace(SPEC, preprocessing=imagenet_preprocessing(96))
    with refused("provenance", "224", "96", source=PREDICTOR):
        latency_source(PREDICTOR, small)


def test_a_file_that_failed_its_validation_is_refused(tmp_path, made):
    record = json.loads(PREDICTOR.read_text())
    record["error"]["net"]["mape"] = 31.0
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(record))
    with refused("error.net", "31.0", "--force_latency_table", source=path):
        latency_source(path)
    latency_source(path, force_latency_table=True)


def test_a_model_of_this_machine_that_is_not_good_is_told_of_and_used(made, tmp_path, monkeypatch, capsys):
    record = json.loads(made(anchor_ms=4.0).read_text())
    record["error"]["net"] |= {"kendall": 0.81, "mape": 31.0}
    (tmp_path / "predictor.json").write_text(json.dumps(record))
    monkeypatch.setattr("hardware.profile.trust.Anchor.now", lambda anchor: 4.0)
    monkeypatch.setattr(pricing.profiler, "default_output", lambda conditions: tmp_path)
    source, device = devices.latency_source(PruneConfig(target_hardware="cpu"), SPEC)
    assert source.error["net"]["kendall"] == 0.81 and device.reference_ms == 4.0
    reasons = "(MAPE 31.0 % is above 5 %; Kendall's tau 0.810 is below 0.9)"
    assert f"model did not pass its validation on whole networks {reasons}; networks" in capsys.readouterr().out


@pytest.fixture
def network(tmp_path):
    write_spec(tmp_path / "net.json", MINI)
    return str(tmp_path / "net.json")


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    """This machine, profiled in a few networks."""
    here = FakeDevice()
    monkeypatch.setattr(pricing, "runtime_named", lambda *wanted: here)
    monkeypatch.setattr("hardware.profile.device.runtime_named", lambda *wanted: here)
    few = {"quick": True, "rounds": 1, "design_nets": 20, "validation_nets": 40}
    monkeypatch.setattr(devices, "ProfileSettings", partial(ProfileSettings, **few))
    monkeypatch.setattr("hardware.profile.device.ROOT", tmp_path)
    return here


def test_this_machine_is_measured_once_for_the_layers_that_a_pruning_may_make(network, simulated):
    config = PruneConfig(target_hardware="cpu", arch=network)
    assert devices.unmeasured(config, MINI).parent == network
    source, place = devices.latency_source(config, MINI)
    groups = groups_of(MINI, config.freedom)
    table = price(MINI, groups, source, config)
    assert isinstance(source, LookupTable)
    for path in (whole_path(groups), table.min_path):
        assert table.of_path(path) == pytest.approx(
            simulated.true_ms(walk(shrink(MINI, change_of(groups, path)))), rel=0.1
        )
    assert place.anchor.runtime is simulated
    n_timed = simulated.n_timings
    assert devices.latency_source(config, MINI)[0] == source
    assert simulated.n_timings == n_timed


@pytest.mark.parametrize(
    ("given", "spec", "widths"),
    [
        ({}, MINI, (8, 0.2)),
        ({"smallest_width": 1.0, "prune_kernels": False}, MINI, (8, 0.2)),
        ({"method": "amc"}, MINI, (8, 0.2)),
        ({"width_multiple": 4}, MINI, (4, 0.2)),
        ({"smallest_width": 0.05}, MINI, (8, 0.05)),
        ({}, with_channels(MINI, 1), None),
    ],
)
def test_layers_that_the_usual_table_has_not_have_one_of_their_own_or_a_model(given, spec, widths, network):
    config = PruneConfig(target_hardware="cpu", arch=network, **given)
    settings, found = devices.profile_settings(config, spec)
    if widths is None:
        assert (settings.parent, found) == (None, "predictor.json")
        return
    assert (settings.parent, found) == (network, "table.json")
    assert (settings.width_multiple, settings.smallest_width) == widths
    assert ("--width_multiple" in settings.command()) == (widths[0] != 8)
    measured = {layer_key(call) for call in subject_of(settings).more}
    assert {layer_key(call) for call in layers_of(spec, groups_of(spec, config.freedom))} <= measured


def test_a_dry_run_says_what_would_be_measured_first(network, simulated, tmp_path, monkeypatch, capsys):
    trained_net = tmp_path / "net.safetensors"
    save_safetensors(trained_net, MINI, random_tensors(MINI), {})
    words = ["--arch", str(trained_net), "--dataset", "digits", "--target_hardware", "cpu", "--device", "cpu"]
    assert prune.main([*words, "--keep", "0.5", "--dry_run"]) == 0
    said, n_layers = capsys.readouterr().out, len(set(map(layer_key, layers_of(MINI, groups_of(MINI, Freedom())))))
    assert "whose latency table would be measured first" in said and f"--from {trained_net}" in said
    assert f"{n_layers} layers" in said or f"{n_layers - 1} layers" in said  # one that vanishes costs nothing
    assert "to measure and choose" in said and simulated.n_timings == 0


def test_an_interrupted_measurement_is_gone_on_with(network, simulated, tmp_path, capsys):
    trained_net = tmp_path / "net.safetensors"
    save_safetensors(trained_net, MINI, random_tensors(MINI), {})
    words = ["--arch", str(trained_net), "--dataset", "digits", "--target_hardware", "cpu", "--device", "cpu"]
    simulated.stop_after = 150
    assert prune.main([*words, "--run_dir", str(tmp_path / "run")]) == INTERRUPTED
    said = capsys.readouterr().out
    assert "every timing is kept: the same command goes on" in said and "give the same command again" in said
    simulated.stop_after, simulated.n_sessions = None, 0
    config = PruneConfig(target_hardware="cpu", arch=str(trained_net))
    assert isinstance(devices.latency_source(config, MINI)[0], LookupTable)
    assert 0 < simulated.n_sessions < 100  # of some 190: the others were timed before
