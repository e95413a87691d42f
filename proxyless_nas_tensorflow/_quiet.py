"""TensorFlow imported without its start-up lines, and Keras 3 on top of it."""

from __future__ import annotations

import contextlib
import os
import sys

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.quiet import captured_stderr


def check_backend() -> None:
    """Keras must run on TensorFlow here.

    Raises:
        InputError: KERAS_BACKEND names another backend, or Keras was imported with one.
    """
    wanted = os.environ.get("KERAS_BACKEND", "tensorflow")
    if wanted != "tensorflow":
        raise InputError(
            f"proxyless_nas_tensorflow needs 'tensorflow', got {wanted!r}; unset it or start with "
            "KERAS_BACKEND=tensorflow",
            "KERAS_BACKEND",
        )
    keras = sys.modules.get("keras")
    if keras is not None and keras.backend.backend() != "tensorflow":
        raise InputError(
            f"proxyless_nas_tensorflow needs Keras on 'tensorflow', but Keras was imported on "
            f"{keras.backend.backend()!r}; start with KERAS_BACKEND=tensorflow, or import this package first",
            "keras",
        )


def import_tensorflow() -> None:
    """Import TensorFlow and Keras silently; oneDNN stays on and no device is initialized.

    With TF_CPP_MIN_LOG_LEVEL=0 in the environment TensorFlow may say what it likes; by default its later
    information lines (level 0) are off as well.

    Raises:
        InputError: Keras is set to another backend.
        ModuleNotFoundError: TensorFlow or Keras is not installed.
    """
    check_backend()
    # the environment outranks ~/.keras/keras.json
    os.environ["KERAS_BACKEND"] = "tensorflow"
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    with contextlib.nullcontext() if level == "0" else captured_stderr():
        try:
            import keras
            import tensorflow  # noqa: F401
        except ModuleNotFoundError as error:
            if error.name not in ("tensorflow", "keras"):
                raise
            raise ModuleNotFoundError(
                f"proxyless_nas_tensorflow needs TensorFlow and Keras 3, and there is no module {error.name!r}: "
                "pip install -e '.[tf]'",
                name=error.name,
            ) from None
    check_backend()
    del keras
