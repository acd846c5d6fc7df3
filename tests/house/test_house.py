"""The house: floors, sizes, public names, links, and what importing the package loads."""

import ast
import importlib
import inspect
import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.batches import ROOT

PACKAGE = ROOT / "ssd_mining"

# The layers of the house, the lowest first. Imports point down; modules of one layer may import each other.
LAYERS = [
    "reference/",
    "kernels/",
    "checks choices mining_rule classification",
    "inputs/",
    "engine/ files/",
    "device/",
    "matching/ mining losses cross_entropy localization multibox hard_examples recipe",
    "analysis/",
    "compile_ahead dask torchvision report/",
    "cli/",
    "__main__",
]
LAYER = {room: number for number, layer in enumerate(LAYERS) for room in layer.split()}
MAX_MODULE, MAX_FUNCTION, MAX_POSITIONAL = 403, 60, 6


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if not name.endswith("__init__"):
            yield pytest.param(name, path, id=name)


MODULES = list(modules())


def imported(tree):
    """Yield the modules of ours that a module imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("ssd_mining"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ssd_mining"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module):
    """Return the folder of a module, with a slash, or the module where it lies beside the folders."""
    first = module.removeprefix("ssd_mining.").partition(".")[0]
    first = sm._MODULES.get(first, first).partition(".")[0]  # of a public name
    return f"{first}/" if (PACKAGE / first).is_dir() else first


def statements(function):
    """Count the lines of a function without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_imports_point_down_only(name, path):
    own = room(name)
    for other in {room(module) for module in imported(ast.parse(path.read_text()))} - {own, "ssd_mining"}:
        beside = LAYER[other] == LAYER[own] and not own.endswith("/") and not other.endswith("/")
        assert LAYER[other] < LAYER[own] or beside, f"{name} imports {other}, which is not below it"


def test_few_modules_lie_beside_the_folders():
    beside = [path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")]
    assert sorted(beside) == sorted(room for room in LAYER if room.isidentifier() and room != "__main__")
    assert len(beside) <= 14


RNG = np.random.default_rng(0)
LOSS, CLASSES = RNG.random((4, 256)).astype(np.float32), np.zeros((4, 256), int)
LOGITS, BOXES = RNG.normal(size=(2, 256, 5)).astype(np.float32), RNG.normal(size=(2, 2, 256, 4)).astype(np.float32)
CLASSES[:, ::50] = 3
ANALYSIS = sm.LossAnalysis(background=0)
# The Python frames of ours that a warm call passes, the modules they are of, and how often one calls another.
WAYS = {
    "confidence_loss": (lambda: sm.confidence_loss(LOSS, CLASSES, background=0), (22, 6, 9)),
    "mine_hard_negatives": (lambda: sm.mine_hard_negatives(LOSS, CLASSES, background=0), (18, 5, 9)),
    "multibox_loss": (
        lambda: sm.multibox_loss(LOGITS, CLASSES[:2], *BOXES, background=0, with_gradients=True),
        (53, 10, 26),
    ),
    "LossAnalysis.update": (lambda: ANALYSIS.update(LOSS, CLASSES), (107, 11, 57)),
}


@pytest.mark.full_size
@pytest.mark.parametrize("name", WAYS)
def test_a_call_passes_few_frames(name):
    call, most = WAYS[name]
    call()  # what is compiled or remembered is no part of the way
    modules = []

    def watch(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            modules.append(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(before)
    switches = sum(one != other for one, other in itertools.pairwise(modules))
    got = len(modules), len(set(modules)), switches
    assert all(np.less_equal(got, most)), f"{name}: {got} frames, modules and switches, expected at most {most}"


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_modules_and_functions_keep_their_sizes(name, path):
    source = path.read_text()
    assert source.count("\n") <= MAX_MODULE, name
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert statements(node) <= MAX_FUNCTION, f"{name}.{node.name}"
            if name.startswith("kernels."):
                continue  # a body takes the fields of its records one by one
            positional = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg != "self"]
            assert len(positional) <= MAX_POSITIONAL, f"{name}.{node.name}"


def test_every_module_and_public_function_has_a_docstring():
    for parameter in MODULES:
        name, path = parameter.values
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), name
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                is_overload = "overload" in map(
                    ast.unparse, node.decorator_list
                )  # a type; the function is documented
                assert ast.get_docstring(node) or is_overload, f"{name}.{node.name}"


def test_only_two_rooms_name_a_numba_option():
    for parameter in MODULES:
        name, path = parameter.values
        if name not in ("kernels.cpu.jit", "kernels.cuda.runtime"):
            assert not re.search(r"\bn?jit\(", path.read_text()), name


# Each optional package is imported in the one module named for it, inside the function that needs it.
OPTIONAL = {
    "rich": "cli.progress",
    "jinja2": "report.page",
    "matplotlib": "report.pictures",
    "zarr": "files.stores",
    "h5py": "files.stores",
    "torch": "torchvision",
    "torchvision": "torchvision",
}


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_optional_packages_are_imported_where_they_belong_and_only_there(name, path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for package in {other.split(".")[0] for other in names} & set(OPTIONAL):
            assert name == OPTIONAL[package], f"{name} imports {package}"
            assert node not in tree.body, f"{name} imports {package} outside a function"


@pytest.mark.parametrize("path", sorted((PACKAGE / "reference").glob("*.py")), ids=lambda path: path.stem)
def test_the_reference_imports_numpy_only(path):
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names <= {"itertools", "math", "numpy"}


def test_type_checkers_see_the_public_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    seen = {
        (node.module, alias.name): alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert sorted(seen.values()) == sm.__all__
    for (module, name), asname in seen.items():
        assert name == asname
        assert getattr(importlib.import_module(module), name) is getattr(sm, name)


@pytest.mark.parametrize("name", sm.__all__)
def test_signatures_are_shown_as_they_are_written(name):
    if callable(getattr(sm, name)):
        for parameter in inspect.signature(getattr(sm, name)).parameters.values():
            assert len(str(parameter)) < 80, parameter


def test_the_public_names_are_the_contents_page():
    assert dir(sm) == sorted([*sm.__all__, "__version__"])
    for name in sm.__all__:
        assert getattr(sm, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'mine'"):
        sm.mine  # noqa: B018
    assert re.fullmatch(r"\d+\.\d+\.\d+", sm.__version__)


def test_importing_the_package_loads_neither_numpy_nor_numba_nor_anything_optional():
    names = ("numpy", "numba", "torch", "dask", "rich", "matplotlib", "jinja2", "zarr", "h5py")
    code = f"import sys, ssd_mining; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_importing_the_functions_and_bad_input_do_not_load_numba():
    code = (
        "import sys, ssd_mining as sm\n"
        "sm.confidence_loss, sm.mine_hard_negatives\n"
        "try: sm.confidence_loss([1], [1])\n"
        "except ValueError: print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_the_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_of_the_docs_is_linked_from_the_readme_or_another_page():
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    }
    assert [p.name for p in (ROOT / "docs").rglob("*.md") if p.resolve() not in linked] == []


def test_no_page_or_module_names_a_path_of_somebody_s_machine():
    for path in [
        *PAGES,
        *PACKAGE.rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
    ]:
        if path != Path(__file__):
            assert not re.search(r"/work/|/root/|/home/\w", path.read_text()), path
