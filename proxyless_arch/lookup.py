"""A network by what a person calls it: a known name, a spec file, a self-describing weight file or a run folder."""

from __future__ import annotations

from pathlib import Path

from proxyless_arch import catalog
from proxyless_arch.codec import read_spec
from proxyless_arch.errors import InputError
from proxyless_arch.spec import ArchSpec
from proxyless_arch.strict import listed, nearest
from proxyless_arch.weights import read_tensors

SPEC_FILE = "spec.json"
WEIGHT_SUFFIXES = (".h5", ".hdf5", ".safetensors")


def find_spec(word: str) -> ArchSpec:
    """The network that ``word`` means; a known name comes before a file of that name.

    Args:
        word: a name of the catalog, a JSON file in either dialect, a weight file that holds its network, or a run
            folder (its spec.json).

    Raises:
        InputError: nothing of that name (with the nearest), or what it names cannot be read.
    """
    names, path = catalog.known_names(), Path(word)
    if word in names:
        return catalog.load(word)
    if path.is_dir():
        if not (path / SPEC_FILE).is_file():
            raise InputError(f"expected the run folder of a finished search: there is no {SPEC_FILE} in it", word)
        return read_spec(path / SPEC_FILE)
    if not path.exists():
        raise InputError(
            f"expected {listed(map(repr, names))}, a spec file or a run folder, got {word!r}{nearest(word, names)}"
        )
    if path.suffix.lower() in WEIGHT_SUFFIXES:
        spec = read_tensors(path).spec
        if spec is None:
            raise InputError("this weight file does not say of which network", word)
        return spec
    return read_spec(path)
