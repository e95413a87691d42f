"""Settings as frozen dataclasses: each field is a command-line flag, a JSON key and a key of recipe files.

A command's settings are one dataclass whose fields are settings or groups of settings (dataclasses themselves); names
are unique over all groups, so that flags and files are flat. A recipe is a JSON file of settings that change the
defaults; a flag overrides the recipe.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_json
from proxyless_arch.base.strict import Node, nearest

Config = TypeVar("Config")
RECIPE = "recipe"
"""The field that names the recipe: saved with the settings, but no setting itself."""


def setting(default: Any, text: str, allowed: Sequence[str] | None = None, **bounds: float) -> Any:
    """A dataclass field with what its flag needs: the help text, the allowed words, ``minimum`` and ``maximum``."""
    return dataclasses.field(default=default, metadata={"help": text, "allowed": allowed, **bounds})


def flags(cls: type) -> dict[str, tuple[str | None, dataclasses.Field, Any]]:
    """``{flag: (group or None, dataclass field, type)}`` of every setting of a config class."""
    found: dict[str, tuple[str | None, dataclasses.Field, Any]] = {}
    outer_types = typing.get_type_hints(cls)
    for outer in dataclasses.fields(cls):
        kind = outer_types[outer.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            hints = typing.get_type_hints(kind)
            found.update({inner.name: (outer.name, inner, hints[inner.name]) for inner in dataclasses.fields(kind)})
        elif outer.name != RECIPE:
            found[outer.name] = (None, outer, kind)
    return found


def base_type(kind: Any) -> tuple[type, bool]:
    """(int, float, str or bool; whether None is allowed)."""
    if isinstance(kind, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        return members[0], True
    return kind, False


def _value(node: Node, field: dataclasses.Field, kind: Any) -> Any:
    """The node's value as the field's type and within its bounds. Raises InputError at the node's path."""
    base, optional = base_type(kind)
    if optional and node.value is None:
        return None
    low, high = field.metadata.get("minimum"), field.metadata.get("maximum")
    if base is bool:
        return node.boolean()
    if base is int:
        return node.integer(int(low) if low is not None else 0, int(high) if high is not None else 2**31 - 1)
    if base is float:
        return node.number(low if low is not None else float("-inf"), high if high is not None else float("inf"))
    return node.text(field.metadata.get("allowed"))


def with_settings(config: Config, settings: Mapping[str, Any], source: str | None = None) -> Config:
    """``config`` with flat ``{flag: value}`` settings. Raises InputError for an unknown name (with the nearest) or a
    value outside what is allowed."""
    known = flags(type(config))
    changes: dict[str | None, dict[str, Any]] = {}
    for name, value in settings.items():
        if name not in known:
            raise InputError(f"unknown setting{nearest(name, known)}", name, source)
        group, field, kind = known[name]
        try:
            changes.setdefault(group, {})[name] = _value(Node(value, name), field, kind)
        except InputError as error:
            raise error.from_source(source) if source else error from None
    outer: dict[str, Any] = changes.pop(None, {})
    for group, inner in changes.items():
        assert group is not None
        outer[group] = dataclasses.replace(getattr(config, group), **inner)
    return dataclasses.replace(config, **outer)  # type: ignore[type-var]


def recipe_names(folder: Path) -> list[str]:
    """The recipes in a folder."""
    return sorted(path.stem for path in folder.glob("*.json"))


def from_recipe(cls: type[Config], folder: Path, name: str) -> Config:
    """The defaults changed by a recipe of ``folder`` (or a recipe file given by its path).

    Raises:
        InputError: no such recipe (with the nearest), or a bad file; ``about`` is a comment.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        path = Path(name)
        if path.suffix != ".json":
            names = recipe_names(folder)
            raise InputError(f"expected {', '.join(names)} or a JSON file, got {name!r}{nearest(name, names)}", RECIPE)
    raw = Node(read_json(path))
    try:
        settings = {key: node.value for key, node in raw.items() if key != "about"}
    except InputError as error:
        raise error.from_source(str(path)) from None
    return with_settings(cls(**{RECIPE: name}), settings, str(path))


def to_dict(config: Any, format_name: str, version: int) -> dict[str, Any]:
    """The effective settings as JSON data, flat under their flag names."""
    flat: dict[str, Any] = {"format": format_name, "version": version, RECIPE: getattr(config, RECIPE)}
    for name, (group, _, _) in flags(type(config)).items():
        flat[name] = getattr(getattr(config, group) if group else config, name)
    return flat


def from_dict(
    cls: type[Config], value: Any, format_name: str, version: int, source: str, *, fill_missing: bool = False
) -> Config:
    """The inverse of to_dict.

    Args:
        fill_missing: a setting that ``value`` does not have, being older, takes today's default. For a run that is
            resumed, which says so (note_on_absent); nobody else may take a default for what the run was done with.

    Raises InputError naming the keys and ``source``: unknown ones and, unless they are filled, missing ones.
    """
    try:
        known = flags(cls)
        members = Node(value).fields(["format", "version", RECIPE], list(known))
        members["format"].exactly(format_name)
        members["version"].exactly(version)
        if not fill_missing and (missing := absent(cls, members)):
            raise InputError(f"not all settings are there (an older version's?): missing {', '.join(missing)}")
        settings = {name: members[name].value for name in known if name in members}
        return with_settings(cls(**{RECIPE: members[RECIPE].text()}), settings, source)
    except InputError as error:
        raise error.from_source(source) from None


def absent(cls: type, saved: Mapping[str, Any]) -> list[str]:
    """The settings that saved ones do not have, being older."""
    return [name for name in flags(cls) if name not in saved]


def recorded(cls: type[Config], value: Any, format_name: str, version: int, source: str) -> dict[str, Any]:
    """The flat settings that ``value`` has, checked as from_dict does; no others."""
    found = to_dict(from_dict(cls, value, format_name, version, source, fill_missing=True), format_name, version)
    return {name: found[name] for name in flags(cls) if name in value}


def note_on_absent(config: Any, saved: Mapping[str, Any]) -> tuple[str, ...]:
    """One line for a person where ``config``, read from ``saved``, has settings that are younger; else none."""
    effective = to_dict(config, "", 0)
    filled = [f"{name}={effective[name]}" for name in absent(type(config), saved)]
    if not filled:
        return ()
    return (f"config.json is older than some settings, which take today's defaults: {', '.join(filled)}",)


class _Switch(argparse.Action):
    """``--flag`` and its opposite in one line of help: ``--no_flag``, or ``--flag`` for ``--no_flag``."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        self._off = f"--{dest.removeprefix('no_')}" if dest.startswith("no_") else f"--no_{dest}"
        super().__init__([*option_strings, self._off], dest, nargs=0, **options)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, option != self._off)


def add_flags(parser: argparse.ArgumentParser, cls: type, aliases: Mapping[str, Sequence[str]] | None = None) -> None:
    """One flag per setting, grouped as the dataclasses are. A flag that is not given is left out of the namespace.

    A switch can be turned off as well: ``--nesterov, --no_nesterov``, and ``--no_decay_bn, --decay_bn``.

    ``aliases``: ``{setting: other spellings of its flag}``, dashes included.
    """
    groups: dict[str | None, Any] = {}
    for name, (group, field, kind) in flags(cls).items():
        section = groups.setdefault(group, parser.add_argument_group(group or "general"))
        base, _ = base_type(kind)
        text = field.metadata["help"]
        if field.default is not None:
            text += f" [{field.default}]"
        spellings = [*(aliases or {}).get(name, ()), f"--{name}"]
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        if base is bool:
            section.add_argument(*spellings, action=_Switch, **options)
        else:
            allowed = field.metadata.get("allowed")
            metavar = "{" + ",".join(allowed) + "}" if allowed else base.__name__.upper()
            section.add_argument(*spellings, type=base, metavar=metavar, **options)
