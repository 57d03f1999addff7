"""One way to make a command from a frozen dataclass: options, help, YAML, errors, exit codes.

A command is a dataclass (a docstring under each field; `metadata={"positional": True}` for a word without a flag) and
a `main(config)`. `run(Config, main)` parses the command line (`--per-class` for the field `per_class`; `--config
FILE.yaml` gives the same fields, and options override it), prints one line and returns 2 for a user's mistake
(`ValueError`, missing file, full disk), and 130 for Ctrl-C.
"""

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar, cast, get_type_hints

import docstring_parser
from jsonargparse import ActionYesNo, ArgumentParser

Config = TypeVar("Config")
USER_MISTAKES = (ValueError, OSError)


class Parser(ArgumentParser):
    """A parser whose errors are one line on stderr and exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        text = " ".join(str(message).split())
        print(f"{self.prog}: error: {text}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def make_parser(config_class: type, prog: str) -> Parser:
    """A parser with an option for each field, in the order of the dataclass; a field without a default is required."""
    described = docstring_parser.parse_from_object(config_class)
    parser = Parser(prog=prog, description=described.short_description, default_env=False)
    parser.add_argument(
        "--config", action="config", help="YAML file with the same fields as the options below; options override it"
    )
    helps = {param.arg_name: param.description for param in described.params}
    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        flag = "--" + field.name.replace("_", "-")
        make: Callable[[], Any] | Any = field.default_factory
        required = field.default is dataclasses.MISSING and make is dataclasses.MISSING
        default = field.default if make is dataclasses.MISSING else make()
        default = None if required else default
        options: dict[str, Any] = {"help": helps[field.name], "default": default}
        if field.metadata.get("positional"):
            parser.add_argument(field.name, type=hints[field.name], help=helps[field.name])
        elif hints[field.name] is bool:
            parser.add_argument(flag, action=ActionYesNo(yes_prefix="", no_prefix="no-"), **options)
        else:
            parser.add_argument(flag, type=hints[field.name], required=required, **options)
    return parser


def parse(config_class: type[Config], prog: str, argv: Sequence[str] | None) -> Config:
    """The configuration of a command line; cross-field rules are checked by the dataclass itself."""
    parsed = make_parser(config_class, prog).parse_args(argv)
    return config_class(**{field.name: parsed[field.name] for field in dataclasses.fields(cast(Any, config_class))})


def run(
    config_class: type[Config], main: Callable[[Config], Any], *, prog: str, argv: Sequence[str] | None = None
) -> int:
    """Parse, run, and turn a user's mistake into one line. Returns the process's exit code.

    Set SYNTHCLONE_TRACEBACK=1 to see where an error came from.
    """
    try:
        main(parse(config_class, prog, argv))
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
