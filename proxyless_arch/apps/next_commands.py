"""The command that comes next, as a person would paste it: from the training to the exported file at work.

Each command ends by naming one, with its own paths and the flags that say which network it is. Words (a script and its
flags) become a line for the terminal with ``command_line``, or for a page with ``text.shell_line``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from proxyless_arch.apps.evaluation import DIGITS, EXPORTED_SUFFIXES, EvalConfig, NetworkConfig, RunConfig
from proxyless_arch.apps.predict_command import PredictConfig
from proxyless_arch.arch.bits import least_share
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.cli import command_line
from proxyless_arch.base.settings import flags, words_of
from proxyless_arch.base.text import labeled
from proxyless_arch.data.unlabelled import ARCHIVE

EXPORTS = {"": "onnx", "_tf": "litert"}
"""The format that each twin is shown with."""


def say_next(*commands: str | None) -> None:
    """Print a line for each command that is one."""
    for number, command in enumerate(command for command in commands if command is not None):
        print(labeled("" if number else "next", command), flush=True)


def after_eval(arguments: EvalConfig, script: str) -> tuple[str | None, ...]:
    """What the network sees in the images, one by one, and the export; of digits, in no folder, the export alone."""
    if arguments.data_path in (None, DIGITS):
        return (_export(arguments, script, None),)
    images = str(arguments.data_path)
    predict = command_line(_twin("predict", script), images, *network_words(arguments))
    return predict, _export(arguments, script, images)


def after_predict(arguments: PredictConfig, script: str) -> str | None:
    """The export of a network, checked on the first folder or zip of these images; None behind an exported file."""
    folders = [path for path in arguments.images if Path(path).is_dir() or Path(path).suffix.lower() == ARCHIVE]
    return _export(arguments, script, next(iter(folders), None))


def after_export(files: Sequence[Path], images: str | None, script: str) -> str | None:
    """The first of ``files`` that our commands run, at work on ``images`` (a folder, a zip or digits)."""
    shown = [".tflite"] if script.endswith("_tf.py") else EXPORTED_SUFFIXES
    file = next((file for file in files if file.suffix in shown), None)
    if file is None:
        return None
    if images is not None and images != DIGITS:
        return command_line(_twin("predict", script), images, "--arch", str(file))
    kind = f"--{file.suffix.removeprefix('.')}"
    data = () if images is None else ("--data_path", images)
    return command_line("eval_tf.py" if file.suffix == ".tflite" else "eval.py", kind, str(file), *data)


ATTACKED, EXPORTED = "attacked", "exported"
"""Folders in a run folder, where the page of the run finds them."""
KEEP = 0.3
"""Of the bytes in float32, what a network with few bits is shown to keep."""


def pruning(run: Path, spec: ArchSpec) -> tuple[str, ...]:
    """Words that make the network of a run half as slow on this machine; half as large where only MACs have prices,
    as of images that are no squares."""
    hardware = "flops" if isinstance(spec.resolution, tuple) else "cpu"
    return "prune.py", "--arch", str(run), "--target_hardware", hardware, "--keep", "0.5"


def quantizing(run: Path, spec: ArchSpec) -> tuple[str, ...]:
    """Words that choose the bits of a run's network, for LiteRT: three times smaller, or as small as it becomes."""
    keep = max(KEEP, math.ceil(100 * least_share(spec)) / 100)
    return "quantize.py", "--arch", str(run), "--hardware", "litert", "--keep", f"{keep:g}"


def attacking(run: Path, images: str | None) -> tuple[str, ...]:
    """Words that attack the network of a run on its images."""
    return "attack.py", "--arch", str(run), "--data_path", images or DIGITS, "--run_dir", str(run / ATTACKED)


def exporting(run: Path, images: str | None, script: str, formats: str, *, calibrates: bool = False) -> tuple[str, ...]:
    """Words that write the network of a run as files, checked (and ``calibrates``: quantized) with its images."""
    words = ["--calibration", images] if images is not None and calibrates else []
    words += ["--check", images] if images is not None else []
    return script, "--arch", str(run), "--format", formats, "--output", str(run / EXPORTED), *words


def reporting(run: Path) -> tuple[str, ...]:
    """Words that show what each command made of a run's network."""
    return "search/report.py", str(run)


def network_words(arguments: NetworkConfig) -> list[str]:
    """The flags of a command that say which network it runs, and on images prepared how."""
    if isinstance(arguments, RunConfig) and arguments.exported is not None:
        return ["--arch", str(arguments.exported)]
    words, kinds = [], flags(NetworkConfig)
    for field in dataclasses.fields(NetworkConfig):
        value = getattr(arguments, field.name)
        if value not in (None, field.default):
            words += [f"--{field.name}", *words_of(kinds[field.name][2], value)]
    return words


def _export(arguments: RunConfig, script: str, images: str | None) -> str | None:
    if arguments.exported is not None:
        return None
    run = Path(str(arguments.arch))
    folder = run / "exported" if run.is_dir() else Path("exported")
    check = () if images is None else ("--check", images)
    words = ("--format", EXPORTS["_tf" if script.endswith("_tf.py") else ""], "--output", str(folder), *check)
    return command_line(_twin("export", script), *network_words(arguments), *words)


def _twin(name: str, script: str) -> str:
    """The script ``name`` for the framework of ``script``."""
    return f"{name}_tf.py" if script.endswith("_tf.py") else f"{name}.py"
