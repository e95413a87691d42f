"""Scores by class against plain counting, and drawings of them."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from proxyless_arch.apps import per_class
from proxyless_arch.apps.per_class import ClassScore, numbered, per_class_record, read_per_class
from proxyless_arch.apps.per_class_pictures import MOST_ROWS, per_class_view, write_per_class_picture
from proxyless_arch.apps.scores import EvalResult
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.datasets import ArraySource, ImageDataset
from proxyless_arch.drawing.scene import to_svg


def data(labels, n_classes) -> ImageDataset:
    pixels = np.zeros((len(labels), 9, 9), np.uint8) + np.arange(len(labels), dtype=np.uint8)[:, None, None]
    names = tuple(map(str, range(len(labels))))
    return ImageDataset(ArraySource("made", pixels), names, labels, tuple(f"name {k}" for k in range(n_classes)))


def scored(n_images=200, n_classes=7, batch=32, seed=0):
    """(images, logits, score) of random logits, a class without images among them."""
    rng = np.random.default_rng(seed)
    images = data(rng.integers(0, n_classes - 1, n_images), n_classes)
    logits = rng.standard_normal((n_images, n_classes)).astype(np.float32) * 3
    score = ClassScore(images.labels)
    for start in range(0, n_images, batch):
        numbers = numbered(images).labels[start : start + batch]
        score = score.plus(logits[numbers], numbers)
    return images, logits, score


def test_the_counts_are_those_of_the_whole_matrix():
    images, logits, score = scored()
    matrix = np.zeros((7, 7), int)
    np.add.at(matrix, (images.labels, logits.argmax(1)), 1)
    record = per_class_record(score, images, images.class_names)
    assert [entry["class"] for entry in record["classes"]] == [0, 1, 2, 3, 4, 5]
    for entry in record["classes"]:
        own = images.labels == entry["class"]
        best = np.argsort(-logits[own], axis=1)[:, :5]
        assert entry["n_images"] == own.sum() and entry["name"] == f"name {entry['class']}"
        assert entry["top1_hits"] == matrix[entry["class"], entry["class"]]
        assert entry["top5_hits"] == (best == entry["class"]).any(1).sum()
    found = np.diag(np.diag(matrix))
    for label, predicted, count in record["confusions"]:
        found[label, predicted] += count
    assert (found == matrix).all()
    counts = [count for *_, count in record["confusions"]]
    assert counts == sorted(counts, reverse=True)
    accuracies = [matrix[k, k] / matrix[k].sum() for k in range(6)]
    assert record["mean_class_top1_percent"] == pytest.approx(100 * np.mean(accuracies))
    assert score.total == EvalResult().plus(logits, images.labels) or score.total.loss == pytest.approx(
        EvalResult().plus(logits, images.labels).loss
    )


def test_the_worst_are_the_most_confident_mistakes(monkeypatch):
    monkeypatch.setattr(per_class, "WORST", 5)
    images, logits, score = scored()
    shares = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    wrong = np.flatnonzero(logits.argmax(1) != images.labels)
    wanted = wrong[np.argsort(-shares[wrong].max(1))][:5]
    assert [mistake.image for mistake in score.worst] == wanted.tolist()
    entries = per_class_record(score, images, images.class_names)["worst"]
    for number, entry in zip(wanted, entries, strict=True):
        assert entry["image"] == f"made:{number}" and entry["class"] == images.labels[number]
        assert entry["percent"] == pytest.approx(100 * shares[number, images.labels[number]], abs=1e-3)
        assert entry["predicted_percent"] == pytest.approx(100 * shares[number].max(), abs=1e-3)
        picture = Image.open(io.BytesIO(base64.b64decode(entry["thumbnail"].partition(",")[2])))
        assert abs(picture.getpixel((5, 5))[0] - number) <= 1


@pytest.mark.parametrize("batch", [1, 7, 200])
def test_batches_change_nothing(batch):
    whole, parts = scored()[2], scored(batch=batch)[2]
    assert (whole.pairs, whole.top5, whole.worst) == (parts.pairs, parts.top5, parts.worst)
    assert whole.samples == parts.samples


@pytest.mark.parametrize("n_images", [1, 5, 12, 13, 200])
def test_samples_are_spread_over_the_images(n_images):
    """Right or wrong, a twelfth of the data set apart; each with what it was taken for."""
    images, logits, score = scored(n_images=n_images)
    numbers = sorted(score.samples)
    assert len(numbers) == min(12, n_images) and numbers[0] <= n_images / 12
    steps = np.diff([*numbers, n_images + numbers[0]])
    assert max(steps) - min(steps) <= 1
    entries = per_class_record(score, images, images.class_names)["samples"]
    assert [entry["image"] for entry in entries] == [f"made:{number}" for number in numbers]
    assert [entry["predicted"] for entry in entries] == logits[numbers].argmax(1).tolist()
    seen = per_class_view(per_class_record(score, images, images.class_names)).samples
    assert [image.is_right for image in seen] == (logits[numbers].argmax(1) == images.labels[numbers]).tolist()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_shares_of_the_images_join_to_the_score_of_all(ranks):
    images, logits, whole = scored()
    shares = [np.arange(rank, len(images), ranks) for rank in range(ranks)]
    joined = ClassScore.joined([ClassScore(images.labels).plus(logits[share], share) for share in shares])
    assert (joined.pairs, joined.top5, joined.worst) == (whole.pairs, whole.top5, whole.worst)
    assert joined.samples == whole.samples
    assert joined.total.top1_hits == whole.total.top1_hits and joined.total.n_images == 200
    assert joined.total.loss == pytest.approx(whole.total.loss)


def test_equally_confident_mistakes_keep_the_first_images(monkeypatch):
    monkeypatch.setattr(per_class, "WORST", 2)
    images = data(np.zeros(5, int), 2)
    score = ClassScore(images.labels).plus(np.tile(np.float32([0, 1]), (5, 1)), np.arange(5))
    assert [mistake.image for mistake in score.worst] == [0, 1]


def test_logits_that_are_not_finite_are_wrong_and_of_no_class():
    images = data(np.array([0, 1, 1]), 2)
    logits = np.float32([[np.nan, 0], [0, np.inf], [0, 1]])
    with np.errstate(invalid="ignore"):  # the loss is none either
        score = ClassScore(images.labels).plus(logits, np.arange(3))
    record = per_class_record(score, images, images.class_names)
    assert record["confusions"] == [[0, -1, 1], [1, -1, 1]] and record["top1_hits"] == 1 and record["worst"] == []
    assert "no finite logits" in to_svg(per_class_view(record).charts[1].scene)


def test_memory_does_not_grow_with_the_images():
    _, logits, score = scored(n_images=250, n_classes=3)
    for _ in range(3):
        score.plus(logits, np.arange(250))
    assert len(score.pairs) <= 6 and len(score.mistakes) <= per_class.WORST


def test_an_older_record_without_samples_is_read(tmp_path):
    images, _, score = scored()
    record = per_class_record(score, images, images.class_names)
    del record["samples"]
    (tmp_path / "r.json").write_text(json.dumps(record))
    assert per_class_view(read_per_class(tmp_path / "r.json")).samples == []


def test_the_record_is_read_back_as_it_was(tmp_path):
    images, _, score = scored()
    record = per_class_record(score, images, images.class_names)
    path = tmp_path / "per_class.json"
    path.write_text(json.dumps(record))
    assert read_per_class(path) == record
    worst, first = record["worst"][0], record["classes"][0]
    for change, place in (
        ({"version": 2}, "version"),
        ({"classes": [first | {"top1_hits": first["n_images"] + 1}]}, "classes[0].top1_hits"),
        ({"confusions": [[0, 7, 1]]}, "confusions[0][1]"),
        ({"worst": [worst | {"thumbnail": "https://x.org/a.png"}]}, "worst[0].thumbnail"),
        ({"other": 1}, "other"),
    ):
        path.write_text(json.dumps(record | change))
        with pytest.raises(InputError) as caught:
            read_per_class(path)
        assert (caught.value.place, caught.value.source) == (place, str(path))


@pytest.mark.parametrize("n_classes", [3, 60])
def test_drawings_of_few_and_of_many_classes(n_classes, tmp_path):
    """Few: the whole matrix; many: the most confused pairs. Every mistake that is drawn is named with its counts."""
    images, _, score = scored(n_images=250, n_classes=n_classes)
    record = per_class_record(score, images, images.class_names)
    view = per_class_view(record)
    bars, confused = (to_svg(chart.scene) for chart in view.charts)
    lowest = min(record["classes"], key=lambda entry: entry["top1_percent"])
    assert f"{lowest['name']}: {lowest['top1_hits']} of {lowest['n_images']}" in bars
    assert bars.count("<title>") == min(MOST_ROWS, len(record["classes"]))
    assert ("more classes" in view.charts[0].note) == (n_classes > MOST_ROWS)
    counts = {entry["class"]: entry["n_images"] for entry in record["classes"]}
    between = "taken for" if n_classes == 3 else "→"
    drawn = [
        count
        for label, predicted, count in record["confusions"]
        if f"name {label} {between} name {predicted}: {count} of {counts[label]}<" in confused
    ]
    assert drawn == sorted((count for *_, count in record["confusions"]), reverse=True)[: len(drawn)]
    assert len(drawn) == min(MOST_ROWS, len(record["confusions"]))
    assert len(view.worst) == per_class.WORST and view.worst[0].picture.startswith("data:image/jpeg")
    write_per_class_picture(record, tmp_path / "all.svg")
    text = Path(tmp_path / "all.svg").read_text()
    assert all(chart.title in text for chart in view.charts)


def test_a_perfect_network_has_no_mistakes_to_draw():
    images = data(np.arange(3), 3)
    score = ClassScore(images.labels).plus(np.eye(3, dtype=np.float32), np.arange(3))
    view = per_class_view(per_class_record(score, images, images.class_names))
    assert len(view.charts) == 1 and view.worst == []
