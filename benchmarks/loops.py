"""What each way to distil lets through: images a CPU second, against a hand-written plain PyTorch loop.

Six loops: the plain one, the same with its tensors channels last, and the engine's own (tracking on) with the
teacher computed at each step, filling the cache, with a warm cache, and training the student alone. Same
networks, images and batches, no augmentation, in one process, in turn. The budget is on the median of the
rounds' ratios of a warm epoch to one of the student alone. One thread and CPU seconds.
`--write` puts the figures into docs/performance.md and its chart.
Run: python benchmarks/loops.py [--steps 4] [--rounds 7] [--write]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from datetime import date
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from _bars import Group, svg
from _engine import BATCH, STUDENT_NET, TEACHER, Session, ask, prepare, session
from _plain import ALPHA, TEMPERATURE, both_layouts

from worker.distill.runtime import describe_device
from worker.distill.spec import Objective, RunSpec, hinton

BUDGET = 1.05
KD = hinton(ALPHA, TEMPERATURE)
LOOPS = {
    "plain": "plain loop",
    "channels last": "plain loop, channels last",
    "each step": "engine, teacher at each step",
    "filling": "engine, filling the cache",
    "warm": "engine, warm cache",
    "alone": "engine, student alone (no teacher)",
}
# Throughput of their own loops relative to the plain one: other networks' code, measured once and elsewhere.
REFERENCES = {"RepDistiller": 1.16, "torchdistill": 1.05, "timm": 0.98, "mdistiller": 0.93, "KD_Lib": 0.63}
DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, CHART = DOCS / "performance.md", DOCS / "img" / "loops.svg"
BEGIN, END = "<!-- loops: written by benchmarks/loops.py --write -->\n", "<!-- end of loops -->\n"

Seconds = dict[str, list[float]]  # loop → CPU seconds of its epochs, a round each


def plan(folder: Path, name: str, objective: Objective = KD, *, cache: str = "", epochs: int = 1) -> RunSpec:
    spec = ask(folder, name, objective, cache=cache, epochs=epochs)
    spec.training.augment = False
    return spec


def filling(folder: Path, name: str) -> float:
    """CPU seconds of the one epoch that finds the cache `name` empty."""
    with session(plan(folder, f"filling-{name}", cache=name)) as run:
        seconds = run.epoch()
        summary = run.lessons.summary()
    assert summary is not None
    assert (summary["computed"], summary["reused"]) == (1, 0), summary
    return seconds


def measure(folder: Path, rounds: int) -> Seconds:
    filling(folder, "warm")
    epochs = rounds + 1
    specs = {
        "each step": plan(folder, "each step", epochs=epochs),
        "warm": plan(folder, "warm run", cache="warm", epochs=epochs),
        "alone": plan(folder, "alone", Objective(), epochs=epochs),
    }
    seconds: Seconds = {name: [] for name in LOOPS}
    with ExitStack() as stack:
        sessions = {name: Session(spec, stack) for name, spec in specs.items()}
        plain, last = both_layouts(sessions["alone"])
        for k in range(epochs):
            order = sessions["alone"].run.batches.order(k)
            now = {"plain": plain.epoch(order), "channels last": last.epoch(order)}
            now |= {name: one.epoch() for name, one in sessions.items()}
            now["filling"] = filling(folder, f"cold-{k}")
            print(f"round {k}:", ", ".join(f"{n} {now[n]:.3f} s" for n in LOOPS), flush=True)
            if k:  # the first round warms up
                for name, value in now.items():
                    seconds[name].append(value)
        summary = sessions["warm"].lessons.summary()
        assert summary is not None
        assert (summary["computed"], summary["reused"]) == (0, 1), summary
    return seconds


def ratio(seconds: Seconds, name: str, base: str) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))


def table(seconds: Seconds, images: int) -> str:
    """In markdown; throughput relative to the plain loop, and images a CPU second."""
    rows = ["| loop | throughput ÷ plain loop | images a CPU second |", "|---|---|---|"]
    for name, label in LOOPS.items():
        speed = images / statistics.median(seconds[name])
        rows.append(f"| {label} | {ratio(seconds, 'plain', name):.2f} | {speed:,.0f} |")
    return "\n".join([*rows, ""])


def chart(seconds: Seconds) -> str:
    measured = [
        (label, ratio(seconds, "plain", name), "solid" if label.startswith("engine") else "muted")
        for name, label in LOOPS.items()
    ]
    others = [(name, value, "dashed") for name, value in REFERENCES.items()]
    return svg(
        "Throughput relative to a hand-written plain PyTorch loop",
        [
            Group(
                "Measured side by side by benchmarks/loops.py (images a CPU second ÷ plain loop)", measured
            ),
            Group("Measured once, elsewhere: the reference engines' own loops ÷ a plain loop there", others),
        ],
        line=1.0,
    )


def write(seconds: Seconds, images: int, warm: float) -> None:
    """Replace what stands between the page's two marks, and the chart."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    kept = "told to keep memory" if "MALLOC_TRIM_THRESHOLD_" in os.environ else "as the system has it"
    how = [
        f"{TEACHER} → {STUDENT_NET}, batch {BATCH}, {images} images of 32 × 32",
        f"{len(seconds['plain'])} rounds, each loop in turn",
        f"{describe_device(torch.device('cpu'))}, torch {torch.__version__}, the allocator {kept}",
        f"{date.today().isoformat()}. Warm cache ÷ student alone: {warm:.2f}.\n",
    ]
    PAGE.write_text(f"{before}{BEGIN}{table(seconds, images)}\n{'; '.join(how)}{END}{after}")
    CHART.write_text(chart(seconds))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="into docs/performance.md and its chart")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="kdweb-bench-") as name:
        prepare(Path(name), arguments.steps)
        seconds = measure(Path(name), arguments.rounds)
    images, warm = arguments.steps * BATCH, ratio(seconds, "warm", "alone")
    print(table(seconds, images), end="")
    if arguments.write:
        write(seconds, images, warm)
    throughput = {name.replace(" ", "_"): round(ratio(seconds, "plain", name), 3) for name in LOOPS}
    said = {"name": "loops", "ratio": round(warm, 4), "budget": BUDGET, "ok": warm <= BUDGET}
    print(json.dumps(said | {"throughput_to_plain": throughput}))
    return 0 if warm <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
