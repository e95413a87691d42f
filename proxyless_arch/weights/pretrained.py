"""What ``pretrained=`` means, for both zoos."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Concatenate, ParamSpec, TypeVar

from proxyless_arch.arch import catalog
from proxyless_arch.arch.catalog import Release
from proxyless_arch.arch.spec import ArchSpec, with_classes
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import shown
from proxyless_arch.weights.fetch import find_weights
from proxyless_arch.weights.files import WeightFile, matched, read_tensors
from proxyless_arch.weights.habits import in_our_words

Pretrained = bool | str | os.PathLike[str]
P = ParamSpec("P")
Net = TypeVar("Net")


def described(spec: ArchSpec, found: WeightFile) -> ArchSpec:
    """``spec`` with what belongs to the weights it gets: how images are prepared, and the names of the classes."""
    if found.spec is None:
        return spec
    return replace(spec, preprocessing=found.spec.preprocessing, class_names=found.spec.class_names or spec.class_names)


def read_pretrained(release: Release, pretrained: Pretrained, spec: ArchSpec, released_classes: int) -> WeightFile:
    """The weights that ``pretrained`` asks for, for the network ``spec``.

    Args:
        pretrained: True for the published ``.pth`` (see fetch.find_weights), else a weight file.
        spec: the released network, perhaps with another number of classes than it was trained for. A file with a
            classifier for ``released_classes`` then gives all tensors but the classifier's, which are left out.

    Raises:
        InputError: ``pretrained`` is neither a truth value nor a path; no such file, a bad one, or one for another
            network.
    """
    if not isinstance(pretrained, bool | str | os.PathLike):
        raise InputError(f"expected True, False or a file, got {shown(pretrained)}", "pretrained")
    path = find_weights(release) if isinstance(pretrained, bool) else find_weights(release, path=pretrained)
    found, source = read_tensors(path), str(path)
    bias = found.tensors.get("classifier.linear.bias")
    if spec.num_classes == released_classes or bias is None or bias.shape != (released_classes,):
        return matched(found, spec, source)
    whole = matched(found, with_classes(spec, released_classes), source)
    assert whole.spec is not None
    return WeightFile(
        spec=with_classes(whole.spec, spec.num_classes, spec.class_names),
        tensors={name: tensor for name, tensor in whole.tensors.items() if not name.startswith("classifier.")},
        provenance=whole.provenance,
    )


def released_function(build: Callable[Concatenate[Release, P], Net], name: str, facts: str) -> Callable[P, Net]:
    """The function of a zoo that builds the released network ``name``.

    Args:
        build: builds any of them; the function has its other arguments and its docstring.
        name: of the release, and of the function.
        facts: the first line of the docstring.
    """

    signature = inspect.signature(build)
    arguments = list(signature.parameters.values())[1:]
    known = [argument.name for argument in arguments]

    def released(*given: P.args, **also: P.kwargs) -> Net:
        return build(catalog.release(name), *given, **in_our_words(also, known))  # type: ignore[arg-type]

    released.__signature__ = signature.replace(parameters=arguments)  # type: ignore[attr-defined]
    released.__name__ = released.__qualname__ = name
    released.__module__ = build.__module__
    released.__doc__ = f"{facts}\n\n{inspect.cleandoc(build.__doc__ or '')}"
    return released
