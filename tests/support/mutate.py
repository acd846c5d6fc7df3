"""Mutation testing: change one operator or constant at a time, and see a test fail.

``python -m tests.support.mutate [--jobs 2] [--only TEXT]`` takes about an hour and prints what survived. A survivor is
a missing test or an equivalent mutant. This is no part of the test suite.
"""

import argparse
import ast
import copy
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAWS = ("tests/mining/test_laws.py", "tests/reference/test_notebook.py", "tests/mining/test_selection.py")
MINING = ("tests/kernels/cpu/test_paths.py", *LAWS, "tests/kernels/test_mining.py")
LOGITS = ("tests/kernels/test_logits.py", "tests/cross_entropy/test_values.py")
MATCHING = ("tests/matching/test_faults.py", "tests/matching/test_errors.py", "tests/systems/test_matchers.py")
ANALYSIS = ("tests/kernels/test_analysis.py", "tests/analysis/test_values.py")
TESTS = {
    "ssd_mining/kernels/cpu/mining.py": MINING,
    "ssd_mining/kernels/rules.py": MINING,
    "ssd_mining/engine/multi_pass.py": MINING,
    "ssd_mining/kernels/cpu/analysis.py": ANALYSIS,
    "ssd_mining/kernels/cpu/softmax.py": LOGITS,
    "ssd_mining/kernels/cpu/sigmoid.py": LOGITS,
    "ssd_mining/kernels/cpu/tiles.py": LOGITS,
    "ssd_mining/kernels/loss_rules.py": LOGITS,
    "ssd_mining/kernels/cpu/elementary.py": LOGITS,
}
SECONDS = 180  # a mutant that loops for ever is a killed one
SWAPS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add,),
    ast.FloorDiv: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitAnd,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}


def replacements(node):
    """Yield the functions that change a node of the tree in place, each in one way."""
    for field in ("op", "ops"):
        operator = getattr(node, field, None)
        operator = operator[0] if isinstance(operator, list) else operator
        for other in SWAPS.get(type(operator), ()):
            value = [other()] if field == "ops" else other()
            yield f"{type(operator).__name__} -> {other.__name__}", field, value
    if isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value == node.value:
        yield f"{node.value} -> {node.value + 1}", "value", node.value + 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
        yield f"drop {type(node.op).__name__}", "op", ast.UAdd()


def mutants(path):
    """Yield (description, source) for every mutant of a file."""
    tree = ast.parse(path.read_text())
    hints = {id(inner) for node in ast.walk(tree) for hint in annotations(node) for inner in ast.walk(hint)}
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in hints:
            continue
        for what, field, value in replacements(node):
            changed = copy.deepcopy(tree)
            target = next(n for i, n in enumerate(ast.walk(changed)) if i == number)
            setattr(target, field, value)
            line = path.read_text().splitlines()[node.lineno - 1].strip() if hasattr(node, "lineno") else ""
            yield f"{path.name}:{getattr(node, 'lineno', 0)}: {what}: {line}", ast.unparse(changed)


def annotations(node):
    """Return the type hints of a node: to change one changes nothing."""
    arguments = [*node.args.args, *node.args.kwonlyargs] if isinstance(node, ast.FunctionDef) else []
    hints = [a.annotation for a in arguments] + [getattr(node, "returns", None), getattr(node, "annotation", None)]
    return [hint for hint in hints if hint is not None]


def survives(file, source):
    """Run the tests on a copy of the project in which one file is changed."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("ssd_mining", "tests", "benchmarks", "pyproject.toml"):
            copy_of = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy_of(ROOT / name, Path(folder, name))
        Path(folder, file).write_text(source)
        # Without the JIT a mutant need not be compiled, and dies within seconds.
        environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": folder}
        options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning", "-m", "not full_size"]
        command = [sys.executable, "-m", "pytest", *options, *TESTS[file]]
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.support.mutate", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="mutants whose description contains this")
    arguments = parser.parse_args()
    work = [(file, *mutant) for file in TESTS for mutant in mutants(ROOT / file) if arguments.only in mutant[0]]
    for file in {file for file, *_ in work}:
        if not survives(file, (ROOT / file).read_text()):
            sys.exit(f"{file}: its tests fail, or take too long, before anything is changed")
    print(f"{len(work)} mutants", flush=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        alive = 0
        for (_, description, _), lives in zip(
            work, pool.map(lambda item: survives(item[0], item[2]), work), strict=True
        ):
            alive += lives
            if lives:
                print("survived", description, flush=True)
    print(f"{len(work) - alive} of {len(work)} killed")


if __name__ == "__main__":
    main()
