"""experiments/prune_time.py: its intervals, and how a network comes to its share of the time."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from experiments import prune_time as study
from hardware.latency import network_ms, shipped
from hardware.profile.pricing import Bench
from hardware.profile.profiling import Anchor
from proxyless_arch.apps.train_settings import TrainConfig
from proxyless_arch.arch.codec import write_spec
from proxyless_arch.arch.walk import walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.named import space_named
from proxyless_nas.train import run_training
from tests.hardware.fake_device import FakeDevice
from tests.scripts.mini import mini_net


def test_the_interval_of_a_median_leaves_out_what_order_statistics_allow():
    assert study.median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert study.median_interval([9, 1, 8, 2, 7, 3, 6, 4, 5]) == (2, 8)


class Clock(study.Clock):
    """Networks take 1.2 times what is predicted; what is chosen costs 0.99 of what it may."""

    def next_choice(self, product):
        self.choosers = {0: self}
        return super().next_choice(product)

    @property
    def priced(self):
        return None, None

    parent = study.Parent(beside_anchor=2.0, ms=1.0)

    def choose(self, way, source, share):
        net = mini_net(num_classes=round(1000 * share))
        return study.Choice(net, 0.99 * share)

    def by_magnitude(self, source, share):
        return self.choose(study.MAGNITUDE, source, share)

    def searched(self, runtime, share, parent_ms):
        return self.choose(study.SEARCHED, None, share)

    def timed(self, number, choices):
        timed = {product.name: [1.2 * 2.0 * choice.predicted] * 3 for product, choice in choices.items()}
        return {study.PARENT: [2.0] * 3} | timed


def test_a_network_that_is_off_is_chosen_again_for_what_makes_up_for_it(tmp_path, capsys):
    clock = Clock(study.TimeStudy(work=tmp_path), "onnxruntime", {})
    choices, last = clock.landed
    assert set(choices) == set(study.products(clock.study))
    for product, tried in clock.tried.items():
        assert [measured / product.share for _, measured in tried] == pytest.approx([1.188, 0.99])
        assert choices[product] == tried[1][0]
        assert last[product.name][0] == pytest.approx(0.99 * product.share)


def test_networks_at_shares_of_the_macs_are_those_that_are_there(tmp_path):
    (tmp_path / "0.5-best_random-0").mkdir()
    write_spec(tmp_path / "0.5-best_random-0" / "spec.json", mini_net())
    found = study.macs_networks(study.TimeStudy(work=tmp_path))
    assert [(task.share, task.way.name, spec.name) for task, spec in found] == [(0.5, "best random", "mini")]


@pytest.mark.parametrize("able", [True, False])
def test_every_product_has_a_file_of_its_own(able, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "has_torch_pruning", lambda: able)
    names = [product.name for product in study.products(study.TimeStudy(work=tmp_path, seeds=2))]
    per_share = len(study.WAYS) - (not able) + len(study.TWICE)
    assert len(set(names)) == len(names) == len(study.SHARES) * per_share


@pytest.fixture
def work(tmp_path):
    """A person's photos and trained network, and images that judge."""
    rng = np.random.default_rng(0)
    for part, count in (("photos/train", 30), ("photos/test", 5), ("judges", 26)):
        for label in range(4):
            folder = tmp_path / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.normal(60 * label, 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    write_spec(tmp_path / "net.json", mini_net(num_classes=4))
    given = {"arch": tmp_path / "net.json", "weights": "scratch", "data_path": tmp_path / "photos", "n_epochs": 1}
    run_training(TrainConfig.of(**given, device="cpu", n_worker=0), tmp_path / "parent", say=None)
    (tmp_path / "parent.json").write_text(json.dumps({"hits": "01" * 52, "macs": 387_000}))
    return tmp_path


def test_magnitudes_go_until_the_network_takes_its_share(tmp_path, monkeypatch):
    ladder = [mini_net(resolution=16), *(mini_net(resolution=side) for side in (14, 12, 10, 8))]
    chooser = study.Chooser(study.TimeStudy(work=tmp_path), 0)
    monkeypatch.setattr(study.Chooser, "magnitudes", ladder)
    monkeypatch.setattr(study.Chooser, "bench", SimpleNamespace(job=SimpleNamespace(spec=ladder[0])))
    source = shipped("pixel1")
    shares = [network_ms(source, walk(spec)) / network_ms(source, walk(ladder[0])) for spec in ladder]
    assert shares == sorted(shares, reverse=True)
    for share, spec in zip(shares, ladder, strict=True):
        assert chooser.by_magnitude(source, share + 1e-9).spec == spec
    with pytest.raises(InputError):
        chooser.by_magnitude(source, shares[-1] - 0.01)


@pytest.mark.slow
def test_all_of_it_on_a_simulated_device_and_nothing_twice(work, monkeypatch, capsys):
    device = FakeDevice(interaction=0.05, overhead_ms=0.01)
    place = Bench(Anchor(device, space_named("tiny").build(num_classes=4), 1), None)
    monkeypatch.setattr(study, "latency_source", lambda *_, **__: (shipped("pixel1"), place))
    monkeypatch.setattr(study, "WAYS", (*study.WAYS[:6], study.DEPTH))  # a search has a machine and a table of its own
    words = ["--work", str(work), "--runtimes", "onnxruntime", "--evaluations", "2", "--images", "16", "--rounds", "3"]
    words += ["--finetune_epochs", "1", "--output", str(work / "record.json")]
    assert study.main(words) == 0
    record = json.loads((work / "record.json").read_text())
    found = record["runtimes"]["onnxruntime"]["summary"]
    for way, entry in found["0.5"].items():
        assert all(each["rounds"] == 3 and 0.4 < each["median"] < 0.6 for each in entry["time_shares"])
        assert {"before", "after"} <= entry.keys()
        assert ("exact_ahead_after" in entry) == (way != "exact")
    assert {"exact", "best random", "amc", "random"} <= found["0.5"].keys()
    assert found["0.5"]["random"]["networks"] == len(found["0.5"]["random"]["time_shares"]) == 2
    assert found.keys() == {"0.5", "0.3", "any"}  # not all ways reach 0.3, which is no error
    assert set(found["any"]) == {"36 px", "32 px"}
    assert {"any"} == record["runtimes"]["onnxruntime"]["by_macs"].keys()
    timed, said = device.n_timings, capsys.readouterr().out
    assert "| onnxruntime | 50 | exact |" in said
    assert study.main(words) == 0
    assert (
        device.n_timings == timed and json.loads((work / "record.json").read_text())["runtimes"] == record["runtimes"]
    )
