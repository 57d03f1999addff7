"""Reads pybind11's docstrings: the parameters of each overload, and what it returns."""

import ast
import re
from dataclasses import dataclass

OVERLOAD = re.compile(r"^(?:\d+\. )?(\w+)\((.*)\) -> (.*)$")
CLASS = re.compile(r"^(?:tensorrt_bindings\.)?(?:tensorrt\.|nvonnxparser::I?)+(\w+)$")


@dataclass(frozen=True)
class Signature:
    """One overload: parameter names without `self`, those that must be given, and the returned class or None."""

    parameters: tuple[str, ...]
    required: frozenset[str]
    returns: str | None


def parse(name: str, doc: str) -> list[Signature]:
    """The overloads that a docstring names."""
    found = []
    for line in doc.splitlines():
        match = OVERLOAD.match(line.strip())
        if match and match[1] == name:
            parts = [part for part in split(match[2]) if not re.match(r"self\b", part)]
            names = [part.partition(":")[0].strip() for part in parts]
            required = frozenset(name for name, part in zip(names, parts, strict=True) if " = " not in part)
            returns = CLASS.match(match[3])
            found.append(Signature(tuple(names), required, returns[1] if returns else None))
    return found


def split(text: str) -> list[str]:
    """Parts between the commas that are in no bracket."""
    parts, depth, start = [], 0, 0
    for index, sign in enumerate(text):
        depth += (sign in "([{<") - (sign in ")]}>")
        if sign == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def fits(call: ast.Call, signature: Signature) -> bool:
    """Whether the call's positional and keyword arguments fit an overload; `*args` stands for any number."""
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    positional = signature.parameters[: len(call.args)]
    keywords = {keyword.arg for keyword in call.keywords}
    if None in keywords or keywords & set(positional) or not keywords <= set(signature.parameters):
        return False
    if starred:
        return True
    return len(call.args) <= len(signature.parameters) and signature.required <= keywords | set(positional)
