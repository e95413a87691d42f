"""Standard error held back while a library says what nobody asked for."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

STDERR = 2


@contextlib.contextmanager
def captured_stderr() -> Iterator[None]:
    """File descriptor 2 goes to a temporary file; it is restored in any case, and shown if the body fails.

    C++ libraries write to the descriptor, where Python's redirect_stderr has no say.
    """
    sys.stderr.flush()
    try:
        original = os.dup(STDERR)
    except OSError:  # a process without standard error has nothing to silence
        yield
        return
    with tempfile.TemporaryFile() as capture:
        os.dup2(capture.fileno(), STDERR)
        went_well = False
        try:
            yield
            went_well = True
        finally:
            sys.stderr.flush()
            os.dup2(original, STDERR)
            os.close(original)
            if not went_well:  # what was held back may say why
                capture.seek(0)
                with open(STDERR, "wb", closefd=False) as shown:
                    shutil.copyfileobj(capture, shown)
