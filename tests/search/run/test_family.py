"""Several targets in one call: one warm-up, a run folder for each, and what the family comes to."""

import json
import shlex

import pytest

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.runs import locked
from search import SearchConfig, imagenet_arch_search, run_family
from search.run import warmup

WORDS = shlex.split(
    "--space tiny --width_mult 0.05 --resolution 8 --device cpu --target_hardware flops --torch_threads 1 "
    "--valid_size 1200 --score_images 60 --recalibration_images 64 --score_networks 16 --rescore 2 "
    "--train_batch_size 32 --arch_algo predictor --warmup_epochs 1"
)


def searched(folder, targets, *more) -> int:
    return imagenet_arch_search.main(["--path", str(folder), *WORDS, "--target_macs", targets, *more])


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    folder = tmp_path_factory.mktemp("family") / "family"
    assert searched(folder, "3e5,4.5e5", "--strict_landing") == 0
    return folder


def test_one_warm_up_serves_all_targets(family):
    record = json.loads((family / "family.json").read_text())
    assert [entry["target"] for entry in record["networks"]] == [3e5, 4.5e5]
    for entry in record["networks"]:
        assert 0.99 * entry["target"] <= entry["predicted"] == entry["macs"] <= entry["target"]
        assert entry["landed"] is True
    first, second = (family / entry["run"] for entry in record["networks"])
    assert json.loads((second / "result.json").read_text())["warmup_from"] == str(first.absolute())
    assert (first / warmup.NAME).is_file()
    assert (family / "family.png").stat().st_size > 1000


def test_given_again_it_goes_on(family, capsys):
    record = json.loads((family / "family.json").read_text())
    last = family / record["networks"][1]["run"]
    (last / "result.json").unlink()
    before = (last / "scores.jsonl").read_bytes()
    assert searched(family, "3e5,4.5e5") == 0
    assert (last / "scores.jsonl").read_bytes() == before
    again = json.loads((family / "family.json").read_text())
    for entry in (*record["networks"], *again["networks"]):
        entry["wall_seconds"] = 0
    assert again == record
    assert "family.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("targets", "more", "place"),
    [
        ("3e5,1", (), "--target_macs"),  # out of reach, behind one that is not
        ("3e5,3e5", (), "--target_macs"),
        ("3e5,much", (), "--target_macs"),
        ("3e5,4e5", ("--arch_algo", "random"), "--target_macs"),
        ("3e5,4e5", ("--target_latency_ms", "3,4"), "--target_macs"),
    ],
)
def test_what_is_no_family_is_refused_before_anything(tmp_path, capsys, targets, more, place):
    assert searched(tmp_path / "family", targets, *more) == 2
    assert place in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_family_is_not_written_into_a_run(family, capsys):
    assert searched(family / "300000macs", "3e5,4e5") == 2
    assert "--run_dir" in capsys.readouterr().err


def test_a_family_is_held_against_other_processes(family, capsys):
    with locked(family):
        assert searched(family, "3e5,4.5e5") == 2
    assert "--run_dir" in capsys.readouterr().err


def test_a_program_asks_for_a_family_of_one_kind(tmp_path):
    config = SearchConfig()

    def place(**targets):
        with pytest.raises(InputError) as caught:
            run_family(config, tmp_path / "family", **targets)
        return caught.value.place

    assert place() == "targets"
    assert place(target_ms=(1, 2)) == "targets"
    assert place(target_macs=()) == "--target_macs"
    assert place(target_macs=(3e5, 3e5)) == "--target_macs"
    assert place(target_macs=(3e5, 4e5), target_latency_ms=(3, 4)) == "--target_latency_ms"
    assert not list(tmp_path.iterdir())
