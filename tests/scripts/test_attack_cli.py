"""attack.py as a user meets it: figures, files that eval.py scores alike, a stop and its way on, and what is wrong."""

import json
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import attack
import eval as eval_script
from proxyless_arch.arch.bits import Format, Range, bit_layers, uniform_plan, write_plan
from proxyless_arch.arch.spec import with_classes
from proxyless_arch.base.runs import METRICS_FILE, read_metrics
from proxyless_arch.data.images import normalize
from proxyless_arch.weights.files import save_safetensors
from proxyless_nas.robust import session
from proxyless_nas.weights import to_named
from tests.compress.nets import trained
from tests.compress.specs import SPEC

SIZES = {"--steps": 4, "--apgd_steps": 6, "--queries": 20, "--batch_size": 4, "--limit": 16}
QUICK = ["--device", "cpu", *(str(word) for pair in SIZES.items() for word in pair)]
NAMES = ("ape", "bee", "cat", "dog")
NAMED = replace(SPEC, class_names=NAMES)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A network, another one, and photos that the first gets right but for one."""
    folder = tmp_path_factory.mktemp("attack")
    net = trained(NAMED)
    save_safetensors(folder / "net.safetensors", NAMED, to_named(net), {})
    save_safetensors(folder / "other.safetensors", NAMED, to_named(trained(NAMED, seed=3)), {})
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 1, 1, 3)) + rng.integers(-40, 40, (60, 12, 12, 3))
    pixels = pixels.clip(0, 255).astype(np.uint8)
    how = NAMED.preprocessing
    with torch.no_grad():
        seen = net(torch.from_numpy(normalize(pixels, how.mean, how.std)).permute(0, 3, 1, 2)).argmax(1).tolist()
    for name in NAMES:
        (folder / "photos" / name).mkdir(parents=True)
    for index, label in enumerate(seen):
        if index == 5 or sum(1 for each in seen[:index] if each == label) < 4:
            shown = label if index != 5 else (label + 1) % 4
            Image.fromarray(pixels[index]).save(folder / "photos" / NAMES[shown] / f"{index}.png")
    for name in NAMES:  # each class has an image
        if not any((folder / "photos" / name).iterdir()):
            Image.fromarray(pixels[0]).save(folder / "photos" / name / "more.png")
    return folder


def words(home, *more):
    return ["--arch", str(home / "net.safetensors"), "--data_path", str(home / "photos"), *QUICK, *map(str, more)]


@pytest.fixture(scope="module")
def straight(home):
    """A run that nothing interrupted, and its record."""
    path = home / "straight"
    more = ("--transfer_from", home / "other.safetensors", "--run_dir", path, "--save_json", home / "record.json")
    assert attack.main(words(home, *more)) == 0
    return path, json.loads((path / "result.json").read_text())


def test_figures_and_files(straight, home):
    path, record = straight
    assert record == json.loads((home / "record.json").read_text())
    scores = {name: each["hits"] for name, each in record["accuracy"].items()}
    assert list(scores) == ["clean", "fgsm", "r_fgsm", "pgd", "apgd_ce", "apgd_dlr", "transfer", "square", "all"]
    assert max(scores.values()) == scores["clean"] < record["n_images"]
    assert min(scores.values()) == scores["all"] < scores["clean"]
    low, high = record["accuracy"]["pgd"]["interval_95"]
    assert low <= record["accuracy"]["pgd"]["percent"] <= high
    assert record["amplification"]["float"].keys() >= {"image", "first_conv", "blocks.0", "classifier"}
    assert (path / "amplification.svg").read_text().startswith("<svg")
    assert sum(1 for _ in (path / "adversarial").rglob("*.png")) == record["n_images"]


def test_the_images_that_are_saved_lie_in_the_ball_and_are_scored_alike(straight, home):
    path, record = straight
    photos = sorted((home / "photos").rglob("*.png"))
    for number, photo in enumerate(photos[: record["n_images"]]):
        (saved,) = (path / "adversarial").rglob(f"{number:06d}.png")
        assert saved.parent.name == photo.parent.name
        difference = np.asarray(Image.open(saved)).astype(int) - np.asarray(Image.open(photo)).astype(int)
        assert np.abs(difference).max() <= 8
    given = {"arch": home / "net.safetensors", "data_path": home / "photos", "device": "cpu"}
    line = shlex.split(session.after_attack(session.prepare(session.AttackConfig.of(**given)), path)[0])
    more = ["--save_json", str(home / "scores.json"), "--device", "cpu", "--workers", "0"]
    argv = [*line[line.index("--arch") :], *more]
    assert eval_script.main(argv) == 0
    scored = json.loads((home / "scores.json").read_text())
    assert scored["top1_hits"] == record["accuracy"]["all"]["hits"]
    assert scored["n_images"] == record["n_images"]


@pytest.mark.slow
def test_keras_scores_them_alike(straight, home):
    import eval_tf

    path, record = straight
    argv = [
        "--arch",
        home / "net.safetensors",
        "--data_path",
        path / "adversarial",
        "--label_map",
        path / "label_map.json",
    ]
    more = [
        "--resolution",
        "12",
        "--resize",
        "12",
        "--save_json",
        home / "tf.json",
        "--device",
        "cpu",
        "--workers",
        "0",
    ]
    assert eval_tf.main([str(word) for word in (*argv, *more)]) == 0
    assert json.loads((home / "tf.json").read_text())["top1_hits"] == record["accuracy"]["all"]["hits"]


def test_a_run_that_was_stopped_goes_on_to_the_same_end(straight, home, monkeypatch, capsys):
    path, record = straight
    whole, calls = session.attack_batch, []

    def stopping(job, number, on_attack):
        calls.append(number)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(job, number, on_attack)

    stopped = home / "stopped"
    more = ("--transfer_from", home / "other.safetensors", "--run_dir", stopped)
    monkeypatch.setattr(session, "attack_batch", stopping)
    assert attack.main(words(home, *more)) == 130
    assert "--resume" in capsys.readouterr().out
    assert len(read_metrics(stopped / METRICS_FILE)) == 1
    assert attack.main(words(home, *more, "--resume", "auto")) == 0
    assert calls == [0, *range(1, 2), *range(1, -(-record["n_images"] // 4))]
    again = json.loads((stopped / "result.json").read_text())
    differing = {"command", "date", "wall_seconds"}
    assert {k: v for k, v in again.items() if k not in differing} == {
        k: v for k, v in record.items() if k not in differing
    }
    for file in (path / "adversarial").rglob("*.png"):
        assert (stopped / file.relative_to(path)).read_bytes() == file.read_bytes()
    assert attack.main(["--run_dir", str(stopped), "--resume", "--limit", "3"]) == 2
    fewer = home / "fewer"
    shutil.copytree(home / "photos", fewer)
    next((fewer / "dog").iterdir()).rename(fewer / "dog" / "renamed.png")
    assert attack.main(["--run_dir", str(stopped), "--resume", "--data_path", str(fewer)]) == 2
    assert "images" in capsys.readouterr().err
    lines = read_metrics(stopped / METRICS_FILE)
    lines[0]["sums"]["held"].pop("pgd")
    (stopped / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert attack.main(["--run_dir", str(stopped), "--resume"]) == 2
    assert "line 1: sums.held.pgd" in capsys.readouterr().err


def test_a_plan_is_attacked_as_the_network_computes_under_it(home, capsys):
    ranges = {layer.name: Range(6.0, layer.leads) for layer in bit_layers(NAMED)}
    write_plan(home / "bits.json", uniform_plan(NAMED, Format(4, 3), ranges))
    plan, path = ("--bits", str(home / "bits.json")), home / "rounded"
    assert attack.main(words(home, *plan, "--attacks", "fgsm", "--run_dir", path)) == 0
    record = json.loads((home / "rounded" / "result.json").read_text())
    assert set(record["amplification"]) == {"float", "bit plan"}
    assert record["bits"]
    said = capsys.readouterr().out
    assert "W4A3" in said
    line = shlex.split(said.splitlines()[-1])
    argv = [*line[line.index("--arch") :], "--save_json", str(home / "rounded.json"), "--device", "cpu"]
    assert eval_script.main([*argv, "--workers", "0"]) == 0
    assert json.loads((home / "rounded.json").read_text())["top1_hits"] == record["accuracy"]["all"]["hits"]


def test_a_masked_network_raises_the_alarm(home, monkeypatch, capsys):
    plain = session.pixel_forward
    masked = lambda net, how: lambda x: plain(net, how)(8 * torch.round(x / 8))  # noqa: E731
    monkeypatch.setattr(session, "pixel_forward", masked)
    assert attack.main(words(home, "--epsilon", "16/255", "--run_dir", home / "masked", "--no_save_images")) == 0
    said = capsys.readouterr().out
    assert "ALARM" in said
    alarms = json.loads((home / "masked" / "result.json").read_text())["alarms"]
    assert any("gradient is 0" in sign for sign in alarms)


def test_a_dry_run_writes_nothing(home, capsys):
    assert attack.main(words(home, "--run_dir", home / "dry", "--dry_run")) == 0
    assert "expected" in capsys.readouterr().out
    assert not (home / "dry").exists()


def other_classes(home, count):
    spec = with_classes(SPEC, count)
    file = home / f"of_{count}.safetensors"
    save_safetensors(file, spec, to_named(trained(spec)), {})
    return str(file)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--epsilon", "2"),
        ("--epsilon", "much"),
        ("--data_path", "loose"),
        ("--arch", 7),
        ("--transfer_from", 7),
        ("--bits", "none.json"),
        ("--attacks", "transfer"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(home, capsys, flag, value):
    loose = home / "loose"
    loose.mkdir(exist_ok=True)
    Image.new("RGB", (12, 12)).save(loose / "1.png")
    given = {"loose": str(loose), "none.json": str(home / "none.json"), 7: other_classes(home, 7)}.get(value, value)
    argv = words(home, "--run_dir", home / "refused")
    argv = [word for pair in zip(argv[::2], argv[1::2], strict=True) if pair[0] != flag for word in pair]
    assert attack.main([*argv, flag, given]) == 2
    said = capsys.readouterr().err
    place = {"--data_path": str(loose), "--arch": "--data_path", "--bits": str(home / "none.json")}.get(flag, flag)
    assert place in said
    assert not (home / "refused").exists()
