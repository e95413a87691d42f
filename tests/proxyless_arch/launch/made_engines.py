"""FAKES of Ray and submitit, with the few names of them that are used: a thread for each job, of this process.

The real ones are optional; test_launcher.py runs with them too, where they are installed.
"""

import contextlib
import json
import os
import threading
from types import SimpleNamespace

from proxyless_arch.base.cli import exit_code
from proxyless_arch.launch.process import call


class _Thread:
    def __init__(self, function, *words):
        self.environment = os.environ.get("PYTHONPATH", "")
        self.found, self.error = None, None

        def run():
            try:
                self.found = function(*words)
            except BaseException as error:  # noqa: BLE001 (as the engines do)
                self.error = error

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def is_done(self):
        return not self._thread.is_alive()


def ray(calls):
    """``calls``: gets what init and remote were called with."""

    class RayError(Exception):
        pass

    def wait(references, timeout):
        done = [each for each in references if each.is_done()]
        return done, [each for each in references if each not in done]

    def get(reference):
        if reference.error is not None:
            raise RayError(str(reference.error))
        return reference.found

    def remote(**options):
        calls["remote"] = options
        return lambda function: SimpleNamespace(remote=lambda *words: _Thread(function, *words))

    return SimpleNamespace(
        is_initialized=lambda: "init" in calls,
        init=lambda *address, **options: calls.update(init=(address, options)),
        wait=wait,
        get=get,
        remote=remote,
        cancel=lambda reference, force=False: None,
        exceptions=SimpleNamespace(RayError=RayError),
    )


def submitit(calls):
    class Job:
        def __init__(self, *words):
            self._thread = _Thread(*words)
            calls["environment"] = self._thread.environment

        def done(self):
            return self._thread.is_done()

        def exception(self):
            return self._thread.error

        def result(self):
            return self._thread.found

        def cancel(self, check=True):
            pass

    class AutoExecutor:
        def __init__(self, folder, cluster):
            calls.update(folder=folder, cluster=cluster)

        def update_parameters(self, **options):
            if unknown := set(options) - {"timeout_min"}:
                raise NameError(f"Unknown argument: {unknown}")
            calls["options"] = options

        def submit(self, function, *words):
            return Job(function, *words)

    return SimpleNamespace(AutoExecutor=AutoExecutor)


class Inline:
    """A place whose jobs are done in this process, one after the other, as another one is asked for them."""

    most, tick_s = 1, 0

    def begin(self, request, slot):
        wanted = json.loads(request.read_text())
        log = request.with_suffix(".log")
        with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            status = exit_code(lambda words: call(wanted["function"], wanted["arguments"]), [])
        return SimpleNamespace(status=lambda: status, stop=lambda: None, kill=lambda: None)
