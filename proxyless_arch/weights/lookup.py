"""A network by what a person calls it: a known name, a spec file, a self-describing weight file or a run folder."""

from __future__ import annotations

from pathlib import Path

from proxyless_arch.arch import catalog
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import listed, nearest
from proxyless_arch.weights.files import read_tensors

SPEC_FILE = "spec.json"
WEIGHT_FILE = "weights.h5"
SELF_DESCRIBING = (".h5", ".hdf5", ".safetensors")
"""Extensions of weight files that hold their network."""


def find_spec(word: str) -> ArchSpec:
    """The network that ``word`` means (see find_network)."""
    return find_network(word)[0]


def find_network(word: str, place: str = "") -> tuple[ArchSpec, Path | None]:
    """(the network that ``word`` means, its own weight file when it has one).

    Args:
        word: a name of the catalog, a JSON file in either dialect, a weight file that holds its network, or a run
            folder (its spec.json and weights.h5). A known name comes before a file of that name.
        place: the flag that ``word`` was given with, for the errors.

    Raises:
        InputError: nothing of that name (with the nearest), or what it names cannot be read.
    """
    names, path = catalog.known_names(), Path(word)
    if word in names:
        return catalog.load(word), None
    if path.is_dir():
        if not (path / SPEC_FILE).is_file():
            raise InputError(f"expected the run folder of a search: there is no {SPEC_FILE} in it", place, word)
        weights = path / WEIGHT_FILE
        return read_spec(path / SPEC_FILE), weights if weights.is_file() else None
    if not path.exists():
        raise InputError(
            f"expected {listed(map(repr, names))}, a spec file or a run folder, got {word!r}{nearest(word, names)}",
            place,
        )
    if path.suffix.lower() in SELF_DESCRIBING:
        spec = read_tensors(path).spec
        if spec is None:
            advice = ": give it with --weights" if place else ""
            raise InputError(f"this weight file does not say of which network{advice}", place, word)
        return spec, path
    return read_spec(path), None
