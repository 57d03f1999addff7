"""One way to make a command from a frozen dataclass: options, help, YAML, errors, exit codes.

A command is a dataclass (a docstring under each field; `metadata={"positional": True}` for a word without a flag,
or for several if the field is a list) and a `main(config)`. `run(Config, main)` parses the command line (`--per-class`
for the field `per_class`; `--config FILE.yaml` gives the same fields, and options override it, wherever they stand; so
does `--preset NAME` where a command has presets), prints one line and returns 2 for a user's mistake (`ValueError`,
missing file, full disk), and 130 for Ctrl-C.
"""

import dataclasses
import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, cast, get_args, get_origin, get_type_hints

import docstring_parser
from jsonargparse import ActionConfigFile, ActionYesNo, ArgumentParser  # type: ignore[attr-defined]

from synthclone.engines.nearest import nearest

Config = TypeVar("Config")
USER_MISTAKES = (ValueError, OSError)
FILE_FLAGS = ("--config", "--preset")


class Parser(ArgumentParser):
    """A parser whose errors are one line on stderr and exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        text = " ".join(str(message).split())
        print(f"{self.prog}: error: {text}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


class ConfigFile(ActionConfigFile):
    """`--config FILE.yaml`, and `--preset NAME` for the file NAME.yaml of a folder."""

    def __init__(self, *, presets: Path | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.presets = presets

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        if option_string == "--preset" and self.presets is not None:
            names = sorted(path.stem for path in self.presets.glob("*.yaml"))
            if values not in names:
                parser.error(f"unknown preset {values!r}; valid presets: {', '.join(names)}{nearest(values, names)}")
            values = str(self.presets / f"{values}.yaml")
        super().__call__(parser, cfg, values, option_string)


class NotAChoice(ArgumentTypeError, ValueError):
    """Of a word on the command line argparse shows only the former's text, of one in YAML jsonargparse only the latter's."""


class Choice:
    """The type of an option with a few valid values: its error lists them and names the nearest."""

    def __init__(self, literal: Any) -> None:
        self.valid = {str(value): value for value in get_args(literal)}

    def __call__(self, word: object) -> Any:
        if str(word) not in self.valid:
            hint = (
                nearest(word, self.valid) if isinstance(word, str) else "; YAML needs quotes around on, off, yes and no"
            )
            raise NotAChoice(f"{word!r} is none of {self}{hint}")
        return self.valid[str(word)]

    def __repr__(self) -> str:
        return " | ".join(self.valid)


def make_parser(config_class: type, prog: str, presets: Path | None = None) -> Parser:
    """A parser with an option for each field, in the order of the dataclass; a field without a default is required."""
    described = [docstring_parser.parse_from_object(kind) for kind in config_class.__mro__ if is_dataclass(kind)]
    parser = Parser(prog=prog, description=described[0].short_description, default_env=False, allow_abbrev=False)
    flags = FILE_FLAGS if presets else FILE_FLAGS[:1]
    what = f"YAML file with the same fields as the options below{', or NAME of a preset' if presets else ''}"
    parser.add_argument(
        *flags,
        action=ConfigFile,
        presets=presets,
        metavar="FILE" if presets is None else "FILE_OR_NAME",
        help=f"{what}; options override it",
    )
    helps = {param.arg_name: param.description for kind in reversed(described) for param in kind.params}
    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        flag = "--" + field.name.replace("_", "-")
        make: Callable[[], Any] | Any = field.default_factory
        required = field.default is dataclasses.MISSING and make is dataclasses.MISSING
        default = field.default if make is dataclasses.MISSING else make()
        default = None if required else default
        options: dict[str, Any] = {"help": helps[field.name], "default": default}
        if field.metadata.get("positional"):
            several = get_origin(hints[field.name]) is list
            kind = get_args(hints[field.name])[0] if several else hints[field.name]
            number: dict[str, Any] = {"nargs": "+"} if several else {}
            parser.add_argument(field.name, type=kind, help=helps[field.name], **number)
        elif hints[field.name] is bool:
            parser.add_argument(flag, action=ActionYesNo(yes_prefix="", no_prefix="no-"), **options)
        elif get_origin(hints[field.name]) is Literal:
            parser.add_argument(flag, type=Choice(hints[field.name]), required=required, **options)
        else:
            parser.add_argument(flag, type=hints[field.name], required=required, **options)
    return parser


def parse(config_class: type[Config], prog: str, argv: Sequence[str] | None, presets: Path | None = None) -> Config:
    """The configuration of a command line; cross-field rules are checked by the dataclass itself."""
    words = files_first(sys.argv[1:] if argv is None else argv)
    parsed = make_parser(config_class, prog, presets).parse_args(words)
    return config_class(**{field.name: parsed[field.name] for field in dataclasses.fields(cast(Any, config_class))})


def files_first(words: Sequence[str]) -> list[str]:
    """A command line with its --config and --preset ahead of the options: what is read later wins."""
    first: list[str] = []
    others: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word == "--":
            others += [word, *remaining]
        elif word in FILE_FLAGS and (value := next(remaining, None)) is not None:
            first += [word, value]
        else:
            (first if word.startswith(tuple(f"{flag}=" for flag in FILE_FLAGS)) else others).append(word)
    return first + others


def run(
    config_class: type[Config],
    main: Callable[[Config], Any],
    *,
    prog: str,
    argv: Sequence[str] | None = None,
    presets: Path | None = None,
) -> int:
    """Parse, run, and turn a user's mistake into one line. Returns the process's exit code.

    `presets` is a folder of YAML files that `--preset NAME` chooses from.
    Set SYNTHCLONE_TRACEBACK=1 to see where an error came from.
    """
    try:
        main(parse(config_class, prog, argv, presets))
    except USER_MISTAKES as error:
        if os.environ.get("SYNTHCLONE_TRACEBACK"):
            raise
        text = " ".join(str(error).split())
        print(f"{prog}: error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0
