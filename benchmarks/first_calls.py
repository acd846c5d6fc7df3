"""``python -m benchmarks.first_calls``: how long the first call of a process takes, compiled and from the cache.

Every entry point runs in processes of its own: with an empty cache, then again. The seconds are those of a processor,
which other programs change less than the seconds of a clock. With ``--write``, the table goes to docs/cache.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "cache.md"
START, END = "<!-- python -m benchmarks.first_calls -->\n", "<!-- end -->\n"

SETUP = """
import time
import numpy as np
import ssd_mining as sm
rng = np.random.default_rng(0)
labels = np.where(rng.random((2, 8732)) < 0.01, 7, 0)
losses = rng.gamma(0.3, 1.0, labels.shape).astype(np.float32)
logits = rng.normal(size=(*labels.shape, 21)).astype(np.float32)
loc = rng.normal(size=(2, *labels.shape, 4)).astype(np.float32)
anchors = sm.default_boxes("ssd300")
def analyse(values, **keywords):
    analysis = sm.LossAnalysis(background=0, **keywords)
    analysis.update(values, labels)
    analysis.result()
start = time.process_time()
{call}
print(time.process_time() - start)
"""
CALLS = {
    "`mine_hard_negatives`, `confidence_loss`": "sm.confidence_loss(losses, labels, background=0)",
    "`softmax_cross_entropy`": "sm.softmax_cross_entropy(logits, labels, background=0)",
    "`sigmoid_cross_entropy`, `focal_loss`": "sm.focal_loss(logits, labels, background=0)",
    "`mine_logits`, `multibox_loss`": "sm.multibox_loss(logits, labels, *loc, background=0)",
    "`multibox_loss`, with gradients": "sm.multibox_loss(logits, labels, *loc, background=0, with_gradients=True)",
    "`compare_recipes`": "sm.compare_recipes(logits, labels, background=0)",
    "`ohem`": "sm.ohem(losses)",
    "`match_anchors`": "sm.match_anchors([[[0.1, 0.1, 0.4, 0.5]]], [[7]], anchors)",
    "`LossAnalysis`, of losses": "analyse(losses)",
    "`LossAnalysis`, of logits": "analyse(logits, classification=sm.Softmax())",
    "`ratio_sweep`": "sm.ratio_sweep(losses, labels, background=0, ratios=[1, 3])",
}
COMMAND = """
import time
from ssd_mining import cli
start = time.process_time()
cli.main({words})
import sys
print(time.process_time() - start, file=sys.stderr)
"""
LABELS = "labels.npy --background 0"
COMMANDS = {
    "`ssd-mining demo`": "demo --out demo{run}",
    "`ssd-mining mine`": f"mine losses.npy {LABELS}",
    "`ssd-mining report --no-page`, of losses": f"report losses.npy {LABELS} --no-page --out a{{run}}",
    "`ssd-mining report --no-page`, of logits": f"report logits.npy {LABELS} --no-page --out b{{run}}",
    "`ssd-mining warmup mining`": "warmup mining",
    "`ssd-mining warmup logits`": "warmup logits",
    "`ssd-mining warmup analysis`": "warmup analysis",
    "`ssd-mining warmup matching`": "warmup matching",
}
FILES = """
for name, array in {"losses": losses, "labels": labels, "logits": logits}.items():
    np.save(name, array)
"""


def main() -> None:
    """Measure, print, and write the table if that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_calls", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table to docs/cache.md")
    arguments = parser.parse_args()
    table = rows({**CALLS, **COMMANDS})
    print("\n".join(table))
    if arguments.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{START}{chr(10).join(table)}\n{END}{after}", encoding="utf-8")


def rows(cases: dict[str, str]) -> list[str]:
    """Measure some of the calls and commands; return the lines of a table."""
    lines = ["| first call | compiled, s | from the cache, s |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        run(SETUP.format(call=FILES), folder, folder)
        for name, call in cases.items():
            with tempfile.TemporaryDirectory() as cache:
                times = [run(script(name, call, turn), folder, cache) for turn in range(2)]
            lines.append("| " + " | ".join([name, *(f"{float(f'{each:.2g}'):g}" for each in times)]) + " |")
    return lines


def script(name: str, call: str, turn: int) -> str:
    """Return the program that runs a call or a command and prints how long it took."""
    if name in CALLS:
        return SETUP.format(call=call)
    return COMMAND.format(words=call.format(run=turn).split())


def run(program: str, folder: str, cache: str) -> float:
    """Run a program in a process of its own; return the number that it prints last."""
    environment = os.environ | {"SSD_MINING_CACHE_DIR": cache, "PYTHONPATH": str(PAGE.parents[1])}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    words = (done.stderr or done.stdout).split()
    return float(words[-1]) if words else 0.0


if __name__ == "__main__":
    main()
