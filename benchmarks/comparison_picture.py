"""Draw a comparison again: published accuracy over measured latency.

python benchmarks/comparison_picture.py benchmarks/known_networks.json docs/comparison.svg
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

from benchmarks.comparison_scene import draw  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.files import read_json  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, setting  # noqa: E402
from proxyless_arch.base.strict import Node  # noqa: E402
from proxyless_arch.base.words import new_file  # noqa: E402
from proxyless_arch.drawing.scene import check_suffix  # noqa: E402

PARTS = ("environment", "settings", "drift", "networks")
"""What of a record is drawn."""


def _picture_file(path: Path) -> Path:
    """A setting's check: a picture that can be written."""
    check_suffix(path)
    return new_file(path)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is drawn."""

    record: Path = setting(REQUIRED, "of compare_networks.py", is_positional=True, metavar="RECORD")
    picture: Path = setting(
        REQUIRED, ".png or .svg to write", is_positional=True, metavar="PICTURE", check=_picture_file
    )


def read_record(path: Path) -> dict[str, Any]:
    """A record of compare_networks.py. Raises InputError for a file without a part that is drawn."""
    try:
        found = dict(Node(read_json(path)).items())
    except InputError as error:
        raise error.from_source(str(path)) from None
    if missing := [part for part in PARTS if part not in found]:
        raise InputError(f"not a record of compare_networks.py: missing {', '.join(missing)}", source=str(path))
    return {part: node.value for part, node in found.items()}


def run(argv: Sequence[str]) -> int:
    config = settings.parse(Config, argv, "comparison_picture.py", __doc__)
    if draw(read_record(config.record), config.picture):
        return 0
    raise InputError("none has a published accuracy, so there is nothing to draw", "networks", str(config.record))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
