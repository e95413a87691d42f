"""What every command has in common: a strict parser, and one way out."""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import select
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from proxyless_arch.base.errors import ElsewhereError, InputError, LeftOutWarning, LostProcessError, StoppedError
from proxyless_arch.base.files import expanded
from proxyless_arch.base.strict import counted, listed, nearest
from proxyless_arch.base.text import in_one_line, shell_line

FAILED, BAD_INPUT, NO_RESOURCE = 1, 2, 3
NOT_LANDED = 4  # a search's network is not at its target, where that is to count as a failure
INTERRUPTED, CLOSED_PIPE = 128 + 2, 128 + 13  # as a shell tells of SIGINT and SIGPIPE
_SYSTEM = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk full (quota exceeded)",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EFBIG: "no more may be written (file too large)",
    errno.EROFS: "no permission (read-only file system)",
    errno.ENOENT: "no such file",
}
# how torch (CPU, CUDA, MPS), TensorFlow and onnxruntime say it; none of them raises MemoryError
_OUT_OF_MEMORY = ("outofmemoryerror", "out of memory", "resourceexhausted", "can't allocate memory", "bad_alloc")
_OURS = (
    *("proxyless_arch", "proxyless_nas", "proxyless_nas_tensorflow", "hardware", "search", "compress"),
    "proxyless_commands",
)
OTHERS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        **dict.fromkeys(("model", "net", "network", "name"), ("--arch", "--networks")),
        **dict.fromkeys(("checkpoint", "ckpt", "model_path", "pretrained_path"), ("--weights",)),
        **dict.fromkeys(("data", "data_dir", "dataset_path", "images", "source"), ("--data_path",)),
        **dict.fromkeys(("train_dir", "train_path", "val_dir", "root", "data_root", "dataset_dir"), ("--data_path",)),
        **dict.fromkeys(("val_split", "validation_split", "val_size", "test_size", "holdout"), ("--valid_size",)),
        **dict.fromkeys(("gpus", "cuda", "use_cuda", "accelerator"), ("--device",)),
        **dict.fromkeys(("confusion_matrix", "classification_report"), ("--per_class",)),
        **dict.fromkeys(("freeze", "freeze_backbone", "freeze_layers"), ("--freeze_epochs", "--backbone_lr_mult")),
        **dict.fromkeys(("gray", "grey", "grayscale", "greyscale", "channels"), ("--in_chans",)),
        **dict.fromkeys(("topk", "top_k", "threshold", "conf", "confidence"), ("--top",)),
        **dict.fromkeys(("imgsz", "img_size", "input_size", "size", "res"), ("--resolution",)),
        **dict.fromkeys(("num_workers", "nworkers", "jobs"), ("--workers",)),
        **dict.fromkeys(("bs", "batch"), ("--batch_size",)),
        **dict.fromkeys(("learning_rate", "lr"), ("--init_lr", "--warmup_lr", "--arch_lr")),
        **dict.fromkeys(("output_dir", "out", "out_dir", "save_dir", "outdir"), ("--run_dir", "--output")),
        **dict.fromkeys(("epochs", "epoch", "num_epochs"), ("--n_epochs",)),
        "output": ("--save_json",),
        **dict.fromkeys(("target", "latency", "target_latency", "latency_ms"), ("--target_latency_ms",)),
        **dict.fromkeys(("hardware", "target_device"), ("--target_hardware",)),
        **dict.fromkeys(("run", "run_folder"), ("--run_dir", "--arch")),
        "run_dir": ("--arch",),
        **dict.fromkeys(("ratio", "sparsity", "prune_ratio", "pruning_ratio", "amount"), ("--keep",)),
        **dict.fromkeys(("int8", "fp16", "half", "quantize", "amp"), ("--format", "--precision")),
    }
)
"""The flags that other tools' spellings may stand for; those that a command has are its hint."""
OWNERS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("--arch", "--weights"), "train.py, eval.py or export.py"),
        "--onnx": "eval.py",
        "--tflite": "eval_tf.py",
        **dict.fromkeys(("--format", "--calibration", "--float_blocks"), "export.py or export_tf.py"),
        **dict.fromkeys(
            ("--target_hardware", "--target_latency_ms", "--target_macs", "--latency_table", "--warmup_from"),
            "search/imagenet_arch_search.py",
        ),
        **dict.fromkeys(("--export_ops", "--import_results", "--device_name"), "hardware/profile_latency.py"),
        **dict.fromkeys(("--ema_decay", "--inherit", "--from_scratch"), "train.py"),
        **dict.fromkeys(("--epsilon", "--transfer_from"), "attack.py"),
        "--targets": "search/specialize.py",
        "--gif": "search/report.py",
    }
)
"""The command that a flag belongs to, for a person who gives it to another one."""
ADVICE: Mapping[str, str] = MappingProxyType(
    {
        "--threads": "put OMP_NUM_THREADS=1 in front of the command",
        **dict.fromkeys(("--num_classes", "--nc"), "the classes are the folders of the images"),
        **dict.fromkeys(("--wandb", "--mlflow"), "a run writes metrics.jsonl and TensorBoard files into its folder"),
    }
)
"""What does for a command what a flag does for others."""
IMAGES = frozenset(("data_path", "data", "data_dir", "dataset_path", "images", "image", "input", "inputs", "source"))
"""What people call the images, as flags."""
HELP_ALL = "--help_all"
CONSOLE = "proxylessnas"
"""The command that `pip install` makes."""
CONSOLE_WORDS: Mapping[str, str] = MappingProxyType({"imagenet_arch_search": "search", "profile_latency": "profile"})
"""Its words for scripts that are called otherwise."""
MOST_HINTS = 4
MOST_WARNINGS = 10  # of images left out
_LOST_PROCESS = ("dataloader worker", "connection closed by peer", "connection reset by peer")


def own_python() -> str | None:
    """What to type for ``python`` to get this interpreter; None where ``python`` does."""
    found, own = shutil.which("python"), Path(sys.executable)
    if found is not None and Path(found).absolute() == own.absolute():
        return None
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)


def command_line(script: str, *words: str) -> str:
    """What to paste into a shell, in the current folder, to start a script of this project with ``words``.

    Args:
        script: its path from the project's folder, or a package that is one. Of one started as ``proxylessnas WORD`` it
            becomes the word (a package's is the first of ``words``); where there are no scripts, being installed
            without them, the word as well.
    """
    if not script.endswith(".py"):
        start = [CONSOLE] if Path(sys.argv[0]).stem == CONSOLE else [own_python() or "python", "-m", script]
        return shell_line([*start, *words])
    word = CONSOLE_WORDS.get(Path(script).stem, Path(script).stem)
    if Path(sys.argv[0]).stem == CONSOLE:
        return shell_line([CONSOLE, word, *words])
    python, home = own_python() or "python", Path(__file__).resolve().parents[2]
    if not (home / script).is_file():
        return shell_line([python, "-m", "proxyless_commands", word, *words])
    place = script if Path.cwd() == home else str(home / script)
    return shell_line([python, place, *words])


class Parser(argparse.ArgumentParser):
    """argparse with InputError instead of exit, no abbreviations, ``~`` in paths, and a hint for a mistyped flag.

    A long flag may have dashes for underscores and one dash in front of it. An action whose ``is_rare`` is true is
    left out of --help; ``--help_all``, which there is then, has it.
    """

    def __init__(self, **settings: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, exit_on_error=False, formatter_class=formatter, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = [_at_home(word) for word in (sys.argv[1:] if args is None else args)]
        try:
            return super().parse_known_args(self._as_spelled_here(words), namespace)
        except argparse.ArgumentError as error:
            names = (error.argument_name or "").split("/")  # all spellings: the first long one is the usual
            place = next((name for name in names if name.startswith("--")), names[0])
            raise InputError(str(error.message), place) from None

    def _as_spelled_here(self, words: Sequence[str]) -> list[str]:
        """``words`` with the flags of this parser as it spells them: ``--batch-size=8`` as ``--batch_size=8``."""
        end = words.index("--") if "--" in words else len(words)
        return [*(self._spelled(word) for word in words[:end]), *words[end:]]

    def _spelled(self, word: str) -> str:
        known = self._option_string_actions
        flag, equals, value = word.partition("=")
        if not flag.startswith("-") or flag in known or len(flag) < 3:
            return word
        long = f"--{flag.lstrip('-').replace('-', '_')}"
        return f"{long}{equals}{value}" if long in known else word

    def error(self, message: str) -> NoReturn:
        raise InputError(message)

    def parse_strictly(self, argv: Sequence[str] | None) -> argparse.Namespace:
        try:
            parsed, unknown = self.parse_known_args(argv)
        except InputError:
            if (first := self._first_unknown(argv)) is not None:  # it may stand for what is missing
                raise self._unknown(first) from None
            raise
        if unknown:
            raise self._unknown(unknown[0].split("=")[0])
        return parsed

    def _first_unknown(self, argv: Sequence[str] | None) -> str | None:
        """The first long flag of a command line that is none here."""
        words = self._as_spelled_here([*(sys.argv[1:] if argv is None else argv)])
        flags = [word.split("=")[0] for word in words[: words.index("--") if "--" in words else len(words)]]
        names = self._usual_names()
        return next((flag for flag in flags if re.fullmatch(r"--[a-zA-Z][\w-]*", flag) and flag not in names), None)

    def _usual_names(self) -> dict[str, str]:
        """The usual spelling of each flag by every spelling."""
        actions = [action for parser in self._parsers() for action in parser._actions]
        return {option: _usual(action) for action in actions for option in action.option_strings}

    def _unknown(self, flag: str) -> InputError:
        """What to say of a flag that is none here: whose it is, what does the same here, or which one was meant."""
        names, word = self._usual_names(), "_".join(_words(flag))
        owned = [OWNERS[name] for name in (f"--{word}", *OTHERS.get(word, ())) if name in OWNERS and name not in names]
        if owned and not any(name in names for name in OTHERS.get(word, ())):
            return InputError(f"not a flag of {self.prog}: {owned[0]} has it", flag)
        if (advice := ADVICE.get(f"--{word}")) is not None:
            return InputError(f"not a flag of {self.prog}: {advice}", flag)
        wanted = [str(action.metavar) for action in self._actions if not action.option_strings]
        if word in IMAGES and "--data_path" not in names and any("IMAGE" in name for name in wanted):
            return InputError(f"not a flag of {self.prog}: it takes images without a flag ({wanted[0]})", flag)
        what = f"unknown argument{_meant(flag, names)}" if flag.startswith("-") else "expected a flag in front of it"
        return InputError(f"{what} ({HELP_ALL if HELP_ALL in names else '--help'} lists them)", flag)

    def add_help_all(self) -> None:
        """Add --help_all, where --help leaves something out."""
        if HELP_ALL not in self._option_string_actions and any(map(_is_rare, self._actions)):
            self.add_argument(HELP_ALL, action=_HelpAll, help="show every flag and exit")

    def format_help(self) -> str:
        """What --help prints: without the rare flags, whose number it says."""
        rare = [action for action in self._actions if _is_rare(action)]
        texts = [action.help for action in rare]
        for action in rare:
            action.help = argparse.SUPPRESS
        try:
            text = super().format_help()
        finally:
            for action, told in zip(rare, texts, strict=True):
                action.help = told
        return f"{text}\n{counted(len(rare), 'more flag')}: {HELP_ALL}\n" if rare else text

    def format_help_all(self) -> str:
        return super().format_help()

    def _parsers(self) -> Iterator[argparse.ArgumentParser]:
        """This one and those of its subcommands."""
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from action.choices.values()


def _at_home(word: str) -> str:
    """A word of a command line with its home folder: ``~/x``, and ``--flag=~/x``, which no shell expands."""
    flag, value = re.fullmatch(r"(-[\w-]+=)?(.*)", word, re.DOTALL).groups("")  # type: ignore[union-attr]
    return flag + expanded(value)


def _is_rare(action: argparse.Action) -> bool:
    return getattr(action, "is_rare", False)


class _HelpAll(argparse.Action):
    """Prints every flag and ends."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        assert isinstance(parser, Parser)
        parser._print_message(parser.format_help_all(), sys.stdout)
        parser.exit()


def _usual(action: argparse.Action) -> str:
    """The first long spelling, which is the usual one."""
    return next((name for name in action.option_strings if name.startswith("--")), action.option_strings[0])


def _meant(flag: str, known: Mapping[str, str]) -> str:
    """``; did you mean '--x'?``: what other tools call so, else the flag that differs in singular and plural alone,
    else the flags with all its words, else the nearest one.

    ``known``: the usual spelling by every spelling.
    """
    words = _words(flag)
    found = [name for name in OTHERS.get("_".join(words), ()) if name in known]
    found = found or [name for name in known if words and _singular(name) == _singular(flag)]
    found = found or [usual for name, usual in known.items() if words and set(words) <= set(_words(name))]
    found = list(dict.fromkeys(found))
    if 0 < len(found) <= MOST_HINTS:
        return f"; did you mean {listed(map(repr, found))}?"
    return nearest(flag, known)


def _words(flag: str) -> list[str]:
    return [word for word in flag.lower().replace("-", "_").split("_") if word]


def _singular(flag: str) -> list[str]:
    return [word.rstrip("s") for word in _words(flag)]


def exit_code(
    run: Callable[[list[str]], int | None],
    argv: Sequence[str] | None = None,
    interrupted: Callable[[Sequence[str]], str] = lambda words: "interrupted",
) -> int:
    """Run a command and turn every failure that must be expected into one line on standard error and one code.

    An error that is none of them is a fault of this code and keeps its traceback. Meanwhile a warning is one line on
    standard error, without the place in the source that gave it.

    Args:
        run: the command's body, given the words of its command line; returns its own code, or None for 0.
        argv: the words; by default those of this process.
        interrupted: what to say after Ctrl-C, given the words.

    Returns:
        0, or ``run``'s own code; FAILED for a StoppedError; BAD_INPUT; NO_RESOURCE for what the machine does not
        give (disk, permission, file, memory, a package, a process of ours that was killed); INTERRUPTED; CLOSED_PIPE,
        without a line, when the reader of the output (head, less) has seen enough. For an ElsewhereError FAILED or
        BAD_INPUT, without a line too: another process has said it.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _stand_in_for_closed_streams()
    _escape_what_cannot_be_shown()
    with warnings.catch_warnings(), _Warned() as warned:
        warnings.showwarning = warned.show
        try:
            code = run(words) or 0
            sys.stdout.flush()  # here, where a closed pipe is still an exception
            return code
        except InputError as error:
            return _say(BAD_INPUT, f"error: {in_one_line(str(error))}")
        except ElsewhereError as error:
            return BAD_INPUT if error.is_input else FAILED
        except StoppedError as error:
            return _say(FAILED, f"error: {in_one_line(str(error))}")
        except KeyboardInterrupt:
            return _say(INTERRUPTED, f"\n{interrupted(words)}")
        except BrokenPipeError as error:
            unread = [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
            if not unread:  # it was a pipe to a process of ours
                return _say(NO_RESOURCE, f"error: {in_one_line(str(_lacking(error)))}")
            for stream in unread:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            return CLOSED_PIPE
        except Exception as error:
            lacking = _lacking(error)
            if lacking is None:
                raise
            return _say(NO_RESOURCE, f"error: {in_one_line(lacking)}")


def _stand_in_for_closed_streams() -> None:
    """A standard stream that was closed (``>&-``, a service) takes what is written, as the null device does.

    Else the first file that is opened would get its number, and what a library prints with it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
        setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115 (to the end)


def _escape_what_cannot_be_shown() -> None:
    """A name that the terminal's encoding lacks is written with escapes, and is no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_unread(stream: Any) -> bool:
    """Whether a stream is a pipe, or a connection, that nobody reads any more; False where it is no file at all."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False


def _say(code: int, line: str) -> int:
    print(line, file=sys.stderr)
    return code


def _lacking(error: Exception) -> str | None:
    """What the machine did not give, in one line; None for any other error. No framework is imported to ask."""
    text = next(iter(str(error).splitlines()), "")
    match error:
        case ModuleNotFoundError() if str(error.name).split(".")[0] not in _OURS:
            install = "" if "pip install" in text else ": pip install -r requirements.txt has it"
            return f"not installed: {text}{install}"
        case LostProcessError() | BrokenPipeError():
            return "; ".join([f"lost process: {text}", *getattr(error, "__notes__", ())])
        case OSError():
            kind = _SYSTEM.get(error.errno or 0, error.strerror or text or type(error).__name__)
            where = f": {in_one_line(os.fsdecode(error.filename))}" if _is_name(error.filename) else ""
            return "; ".join([f"{kind}{where}", *getattr(error, "__notes__", ())])
    told = f"{type(error).__name__} {error}".lower()
    if isinstance(error, MemoryError) or any(sign in told for sign in _OUT_OF_MEMORY):
        return f"out of memory: {text or 'the machine has no more'}; smaller batches or fewer workers need less"
    if isinstance(error, RuntimeError) and any(sign in told for sign in _LOST_PROCESS):
        return f"lost process: {text}"
    return None


def _is_name(name: object) -> bool:
    return isinstance(name, str | bytes | os.PathLike)


class _Warned:
    """Shows warnings as lines, of images left out only the first ones; a context, at whose end it counts the others."""

    def __init__(self) -> None:
        self._left_out = 0

    def __enter__(self) -> _Warned:
        return self

    def __exit__(self, *error: object) -> None:
        if (more := self._left_out - MOST_WARNINGS) > 0:
            print(f"warning: and {more:,} more left out", file=sys.stderr)

    def show(self, message: Warning | str, *place: Any, **more: Any) -> None:
        if isinstance(message, LeftOutWarning):
            self._left_out += 1
            if self._left_out > MOST_WARNINGS:
                return
        print(f"warning: {in_one_line(str(message))}", file=sys.stderr)
