"""Torch batches: exact under resume and workers, equal to torch's own arithmetic, and never silent about bad files."""

import io
import multiprocessing
import os
import pickle
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.errors import InputError, LostProcessError
from proxyless_arch.data.datasets import ImageDataset, digits, open_folder
from proxyless_arch.data.images import Augment, eval_transform, normalize
from proxyless_nas import data
from proxyless_nas.data import eval_batches, train_batches

RECIPE = Preprocessing(resolution=16, resize=18)
AUGMENT = Augment(min_scale=0.3)


@pytest.fixture(scope="module")
def images():
    return digits()[0].subset(range(90))


@pytest.fixture
def damaged(tmp_path):
    """Two classes of four photos; cat/1 and cat/2 cannot be read."""
    for label, name in enumerate(("cat", "dog")):
        for k in range(4):
            path = tmp_path / name / f"{k}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (20, 20), (50 * label, 10 * k, 0)).save(path)
    (tmp_path / "cat/1.png").write_bytes(b"a text file")
    whole = (tmp_path / "cat/2.png").read_bytes()
    (tmp_path / "cat/2.png").write_bytes(whole[: len(whole) // 2])
    return open_folder(tmp_path)


def batches(images, first_step, n_steps, **options):
    settings = {"batch_size": 8, "seed": 3} | options
    return list(train_batches(images, RECIPE, AUGMENT, first_step=first_step, n_steps=n_steps, **settings))


def assert_equal(ones, others):
    assert len(ones) == len(others)
    for (images, labels), (other_images, other_labels) in zip(ones, others, strict=True):
        assert torch.equal(labels, other_labels) and torch.equal(images, other_images)


def test_tensors_are_what_the_network_takes(images):
    x, y = next(train_batches(images, RECIPE, AUGMENT, batch_size=8, seed=0, n_steps=1))
    assert x.shape == (8, 3, 16, 16) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_step_t_is_the_same_wherever_the_run_started(images, n_workers):
    """90 images, 8 per step: 11 steps an epoch, so steps 9 to 13 cross into the second one."""
    whole = batches(images, 0, 14)
    assert_equal(whole[9:], batches(images, 9, 5, n_workers=n_workers))
    assert not torch.equal(whole[0][0], whole[11][0])


def test_ranks_share_one_global_batch(images):
    (whole,) = batches(images, 5, 1)
    shares = [batches(images, 5, 1, rank=rank, world_size=2)[0] for rank in (0, 1)]
    assert torch.equal(torch.stack([share[0] for share in shares], 1).flatten(0, 1), whole[0])
    assert torch.equal(torch.stack([share[1] for share in shares], 1).flatten(), whole[1])


def test_the_global_random_state_is_left_alone(images):
    before = torch.get_rng_state()
    batches(images, 0, 2)
    list(eval_batches(images, RECIPE, batch_size=32))
    assert torch.equal(torch.get_rng_state(), before)


def test_impossible_sizes_fail_before_the_first_batch(images):
    with pytest.raises(InputError, match="batch_size: expected 1 to 90"):
        train_batches(images, RECIPE, AUGMENT, batch_size=91, seed=0, n_steps=1)
    with pytest.raises(InputError, match="first_step"):
        train_batches(images, RECIPE, AUGMENT, batch_size=8, seed=0, n_steps=1, first_step=-1)
    with pytest.raises(InputError, match="n_workers"):
        eval_batches(images, RECIPE, batch_size=8, n_workers=-1)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_evaluation_reads_everything_once_in_order(images, n_workers):
    loader = eval_batches(images, RECIPE, batch_size=32, n_workers=n_workers)
    assert len(loader) == 3
    found = list(loader)
    assert [len(labels) for _, labels in found] == [32, 32, 26]
    assert torch.cat([labels for _, labels in found]).tolist() == images.labels.tolist()
    expected = eval_transform(images.read(40), RECIPE)
    np.testing.assert_array_equal(found[1][0][8].permute(1, 2, 0).numpy(), expected)
    assert [len(labels) for _, labels in eval_batches(images, RECIPE, batch_size=32, limit=40)] == [32, 8]


def test_normalize_equals_torch_bit_for_bit():
    """ToTensor: uint8 -> float32, div(255). Normalize: sub_(mean), div_(std) with float32 tensors."""
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1).reshape(16, 16, 3)
    for recipe in (
        Preprocessing(),
        Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3),
        Preprocessing(mean=(0.49, 0.48, 0.44)),
    ):
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        tensor.sub_(torch.tensor(recipe.mean).view(-1, 1, 1)).div_(torch.tensor(recipe.std).view(-1, 1, 1))
        np.testing.assert_array_equal(normalize(pixels, recipe.mean, recipe.std), tensor.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("n_workers", [0, 1])
def test_unreadable_images_are_left_out_named_and_counted(damaged, n_workers):
    loader = eval_batches(damaged, RECIPE, batch_size=3, n_workers=n_workers)
    with pytest.warns(UserWarning, match="image left out") as caught:
        found = list(loader)
    assert [labels.tolist() for _, labels in found] == [[0], [0, 1, 1], [1, 1]]
    assert [place[-9:] for place in loader.unreadable.places] == ["cat/1.png", "cat/2.png"]
    assert ["cat/1.png" in str(warning.message) for warning in caught] == [True, False]
    assert ["cat/2.png" in str(warning.message) for warning in caught] == [False, True]


@pytest.mark.filterwarnings("ignore:image left out")
def test_a_batch_with_nothing_readable(damaged):
    loader = eval_batches(damaged, RECIPE, batch_size=1)
    assert sum(len(labels) for _, labels in loader) == 6
    with pytest.raises(InputError, match=r"no image.*cat/[12]\.png"):
        list(train_batches(damaged, RECIPE, AUGMENT, batch_size=1, seed=0, n_steps=8))
    training = train_batches(damaged, RECIPE, AUGMENT, batch_size=8, seed=0, n_steps=2)
    assert [len(labels) for _, labels in training] == [6, 6] and len(training.unreadable.places) == 4


class CtrlCSource:
    """Images that are white where Ctrl-C would be ignored, and black elsewhere."""

    def place(self, name):
        return name

    def read(self, name):
        ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        return Image.new("RGB", (20, 20), (255, 255, 255) if ignored else (0, 0, 0))


@pytest.fixture
def listens_to_ctrl_c():
    # A shell starts its background jobs (make test &) with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listens_to_ctrl_c")
def test_a_worker_leaves_ctrl_c_to_the_process_it_works_for():
    for n_workers in (0, 1):
        images = ImageDataset(CtrlCSource(), ("a", "b"), np.zeros(2, dtype=np.int64), ("one",))
        ((found, _),) = eval_batches(images, RECIPE, batch_size=2, n_workers=n_workers)
        assert bool((found > 0).all()) == (n_workers > 0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("n_workers", [0, 1])
def test_strict_raises_the_error_itself_even_from_a_worker(damaged, n_workers):
    loader = eval_batches(damaged, RECIPE, batch_size=4, n_workers=n_workers, strict=True)
    with pytest.raises(InputError, match=r"^expected an image.*\(in .*cat/1\.png\)$") as caught:
        list(loader)
    assert "Traceback" not in str(caught.value)


def test_input_errors_survive_pickling():
    error = InputError("problem", "place", "file")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "place: problem (in file)"


@pytest.mark.shared_data
def test_resume_on_cifar_from_the_archive(shared_data):
    found = open_folder(shared_data / "cifar10.zip", "train")
    recipe = Preprocessing(resolution=32, resize=32)
    options = {"batch_size": 16, "seed": 0}
    whole = list(train_batches(found, recipe, Augment.small(32), n_steps=3, first_step=3123, **options))
    resumed = train_batches(found, recipe, Augment.small(32), n_steps=2, first_step=3124, n_workers=2, **options)
    assert_equal(whole[1:], list(resumed))


def test_jpeg_bytes_reach_the_tensor(tmp_path):
    """One photo through file, loader and tensor equals the same pixels through torch arithmetic."""
    pixels = np.random.default_rng(0).integers(0, 256, (18, 18, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/a.jpg").write_bytes(buffer.getvalue())
    ((x, _),) = eval_batches(open_folder(tmp_path), RECIPE, batch_size=4)
    decoded = np.array(Image.open(buffer))[1:17, 1:17]
    expected = (torch.from_numpy(decoded).permute(2, 0, 1) / 255 - torch.tensor(RECIPE.mean).view(3, 1, 1)) / (
        torch.tensor(RECIPE.std).view(3, 1, 1)
    )
    assert torch.equal(x[0], expected)


@pytest.mark.parametrize(("sign", "said"), [(signal.SIGKILL, "is gone"), (signal.SIGSTOP, "1.0 s")])
def test_a_reader_that_is_killed_or_stopped_is_a_lost_process(images, sign, said, monkeypatch):
    monkeypatch.setattr(data, "WAIT_SECONDS", 1)
    found = train_batches(images, RECIPE, AUGMENT, batch_size=8, seed=0, n_steps=50, n_workers=1)
    next(found)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, sign)
    with pytest.raises(LostProcessError, match=said):
        list(found)
    assert multiprocessing.active_children() == []
