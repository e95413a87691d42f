"""A folder of one study: what its tasks' files were made with is noted down, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_json, write_json

STUDY_FILE = "study.json"


class Study(Protocol):
    """``work``: the folder of all that is done."""

    @property
    def work(self) -> Path: ...


def facts_of(study: Study, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(study, name) for name in names}


def check_same(study: Study, names: Sequence[str]) -> None:
    """Raises InputError where the folder holds a study in which one of ``names`` differs; a new one is noted down."""
    file, facts = study.work / STUDY_FILE, facts_of(study, names)
    if not file.is_file():
        study.work.mkdir(parents=True, exist_ok=True)
        write_json(file, facts)
    elif read_json(file) != facts:
        raise InputError(f"holds a study with other {', '.join(names)}: name another --work", source=str(file))
