"""Write images as shards: tar files of some hundred MB (WebDataset's layout) with an index.

    python shard.py --data_path photos/ --output shards/
    python shard.py --data_path shards/ --check
    python train.py --arch efficientnet_lite0 --pretrained --data_path shards/

Shards are taken wherever a folder of images is, and give the same runs, bit for bit. Given again, the command goes on
where it was interrupted. --data_path may also be the URL of a folder of shards on a web server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proxyless_arch.base import settings
from proxyless_arch.base.cli import command_line, exit_code
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.memory import format_bytes
from proxyless_arch.base.settings import REQUIRED, setting
from proxyless_arch.base.strict import counted
from proxyless_arch.base.text import labeled
from proxyless_arch.base.words import DATA_PATH


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """What to write where."""

    data_path: str = DATA_PATH.setting(REQUIRED)
    output: Path | None = setting(None, "folder for the shards", aliases=("-o",), metavar="DIR")
    shard_mb: int = setting(256, "size of a shard in MB (of 10^6 bytes)", minimum=1, maximum=100_000)
    check: bool = setting(False, "compare the shards at --data_path with the hashes in their index; nothing is written")


def run(argv: Sequence[str]) -> None:
    config = settings.parse(ShardConfig, argv, "shard.py", __doc__)
    if config.check:
        _check(config.data_path)
        return
    if config.output is None:
        raise InputError("give a folder for the shards", "--output")
    from proxyless_arch.data.shard_writing import write_shards

    written = write_shards(config.data_path, config.output, config.shard_mb * 10**6)
    shards = [shard for part in written.parts.values() for shard in part]
    for name, part in written.parts.items():
        n_images = sum(shard.n_images for shard in part)
        size = format_bytes(sum(shard.n_bytes for shard in part))
        print(labeled(name or "images", f"{counted(n_images, 'image')} in {counted(len(part), 'shard')}, {size}"))
    if written.n_kept:
        print(labeled("note", f"{written.n_kept} of {counted(len(shards), 'shard')} had been written before"))
    print(labeled("next", command_line("train.py", "--arch", "NAME", "--data_path", str(config.output))))


def _check(path: str) -> None:
    """Raises InputError at the first shard that is not the one of the index."""
    from proxyless_arch.data.shards import checked

    shards = checked(path)
    print(labeled("checked", f"{counted(len(shards), 'shard')}: all as their index has them"))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
