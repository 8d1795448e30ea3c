"""Modules that lie beside a study's file, importable wherever the study's code runs.

What a study's file imports at its top travels with the study by value. What it imports later, in a
function that a worker runs, is imported there: on another machine, where the folder may not be. So
the sources of such modules travel too. They are found by reading the code, without running it; a
name that is put together at run time is found where the folder is there.
"""

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType

from ray import cloudpickle


@dataclass(frozen=True)
class LocalModules:
    """The modules beside a study's file that its code imports, now or later.

    Attributes:
        folder: Where the study's file lies.
        files: For each module by name: its file, and the source in it.
    """

    folder: str
    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def install(self) -> None:
        """Have them imported by their names in this process, but never in place of a library."""
        others = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
        earlier = [finder for finder in sys.meta_path if isinstance(finder, _Finder)]
        earlier = [finder for finder in earlier if finder.modules.folder != self.folder]
        sys.meta_path[:] = [*others, _Finder(self), *earlier]


def local_modules(path: Path) -> LocalModules:
    """Return the modules beside a study's file that it imports, and those that they import."""
    files: dict[str, tuple[str, str]] = {}
    todo, seen = [path], {path}
    while todo:
        for name in sorted(set(_imported(_source(todo.pop())))):
            for module, file in _beside(path.parent, name):
                if file not in seen:
                    seen.add(file)
                    todo.append(file)
                    files[module] = str(file), _source(file)
    return LocalModules(str(path.parent), files)


def is_local(finder: object) -> bool:
    """Say whether a finder of modules is one of those that were installed here."""
    return isinstance(finder, _Finder)


def _source(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # whoever imports it will be told
        return ""


def _imported(source: str) -> Iterator[str]:
    """Yield the top-level names that a source imports, at its top or in functions."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value.partition(".")[0]


def _beside(folder: Path, name: str) -> list[tuple[str, Path]]:
    """Return the modules of a top-level name in a folder: all of a package."""
    found = [(name, file) for file in [folder / f"{name}.py"] if file.is_file()]
    package = folder / name
    if (package / "__init__.py").is_file() or (not found and package.is_dir()):
        found = []
        for file in sorted(package.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            found.append((".".join(parts).removesuffix(".__init__"), file))
    if not found:
        return []
    spec = next(
        (
            spec
            for finder in sys.meta_path
            if hasattr(finder, "find_spec") and not is_local(finder)
            if (spec := finder.find_spec(name, None)) is not None
        ),
        None,
    )
    elsewhere = spec is not None and not str(spec.origin).startswith(str(folder))
    return [] if elsewhere else found


class _Finder(MetaPathFinder):
    """Finds the modules of a study, after all other finders."""

    def __init__(self, modules: LocalModules) -> None:
        self.modules = modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        files = self.modules.files
        if fullname in files:
            file, source = files[fullname]
            is_package = Path(file).name == "__init__.py"
            loader = _Loader(file, source, is_package)
            spec = spec_from_loader(fullname, loader, origin=file, is_package=is_package)
            assert spec is not None
            spec.has_location = True  # so that the module has a __file__
            if is_package:
                spec.submodule_search_locations = [str(Path(file).parent)]
            return spec
        if any(name.startswith(f"{fullname}.") for name in files):  # a folder without __init__.py
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [str(Path(self.modules.folder, *fullname.split(".")))]
            return spec
        return PathFinder.find_spec(fullname, [self.modules.folder]) if path is None else None


class _Loader(InspectLoader):
    """Runs a module whose source came along."""

    def __init__(self, file: str, source: str, package: bool) -> None:
        self._file, self._source, self._package = file, source, package

    def get_source(self, fullname: str) -> str:
        return self._source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self._file, "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:
        return self._package

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        cloudpickle.register_pickle_by_value(module)  # no other process can import it by its name
