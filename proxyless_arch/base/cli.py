"""What every script's command line has in common."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import nearest

BAD_INPUT = 2
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """argparse with InputError instead of exit, no abbreviations, and a hint for a mistyped flag."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        raise InputError(message)

    def parse_strictly(self, argv: Sequence[str] | None) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(argv)
        if unknown:
            names = [option for action in self._actions for option in action.option_strings]
            first = unknown[0].split("=")[0]
            raise InputError(f"unknown argument{nearest(first, names)} (--help lists them)", first)
        return parsed


def exit_code(run: Callable[[], None]) -> int:
    """Run a script's body: 0, or 2 after printing an InputError to standard error, or 130 after Ctrl-C.

    Meanwhile a warning is one line on standard error, without the place in the source that gave it.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            run()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return BAD_INPUT
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            return INTERRUPTED
    return 0


def _show_warning(message: Warning | str, *place: Any, **more: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
