"""What runs are called: by a person's name, else by what they are, and never two alike."""

import json
from pathlib import Path

import pytest

from proxyless_arch.base.units import Unit
from search.reporting.report_page import comparison, report
from search.reporting.run_folder import read_run
from search.reporting.titles import is_named, network_name, title_of, told_apart
from tests.errors import named
from tests.search.made_run import write_random, write_run

DATED = "20261130-014936"


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("mine", True), ("run", True), ("run3", True), ("v2-20261130", True), (DATED, False), (f"{DATED}-2", False),
     ("2026-11-30T01:49Z", False), ("run_20261130", False), ("search 2026.11.30", False)],
)  # fmt: skip
def test_a_date_is_no_name(tmp_path, folder, expected):
    write_run(tmp_path / folder, warmup=0, epochs=0, finished=False)
    assert is_named(read_run(tmp_path / folder)) is expected


def of(tmp_path, name=DATED, settings=None, **more):
    write_run(tmp_path / name, warmup=1, epochs=1, **more)
    config = tmp_path / name / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | (settings or {})))
    return read_run(tmp_path / name)


def test_a_run_without_a_name_is_called_by_what_it_is(tmp_path):
    assert title_of(of(tmp_path, "mine")) == "mine"
    run = of(tmp_path)
    named(title_of(run), "digits", "mobile", "2.773 of 2.787 ms")
    assert f"<h1>{title_of(run)}</h1>" in report(run) and f"<h1>{DATED}" not in report(run)
    photos = {"dataset": "imagefolder", "data_path": "/data/my photos.zip"}
    named(title_of(of(tmp_path, "20261130-000001", photos)), "my photos", "mobile", "2.773 of 2.787 ms")
    named(title_of(of(tmp_path, "20261130-000002", finished=False)), "digits", "mobile", "target 2.787 ms")
    assert title_of(of(tmp_path, "20261130-000003", hardware="flops")) == "digits, 6.51 of 6.54 M MACs"
    named(title_of(of(tmp_path, "20261130-000004", measured_latency_ms=2.9)), "mobile", "2.9 of 2.787 ms")
    write_random(tmp_path / "20261130-000005")
    named(title_of(read_run(tmp_path / "20261130-000005")), "digits", "mobile", "random networks", "target 2 ms")


def test_runs_side_by_side_have_short_titles_of_their_own(tmp_path):
    runs = [of(tmp_path, f"20261130-00000{k}", seed=seed) for k, seed in enumerate((0, 1))]
    assert [title_of(run) for run in told_apart(runs)] == ["mobile, 2.773 ms", "mobile, 2.458 ms"]
    again = of(tmp_path, "20261130-000007")
    found = [title_of(run) for run in told_apart([*runs, again, of(tmp_path, "mine")])]
    assert found == ["mobile, 2.773 ms #1", "mobile, 2.458 ms", "mobile, 2.773 ms #2", "mine"]
    alike = [*runs, of(tmp_path, "20261130-000009", settings={"manual_seed": 4}), again]
    assert [title_of(run) for run in told_apart(alike)] == [
        "mobile, 2.773 ms (seed 0) #1", "mobile, 2.458 ms", "mobile, 2.773 ms (seed 4)", "mobile, 2.773 ms (seed 0) #2"
    ]  # fmt: skip
    assert "<h1>Compared: mobile, 2.773 ms and mobile, 2.458 ms</h1>" in comparison(runs)
    other = of(tmp_path, "20261130-000008", {"target_hardware": "cpu", "data_path": "/photos"}, seed=1)
    assert [title_of(run) for run in told_apart([runs[0], other])] == [
        "digits, mobile, 2.773 ms",
        "photos, cpu, 2.458 ms",
    ]
    assert told_apart([]) == []


def test_a_network_is_not_called_by_a_date():
    """It is exported and drawn under its name."""
    digits = {"dataset": "digits", "data_path": None, "target_hardware": "mobile"}
    assert network_name(Path("runs/mine"), digits, 1.9, Unit.MS) == "mine"
    assert network_name(Path("runs") / DATED, digits, 1.9, Unit.MS) == "digits-mobile-1.9ms"
    photos = digits | {"data_path": "/data/my ph\udce9tos.zip", "target_hardware": "flops"}
    assert network_name(Path(DATED), photos, 4.6e6, Unit.MACS) == "my_ph_xe9tos-4.60MMACs"
    assert network_name(Path(DATED), digits | {"target_hardware": "none"}, None, None) == "digits"
