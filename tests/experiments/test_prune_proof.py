"""experiments/prune_proof.py: its figures by hand, its images, and networks that others cut."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from experiments import prune_proof as proof
from experiments import pruning
from proxyless_arch.arch.shrink import FEATURE_MIX, LAST_STAGE, STEM, Shrunk, shrink
from proxyless_arch.arch.walk import total_macs
from proxyless_arch.data.datasets import open_folder
from proxyless_nas.network import build
from tests.compress.specs import SPEC


def record(way, before, after, share=0.5, seed=0):
    return {"way": way, "share": share, "seed": seed, "macs_share": 0.5, "hits_before": before, "hits_after": after}


def test_the_figures_by_hand():
    records = [record("exact", "1100", "1110"), record("exact", "1100", "1111", seed=1)]
    records += [record("random 0", "1000", "1000"), record("random 1", "0000", "1010")]
    found = proof.summary(records)["0.5"]
    assert [*found] == ["exact", "random"]
    assert found["exact"]["after"]["each"] == [75, 100] and found["exact"]["after"]["mean"] == 87.5
    assert found["random"]["before"]["mean"] == 12.5 and found["random"]["networks"] == 2
    # by image 0, 1, 0.5, 0.5: mean 0.5, standard deviation sqrt(1/6), over 2
    ahead = found["random"]["exact_ahead_after"]
    assert ahead["mean"] == 50
    assert ahead["interval_95"] == pytest.approx([50 - 195.9964 * 6**-0.5 / 2, 50 + 195.9964 * 6**-0.5 / 2])
    assert "exact_ahead_after" not in found["exact"]


def test_every_task_has_a_file_of_its_own_and_all_ways_of_a_share_are_there():
    names = [task.name for task in proof.tasks()]
    assert len(set(names)) == len(names)
    ways = Counter((task.share, proof.way_of(task.way.name)) for task in proof.tasks())
    for share in proof.SHARES:
        assert ways[share, "random"] == pruning.N_RANDOM >= 12
        assert all(ways[share, name] == 2 for name in ("exact", "uniform", "amc"))
        assert all(ways[share, name] == 1 for name in ("exact 400", "amc 400", "searched"))


def test_patient_ways_are_compared_with_as_many_plans():
    records = [record("exact", "1111", "1111"), record("exact 400", "1100", "1100")]
    records += [record("amc 400", "1000", "1000")]
    found = proof.summary(records)["0.5"]
    assert found["amc 400"]["exact_ahead_after"]["mean"] == 25
    assert "exact_ahead_after" not in found["exact 400"]


def test_hits_are_kept_by_image():
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    hits = pruning.Hits().plus(logits[:2], np.array([0, 0])).plus(logits[2:], np.array([0]))
    assert hits.text == "101" and hits.percent == pytest.approx(200 / 3)


def test_the_spec_of_a_network_that_was_cut_elsewhere():
    small = shrink(SPEC, Shrunk({STEM: 5, "blocks.1": 7, "blocks.4": 11, LAST_STAGE: 4, FEATURE_MIX: 9}))
    found = pruning.spec_of(build(small), SPEC)
    assert total_macs(found) == total_macs(small)
    assert build(found).state_dict().keys() == build(small).state_dict().keys()


def test_images_that_judge_are_none_of_the_persons(tmp_path):
    for part, count in (("train", 90), ("test", 60)):
        for name in "ab":
            (tmp_path / "cifar" / part / name).mkdir(parents=True)
            for number in range(count):
                shade = (number, 100 * (name == "b"), 200 * (part == "test"))
                Image.new("RGB", (4, 4), shade).save(tmp_path / "cifar" / part / name / f"{number}.png")
    study = proof.Study(work=tmp_path / "work", cifar=tmp_path / "cifar", n_photos=100, n_judges=100)
    pruning.make_photos(study)

    def shades(images):
        return {images.read(index).getpixel((0, 0)) for index in range(len(images))}

    train, test, judges = (
        shades(images)
        for images in (open_folder(study.photos, "train"), open_folder(study.photos, "test"), open_folder(study.judges))
    )
    assert (len(train), len(test), len(judges)) == (85, 15, 100)
    assert not test & judges
