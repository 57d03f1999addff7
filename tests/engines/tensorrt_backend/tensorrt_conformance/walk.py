"""Walks a source file's syntax tree, and holds every TensorRT name in it against the real API.

Types follow from annotations (`config: trt.IBuilderConfig`), constructors (`trt.Refitter(...)`), the return types in the
bindings' signatures, and the return annotations of the files' own functions. An attribute that only TensorRT's classes
have, on an object whose class cannot be told, is a problem too: nothing passes because it was not understood.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field

from tensorrt_conformance.signatures import fits, parse

ENUM_ATTRIBUTES = {"name", "value"}


@dataclass(frozen=True)
class Instance:
    """An object of one of some classes or enums of the API."""

    classes: frozenset


@dataclass(frozen=True)
class Type:
    """A class, enum or function of the API itself, by its path: ("ILogger", "Severity")."""

    path: tuple


@dataclass(frozen=True)
class Method:
    """A method of an instance's classes."""

    classes: frozenset
    name: str


@dataclass(frozen=True)
class Local:
    """An object of a class that the walked files define."""

    name: str


@dataclass
class Walker:
    """Collects problems of one or more files; functions of earlier files are known in later ones."""

    api: dict
    problems: list = field(default_factory=list)
    used: set = field(default_factory=set)
    returns: dict = field(default_factory=dict)
    local: dict = field(default_factory=dict)
    """Fields of the files' own classes, by class: those that the class's body declares."""

    def __post_init__(self) -> None:
        classes = [entry for entry in self.api.values() if entry["kind"] == "class"]
        members = {name for entry in classes for name in entry["members"] if "_" in name.strip("_")}
        self.telling = members - {"__init__"}

    def learn(self, tree: ast.Module) -> None:
        """Remember what the file's functions and methods return, and its classes."""
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                declared = [item for item in node.body if isinstance(item, ast.AnnAssign)]
                self.local[node.name] = {item.target.id: item.annotation for item in declared}
            if isinstance(node, ast.FunctionDef) and node.returns is not None:
                self.returns[node.name] = node.returns

    def walk(self, tree: ast.Module, file: str) -> None:
        self.file, self.fields = file, {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                self.subclass(node)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                self.function(node, {}, quiet=True)
        self.block(tree.body, {})

    def problem(self, node: ast.AST, text: str) -> None:
        self.problems.append(f"{self.file}:{node.lineno}: {text}")

    def entry(self, path: Iterable[str]) -> dict | None:
        entry = {"kind": "module", "members": self.api}
        for name in path:
            entry = entry.get("members", {}).get(name)
            if not isinstance(entry, dict):
                return None
        return entry

    # Statements

    def function(self, node: ast.FunctionDef, outer: dict, *, quiet: bool = False) -> None:
        names = dict(outer)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            names[argument.arg] = self.annotation(argument.annotation)
        kept = list(self.problems), set(self.used)
        self.block(node.body, names)
        if quiet:  # only for the types of the fields that it sets
            self.problems, self.used = kept

    def block(self, statements: Iterable, names: dict) -> None:
        for statement in statements:
            self.statement(statement, names)

    def statement(self, node: ast.AST, names: dict) -> None:
        if isinstance(node, ast.FunctionDef):
            if node.returns is not None:
                self.annotation(node.returns)
            self.function(node, names)
        elif isinstance(node, ast.ClassDef):
            self.block(node.body, names)
        elif isinstance(node, ast.Assign):
            value = self.value(node.value, names)
            for target in node.targets:
                self.assign(target, value, names)
        elif isinstance(node, ast.AnnAssign):
            value = self.value(node.value, names) if node.value else None
            self.assign(node.target, self.annotation(node.annotation) or value, names)
        else:
            for child in ast.iter_child_nodes(node):
                self.statement(child, names) if isinstance(child, ast.stmt) else self.value(child, names)

    def assign(self, target: ast.AST, value: object, names: dict) -> None:
        if isinstance(target, ast.Name):
            names[target.id] = value
        elif isinstance(target, ast.Tuple):
            parts = value if isinstance(value, tuple) else (None,) * len(target.elts)
            for part, item in zip(target.elts, parts, strict=False):
                self.assign(part, item, names)
        elif isinstance(target, ast.Attribute):
            if self._on_self(target):
                self.fields.setdefault(target.attr, value)
            else:
                self.attribute(target, names, store=True)

    def annotation(self, node: ast.AST | None) -> object:
        """The value that an annotation declares: trt.X, a union of such, a tuple; None for all else."""
        if isinstance(node, ast.BinOp):
            sides = list(filter(None, map(self.annotation, (node.left, node.right))))
            if len(sides) == 2:
                return Instance(frozenset().union(*(side.classes for side in sides)))
            return sides[0] if sides else None
        if isinstance(node, ast.Name) and node.id in self.local:
            return Local(node.id)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "tuple":
            return tuple(map(self.annotation, node.slice.elts)) if isinstance(node.slice, ast.Tuple) else None
        if isinstance(node, ast.Attribute):
            found = self.attribute(node, {})
            return Instance(frozenset({found.path})) if isinstance(found, Type) else None
        for child in ast.iter_child_nodes(node) if node is not None else ():
            self.annotation(child)
        return None

    # Expressions

    def value(self, node: ast.AST, names: dict) -> object:
        if isinstance(node, ast.Attribute):
            return self.attribute(node, names)
        if isinstance(node, ast.Call):
            return self.call(node, names)
        if isinstance(node, ast.Name):
            return Type(()) if node.id == "trt" else names.get(node.id)
        if isinstance(node, ast.Tuple):
            return tuple(self.value(item, names) for item in node.elts)
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            return self.comprehension(node, dict(names))
        for child in ast.iter_child_nodes(node):
            self.value(child, names)
        return None

    def comprehension(self, node: ast.AST, names: dict) -> None:
        for generator in node.generators:
            self.value(generator.iter, names)
            for target in ast.walk(generator.target):
                if isinstance(target, ast.Name):
                    names[target.id] = None
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.comprehension):
                self.value(child, names)
        for generator in node.generators:
            for condition in generator.ifs:
                self.value(condition, names)

    def attribute(self, node: ast.Attribute, names: dict, *, store: bool = False) -> object:
        owner, name = self.value(node.value, names), node.attr
        if self._on_self(node):
            return self.fields.get(name)
        if isinstance(owner, Type):
            path = (*owner.path, name)
            if self.entry(path) is None and name not in self.entry(owner.path).get("members", {}):
                self.problem(node, f"TensorRT has no {'.'.join(path)}")
                return None
            self.used.add(path)
            enum = self.entry(owner.path)["kind"] == "enum"
            return Instance(frozenset({owner.path})) if enum else Type(path)
        if isinstance(owner, Local) and name in self.local[owner.name]:
            return self.annotation(self.local[owner.name][name])
        if isinstance(owner, Instance):
            return self.member(node, owner, store=store)
        if name in self.telling and not isinstance(owner, Method):
            self.problem(node, f"cannot tell whose {name} this is: annotate the object's class")
        return None

    def member(self, node: ast.Attribute, owner: Instance, *, store: bool) -> object:
        for path in owner.classes:
            entry = self.entry(path)
            if entry["kind"] == "enum" and node.attr in ENUM_ATTRIBUTES:
                return None
            member = entry.get("members", {}).get(node.attr)
            if not isinstance(member, dict):
                self.problem(node, f"TensorRT's {'.'.join(path)} has no {node.attr}")
                return None
            if store and not member.get("settable"):
                self.problem(node, f"TensorRT's {'.'.join(path)}.{node.attr} cannot be set")
            self.used.add((*path, node.attr))
        return Method(owner.classes, node.attr)

    def call(self, node: ast.Call, names: dict) -> object:
        function = self.value(node.func, names)
        for child in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.value(child, names)
        if isinstance(function, Type) and self.entry(function.path)["kind"] == "class":
            self.signature(node, (*function.path, "__init__"))
            return Instance(frozenset({function.path}))
        if isinstance(function, Method):
            results = [self.signature(node, (*path, function.name)) for path in function.classes]
            found = {(result,) for result in results if result in self.api}
            return Instance(frozenset(found)) if found else None
        if isinstance(node.func, ast.Name) and node.func.id in self.local:
            return Local(node.func.id)
        own = node.func.attr if self._on_self(node.func) else node.func.id if isinstance(node.func, ast.Name) else ""
        return self.annotation(self.returns[own]) if own in self.returns else None

    @staticmethod
    def _on_self(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"

    def signature(self, node: ast.Call, path: tuple) -> str | None:
        """Hold a call against the overloads of a method; returns the class that it gives."""
        overloads = parse(path[-1], self.entry(path).get("doc", ""))
        for overload in overloads:
            if fits(node, overload):
                return overload.returns
        if overloads:
            takes = " or ".join(f"({', '.join(overload.parameters)})" for overload in overloads)
            self.problem(node, f"TensorRT's {'.'.join(path)} takes {takes}")
        elif path[-1] == "__init__":
            self.problem(node, f"TensorRT's {path[0]} cannot be constructed")
        return overloads[0].returns if overloads else None

    def subclass(self, node: ast.ClassDef) -> None:
        """An implementation of a TensorRT interface has all its methods, with as many parameters."""
        for base in node.bases:
            found = self.attribute(base, {}) if isinstance(base, ast.Attribute) else None
            if not isinstance(found, Type):
                continue
            own = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
            for name, member in self.entry(found.path)["members"].items():
                overloads = parse(name, member.get("doc", ""))
                if not overloads or name == "__init__":
                    continue
                given = [argument.arg for argument in own[name].args.args[1:]] if name in own else None
                if given != list(overloads[0].parameters):
                    wanted = ", ".join(overloads[0].parameters)
                    self.problem(node, f"{node.name} must have {name}({wanted}) of TensorRT's {found.path[0]}")
