"""The commands to go on with after a search, for its last words and its report."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable
from pathlib import Path

from proxyless_arch.apps.train_settings import RECIPE_DIR, TrainConfig, recipe_names
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.runs import resume_command
from proxyless_arch.base.settings import from_recipe
from proxyless_arch.base.text import shell_line
from proxyless_arch.data.datasets import has_own_test
from search.reporting.run_folder import Run

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = "proxyless_arch"
"""The package whose commands list, show and draw networks."""


PACKAGES = {"eval_tf.py": ("keras",), "export.py": ("onnx", "onnxruntime"), "export_tf.py": ("keras", "ai_edge_litert")}
"""What a script needs that a search does not."""


def _lacks(script: str) -> str:
    """Whether a script has to wait for packages, in words."""
    absent = any(importlib.util.find_spec(name) is None for name in PACKAGES.get(script, ()))
    return " (after make setup)" if absent else ""


def _own_test(run: Run) -> bool:
    """Whether the run's data have test images that eval.py scores alone."""
    path = run.settings.get("data_path")
    try:
        return path is None or has_own_test(path, run.settings.get("data_edition", 1))
    except InputError:  # the data are not there any more
        return False


def _training_of_random(run: Run, line: Callable[..., str]) -> list[tuple[str, str]]:
    """Train the random networks on the images of their draw, beside a search's network trained alike (from scratch)."""
    folder, settings = shlex.quote(str(run.folder)), run.settings
    words = ["--dataset", settings["dataset"]]
    if settings.get("data_path") is not None:
        words += ["--data_path", str(settings["data_path"])]
    recipe = next((name for name in recipe_names() if name == settings.get("recipe")), "default")
    own = settings.get("valid_size")
    if own is not None and own != from_recipe(TrainConfig, RECIPE_DIR, recipe).data.valid_size:
        words += ["--valid_size", f"{own:g}"]
    seed = settings.get("split_seed")
    words += ["--split_seed", str(settings.get("manual_seed", 0) if seed is None else seed), "--recipe", recipe]
    train, report = line("train.py"), line("search/report.py")
    each = f'{train} --arch "$spec" {shlex.join(words)}'
    trained = f"{folder}/trained"
    return [
        (
            "train each of them",
            f'for spec in {folder}/specs/*.json; do {each} --run_dir {trained}/"$(basename "$spec" .json)"; done',
        ),
        ("show what they come to", f"{report} {folder} --trained {trained}/*"),
        (
            "train a search's network (of RUN) alike",
            f"{train} --arch RUN --from_scratch --recipe {shlex.quote(recipe)} --run_dir RUN/trained",
        ),
        ("compare it with them", f"{report} RUN {folder} --trained RUN/trained {trained}/*"),
    ]


def from_the_project(script: str, *words: str) -> str:
    """A command for a page, which is read anywhere: as typed in the project's folder."""
    return shell_line(["python", *([] if script.endswith(".py") else ["-m"]), script, *words])


def next_commands(run: Run, line: Callable[..., str] = from_the_project) -> list[tuple[str, str]]:
    """(what it does, the command) to go on with; only scripts that are there are named.

    ``line``: writes a script, or a package that is one, and its words as a command; base.cli.command_line for one to
    paste right away.
    """
    folder = str(run.folder)
    if run.result is None:
        return [("continue the search", resume_command("search/imagenet_arch_search.py", run.folder))]
    if run.is_random:
        words = ("draw", f"{folder}/specs/random_000.json", "-o", f"{folder}/random_000.png")
        return [*_training_of_random(run, line), ("draw the first one", line(ARCHITECTURES, *words))]
    data = str(run.settings.get("data_path") or "digits")
    seen = "" if _own_test(run) else " (all images, those of the search included)"
    candidates = [
        (f"score it with PyTorch{seen}", ("eval.py", "--arch", folder, "--data_path", data)),
        (f"score it with TensorFlow{seen}", ("eval_tf.py", "--arch", folder, "--data_path", data)),
        ("train it to its full accuracy", ("train.py", "--arch", folder)),
        *(
            [("see what it says of images", ("predict.py", data, "--arch", folder, "--sheet", f"{folder}/sheet.png"))]
            if run.settings.get("data_path")
            else []
        ),
        (
            "export it for ONNX Runtime",
            ("export.py", "--arch", folder, "--format", "onnx", "--output", f"{folder}/exported"),
        ),
        (
            "export it for phones",
            ("export_tf.py", "--arch", folder, "--format", "litert", "--output", f"{folder}/exported"),
        ),
    ]
    known = [(what + _lacks(words[0]), line(*words)) for what, words in candidates if (ROOT / words[0]).is_file()]
    picture = f"{folder}/side_by_side.png"
    return [
        *known,
        (
            "draw it beside proxyless_mobile",
            line(ARCHITECTURES, "draw", folder, "proxyless_mobile", "-o", picture),
        ),
        ("animate the search", line("search/report.py", folder, "--gif", f"{folder}/film.gif")),
    ]
