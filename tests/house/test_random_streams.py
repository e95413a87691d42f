"""Random generators are made of the numbers in proxyless_arch/data/streams.py: nobody seeds one by itself."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAKERS = {
    *("default_rng", "SeedSequence", "RandomState", "PCG64", "Random"),
    *("manual_seed", "manual_seed_all", "set_random_seed", "set_seed", "seed"),
}
NUMBERED = {"torch_seed", "dropout_seed", "named_seed"}
OWNERS = {
    "proxyless_arch/data/streams.py": 2,  # all that are numbered
    "proxyless_nas/train/session.py": 1,  # initial weights, as they always were
    "hardware/profile/profiling.py": 1,  # networks that are timed: the shipped tables were made on them
    "hardware/profile/standalone_runner.py": 2,  # copied to a phone, where nothing of ours is
}
"""By file: how many generators it makes that no number stands for."""
STUDIES = ("benchmarks", "experiments")
"""No run of a user: each has seeds of its own, with which its record was made."""


def own_generators(source: str) -> list[int]:
    """Lines that make or seed a random generator, but with a seed that streams.py gives."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or _name(node.func) not in MAKERS:
            continue
        if not (node.args and isinstance(node.args[0], ast.Call) and _name(node.args[0].func) in NUMBERED):
            found.append(node.lineno)
    return sorted(found)


def _name(function: ast.expr) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


def sources() -> dict[str, str]:
    files = {path.relative_to(ROOT): path for path in ROOT.rglob("*.py")}
    return {
        name.as_posix(): path.read_text("utf-8")
        for name, path in files.items()
        if not {".venv", "tests"} & set(name.parts) and name.parts[0] not in STUDIES
    }


def test_only_the_owners_make_generators():
    counted = {name: len(own_generators(source)) for name, source in sources().items()}
    assert {name: count for name, count in counted.items() if count} == OWNERS


def test_nobody_else_seeds_with_several_words():
    """numpy fills short seeds with zeros, so such generators may be equal to a numbered one."""
    words = ("default_rng([", "default_rng((", "SeedSequence([")
    files = [path for study in STUDIES for path in (ROOT / study).rglob("*.py")]
    made = {path.name for path in files if any(word in path.read_text("utf-8") for word in words)}
    assert made <= {"table_searches.py"}  # benchmarks/: places of its own, and no run's seed


def test_the_search_for_generators_finds_them():
    source = """import numpy as np
np.random.default_rng([1, 2])
default_rng(seed)
x = np.random.SeedSequence(y)
torch.Generator().manual_seed(config.manual_seed)
torch.manual_seed(torch_seed(0, TorchStream.ALPHA))
numpy_rng(0, Stream.ORDER)
"""
    assert own_generators(source) == [2, 3, 4, 5]
