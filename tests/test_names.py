"""Tests, benchmarks, examples and Flower's file name only what celora's modules hold; pyright reads the product alone.

Static: a slow test that would stop at a name that was moved or renamed is found in a second.
"""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
READ = ("tests", "benchmarks", "examples", "docs", "flower")


def sources():
    return [path for folder in READ for path in sorted((ROOT / folder).rglob("*.py"))]


@cache
def file_of(module):
    """``celora.tuning.files`` as the file that Python would run for it; None where there is none."""
    path = ROOT.joinpath(*module.split(".")[1:])
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)


@cache
def names_of(module):
    """Every name at the top level of a module, and the modules below a package."""
    path = file_of(module)
    below = {one.stem for one in path.parent.iterdir()} if path.name == "__init__.py" else set()
    return {"__file__", "__name__", "__path__", "__doc__"} | below | defined(path)


_MAY_BIND = (ast.stmt, ast.Name, ast.Tuple, ast.ExceptHandler, ast.withitem)


@cache
def defined(path):
    """The names that the statements of a file bind, those of its functions and classes aside."""
    found, statements = set(), list(ast.parse(path.read_text(encoding="utf-8")).body)
    while statements:
        one = statements.pop()
        if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(one.name)
            continue
        if isinstance(one, (ast.Import, ast.ImportFrom)):
            found |= {(name.asname or name.name).split(".")[0] for name in one.names}
        elif isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
            found.add(one.id)
        statements += [each for each in ast.iter_child_nodes(one) if isinstance(each, _MAY_BIND)]
    return found


def missing(tree):
    """Names that a source takes from celora's modules and that are not there: ``(line, 'celora.module.name')``."""
    modules, nodes = {}, list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "celora":
            for name in node.names:
                full = f"{node.module}.{name.name}"
                if node.module != "celora" and (file_of(node.module) is None or name.name not in names_of(node.module)):
                    yield node.lineno, full
                elif file_of(full) and (node.module == "celora" or name.name not in defined(file_of(node.module))):
                    modules[name.asname or name.name] = full
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id not in bound:
            module = modules.get(node.value.id)
            if module and node.attr not in names_of(module):
                yield node.lineno, f"{module}.{node.attr}"


def test_nothing_names_what_a_module_does_not_hold():
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sources()
        for line, name in missing(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_a_name_that_is_gone_is_seen_wherever_it_stands():
    source = "from celora.models import datasets, nothing\nfrom celora.models.spec import Spec\ndatasets.seen_by(1)\n"
    assert sorted(name for _, name in missing(ast.parse(source))) == [
        "celora.models.datasets.seen_by", "celora.models.nothing", "celora.models.spec.Spec",
    ]  # fmt: skip
