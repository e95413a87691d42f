"""Standard error is held back, and comes back."""

import os

import pytest

from proxyless_arch.base.quiet import captured_stderr


def test_standard_error_comes_back(capfd):
    with captured_stderr():
        os.write(2, b"hidden")
    with pytest.raises(KeyboardInterrupt), captured_stderr():
        os.write(2, b"shown,")
        raise KeyboardInterrupt
    os.write(2, b"after")
    assert capfd.readouterr().err == "shown,after"
