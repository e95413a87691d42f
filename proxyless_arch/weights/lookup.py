"""A network by what a person calls it: a known name, a spec file, a self-describing weight file or a run folder."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from proxyless_arch.arch import catalog
from proxyless_arch.arch.codec import NET_CONFIG, read_spec, released_sibling
from proxyless_arch.arch.preprocessing import assumption
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import expanded
from proxyless_arch.base.strict import listed, nearest
from proxyless_arch.base.text import readable
from proxyless_arch.weights.demo import demo_weights, is_demo
from proxyless_arch.weights.fetch import find_weights
from proxyless_arch.weights.files import READ, WeightFile, read_tensors, weight_kind
from proxyless_arch.weights.pretrained import described
from proxyless_arch.weights.shards import ENDINGS, file_in, is_index

SPEC_FILE = "spec.json"
WEIGHT_FILES = ("weights.safetensors", "weights.h5")
JUDGED_FILE = "judged.safetensors"
"""Beside weights whose classifier was fitted to the held-out images, too: those before that, which they can judge."""
"""What a run folder's weights are called: as they are written, and as the first edition wrote them."""
SPECS = (".json", ".config", "")
"""Extensions of files that describe a network without its weights."""
RELEASED_WEIGHTS = "init"
"""What the authors' training and once-for-all networks call the weights beside a ``net.config``."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network with its weights; ``spec`` has the preprocessing and the class names that belong to them.

    ``file`` holds the weights; None when they come with the installed package ``origin``.
    """

    spec: ArchSpec
    weights: WeightFile
    file: Path | None
    origin: str

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided about them without asking, one line each."""
        return (*([self.weights.note] if self.weights.note else []), *assumption(self.spec.preprocessing))


def own_weights(run_dir: Path) -> Path | None:
    """The weight file of a run folder; None where there is none yet."""
    return next((path for name in WEIGHT_FILES if (path := run_dir / name).is_file()), None)


def find_spec(word: str) -> ArchSpec:
    """The network that ``word`` means (see find_network)."""
    return find_network(word)[0]


def find_network(word: str, place: str = "") -> tuple[ArchSpec, Path | None]:
    """(the network that ``word`` means, its own weight file when it has one).

    Args:
        word: a name of the catalog, a JSON file in either dialect, a weight file that holds its network, or a run
            folder (its spec.json and weights, or a released net.config and its init). A known name comes before a
            file of that name.
        place: the flag that ``word`` was given with, for the errors.

    Raises:
        InputError: nothing of that name (with the nearest), or what it names cannot be read.
    """
    names, path = catalog.known_names(), Path(expanded(word))
    if word in names:
        return catalog.load(word), None
    if path.is_dir():
        return _in_folder(path, place, word)
    if not path.exists():
        raise InputError(
            f"expected {listed(map(repr, names))}, a spec file or a run folder, got {word!r}{nearest(word, names)}",
            place,
        )
    kind = weight_kind(path)
    if (kind == "text" and not is_index(path)) or (kind == "" and path.suffix.lower() in SPECS):
        return read_spec(path), released_sibling(path, RELEASED_WEIGHTS)
    spec = read_tensors(path).spec
    if spec is None:
        beside = _beside(path, (".json", ".config"))
        raise InputError(f"this weight file does not say of which network: {_advice(place)}{beside}", place, word)
    return spec, path


def _beside(path: Path, endings: tuple[str, ...]) -> str:
    """Names the file beside ``path`` that is called as it is, but for the ending; empty where there is none."""
    for ending in endings:
        if (found := path.with_suffix(ending)) != path and found.is_file():
            return f"; {found.name} lies beside it"
    return ""


def _advice(place: str) -> str:
    """What to do with weights alone; ``place``: the flag that they were given with, or empty in Python."""
    if place.startswith("-"):
        return f"give the network with {place} and the weights with --weights"
    return "give the network by name, and the weights with weights="


FAMILY_FILES = ("family.json", "family.html")
"""What a search and a pruning with several targets leave in the folder of their networks."""
MOST_MEMBERS = 12


def _in_folder(folder: Path, place: str, word: str) -> tuple[ArchSpec, Path | None]:
    """The network of a run folder, or of a folder with a released ``net.config``."""
    if (folder / SPEC_FILE).is_file():
        return read_spec(folder / SPEC_FILE), own_weights(folder)
    released = folder / NET_CONFIG
    if released.is_file():
        return read_spec(released), released_sibling(released, RELEASED_WEIGHTS)
    members = _members(folder)
    if members:
        raise InputError(f"expected one network, there are several in this folder: {listed(members)}", place, word)
    try:
        inside = f"; for the weights in it ({file_in(folder).name}) {_advice(place)}"
    except InputError:
        inside = ""
    raise InputError(f"expected a run folder: there is no {SPEC_FILE} in it{inside}", place, word)


def _members(folder: Path) -> list[str]:
    """The networks of a run with several targets, as they are named; no more than a person would read."""
    if not any((folder / name).is_file() for name in FAMILY_FILES):
        return []
    found = sorted(each.parent for each in itertools.islice(folder.glob(f"*/{SPEC_FILE}"), MOST_MEMBERS))
    return [readable(str(each)) for each in found]


def find_trained(word: str, weights: Path | None = None, place: str = "", flag: str = "weights") -> Trained:
    """The network that ``word`` means (see find_network), with its weights.

    Args:
        word: a released name finds the published file (fetch.find_weights), a demo's name the installed package.
        weights: a weight file, in place of the network's own.
        place: the flag that ``word`` was given with, for the errors.
        flag: what ``weights`` is called there.

    Raises:
        InputError: nothing of that name, a bad file, the weights of another network, or no weights (with what to put
            where).
    """
    spec, own = find_network(word, place)
    weights = weights or own
    if weights is None and is_demo(word):
        found = demo_weights(word)
        return Trained(spec=described(spec, found), weights=found, file=None, origin=catalog.demo(word).requirement)
    if weights is None and word in catalog.RELEASES:
        weights = find_weights(word)
    if weights is None:
        kinds, beside = listed(READ), _beside(Path(expanded(word)), ENDINGS)
        raise InputError(f"the spec {word} holds no weights: add {flag} FILE ({kinds}) of {spec.name!r}{beside}", flag)
    found = read_tensors(weights, spec)
    return Trained(spec=described(spec, found), weights=found, file=weights, origin=str(weights))
