"""The settings of a command that makes runs: its command line, config.json, and what a resumed run may change."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from proxyless_arch.base import settings
from proxyless_arch.base.cli import INTERRUPTED, Parser
from proxyless_arch.base.files import read_json
from proxyless_arch.base.runs import RunStopped, config_to_resume, resumes
from proxyless_arch.base.words import DRY_RUN, RUN_DIR, add_resume_flag

Config = TypeVar("Config")


@dataclass(frozen=True)
class RunSettings(Generic[Config]):
    """Of one command, whose settings are the dataclass ``kind``.

    ``free``: settings that may be others when a run is resumed; ``paths``: those that name files and folders.
    """

    kind: type[Config]
    format: str
    version: int
    free: tuple[str, ...]
    paths: tuple[str, ...]

    def to_dict(self, config: Config) -> dict[str, Any]:
        """As config.json holds them."""
        return settings.to_dict(config, self.format, self.version)

    def read(self, path: Path) -> Config:
        """The settings of a run folder's config.json. Raises InputError for a bad file, or one of another command."""
        return settings.from_dict(self.kind, read_json(path), self.format, self.version, str(path), fill_missing=True)

    def resumed(self, run_dir: Path, given: Mapping[str, Any]) -> Config:
        """The settings that a run was started with. ``given`` may change the free ones; the others it may only
        repeat."""
        saved = self.read(config_to_resume(run_dir))
        wanted = settings.with_settings(saved, given)
        settings.resumed(saved, wanted, self.free, self.paths)
        return wanted

    def anchored(self, config: Config, names: Collection[str]) -> Config:
        """As a run folder has them: readable from any working directory. ``names``: words that are no paths."""
        flat = self.to_dict(config)
        return settings.anchored(config, [name for name in self.paths if flat[name] not in names])

    def parse(
        self,
        argv: Sequence[str],
        prog: str,
        description: str | None,
        add_more: Callable[[argparse._ArgumentGroup], Any] = lambda section: None,
        beside: type | None = None,
    ) -> tuple[Config, argparse.Namespace]:
        """(the settings in force: the flags, or those of the run that is resumed; path, resume, dry_run and more).

        Args:
            add_more: adds flags that are no settings, to the group of the run.
            beside: has more such flags, a dataclass of settings; its object is ``beside`` of the namespace.
        """
        parser = Parser(prog=prog, description=description)
        section = parser.add_argument_group("the run")
        section.add_argument(RUN_DIR.flag, *RUN_DIR.aliases, dest="path", type=Path, metavar="DIR", help=RUN_DIR.text)
        add_resume_flag(section)
        section.add_argument(DRY_RUN.flag, action="store_true", help=DRY_RUN.text)
        add_more(section)
        if beside is not None:
            settings.add_flags(parser, beside)
        settings.add_flags(parser, self.kind)
        parsed = parser.parse_strictly(argv)
        parsed.resume = resumes(parsed.resume, parsed.path)
        given = settings.of(self.kind, vars(parsed))
        if beside is not None:
            parsed.beside = settings.with_settings(beside(), settings.of(beside, vars(parsed)))
        config = self.resumed(parsed.path, given) if parsed.resume else settings.with_settings(self.kind(), given)
        return config, parsed


def finished(run: Callable[[], Any], *, shows: bool = True) -> int:
    """Make a run and, where it ``shows``, print what it came to; the exit status. One that was stopped has said how to
    go on."""
    try:
        result = run()
    except RunStopped:
        return INTERRUPTED
    if shows and result is not None:
        print(result)
    return 0
