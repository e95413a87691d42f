"""experiments/phone_photos.py on small pictures: what lies where, and what it refuses."""

import io
import zipfile

import pytest
from PIL import Image

from experiments import phone_photos
from proxyless_arch.base.cli import BAD_INPUT


@pytest.fixture
def archive(tmp_path):
    """A picture in each of 1000 class folders, two in the first of the snakes."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(buffer, "PNG")
    path = tmp_path / "sample.zip"
    with zipfile.ZipFile(path, "w") as writer:
        for name in [*(f"n{number:04d}/0.png" for number in range(1000)), "n0052/1.png"]:
            writer.writestr(name, buffer.getvalue())
    return path


def test_each_group_is_a_folder_and_its_first_photo_lies_apart(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(phone_photos, "PIXELS", 48)
    folder = tmp_path / "photos"
    assert phone_photos.main([str(archive), str(folder)]) == 0
    counts = {name: last - first for name, (first, last) in phone_photos.GROUPS.items()}
    photos = list(folder.rglob("IMG_*_*"))
    assert {name: sum(path.parent.name == name for path in photos) for name in counts} == {
        **counts, "snakes": counts["snakes"] + 1,
    }  # fmt: skip
    assert len(list((tmp_path / "photos-new").iterdir())) == len(counts)
    others = {path.name for path in folder.rglob("*") if path.is_file()} - {path.name for path in photos}
    assert others == {"IMG_0001.MOV", "SYNOFILE_THUMB.jpg", "Thumbs.db", "IMG_9999.JPG"}


@pytest.mark.parametrize(
    ("words", "place"), [(["none.zip", "new"], "SOURCE"), (["sample.zip", "there"], "FOLDER"), (["sample.zip"], "")]
)
def test_what_it_refuses(archive, tmp_path, monkeypatch, capsys, words, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there-new").mkdir()
    assert phone_photos.main(words) == BAD_INPUT
    assert capsys.readouterr().err.startswith(f"error: {place}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sample.zip", "there-new"]
