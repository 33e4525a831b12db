"""The package's imports run one way, from each floor to those below it; every test checks."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "hmrnn_jax"

# The lowest floor first. A module or package of one floor imports from lower floors alone;
# within a package files import each other freely, but in no circle.
FLOORS = (
    (
        "errors",
        "huge_pages",
        "pretrained",
    ),
    (
        "files",
        "ops",
    ),
    (
        "archives",
        "parallel",
        "cells",
    ),
    (
        "datasets",
        "recurrence",
    ),
    (
        "batches",
        "analysis",
        "models",
        "functional",
    ),
    ("inference",),
    ("tasks",),
    (
        "defaults",
        "explorer",
    ),
    ("training",),
    ("run",),
    ("opening",),
    ("evaluation",),
    ("cli",),
    ("commands",),
    ("__main__",),
)


def modules():
    """`{dotted name: path}` of the package's files."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports():
    """`{module: set of modules}`, by syntax alone; imports within functions count too."""
    files = modules()
    found = {name: set() for name in files}
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name in files}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{name} has a relative import"
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found[name] |= {whole if whole in files else node.module} & files.keys()
        found[name].discard(name)
    return found


def room(module):
    """The module or package at the top that a module is, or is in; empty for the face."""
    return module.partition(".")[2].partition(".")[0]


def test_every_module_has_its_floor():
    rooms = {room(name) for name in modules()} - {""}
    assert rooms == {name for floor in FLOORS for name in floor}


def test_imports_run_downwards():
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    wrong = [
        f"{module} imports {used}"
        for module, all_used in imports().items()
        for used in all_used
        if room(module) and room(module) != room(used)
        if not room(used) or floor[room(used)] >= floor[room(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_have_no_circle():
    remaining = {name: set(used) for name, used in imports().items()}
    while free := [name for name, used in remaining.items() if not used & remaining.keys()]:
        for name in free:
            del remaining[name]
    assert not remaining, f"these import each other, or those that do: {', '.join(remaining)}"


@pytest.mark.parametrize(
    "package", sorted(p for p in ROOT.iterdir() if p.is_dir()), ids=lambda p: p.name
)
def test_packages_say_what_they_are(package):
    if package.name != "__pycache__":
        assert ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))


# Or it says that nothing is raised where something might be.
CHECKS = re.compile(r"\bassert\b|\b(assert_\w+|raises|warns|fail|check|transfer_guard)\b|'raise'")


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parent.glob("test_*.py")), ids=lambda path: path.stem
)
def test_every_test_checks_something(path):
    """By itself, or by functions of its file or of another's whose name says so."""
    functions = {
        node.name: node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }

    def checks(name, seen):
        node = functions[name]
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} & functions.keys()
        return bool(CHECKS.search(ast.unparse(ast.Module(node.body, [])))) or any(
            checks(other, seen | {other}) for other in names - seen
        )

    idle = [name for name in functions if name.startswith("test_") and not checks(name, {name})]
    assert not idle, f"{path.name}: {', '.join(idle)} cannot fail"
