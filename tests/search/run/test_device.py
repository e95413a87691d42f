"""The door of a search for the machine at hand: which tables it takes, and a whole search on a simulated device."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hardware import profile_latency
from hardware.latency import SHIPPED_FOLDER
from hardware.profile import device as profiler
from hardware.profile import pricing
from hardware.profile.profiling import Measured, unique_ops
from hardware.table import LookupTable, Timing
from proxyless_arch.arch.spec import imagenet_preprocessing
from proxyless_arch.base.cli import NOT_LANDED
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json
from proxyless_arch.space.mbconv import MACROS, TINY, mbconv_space
from search import config, imagenet_arch_search
from search.result import read_result
from search.run import announce, device
from search.run import job as jobs
from tests.errors import error_line, line_of, named, refused
from tests.hardware.fake_device import FakeDevice

SMALL = ["--width_mult", "0.05", "--resolution", "8", "--device", "cpu", "--warmup_epochs", "0", "--n_epochs", "0"]
PASSED = {"passed": True, "reasons": [], "n": 30, "mape": 2.0, "kendall": 0.95}


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Every CPU runtime is this simulated device; tables are kept under ``tmp_path``."""
    found = FakeDevice(noise=0.01)
    facts = found.facts() | {"date": "2026-01-02T03:04:05+0000"}

    def named(hardware, name=None, threads=1):
        found.facts = lambda: facts | {"runtime": name or "onnxruntime", "threads": threads}
        return found

    monkeypatch.setattr(pricing, "runtime_named", named)
    monkeypatch.setattr(profiler, "runtime_named", named)
    monkeypatch.setattr(profiler, "ROOT", tmp_path)
    named(None)
    return found


def conditions(space, **changes):
    return {
        "device": "simulated", "runtime": "onnxruntime", "threads": 1, "dtype": "float32", "batch_size": 1,
        "resolution": space.preprocessing.resolution, "space": space.name, "width_mult": space.width_mult,
        "num_classes": space.num_classes,
    } | changes  # fmt: skip


def table_of(space, provenance, validation=PASSED):
    simulated = FakeDevice()
    entries = {key: Timing(simulated.cost_ms(call)) for key, call in unique_ops(space).items()}
    return LookupTable("made here", entries, provenance, validation)


def digits_space(classes=10):
    return mbconv_space(macro=TINY, width_mult=0.05, num_classes=classes, preprocessing=imagenet_preprocessing(8))


def prepared(*words):
    settings = imagenet_arch_search.effective_config(imagenet_arch_search.parse([*SMALL, *map(str, words)]))
    return jobs.prepare(settings, torch.device("cpu"))


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hardware", "condition", "value"),
    [
        ("cpu", "batch_size", 8), ("cpu", "resolution", 224), ("cpu", "dtype", "int8"), ("cpu", "threads", 4),
        ("cpu", "runtime", "litert"), ("mobile", "batch_size", 8), ("mobile", "resolution", 224),
        ("mobile", "dtype", "int8"),
    ],
)  # fmt: skip
def test_a_table_made_for_other_conditions_is_refused(fake, tmp_path, capsys, hardware, condition, value):
    path, space = tmp_path / "table.json", digits_space()
    words = ["--target_hardware", hardware, "--latency_table", str(path)]
    table_of(space, conditions(space)).save(path)
    assert prepared(*words).prices.file == path
    table_of(space, conditions(space, **{condition: value})).save(path)
    assert imagenet_arch_search.main([*SMALL, *words, "--path", str(tmp_path / "run")]) == 2
    received, wanted = f"{condition} {value!r}", repr(conditions(space)[condition])
    error_line(capsys.readouterr().err, "provenance", received, wanted, source=path)
    assert not (tmp_path / "run").exists()
    assert prepared(*words, "--force_latency_table").prices.file == path


def failed_table(path):
    space = digits_space()
    failed = PASSED | {"passed": False, "reasons": ["drift: the anchor moved"]}
    table_of(space, conditions(space), failed).save(path)


def scored_on_few(path):
    space = digits_space()
    table_of(space, conditions(space), PASSED | {"n": 10}).save(path)


def bad_predictor(path, **figures):
    shipped = json.loads((SHIPPED_FOLDER / "pixel1.json").read_text())
    write_json(path, shipped | {"provenance": conditions(digits_space()), "error": {"net": {"n": 30, **figures}}})


BAD = [
    (failed_table, "validation: did not pass its validation on whole networks (drift: the anchor moved)"),
    (scored_on_few, "(10 networks score, at least 30 must)"),
    (lambda path: bad_predictor(path, mape=40.0, kendall=0.95), "error.net: did not pass its validation on whole "
     "networks (MAPE 40.0 % is above 5 %)"),
    (lambda path: bad_predictor(path, mape=4.0, kendall=0.5), "(Kendall's tau 0.500 is below 0.9)"),
]  # fmt: skip


@pytest.mark.parametrize(("write", "problem"), BAD)
@pytest.mark.parametrize("hardware", ["cpu", "mobile"])
def test_prices_that_did_not_pass_are_refused(fake, tmp_path, capsys, hardware, write, problem):
    path = tmp_path / "prices.json"
    write(path)
    words = ["--target_hardware", hardware, "--latency_table", str(path)]
    assert imagenet_arch_search.main([*SMALL, *words, "--path", str(tmp_path / "run")]) == 2
    assert problem in capsys.readouterr().err
    assert prepared(*words, "--force_latency_table").prices.file == path


def test_what_is_not_recorded_is_not_held_against_a_file(fake, tmp_path):
    space = digits_space()
    table_of(space, {}, {}).save(tmp_path / "table.json")
    for hardware in ("cpu", "mobile"):
        assert prepared("--target_hardware", hardware, "--latency_table", tmp_path / "table.json").prices.device is None
    whole = mbconv_space()  # a condition that the shipped file assumes is not one that it records
    target = config.Target(target_hardware="mobile", latency_table=str(SHIPPED_FOLDER / "pixel1.json"))
    assert device.load_prices(target, whole).device is None


def test_a_table_of_another_machine_prices_and_is_not_measured_here(fake, tmp_path):
    space = digits_space()
    table_of(space, conditions(space, device="a board", threads=4)).save(tmp_path / "table.json")
    job = prepared("--target_hardware", "cpu", "--latency_table", tmp_path / "table.json")
    assert job.prices.device is None and job.table.unit == "ms"
    table_of(space, conditions(space)).save(tmp_path / "table.json")
    assert prepared("--target_hardware", "cpu", "--latency_table", tmp_path / "table.json").prices.device is not None


# The command that the profiler prints -------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("cats", "dogs", "emus"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(6):
            image = Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))
            image.save(tmp_path / "photos" / label / f"{number}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("hardware", "space", "pixels", "width", "classes", "more", "on_images"),
    [
        ("cpu", "imagenet", 224, 1.0, 1000, {}, True),
        ("cpu", "imagenet", 224, 1.0, 3, {"runtime": "litert", "threads": 2}, True),
        ("cpu", "imagenet", 192, 0.35, 1000, {}, True),
        ("cpu", "small", 32, 1.0, 1000, {}, True),
        ("cpu", "imagenet", 64, 1.0, 3, {}, True),
        ("cpu", "small", 224, 1.0, 3, {}, True),
        ("cpu", "tiny", 16, 0.5, 10, {}, False),
        ("cpu", "tiny", 16, 1.0, 1000, {"runtime": "torch"}, False),
        ("gpu8", "imagenet", 224, 1.0, 3, {"runtime": "torch", "threads": None, "batch_size": 8}, True),
        ("mobile", "imagenet", 224, 1.0, 1000, {"device": "my phone", "runtime": "litert", "threads": None}, True),
    ],
)
def test_the_search_takes_the_table_by_the_printed_words(
    fake, photos, tmp_path, monkeypatch, hardware, space, pixels, width, classes, more, on_images
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a GPU's table serves where there is none
    own = mbconv_space(
        macro=MACROS[space], width_mult=width, num_classes=classes, preprocessing=imagenet_preprocessing(pixels)
    )
    path, known = tmp_path / "my table.json", conditions(own, **more)
    table_of(own, known).save(path)
    words = profile_latency.search_words(known, hardware, path)
    assert words[:1] == ["search/imagenet_arch_search.py"]
    assert ("--data_path" in words) == on_images
    if not on_images:  # on the digits, as it stands
        words, n_images = words[1:], 10
    else:
        few = ["--train_batch_size", "4", "--valid_size", "3"]  # of the images, not of the table
        words, n_images = [str(photos) if word == profile_latency.IMAGES else word for word in words[1:]] + few, 3
    settings = imagenet_arch_search.effective_config(imagenet_arch_search.parse(words))
    job = jobs.prepare(settings, torch.device("cpu"))
    assert job.prices.file == path and job.space.num_classes == n_images
    assert (job.space.name, job.space.width_mult, job.space.preprocessing.resolution) == (space, width, pixels)
    assert (job.prices.device is not None) == (hardware == "cpu")
    if job.prices.device is not None:
        facts = job.prices.device.facts()
        assert (facts["runtime"], facts["threads"]) == (known["runtime"], known["threads"])
    header = announce.header(job)
    notes = [line for line in header.splitlines() if "classifier: " in line and "classes" in line]
    assert len(notes) == (1 if classes != n_images else 0)
    for note in notes:
        named(note, f"{n_images} classes", classes)


@pytest.mark.parametrize(
    ("hardware", "more", "place", "values"),
    [
        ("gpu16", {"batch_size": 16}, "target_hardware", ["'mobile'", "'cpu'", "'gpu8'"]),
        ("cpu", {"batch_size": 8}, "batch_size", ["--target_hardware cpu", 1, 8]),
        ("cpu", {"resolution": 2048}, "resolution", ["integer", "8..1024", 2048]),
        ("mobile", {"dtype": "int8"}, "dtype", ["--target_hardware mobile", "float32", "int8"]),
    ],
)
def test_where_no_search_can_use_a_table_none_is_named(tmp_path, hardware, more, place, values):
    with refused(place, *values):
        profile_latency.search_words(conditions(mbconv_space(), **more), hardware, tmp_path / "table.json")


def classifier(space):
    return next(call for key, call in unique_ops(space).items() if key.op == "linear")


def test_the_classifier_is_scaled_in_proportion():
    whole = mbconv_space(num_classes=1000, preprocessing=imagenet_preprocessing(32))
    table = replace(table_of(whole, {}), scale=1.5)
    calls = {n: classifier(replace(whole, num_classes=n)) for n in (1000, 250)}
    assert calls[250].op.out_features == 250
    assert table.price_ms(calls[250]) == pytest.approx(table.price_ms(calls[1000]) / 4)
    assert table.extrapolated(calls[1000]) == ()
    (scaled,) = table.extrapolated(calls[250])
    named(scaled, "250 classes", 1000)
    with pytest.raises(InputError, match="no latency for linear"):  # on other features
        table.price_ms(
            classifier(mbconv_space(num_classes=250, width_mult=2.0, preprocessing=imagenet_preprocessing(32)))
        )


def check_that_a_miss_is_said(target, words, tmp_path, monkeypatch, capsys):
    """The machine is busy now: every network takes 14 % longer than it should."""
    missed = Measured(1.14 * target, 0.0, 7, 70, 1.14 * target, 1.14 * target, 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(pricing, "measure_network", lambda *arguments: missed)
        run = tmp_path / "missed"
        assert imagenet_arch_search.main([*words, "--path", str(run), "--strict_landing"]) == NOT_LANDED
    out = capsys.readouterr().out
    named(line_of(out, "NOT LANDED"), "measured", "+14.00 %")
    result = json.loads((run / "result.json").read_text())
    assert result["landed"] is False and result["landing_error_percent"] == pytest.approx(14)
    assert "Not landed:" in (run / "report.html").read_text()
    again = ["--path", str(run), "--resume"]
    assert imagenet_arch_search.main(again) == 0
    assert imagenet_arch_search.main([*again, "--strict_landing"]) == NOT_LANDED
    assert read_result(run).landed is False
    capsys.readouterr()


# A whole search -----------------------------------------------------------------------------------------------------


def test_a_search_makes_its_table_once_and_lands(fake, tmp_path, monkeypatch, capsys):
    words = [*SMALL, "--target_hardware", "cpu", "--valid_size", "1300", "--train_batch_size", "64",
             "--warmup_epochs", "1", "--n_epochs", "1", "--grad_data_batch", "32"]  # fmt: skip
    assert imagenet_arch_search.main([*words, "--path", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "no latency table" in printed and "now search for it" not in printed
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    target, predicted, measured = (result[f"{name}_latency_ms"] for name in ("target", "predicted", "measured"))
    assert 0.99 * target <= predicted <= target
    assert measured == pytest.approx(target, rel=0.05)
    assert result["landed"] is True and result["landed_by"] == "measured"
    assert result["landing_error_percent"] == pytest.approx(100 * (measured / target - 1), abs=3)
    assert "\n  landed     measured " in printed
    (kept,) = (tmp_path / "runs" / "latency").iterdir()
    before = fake.n_sessions
    assert prepared("--target_hardware", "cpu").prices.file == kept / "table.json"
    assert fake.n_sessions == before

    check_that_a_miss_is_said(target, words, tmp_path, monkeypatch, capsys)

    # a table that fails is measured again by the command that the refusal names
    table = json.loads((kept / "table.json").read_text())
    write_json(kept / "table.json", table | {"validation": {"passed": False, "reasons": ["too noisy"]}})
    with pytest.raises(InputError) as caught:
        prepared("--target_hardware", "cpu")
    command = str(caught.value).split("(python hardware/profile_latency.py ")[1].split(")")[0]
    assert command.endswith("--fresh")
    assert profile_latency.main(command.split()) == 0
    assert fake.n_sessions > before
    assert prepared("--target_hardware", "cpu").prices.file == kept / "table.json"
