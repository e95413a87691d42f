"""The doors of the house, from the import statements: who may import whom."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("proxyless_arch", "proxyless_nas", "proxyless_nas_tensorflow", "hardware", "search", "compress", "tests")
FRAMEWORKS = ("torch", "tensorflow", "keras")

# What a room may import when it is itself imported. The standard library is free to all.
ROOMS = {
    "proxyless_arch": {"proxyless_arch", "numpy"},
    "proxyless_nas": {"proxyless_nas", "proxyless_arch", "numpy", "torch"},
    "proxyless_nas_tensorflow": {"proxyless_nas_tensorflow", "proxyless_arch", "numpy", "tensorflow", "keras"},
    "hardware": {"hardware", "proxyless_arch", "numpy"},
    "search": {"search", "hardware", "proxyless_arch", "proxyless_nas", "numpy", "torch"},
    "compress": {"compress", "hardware", "proxyless_arch", "proxyless_nas", "numpy", "torch"},
}
# What a room may import beyond that inside a function only: it is loaded where it is used, or not at all.
LAZY = {
    "proxyless_arch": {
        "h5py", "safetensors", "matplotlib", "PIL", "pillow_heif", "sklearn", "tqdm", "ai_edge_litert", "flatbuffers",
        "jinja2", "markupsafe", "onnx", "onnxruntime", "ray", "submitit",
    },
    "proxyless_nas": {"onnx", "executorch", "litert_torch", "llvmlite"},
    "proxyless_nas_tensorflow": {"ai_edge_litert", "ai_edge_quantizer"},
    "hardware": {
        "yaml", "matplotlib", "scipy", "onnx", "onnxruntime", "ai_edge_litert", "flatbuffers", "torch", "proxyless_nas"
    },
    "search": {"tensorboardX", "matplotlib", "scipy"},
    "compress": {"scipy"},
}  # fmt: skip
# Each of these has its owners: the files that may load it.
OWNERS = {
    "proxyless_arch": {
        "h5py": {"weights/files.py", "weights/hdf5.py"},
        "safetensors": {"weights/files.py", "weights/hdf5.py"},
        "matplotlib": {"drawing/scene.py"},
        "jinja2": {"drawing/pages.py"},
        "markupsafe": {"drawing/pages.py"},
        "pillow_heif": {"data/images.py"},
        "PIL": {"apps/contact_sheet.py", "data/datasets.py", "data/images.py", "data/sources.py"},
        "sklearn": {"data/datasets.py", "apps/evaluation.py"},
        "tqdm": {"base/progress.py"},
        "ai_edge_litert": {"exports/litert.py"},
        "onnxruntime": {"exports/onnx_file.py", "exports/onnx_int8.py"},
        "onnx": {"exports/onnx_int8.py"},
        "flatbuffers": {"exports/litert.py"},
        "ray": {"launch/on_ray.py"},
        "submitit": {"launch/on_slurm.py"},
    },
    "search": {
        "tensorboardX": {"run/log.py"},
    },
    "compress": {"scipy": {"pruning/choices.py"}},
    "proxyless_nas": {"llvmlite": {"fast/compiler.py"}},
    "hardware": {"torch": {"profile/measure.py"}, "proxyless_nas": {"profile/measure.py"}},
}
# Inside a room, which folder may import which others; "" is the files that lie in the room itself.
INNER = {
    "proxyless_arch": {
        "base": set(),
        "drawing": {"base"},
        "launch": {"base"},
        "arch": {"base", "drawing"},
        "space": {"base", "arch"},
        "data": {"base", "arch", "weights"},
        "weights": {"base", "arch"},
        "apps": {"base", "drawing", "arch", "data", "weights"},
        "exports": {"base", "arch", "data", "weights", "apps"},
        "chain": {"base", "drawing", "arch", "weights", "apps", "exports"},
        "": {"base", "arch", "weights"},
    },
    "hardware": {"profile": {""}, "": {"profile"}},
    "search": {
        "algorithm": {""},
        "run": {"", "algorithm", "reporting"},
        "reporting": {""},
        "": {"algorithm", "run", "reporting"},
    },
}
# Of a room's own files, those that may import its folders: commands, and what a program imports.
ABOVE = {
    "hardware": {"__init__.py", "profile_latency.py"},
    "search": {"__init__.py", "imagenet_arch_search.py", "report.py", "result.py", "show.py", "specialize.py"},
}
OPTIONAL = sorted(set().union(*LAZY.values()) - {"torch", "proxyless_nas"})
# The files of search that stay free of the framework: the cost of a network is known without running one.
FRAMEWORK_FREE = {
    "search/config.py": {"proxyless_arch"},
    "search/report.py": {"proxyless_arch", "search/reporting"},
    "search/run/log.py": {"proxyless_arch", "tensorboardX"},
    "search/reporting/heat_map.py": {"proxyless_arch"},
    "search/reporting/history.py": {"proxyless_arch", "search/reporting"},
    "search/reporting/film.py": {"proxyless_arch", "search/reporting"},
    "search/reporting/networks.py": {"proxyless_arch", "search/reporting", "hardware/latency"},
    "search/reporting/views.py": {"proxyless_arch", "search/config", "search/reporting"},
    "search/reporting/report_page.py": {"proxyless_arch", "search/reporting"},
    "search/reporting/run_folder.py": {"proxyless_arch", "search/config", "search/reporting", "hardware"},
    "search/reporting/schema.py": {"proxyless_arch"},
}
# The commands: a script of one framework never meets the other.
WITH_TORCH = {"proxyless_arch", "proxyless_nas", "torch"}
WITH_KERAS = {"proxyless_arch", "proxyless_nas_tensorflow", "tensorflow", "keras", "proxyless_commands"}
SCRIPTS = {
    "__init__.py": set(),
    "__main__.py": {"proxyless_arch"},
    "attack.py": WITH_TORCH,
    "eval.py": WITH_TORCH,
    "prune.py": {"proxyless_arch", "compress"},
    "quantize.py": {"proxyless_arch", "compress"},
    "train.py": WITH_TORCH,
    "eval_tf.py": WITH_KERAS,
    "predict.py": WITH_TORCH,
    "predict_tf.py": WITH_KERAS,
    "export.py": WITH_TORCH,
    "shard.py": {"proxyless_arch"},
    "export_tf.py": WITH_KERAS,
}
# What stands where a command is started, and holds nothing of it.
LAUNCHERS = {"search/profile_latency.py", *(name for name in SCRIPTS if not name.startswith("_"))}
LAUNCHER_LINES = 6


def files_of(room):
    return sorted(path for path in (ROOT / room).rglob("*.py"))


def place(path):
    return path.relative_to(ROOT).as_posix()


def imports(path):
    """(top-level package, dotted name, inside a function, only for type checkers) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []

    def visit(node, lazy, typing_only):
        if isinstance(node, ast.Import):
            found.extend((alias.name.split(".")[0], alias.name, lazy, typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place(path)}: a relative import"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
            found.extend((module.split(".")[0], name, lazy, typing_only) for name in names)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        guarded = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        body = set(map(id, node.body)) if guarded else set()
        for child in ast.iter_child_nodes(node):
            visit(child, inside, typing_only or id(child) in body)

    visit(tree, False, False)
    return found


def is_standard(package):
    return package in sys.stdlib_module_names


def breaches(path, room):
    allowed = ROOMS[room]
    for package, name, lazy, typing_only in imports(path):
        if is_standard(package) or package in allowed:
            continue
        owners = OWNERS.get(room, {}).get(package)
        owned = owners is None or path.relative_to(ROOT / room).as_posix() in owners
        if package in LAZY[room] and owned and (lazy or typing_only):
            continue
        yield f"{place(path)} imports {name}{' inside a function' if lazy else ''}"


@pytest.mark.parametrize("room", ROOMS)
def test_who_may_import_whom(room):
    files = files_of(room)
    assert files
    assert [breach for path in files for breach in breaches(path, room)] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_the_commands_import(script):
    packages = {package for package, *_ in imports(ROOT / "proxyless_commands" / script) if not is_standard(package)}
    assert packages <= SCRIPTS[script] | {"numpy"}


def test_every_command_is_started_from_the_top():
    assert {path.name for path in files_of("proxyless_commands")} == set(SCRIPTS)
    for script in LAUNCHERS & set(SCRIPTS):
        module = f"proxyless_commands.{script.removesuffix('.py')}"
        assert [name for _, name, _, _ in imports(ROOT / script)] == [f"{module}.main"]
        assert len((ROOT / script).read_text().splitlines()) <= LAUNCHER_LINES


WITH_COMMANDS = (*ROOMS, "proxyless_commands", "experiments", "benchmarks")


def commands():
    """The dotted names of the files that are started and leave by the commands' one way out."""
    places = [*ROOT.glob("*.py"), *(path for room in WITH_COMMANDS for path in files_of(room))]
    return {
        place(path).removesuffix(".py").replace("/", "."): path
        for path in places
        if "exit_code(" in (text := path.read_text(encoding="utf-8")) and '__name__ == "__main__"' in text
    }


def test_no_file_imports_a_command():
    """What a command does, a library does for all: nobody talks to another one in the words of a command line."""
    names = set(commands())
    known = {"proxyless_commands.train", "search.imagenet_arch_search", "search.specialize", "experiments.landing"}
    assert known <= names
    others = [path for room in WITH_COMMANDS for path in files_of(room)]
    found = [
        f"{place(path)} imports {name}"
        for path in [*ROOT.glob("*.py"), *others]
        for _, name, _, _ in imports(path)
        if place(path) not in LAUNCHERS and any(name == each or name.startswith(f"{each}.") for each in names)
    ]
    assert found == []


@pytest.mark.parametrize("file", FRAMEWORK_FREE)
def test_framework_free_files_of_search(file):
    for package, name, _, typing_only in imports(ROOT / file):
        if is_standard(package) or package in FRAMEWORK_FREE[file]:
            continue
        as_file = "/".join(name.split(".")[:2])
        assert as_file in FRAMEWORK_FREE[file], f"{file} imports {name}"
        assert not typing_only or package == "search"


def folder_in(room, name):
    """The inner folder of a room that a dotted name lies in; "" for the room's own files."""
    words = name.split(".")
    return words[1] if len(words) > 2 and (ROOT / room / words[1]).is_dir() else ""


@pytest.mark.parametrize("room", INNER)
def test_the_doors_inside_a_room(room):
    folders = {path.parent.relative_to(ROOT / room).as_posix().replace(".", "", 1) for path in files_of(room)}
    assert folders == set(INNER[room])
    breaches = [
        f"{place(path)} imports {name}"
        for path in files_of(room)
        for package, name, _, _ in imports(path)
        if package == room
        and (home := path.parent.relative_to(ROOT / room).as_posix().replace(".", "", 1))
        != (there := folder_in(room, name))
        and there not in INNER[room][home]
    ]
    assert breaches == []


@pytest.mark.parametrize("room", ABOVE)
def test_what_the_folders_of_a_room_stand_on_knows_none_of_them(room):
    above = {
        path.name
        for path in (ROOT / room).glob("*.py")
        if any(package == room and folder_in(room, name) for package, name, _, _ in imports(path))
    }
    assert above <= ABOVE[room]


def without_framework(room):
    """The files of a room whose import loads neither torch nor a zoo, not even through another file."""
    loaded = {
        place(path): [name for _, name, lazy, typing_only in imports(path) if not lazy and not typing_only]
        for path in files_of(room)
    }
    needy: set[str] = set()

    def needs(name):
        package, *inner = name.split(".")
        files = {"/".join([package, *inner[:depth]]) + ".py" for depth in range(1, len(inner) + 1)}
        return package in ("torch", "proxyless_nas") or (package == room and bool(files & needy))

    while found := {file for file, names in loaded.items() if file not in needy and any(map(needs, names))}:
        needy |= found
    return sorted(set(loaded) - needy)


def test_mypy_checks_every_file_that_needs_no_framework():
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
    assert configured == [
        "proxyless_arch",
        *without_framework("hardware"),
        *without_framework("search"),
        *without_framework("compress"),
    ]
    assert set(FRAMEWORK_FREE) <= set(configured)


def test_the_search_for_files_without_framework_finds_indirect_imports(tmp_path, monkeypatch):
    (tmp_path / "search").mkdir()
    files = {
        "direct": "import torch.nn",
        "zoo": "from proxyless_nas.layers import build_op",
        "far": "from search import direct",
        "farther": "from search.far import thing",
        "late": "def f():\n    import torch",
        "typed": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from search.zoo import Zoo",
        "free": "import numpy\nfrom search import late, typed",
    }
    for name, text in files.items():
        (tmp_path / "search" / f"{name}.py").write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert without_framework("search") == ["search/free.py", "search/late.py", "search/typed.py"]


def test_the_table_of_owners_is_true():
    """An entry that nothing uses is one that no longer describes the house."""
    assert set(OWNERS["proxyless_arch"]) == LAZY["proxyless_arch"]
    for room, owned in OWNERS.items():
        for package, files in owned.items():
            for file in files:
                assert package in {found for found, _, lazy, _ in imports(ROOT / room / file) if lazy}, (package, file)


def test_only_the_parity_tests_see_both_zoos():
    for path in files_of("tests"):
        packages = {package for package, *_ in imports(path)}
        if {"proxyless_nas", "proxyless_nas_tensorflow"} <= packages:
            assert place(path).startswith("tests/parity/"), place(path)


def test_no_import_cycle_between_the_rooms():
    """Seen from the rooms: what is imported never imports back."""
    order = ["proxyless_arch", "proxyless_nas", "hardware", "search", "compress"]
    for index, room in enumerate(order):
        later = set(order[index + 1 :]) | {"proxyless_nas_tensorflow", "tests"}
        for path in files_of(room):
            assert not later & {package for package, *_ in imports(path)}, place(path)


def test_the_reader_of_imports_sees_them(tmp_path, monkeypatch):
    """The checks above can fail."""
    path = tmp_path / "proxyless_arch" / "bad.py"
    path.parent.mkdir()
    path.write_text(
        "import os, torch.nn\nfrom keras import layers\nimport numpy as np\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import h5py\ndef f():\n    from search.algorithm.gates import sample\n    import yaml\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert list(breaches(path, "proxyless_arch")) == [
        "proxyless_arch/bad.py imports torch.nn",
        "proxyless_arch/bad.py imports keras.layers",
        "proxyless_arch/bad.py imports h5py",
        "proxyless_arch/bad.py imports search.algorithm.gates.sample inside a function",
        "proxyless_arch/bad.py imports yaml inside a function",
    ]


IMPORT_ALL = """
import importlib, pathlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")
BLOCKED = set(sys.argv[2].split(","))
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
for name in sys.argv[3].split(","):
    importlib.import_module(name)
print(len(sys.modules))
"""


def import_without(modules, blocked):
    words = [sys.executable, "-c", IMPORT_ALL, str(ROOT), ",".join(blocked), ",".join(modules)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def modules_of(room):
    names = (place(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files_of(room))
    return list(names)


def test_proxyless_arch_needs_numpy_alone():
    done = import_without(modules_of("proxyless_arch"), [*FRAMEWORKS, *OPTIONAL])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("files", "blocked"),
    [
        (list(FRAMEWORK_FREE), OPTIONAL),
        ([*without_framework("hardware"), *without_framework("search")], ["proxyless_nas"]),
    ],
    ids=["pricing", "every file that says so"],
)
def test_pricing_needs_no_framework(files, blocked):
    modules = [file.removesuffix(".py").replace("/", ".") for file in files]
    done = import_without(modules, [*FRAMEWORKS, *blocked])
    assert done.returncode == 0, done.stderr


def test_the_torch_side_never_meets_keras():
    done = import_without(
        [*modules_of("proxyless_nas"), *modules_of("hardware"), *modules_of("search")], ["tensorflow", "keras"]
    )
    assert done.returncode == 0, done.stderr


def test_blocking_blocks():
    done = import_without(["proxyless_nas"], ["torch"])
    assert done.returncode != 0
    assert "torch is blocked" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["search/imagenet_arch_search.py", "--data_path", "nowhere"],
        ["search/imagenet_arch_search.py", "--data_path", "nowhere", "--target_latency_ms", "3,4"],
        ["search/imagenet_arch_search.py", "--from", "nowhere"],
        ["search/imagenet_arch_search.py", "--latency_table", "nowhere"],
        ["train.py", "--arch", "proxyless_mobile", "--from_scratch", "--data_path", "nowhere"],
        ["train.py", "--arch", "nowhere"],
        ["prune.py", "--arch", "proxyless_mobile", "--data_path", "nowhere"],
        ["quantize.py", "--arch", "nowhere"],
    ],
)
def test_what_is_not_there_is_told_before_a_framework_is_imported(words):
    script = "import sys; sys.argv = sys.argv[1:]; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules.update(torch=None, tensorflow=None); {script}", *words],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "nowhere" in done.stderr and "Traceback" not in done.stderr
