"""experiments/finetune.py: its figures by hand, and that each way is the training it says."""

import pytest
from PIL import Image

from experiments import finetune
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.datasets import open_folder


def row(way, seed, top1):
    return {"way": way, "seed": seed, "test_top1_percent": top1, "cpu_seconds": 2.0}


def test_the_figures_by_hand():
    rows = [row(finetune.PROBE, seed, 50.0 + seed) for seed in range(3)]
    rows += [row("recipe finetune", seed, 60.0 + 3 * seed) for seed in range(3)]
    found = finetune.summary(rows)
    gap = found["recipe finetune"]["gap_to_probe"]
    assert (found["recipe finetune"]["mean"], gap["mean"]) == (63.0, 12.0)
    # gaps 10, 12, 14: t(0.975, 2 degrees) = 4.302653, standard error 2 / sqrt(3)
    assert gap["interval_95"] == pytest.approx([12 - 4.302653 * 2 / 3**0.5, 12 + 4.302653 * 2 / 3**0.5])
    assert found[finetune.PROBE]["gap_to_probe"]["mean"] == 0
    assert len(finetune.table(found)) == 3
    assert finetune.interval([1.0]) == {"mean": 1.0, "interval_95": None}


def test_each_way_is_a_training_of_its_own(tmp_path):
    study = finetune.Study(data_path="cifar10.zip", n_epochs=4)
    configs = {name: finetune.config_of(study, tmp_path, 1, way) for name, way in finetune.WAYS.items()}
    assert [config.recipe for config in configs.values()] == ["fast", "default", "finetune"]
    assert [config.weights for config in configs.values()] == ["scratch", "pretrained", "pretrained"]
    assert {
        (config.optimization.n_epochs, config.manual_seed, config.data.image_size) for config in configs.values()
    } == {(4, 1, 64)}


def test_images_become_folders_and_another_study_is_not_mixed_in(tmp_path):
    for name in "ab":
        (tmp_path / "all" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(tmp_path / "all" / name / f"{number}.png")
    chosen = finetune.subset(open_folder(tmp_path / "all"), 4, seed=0)
    finetune.write_images(chosen, tmp_path / "some")
    written = open_folder(tmp_path / "some")
    assert written.class_names == ("a", "b")
    assert written.labels.tolist() == [0, 0, 1, 1]
    assert [written.read(i).getpixel((0, 0)) for i in range(4)] == [chosen.read(i).getpixel((0, 0)) for i in range(4)]
    study = finetune.Study(data_path="x", output=str(tmp_path / "found.json"))
    assert finetune.known(study) == []
    finetune.save(study, [row(finetune.PROBE, 0, 50.0)])
    assert finetune.known(study) == [row(finetune.PROBE, 0, 50.0)]
    with pytest.raises(InputError, match="other n_epochs"):
        finetune.known(finetune.Study(data_path="x", output=study.output, n_epochs=3))
