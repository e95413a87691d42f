"""The errors that a command must expect: bad input, wherever it comes from, and what ends a run in the middle."""

from __future__ import annotations

from proxyless_arch.base.text import in_one_line


class InputError(ValueError):
    """Something a person gave is not what it must be.

    The message reads ``<place>: <problem> (in <source>)``, for example
    ``blocks[3].kernel_size: expected 3, 5 or 7, got 4 (in my_net.json)``.

    Args:
        problem: what was expected and what was received.
        place: the JSON path, flag or tensor the problem is at; empty for the input as a whole.
        source: the file (or other origin) the input came from, when known.
    """

    def __init__(self, problem: str, place: str = "", source: str | None = None) -> None:
        super().__init__(problem, place, source)
        self.problem, self.place, self.source = problem, place, source

    def __str__(self) -> str:
        where = f"{in_one_line(self.place)}: " if self.place else ""
        origin = f" (in {in_one_line(self.source)})" if self.source else ""
        return f"{where}{self.problem}{origin}"

    def under(self, prefix: str) -> InputError:
        """The same error seen from one level further out: ``kernel_size`` -> ``blocks[3].kernel_size``."""
        joined = prefix if not self.place else self.place if not prefix else f"{prefix}.{self.place}"
        return InputError(self.problem, joined, self.source)

    def from_source(self, source: str) -> InputError:
        """The same error with the file it came from (an origin already known is kept)."""
        return InputError(self.problem, self.place, self.source or source)


class StoppedError(Exception):
    """A run that cannot go on, though its input was good; the message says why and what to change."""


class ElsewhereError(StoppedError):
    """What this process ends with where another one of the same run reports why; it has no words of its own.

    Args:
        is_input: whether the other one met what it could not begin with, and not what stopped it; for the status.
    """

    def __init__(self, *, is_input: bool = False) -> None:
        super().__init__()
        self.is_input = is_input


class LeftOutWarning(UserWarning):
    """An image is left out; of many, a command names the first few and counts the others."""


class LostProcessError(RuntimeError):
    """A process that this one started is gone before it had done its work (killed, out of memory)."""
