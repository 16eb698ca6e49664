"""Public functions, methods and classes of installed packages, read from their source without running it.

Importing a package executes it, so packages are found with `importlib` finders and read with `ast`. Only compiled
modules of Python itself (math, itertools), which have no source, are imported and asked with `inspect`.
"""

import ast
import copy
import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from luthier.core.errors import DataError
from luthier.core.files import hash_bytes
from luthier.data.from_python_names import not_installed, submodule_missing

_TESTS: Final = {"test", "tests", "testing", "conftest", "idlelib", "lib2to3"}
# Parts of the standard library that nobody should learn from: tables, jokes, demos, bundled or removed code.
_NOT_STDLIB: Final = {
    "antigravity", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "msilib", "pydoc_data", "test", "this",
    "turtledemo",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PyModule:
    """A module to read.

    Attributes:
        name: dotted, as it is imported.
        path: the source file; None for a compiled module of Python itself.
        file: the source file relative to where its top package lies.
    """

    name: str
    path: Path | None
    file: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter. `default` is source text, "" without one."""

    name: str
    default: str


@dataclass(frozen=True, slots=True)
class PyObject:
    """A public function, method, property or class with a docstring.

    Attributes:
        module, qualname: "json.decoder", "JSONDecoder.decode".
        kind: "function", "method", "property" or "class".
        doc: the docstring with its indentation removed.
        parameters: those a caller gives (no self or cls).
        call: the parameters as source text without annotations: "s, *, strict=True"; None where unknown.
        definition: "def decode(self, s: str) -> Any", or "" where there is none to write.
        file, line: the place of the definition; line 0 for compiled modules.
        source_hash: of the definition's source text.
    """

    module: str
    qualname: str
    kind: str
    doc: str
    parameters: tuple[Parameter, ...]
    call: str | None
    definition: str
    file: str
    line: int
    source_hash: str

    @property
    def name(self) -> str:
        """The full dotted name."""
        return f"{self.module}.{self.qualname}"


def stdlib_modules() -> list[str]:
    """The top-level modules of the standard library that have source and are public."""
    names = sorted(name for name in sys.stdlib_module_names - _NOT_STDLIB if not name.startswith("_"))
    specs = ((name, importlib.machinery.PathFinder.find_spec(name)) for name in names)
    return [name for name, spec in specs if spec is not None and (spec.origin or "").endswith(".py")]


def find_modules(name: str, counts: Counter[str]) -> list[PyModule]:
    """The module `name` and, of a package, all its public submodules, sorted; the left out are counted.

    Raises:
        DataError: not installed, no such submodule, or compiled and not of Python itself.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise DataError(f"{name!r} is not a module name", fix="name it as you would import it: package.module")
    top, *below = name.split(".")
    try:
        spec = importlib.util.find_spec(top)  # finds a top-level module without importing it
    except ValueError:  # __main__ and the like
        spec = None
    if spec is not None and spec.origin == "frozen":  # os, io: Python keeps a copy inside, the source is there too
        spec = importlib.machinery.PathFinder.find_spec(top) or spec
    if spec is None:
        raise not_installed(top)
    if spec.submodule_search_locations is None:
        if below:
            raise submodule_missing(name, top, [])
        return [_single(top, spec.origin or "")]
    found: dict[str, PyModule] = {}
    for folder in map(Path, spec.submodule_search_locations):
        for module in _walk(folder, top, folder.parent, counts if not below else Counter()):
            found.setdefault(module.name, module)
    if not below:
        return [found[key] for key in sorted(found)]
    inside = [found[key] for key in sorted(found) if key == name or key.startswith(f"{name}.")]
    if not inside:
        raise submodule_missing(name, top, list(found))
    return inside


def _single(name: str, origin: str) -> PyModule:
    if origin.endswith(".py"):
        return PyModule(name, Path(origin), Path(origin).name)
    if name in sys.stdlib_module_names:
        return PyModule(name, None, "")
    raise DataError(f"{name} is a compiled module without source", fix="only Python source can be read")


def _walk(folder: Path, package: str, root: Path, counts: Counter[str]) -> Iterator[PyModule]:
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir()):
        stem = entry.name.split(".")[0]
        is_package = entry.is_dir() and (entry / "__init__.py").is_file()
        if entry.is_dir() and not is_package and any(entry.glob("*.py")):
            counts["folder without __init__.py"] += 1
        if not is_package and not entry.name.endswith((".py", *importlib.machinery.EXTENSION_SUFFIXES)):
            continue
        if entry.name == "__init__.py":
            yield PyModule(package, entry, entry.relative_to(root).as_posix())
        elif stem in _TESTS or stem.startswith("test_") or stem.endswith("_test"):
            counts["test module or package"] += 1
        elif stem.startswith("_"):
            counts["private module or package"] += 1
        elif is_package:
            yield from _walk(entry, f"{package}.{stem}", root, counts)
        elif not entry.name.endswith(".py"):
            counts["compiled module without source"] += 1
        elif stem.isidentifier():
            yield PyModule(f"{package}.{stem}", entry, entry.relative_to(root).as_posix())
        else:
            counts["file that cannot be imported"] += 1


def read_objects(module: PyModule, counts: Counter[str]) -> list[PyObject]:
    """The documented public objects of a module, in source order; what has no docstring is counted."""
    if module.path is None:
        return list(_inspected(module, counts))
    source = module.path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the parser's words for "this is not Python"
        counts["module that is not valid Python"] += 1
        return []
    lines = source.splitlines(keepends=True)
    exported = _exported(tree)
    objects: dict[str, PyObject] = {}
    for node in _definitions(tree.body):
        if node.name.startswith("_") or (exported is not None and node.name not in exported):
            counts["private or special name"] += 1
            continue
        for item in _with_members(node, module, lines, counts):
            if item.qualname in objects:
                counts["object defined twice"] += 1
            objects.setdefault(item.qualname, item)
    return list(objects.values())


_Def = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _definitions(body: Sequence[ast.stmt]) -> Iterator[_Def]:
    """Definitions of a body, those under if, try and with included: version guards are common."""
    for node in body:
        if isinstance(node, _Def):
            yield node
        elif isinstance(node, ast.If):
            yield from _definitions([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            yield from _definitions([*node.body, *node.orelse, *handlers])
        elif isinstance(node, ast.With):
            yield from _definitions(node.body)


def _exported(tree: ast.Module) -> set[str] | None:
    """The names in a literal `__all__`; None where there is none, or where code computes it."""
    names: set[str] = set()
    found = False
    for node in tree.body:
        if isinstance(node, ast.Expr) and ast.unparse(node).startswith("__all__."):
            return None
        if not isinstance(node, ast.Assign | ast.AugAssign):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if not isinstance(target, ast.Name) or target.id != "__all__":
            continue
        if not isinstance(node.value, ast.List | ast.Tuple):
            return None
        found = True
        names |= {str(item.value) for item in node.value.elts if isinstance(item, ast.Constant)}
    return names if found else None


def _with_members(node: _Def, module: PyModule, lines: list[bytes], counts: Counter[str]) -> Iterator[PyObject]:
    if (item := _object(node, module, lines, counts)) is not None:
        yield item
    if not isinstance(node, ast.ClassDef):
        return
    for member in _definitions(node.body):
        if isinstance(member, ast.ClassDef) or member.name.startswith("_"):
            counts["private or special name"] += 1
        elif (item := _object(member, module, lines, counts, owner=node.name)) is not None:
            yield item


def _object(
    node: _Def, module: PyModule, lines: list[bytes], counts: Counter[str], *, owner: str = ""
) -> PyObject | None:
    decorators = {ast.unparse(decorator).partition("(")[0].rpartition(".")[2] for decorator in node.decorator_list}
    if decorators & {"overload", "setter", "deleter"}:
        return None  # another spelling of an object that is counted once
    doc = (ast.get_docstring(node) or "").strip()
    if not doc:
        counts["object without a docstring"] += 1
        return None
    if not owner and not isinstance(node, ast.ClassDef) and node.args.args and node.args.args[0].arg == "self":
        counts["function that its decorator turns into something else"] += 1
        return None
    source = b"".join(lines[node.lineno - 1 : node.end_lineno])
    if isinstance(node, ast.ClassDef):
        makers = (item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__")
        maker = next(makers, None)
        kind, definition = "class", ""
        arguments = maker.args if maker else None
    else:
        kind = "property" if decorators & {"property", "cached_property"} else "method" if owner else "function"
        arguments = None if kind == "property" else node.args
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        definition = "" if kind == "property" else f"{keyword} {node.name}({ast.unparse(node.args)}){returns}"
    bound = bool(owner or kind == "class") and "staticmethod" not in decorators
    parameters, call = _parameters(arguments, bound=bound) if arguments else ((), None)
    qualname = f"{owner}.{node.name}" if owner else node.name
    return PyObject(
        module=module.name,
        qualname=qualname,
        kind=kind,
        doc=doc,
        parameters=parameters,
        call=call,
        definition=definition,
        file=module.file,
        line=node.lineno,
        source_hash=hash_bytes(source)[:16],
    )


def _parameters(arguments: ast.arguments, *, bound: bool) -> tuple[tuple[Parameter, ...], str]:
    """The parameters and their source text; the first one is left out where it is bound (self, cls)."""
    arguments = copy.deepcopy(arguments)
    positional = arguments.posonlyargs or arguments.args
    if bound and positional:
        positional.pop(0)
        everything = len(arguments.posonlyargs) + len(arguments.args)
        arguments.defaults = arguments.defaults[-everything:] if everything else []
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [*([None] * (len(plain) - len(arguments.defaults))), *arguments.defaults, *arguments.kw_defaults]
    starred = [item for item in (arguments.vararg, arguments.kwarg) if item]
    named = [*plain, *arguments.kwonlyargs]
    for argument in (*named, *starred):
        argument.annotation = None
    parameters = [
        Parameter(argument.arg, ast.unparse(default) if default else "")
        for argument, default in zip(named, defaults, strict=True)
    ]
    return (*parameters, *(Parameter(item.arg, "") for item in starred)), ast.unparse(arguments)


def _inspected(module: PyModule, counts: Counter[str]) -> Iterator[PyObject]:
    """Objects of a compiled module of Python itself, imported and asked."""
    loaded = importlib.import_module(module.name)
    for name, value in sorted(vars(loaded).items()):
        if name.startswith("_") or not (inspect.isbuiltin(value) or inspect.isclass(value)):
            continue
        doc = (inspect.getdoc(value) or "").strip()
        if not doc:
            counts["object without a docstring"] += 1
            continue
        try:
            signature = inspect.signature(value)
        except (ValueError, TypeError):  # a C function that does not tell
            signature = None
        parameters = tuple(
            Parameter(item.name, "" if item.default is item.empty else repr(item.default))
            for item in (signature.parameters.values() if signature else ())
        )
        kind = "class" if inspect.isclass(value) else "function"
        call = str(signature)[1:-1] if signature and str(signature).endswith(")") else None
        definition = f"def {name}{signature}" if signature and kind == "function" else ""
        yield PyObject(module.name, name, kind, doc, parameters, call, definition, "", 0, hash_bytes(doc.encode())[:16])
