"""Settings as frozen dataclasses: each field is a command-line flag and, where settings are saved, a JSON key.

A command's settings are one dataclass whose fields are settings or groups of settings (dataclasses themselves); names
are unique over all groups, so that flags and files are flat. A field says the rest: help text, allowed words, bounds,
the flag where it is spelled otherwise than the field, and its older spellings, which recipes may use as well. A recipe
is a JSON file of settings that change the defaults; a flag overrides the recipe. What commands have in common (seed,
workers, ...) is spelled and explained once, in base.words.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from proxyless_arch.base.cli import Parser
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import expanded, is_url, read_json
from proxyless_arch.base.sides import Sides, check_sides, from_word, in_flag
from proxyless_arch.base.strict import Node, listed, nearest, shown

Config = TypeVar("Config")
RECIPE = "recipe"
"""The field that names the recipe: saved with the settings, but no setting itself."""
DEFAULT = "default"
"""The recipe that every folder of them has."""
LONGEST, LARGEST = 4095, 1e30
"""Text in bytes (a path has no more), and a number."""
REQUIRED: Any = dataclasses.MISSING
"""The default of a setting that must be given."""
UNKNOWN: Any = object()
"""Of a setting that came later: what was done before."""


def setting(
    default: Any,
    text: str,
    allowed: Sequence[str] | None = None,
    *,
    flag: str | None = None,
    aliases: Sequence[str] = (),
    shortcuts: Mapping[str, tuple[Any, str]] | None = None,
    group: str | None = None,
    metavar: str | None = None,
    shown: str | None = None,
    is_positional: bool = False,
    may_be_empty: bool = False,
    common: bool = False,
    older: Any = UNKNOWN,
    check: Callable[[Any], Any] | None = None,
    **bounds: float,
) -> Any:
    """A dataclass field with what its flag needs. A field made otherwise is no setting.

    Args:
        default: or REQUIRED.
        text: of --help; the default is put behind it in brackets, if it is neither None nor False nor named in
            the text.
        allowed: words, of a string.
        flag: dashes included; by default the field's name.
        aliases: other spellings of the flag.
        shortcuts: ``{flag: (value, help text)}`` of flags that stand for one value.
        group: heading in --help, where the dataclass is not nested.
        metavar: what --help calls the value.
        shown: the default as --help has it.
        is_positional: no flag: the words that stand alone.
        may_be_empty: a list whose flag may stand alone.
        common: --help shows it. Where no setting of a command is, it shows all; else --help_all shows the others.
        older: of a setting that came later, the value that stands for what was done before (by default not known, so
            that today's is taken and said).
        check: returns the value as it is to be used, or raises InputError.
        bounds: ``minimum`` and ``maximum``.
    """
    said: dict[str, Any] = {
        "help": text,
        "allowed": allowed,
        "flag": flag,
        "aliases": tuple(aliases),
        "shortcuts": shortcuts or {},
        "group": group,
        "metavar": metavar,
        "shown": shown,
        "is_positional": is_positional,
        "may_be_empty": may_be_empty,
        "common": common,
        "older": older,
        "check": check,
    }
    return dataclasses.field(default=default, metadata={**said, **bounds})


def flags(cls: type) -> dict[str, tuple[str | None, dataclasses.Field, Any]]:
    """``{name: (group or None, dataclass field, type)}`` of every setting of a config class."""
    found: dict[str, tuple[str | None, dataclasses.Field, Any]] = {}
    outer_types = typing.get_type_hints(cls)
    for outer in dataclasses.fields(cls):
        kind = outer_types[outer.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            hints = typing.get_type_hints(kind)
            found.update({inner.name: (outer.name, inner, hints[inner.name]) for inner in dataclasses.fields(kind)})
        elif "help" in outer.metadata:
            found[outer.name] = (None, outer, kind)
    return found


def flag_of(field: dataclasses.Field) -> str:
    """How a setting is spelled on the command line: ``--workers``."""
    if field.metadata["is_positional"]:
        return field.metadata["metavar"] or field.name
    return field.metadata["flag"] or f"--{field.name}"


def spellings(cls: type) -> dict[str, str]:
    """``{spelling without dashes: setting}``: every name that a recipe may use for it."""
    found = {}
    for name, (_, field, _) in flags(cls).items():
        for spelling in (*field.metadata["aliases"], flag_of(field)):
            if spelling.startswith("--"):
                found[spelling.removeprefix("--")] = name
    return found | {name: name for name in flags(cls)}


def base_type(kind: Any) -> tuple[Any, bool]:
    """(int, float, str, bool, Path, a tuple of one of them or Sides; whether None is allowed)."""
    if isinstance(kind, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        return members[0] if len(members) == 1 else Sides, type(None) in typing.get_args(kind)
    return kind, False


def _value(node: Node, field: dataclasses.Field, kind: Any) -> Any:
    """The node's value as the field's type and within its bounds. Raises InputError at the node's path."""
    base, optional = base_type(kind)
    if optional and node.value is None:
        return None
    if typing.get_origin(base) is tuple:
        inner = typing.get_args(base)
        return tuple(_checked(Node(value, node.path), field, inner[0]) for value in node.value)
    return _checked(node, field, base)


def _checked(node: Node, field: dataclasses.Field, base: type) -> Any:
    low, high = field.metadata.get("minimum", -math.inf), field.metadata.get("maximum", math.inf)
    found: Any
    if base is bool:
        found = node.boolean()
    elif base is int:
        low, high = max(low, 0), min(high, 2**31 - 1)
        if isinstance(node.value, bool) or not isinstance(node.value, int) or not low <= node.value <= high:
            raise InputError(f"expected an integer{_bounds(low, high)}, got {shown(node.value)}", node.path)
        found = node.value
    elif base is float:
        try:
            found = node.number(low, high)
        except InputError:
            raise InputError(f"expected a number{_bounds(low, high)}, got {shown(node.value)}", node.path) from None
    elif base == Sides:
        found = node.as_tuple()
        check_sides(node.path, found, (int(max(low, 1)),) * 2, int(min(high, 2**31 - 1)))
    else:
        found = base(expanded(_word(node, field.metadata["allowed"])))  # a recipe's and a program's paths
    return found if field.metadata["check"] is None else _apply(field.metadata["check"], found, node.path)


def _bounds(low: float, high: float) -> str:
    is_below = high < 2**31 - 1
    if low == -math.inf and not is_below:
        return ""
    least, most = (f"{bound:.15g}" for bound in (low, high))
    return f" in {least}..{most}" if is_below else f", {least} or more"


def _word(node: Node, allowed: Sequence[str] | None) -> str:
    try:
        return node.text(allowed)
    except InputError as error:
        hint = nearest(node.value, allowed) if allowed and isinstance(node.value, str) else ""
        raise InputError(f"{error.problem}{hint}", node.path) from None


def _apply(check: Callable[[Any], Any], value: Any, place: str) -> Any:
    try:
        return check(value)
    except InputError as error:
        raise InputError(error.problem, place, error.source) from None


def with_settings(config: Config, settings: Mapping[str, Any], source: str | None = None) -> Config:
    """``config`` with flat ``{name: value}`` settings. Raises InputError for an unknown name (with the nearest) or a
    value outside what is allowed: at the name in a file ``source``, else at the flag."""
    changes = _grouped(type(config), settings, source)
    outer: dict[str, Any] = changes.pop(None, {})
    for group, inner in changes.items():
        assert group is not None
        outer[group] = dataclasses.replace(getattr(config, group), **inner)
    return dataclasses.replace(config, **outer)  # type: ignore[type-var]


def _grouped(cls: type, settings: Mapping[str, Any], source: str | None) -> dict[str | None, dict[str, Any]]:
    """``{group or None: {name: checked value}}``."""
    known = flags(cls)
    changes: dict[str | None, dict[str, Any]] = {}
    for name, spelling in _spelled(cls, settings, source).items():
        group, field, kind = known[name]
        place = spelling if source else flag_of(field)
        try:
            changes.setdefault(group, {})[name] = _value(Node(settings[spelling], place), field, kind)
        except InputError as error:
            raise error.from_source(source) if source else error from None
    return changes


def _spelled(cls: type, given: Iterable[str], source: str | None = None) -> dict[str, str]:
    """``{setting: how it is spelled}``. Raises InputError at an unknown spelling, and at a second one of a setting."""
    names, found = spellings(cls), dict[str, str]()
    for spelling in given:
        if spelling not in names:
            raise InputError(f"unknown setting{nearest(spelling, names)}", spelling, source)
        if names[spelling] in found:
            raise InputError(f"given twice, as {found[names[spelling]]} as well", spelling, source)
        found[names[spelling]] = spelling
    return found


def keywords(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """A program's settings under their names, by whichever spelling it gave each; a Path as its text.

    Raises InputError at an unknown spelling (with the nearest), and at a second one of a setting.
    """
    plain = {name: given[spelling] for name, spelling in _spelled(cls, given).items()}
    return {name: str(value) if isinstance(value, os.PathLike) else value for name, value in plain.items()}


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
        path = Path(expanded(name))
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
        fill_missing: a setting that ``value`` does not have, being older, takes today's default, unless it says what
            runs did before. For a run that is resumed, which says so (note_on_absent); nobody else may take a default
            for what the run was done with.

    Raises InputError naming the keys and ``source``: unknown ones and, unless they are filled, missing ones.
    """
    try:
        known = flags(cls)
        members = Node(value).fields(["format", "version", RECIPE], list(known))
        members["format"].exactly(format_name)
        members["version"].exactly(version)
        if not fill_missing and (missing := absent(cls, members)):
            raise InputError(f"not all settings are there (an older version's?): missing {', '.join(missing)}")
        older = {name: field.metadata["older"] for name, (_, field, _) in known.items()}
        settings = {name: value for name, value in older.items() if value is not UNKNOWN and name not in members}
        settings |= {name: members[name].value for name in known if name in members}
        return with_settings(cls(**{RECIPE: members[RECIPE].text()}), settings, source)
    except InputError as error:
        raise error.from_source(source) from None


def absent(cls: type, saved: Mapping[str, Any]) -> list[str]:
    """The settings that saved ones do not have, being older, where it is not known what was done before."""
    known = flags(cls).items()
    return [name for name, (_, field, _) in known if name not in saved and field.metadata["older"] is UNKNOWN]


def recorded(cls: type[Config], value: Any, format_name: str, version: int, source: str) -> dict[str, Any]:
    """The flat settings that ``value`` has, checked as from_dict does; no others."""
    found = to_dict(from_dict(cls, value, format_name, version, source, fill_missing=True), format_name, version)
    return {name: found[name] for name in flags(cls) if name in value}


def check_kinds(cls: type, saved: Mapping[str, Any], source: str) -> None:
    """Raises InputError, with ``source``, where a saved setting is of another kind than a setting of that name.

    Neither bounds nor allowed words are looked at, nor names that are not known: an older run may have others.
    """
    try:
        for name, (_, _, kind) in flags(cls).items():
            if saved.get(name) is not None:
                _check_kind(Node(saved[name], name), base_type(kind)[0])
    except InputError as error:
        raise error.from_source(source) from None


def _check_kind(node: Node, base: Any) -> None:
    if typing.get_origin(base) is tuple:
        for each in node.elements():
            _check_kind(each, typing.get_args(base)[0])
    elif base is bool:
        node.boolean()
    elif base == Sides:
        for each in node.elements(2, 2) if isinstance(node.value, list) else (node,):
            _check_kind(each, int)
    elif base is int:
        node.integer(-(2**62), 2**62)
    elif base is float:
        node.number(-LARGEST, LARGEST)
    elif len(node.text().encode("utf-8", "surrogateescape")) > LONGEST:
        raise InputError(f"expected at most {LONGEST} bytes of text", node.path)


def anchored(config: Config, names: Iterable[str]) -> Config:
    """``config`` with the files and folders among the settings ``names`` by their absolute paths, for a record that is
    read from elsewhere. What is no path of a file that is there stays as it is."""
    flat = to_dict(config, "", 0)
    found = {name: Path(flat[name]) for name in names if flat[name] is not None}
    return with_settings(config, {name: str(path.absolute()) for name, path in found.items() if path.exists()})


def resumed(saved: Config, wanted: Config, free: Collection[str], paths: Collection[str]) -> tuple[str, ...]:
    """How a resumed run's settings ``wanted`` differ from those it was started with, one line for a person, or none.

    Args:
        free: settings that may: its images prove themselves, and what computes and how many are scored at a time is no
            matter of what is computed.
        paths: those of them that name the same thing by any path to it.

    Raises InputError naming all others that differ.
    """
    before, now = to_dict(saved, "", 0), to_dict(wanted, "", 0)

    def differs(name: str) -> bool:
        one, other = before[name], now[name]
        if name in paths and one is not None and other is not None:
            return one != other if is_url(one) or is_url(other) else Path(one).absolute() != Path(other).absolute()
        return one != other

    changed = [name for name in before if differs(name)]
    if fixed := [name for name in changed if name not in free]:
        problem = f"a resumed run keeps its settings; differs from config.json: {', '.join(fixed)}"
        raise InputError(problem, "--resume")
    shown = [f"{name} {now[name]} (was {before[name]})" for name in changed]
    return (f"resumed with {', '.join(shown)}",) if shown else ()


def note_on_absent(config: Any, saved: Mapping[str, Any]) -> tuple[str, ...]:
    """One line for a person where ``config``, read from ``saved``, has settings that are younger; else none."""
    effective = to_dict(config, "", 0)
    filled = [f"{name}={effective[name]}" for name in absent(type(config), saved)]
    if not filled:
        return ()
    return (f"config.json is older than some settings, which take today's defaults: {', '.join(filled)}",)


def as_flags(config: Any, folder: Path) -> list[str]:
    """The words of a command line that give this config: its recipe, where that is one of ``folder``, and what it
    changes of it; else what it changes of DEFAULT. A person's recipe file need not be there any more.

    A setting that the recipe has and the config takes back to none has no flag; the run's config.json has it.
    """
    name = config.recipe if config.recipe in recipe_names(folder) else DEFAULT
    recipe, words = to_dict(from_recipe(type(config), folder, name), "", 0), ["--recipe", name]
    for name, value in to_dict(config, "", 0).items():
        if name == RECIPE or value is None or value == recipe[name]:
            continue
        if isinstance(value, bool):
            opposite = name.removeprefix("no_") if name.startswith("no_") else f"no_{name}"
            words.append(f"--{name if value else opposite}")
        else:
            words += [f"--{name}", *words_of(flags(type(config))[name][2], value)]
    return words


def words_of(kind: Any, value: Any) -> list[str]:
    """What stands behind a flag for a setting's value; ``kind``: its type."""
    if base_type(kind)[0] == Sides:
        return [in_flag(value)]
    return list(map(str, value)) if isinstance(value, tuple) else [str(value)]


# ------------------------------------------------------------------------------------------------ the command line


class _Switch(argparse.Action):
    """``--flag`` and its opposite in one line of help: ``--no_flag``, or ``--flag`` for ``--no_flag``."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        self._off = f"--{dest.removeprefix('no_')}" if dest.startswith("no_") else f"--no_{dest}"
        super().__init__([*option_strings, self._off], dest, nargs=0, **options)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, option != self._off)


class _Numbers(argparse.Action):
    """Several numbers, between spaces or commas: as a list."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(
            namespace, self.dest, [each for value in values for each in (value if type(value) is tuple else (value,))]
        )


def add_flags(parser: argparse.ArgumentParser, cls: type, several: Mapping[str, str] | None = None) -> None:
    """One flag per setting, grouped as the dataclasses are. A flag that is not given is left out of the namespace.

    A switch can be turned off as well: ``--nesterov, --no_nesterov``, and ``--no_decay_bn, --decay_bn``.

    Args:
        several: ``{setting: what its help adds}`` of numbers of which this command takes several, between commas; they
            are then a tuple.
    """
    groups: dict[str, Any] = {}
    known = flags(cls)
    shows_all = not any(field.metadata["common"] for _, field, _ in known.values())
    for name, (group, field, kind) in known.items():
        heading = field.metadata["group"] or group or "general"
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        for action in _add_flag(groups[heading], name, field, base_type(kind)[0]):
            if several is not None and name in several:
                action.type, action.help = _one_or_several(action.type), f"{action.help}{several[name]}"  # type: ignore[arg-type]
            action.is_rare = not (shows_all or field.metadata["common"] or action.required)  # type: ignore[attr-defined]
    if isinstance(parser, Parser):
        parser.add_help_all()


def _add_flag(section: Any, name: str, field: dataclasses.Field, base: Any) -> list[argparse.Action]:
    said = field.metadata
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(field)}
    if base is bool:
        return [section.add_argument(*_flags(field), dest=name, action=_Switch, **options)]
    if typing.get_origin(base) is tuple:
        inner, many = typing.get_args(base), "*" if said["may_be_empty"] else "+"
        base, options["nargs"] = inner[0], many if inner[-1] is Ellipsis else len(inner)
    options["type"] = _reader(base, said["allowed"])
    if options.get("nargs") == "+" and base in (int, float):
        options |= {"type": _one_or_several(options["type"]), "action": _Numbers}
    options["metavar"] = said["metavar"] or ("{" + ",".join(said["allowed"]) + "}" if said["allowed"] else None)
    if said["is_positional"]:
        return [section.add_argument(name, **options)]
    options["metavar"] = options["metavar"] or ("PIXELS" if base == Sides else base.__name__.upper())
    added = [section.add_argument(*_flags(field), dest=name, required=field.default is REQUIRED, **options)]
    either = section.add_mutually_exclusive_group() if said["shortcuts"] else section
    for flag, (value, text) in said["shortcuts"].items():
        told = {"default": argparse.SUPPRESS, "help": _escaped(text)}
        added.append(either.add_argument(flag, dest=name, action="store_const", const=value, **told))
    return added


def _flags(field: dataclasses.Field) -> list[str]:
    """The spellings as --help has them: short ones first, then the usual one, then the older ones."""
    aliases = field.metadata["aliases"]
    short = [alias for alias in aliases if not alias.startswith("--")]
    return [*short, flag_of(field), *(alias for alias in aliases if alias.startswith("--"))]


def _help(field: dataclasses.Field) -> str:
    shown = field.metadata["shown"]
    if shown is None and field.default is not False and field.default not in (None, REQUIRED, ()):
        shown = field.default
    return _escaped(field.metadata["help"] + ("" if shown is None else f" [{shown}]"))


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _one_or_several(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def read_all(text: str) -> Any:
        found = tuple(map(read, text.split(",")))
        return found[0] if len(found) == 1 else found

    return read_all


def _reader(base: type, allowed: Sequence[str] | None) -> Callable[[str], Any]:
    """Turns a word into a number, where one is wanted; bounds are checked where all settings are."""

    def read(word: str) -> Any:
        if base not in (int, float, Sides):
            if allowed and word not in allowed:
                raise argparse.ArgumentTypeError(
                    f"expected {listed(map(repr, allowed))}, got {word!r}{nearest(word, allowed)}"
                )
            return word
        try:
            if "_" in word:
                raise ValueError
            return from_word(word) if base == Sides else base(word)
        except ValueError:
            what = {int: "an integer", float: "a number"}.get(base, "an integer, or a height and a width, as 160x256")
            raise argparse.ArgumentTypeError(f"expected {what}, got {word!r}") from None

    return read


def parser_of(cls: type, prog: str, description: str | None) -> Parser:
    parser = Parser(prog=prog, description=description)
    add_flags(parser, cls)
    return parser


def parse(cls: type[Config], argv: Sequence[str] | None, prog: str, description: str | None) -> Config:
    """The settings of a command line. Raises InputError at the flag."""
    return _built(cls, vars(parser_of(cls, prog, description).parse_strictly(argv)))


def of(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given of the settings of a dataclass."""
    known = flags(cls)
    return {name: value for name, value in given.items() if name in known}


def parse_beside(
    options: type[Config], cls: type, argv: Sequence[str] | None, prog: str, description: str | None
) -> tuple[Config, dict[str, Any]]:
    """(the options of a command that are no settings, the settings of ``cls`` that are given, flat and not yet checked:
    a recipe comes before them). Raises InputError at the flag."""
    parser = Parser(prog=prog, description=description)
    add_flags(parser, options)
    add_flags(parser, cls)
    given = vars(parser.parse_strictly(argv))
    own = {name: given.pop(name) for name in flags(options) if name in given}
    return _built(options, own), given


def parse_command(commands: Mapping[str, type], argv: Sequence[str] | None, prog: str, description: str | None) -> Any:
    """The settings of the subcommand that a command line names; its help text is the docstring of their class."""
    parser = Parser(prog=prog, description=description)
    choices = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, cls in commands.items():
        add_flags(choices.add_parser(name, help=cls.__doc__, description=cls.__doc__), cls)
    given = vars(parser.parse_strictly(argv))
    return _built(commands[given.pop("command")], given)


def _built(cls: type[Config], given: Mapping[str, Any]) -> Config:
    changes = _grouped(cls, given, None)
    outer: dict[str, Any] = changes.pop(None, {})
    hints = typing.get_type_hints(cls)
    return cls(**outer, **{group: hints[group](**inner) for group, inner in changes.items() if group})
