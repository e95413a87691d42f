"""The metrics of a run: what is written can be read, a cut file can be read, a resumed run writes the same file."""

import json
import subprocess
import sys

import pytest

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.runs import format_seconds, read_metrics
from search.run.log import FIELDS, RunLog, format_epoch, scalars
from tests.errors import named


def record(step, phase="search", **changes):
    whole = {
        "phase": phase, "epoch": step // 10, "n_epochs": 20, "step": step, "arch_step": step // 5,
        "train_loss": 2.5 / (1 + step), "train_top1_percent": 45.0, "valid_loss": None, "valid_top1_percent": None,
        "learning_rate": 0.05, "expected_cost": 112.25, "argmax_cost": 80.5, "cost_unit": "ms", "target": 80.0,
        "lambda": 0.3, "temperature": 1.0, "entropy": 40.123, "probabilities": [[0.25, 0.75], [1 / 3, 2 / 3]],
        "argmax_path": [1, 1], "images_per_second": 812.0, "seconds": 3.25,
    }  # fmt: skip
    return whole | changes


def silent(_):
    pass


def test_round_trip_to_the_last_bit(tmp_path):
    records = [record(step) for step in (10, 20, 30)]
    said = []
    with RunLog(tmp_path / "run", say=said.append) as log:
        assert log.offset == 0
        for each in records:
            log.epoch(each)
            assert log.offset == (tmp_path / "run" / "metrics.jsonl").stat().st_size
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == records
    assert said == [format_epoch(each) for each in records]
    assert tuple(record(0)) == FIELDS


def test_the_line_is_printed_by_default(tmp_path, capsys):
    with RunLog(tmp_path) as log:
        log.epoch(record(10))
    assert capsys.readouterr().out == format_epoch(record(10)) + "\n"


def test_a_resumed_run_writes_the_same_file(tmp_path):
    records = [record(step) for step in range(10, 70, 10)]
    with RunLog(tmp_path / "whole", say=silent) as log:
        for each in records:
            log.epoch(each)
    with RunLog(tmp_path / "cut", say=silent) as log:
        for each in records[:2]:
            log.epoch(each)
        checkpoint = log.offset
        log.epoch(records[2] | {"train_loss": 9.0})
    with open(tmp_path / "cut" / "metrics.jsonl", "ab") as file:
        file.write(b'{"phase": "sea')
    with RunLog(tmp_path / "cut", resume_at=checkpoint, say=silent) as log:
        assert log.offset == checkpoint
        assert read_metrics(tmp_path / "cut" / "metrics.jsonl") == records[:2]
        for each in records[2:]:
            log.epoch(each)
    whole, cut = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    assert len(list((tmp_path / "cut" / "tensorboard").iterdir())) == 2


def test_resume_at_the_start_forgets_everything(tmp_path):
    with RunLog(tmp_path, say=silent) as log:
        log.epoch(record(10))
    with RunLog(tmp_path, resume_at=0, say=silent) as log:
        assert log.offset == 0
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_new_run_does_not_write_into_an_old_one(tmp_path):
    with RunLog(tmp_path, say=silent) as log:
        log.epoch(record(10))
    with pytest.raises(InputError, match="already contains the metrics"):
        RunLog(tmp_path)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


@pytest.mark.parametrize(("shift", "message"), [(1, "expected at least"), (-1, "end of a line")])
def test_an_offset_that_does_not_fit_changes_nothing(tmp_path, shift, message):
    with RunLog(tmp_path, say=silent) as log:
        log.epoch(record(10))
        offset = log.offset
    with pytest.raises(InputError, match=message):
        RunLog(tmp_path, resume_at=offset + shift)
    assert read_metrics(tmp_path / "metrics.jsonl") == [record(10)]


def test_resuming_without_the_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        RunLog(tmp_path, resume_at=10)


def test_every_cut_of_the_last_line_is_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(record(step, title="ünïcode"), ensure_ascii=False).encode() + b"\n" for step in (10, 20)]
    for cut in range(len(lines[1]) - 1):
        path.write_bytes(lines[0] + lines[1][:cut])
        assert [each["step"] for each in read_metrics(path)] == [10]
    for whole in (lines[1][:-1], lines[1]):
        path.write_bytes(lines[0] + whole)
        assert [each["step"] for each in read_metrics(path)] == [10, 20]


@pytest.mark.parametrize("broken", [b'{"step": 1', b"", b"[1]", b"\xff", b'{"a": NaN}', b'{"a": 1, "a": 2}'])
def test_a_broken_line_in_the_middle_is_named(tmp_path, broken):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n' + broken + b'\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"^line 2: .*metrics\.jsonl\)$"):
        read_metrics(path)
    path.write_bytes(b'{"step": 0}\n' + broken + b"\n")
    with pytest.raises(InputError, match=r"^line 2: "):
        read_metrics(path)


def test_a_record_must_be_whole_and_finite(tmp_path):
    whole = record(10)
    with RunLog(tmp_path, say=silent) as log:
        with pytest.raises(ValueError, match="missing lambda, entropy"):
            log.epoch({key: value for key, value in whole.items() if key not in ("lambda", "entropy")})
        with pytest.raises(ValueError, match="JSON"):
            log.epoch(whole | {"train_loss": float("nan")})
        assert log.offset == 0
        log.epoch(whole | {"extra": 1})
    assert read_metrics(tmp_path / "metrics.jsonl") == [whole | {"extra": 1}]


def test_tensorboard_events_hold_the_scalars_and_purge_on_resume(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    def events(path):
        """The records of an event file: length (8), its checksum (4), payload, checksum (4)."""
        content, found = path.read_bytes(), []
        while content:
            length = int.from_bytes(content[:8], "little")
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
        return found

    with RunLog(tmp_path, say=silent) as log:
        log.epoch(record(10))
        offset = log.offset
        log.epoch(record(20))
    (first,) = (tmp_path / "tensorboard").iterdir()
    written = {(value.tag, event.step): value.simple_value for event in events(first) for value in event.summary.value}
    for step in (10, 20):
        for tag, value in scalars(record(step)).items():
            assert written[tag, step] == pytest.approx(value)
    assert len(written) == 2 * len(scalars(record(0)))
    assert "loss/valid" not in scalars(record(0)) and scalars(record(0))["cost/expected_ms"] == 112.25

    with RunLog(tmp_path, resume_at=offset, say=silent) as log:
        log.epoch(record(20))
    (second,) = set((tmp_path / "tensorboard").iterdir()) - {first}
    starts = [event.step for event in events(second) if event.HasField("session_log")]
    assert starts == [11]


def test_console_lines_are_terse_and_aligned():
    lines = [
        format_epoch(record(step, **changes))
        for step, changes in (
            (0, {"phase": "warmup", "lambda": None}),
            (50, {"valid_top1_percent": 43.2}),
            (190, {"train_top1_percent": 100.0, "valid_top1_percent": 5.0, "expected_cost": 80.4, "lambda": 12.5}),
        )
    ]
    assert len({len(line) for line in lines}) == 1
    assert len({line.index("argmax") for line in lines}) == 1
    assert max(map(len, lines)) <= 110
    named(lines[1], "search", "6/20", "loss 0.049", "acc 45.0/43.2%", "E 112.2 -> 80.00 ms", "argmax 80.50")
    named(lines[1], "lam  0.30", "H 40.1", "812 img/s")
    small = {"cost_unit": "ms", "argmax_cost": 0.08249, "target": 0.0819}
    lines = [format_epoch(record(190, **small, expected_cost=cost, **{"lambda": 12.5})) for cost in (0.08251, 0.1174)]
    assert "E 0.0825 -> 0.0819 ms  argmax 0.0825 " in lines[0] and "E 0.1174 -> 0.0819 ms" in lines[1]
    assert len(lines[0]) == len(lines[1]) <= 111
    in_macs = format_epoch(record(190, cost_unit="MACs", expected_cost=3.2e8, argmax_cost=3.1e8, target=3e8))
    assert "E 320.0M -> 300.0M  argmax 310.0M" in in_macs and len(in_macs) <= 110


def test_console_line_when_little_is_known():
    bare = record(0, phase="finetune") | dict.fromkeys(
        ("train_loss", "train_top1_percent", "expected_cost", "argmax_cost", "target", "entropy", "lambda",
         "images_per_second")
    )  # fmt: skip
    assert format_epoch(bare) == "finetune  1/20  loss     -  acc    -/   -%     - img/s"
    assert set(scalars(bare)) == {
        "finetune/optimizer/learning_rate",
        "finetune/architecture/temperature",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599.7, "1 h 00 min"),
     (7500, "2 h 05 min"), (97_200, "1 d 3 h")],
)  # fmt: skip
def test_durations_for_people(seconds, text):
    assert format_seconds(seconds) == text


def test_reading_metrics_needs_neither_torch_nor_tensorboard():
    code = "import sys, search.run.log; assert not {'torch', 'tensorboardX', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
