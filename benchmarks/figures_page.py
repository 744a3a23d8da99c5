"""The tables of docs/benchmarks.md and README.md, from what the benchmarks wrote below ``benchmarks/results``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. Without arguments they are written anew; ``make
bench`` does so at its end, and a test compares.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import size_curve as curve
from benchmarks.accuracy import cells as criterion_cells
from benchmarks.accuracy import failures, medians
from benchmarks.common import machine_of, read_json
from benchmarks.libraries.outcomes import SCREENING, WHEN, WITH_OUR_REPAIR, Outcome, cells

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs" / "benchmarks.md", ROOT / "README.md")
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
ZOOS = {
    "torchvision": "torchvision: classification, segmentation, detection, video, optical flow",
    "timm": "timm: every module file",
    "transformers": "Transformers: small configurations",
    "layers": "layers: recurrent, Fourier, transposed, norms, attention, ...",
    "networks": "networks: U-Nets, detectors, graph networks, experts, TorchScript, ...",
    "third_party": "other libraries: 55 of them, small configurations",
}
NETWORKS = {
    "digits-resnet20": "ResNet-20 on digits, accuracy",
    "digits-mobilenetv2": "MobileNetV2 on digits, accuracy",
    "digits-vit": "small ViT on digits, accuracy",
    "digits-resnet18": "ResNet-18 on digits, accuracy",
    "text-gpt-2kv": "byte-level GPT, bits per byte",
    "text-gpt": "byte-level GPT, bits per byte",
    "sentences-minilm": "MiniLM, agreement of similarities",
    "phonemes-g2p": "g2p (GRU), words right",
    "voice-silero": "Silero VAD (LSTM), same decisions",
    "files-magika": "Magika, types right",
    "pitch-crepe-tiny": "CREPE tiny, same pitch",
    "lines-ppocr": "PP-OCR recognizer, characters right",
    "readings-g2pm": "g2pM (BiLSTM), readings right",
    "phonemes-g2p-fa": "g2p_fa (LSTMs), same words",
    "codes-ddddocr": "ddddocr (convolutions, BiLSTM), characters right",
    "speakers-resemblyzer": "Resemblyzer (LSTM), agreement of similarities",
    "marks-arabic": "arabic-diacritizer (BiLSTMs, attention), marks right",
}
LIBRARIES = ("graphprune", "Torch-Pruning", "torch-kirigami")
REPAIRED = "its structure, our repair"


def main() -> int:
    """Write the tables into the pages."""
    for page in PAGES:
        page.write_text(filled(page.read_text()))
    return 0


def filled(text: str) -> str:
    """A page with its tables as the results are now."""
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", text)


def markdown(columns: Sequence[str], rows: Iterator[Sequence[object]], left: int = 1) -> str:
    """A table whose first ``left`` columns are text and the others numbers."""
    lines = [list(columns), ["---"] * left + ["---:"] * (len(columns) - left), *([str(c) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def source(script: str, name: str | None = None) -> str:
    """Which script made a table, with which torch, and where, as far as the results say."""
    said = [f"`python -m benchmarks.{script}`", *machine_of(f"{name or script}.json")]
    return f"\n\n*{', '.join(said)}.*"


# ---------------------------------------------------------------- what works


def sweep() -> str:
    counts = read_json("sweep.json")["counts"]
    columns = ("zoo", "models", "passed", "partly frozen, with reason", "failed")
    return markdown(columns, (_sweep_row(ZOOS[zoo], Counter(counts[zoo])) for zoo in ZOOS)) + source("sweep")


def matrix() -> str:
    names = ("python", "torch", "torchvision", "transformers", "numpy", "networkx")
    rows = (
        [*(one["python"] if name == "python" else one["versions"][name] for name in names), *_tests_of(one["tests"])]
        for one in read_json("matrix.json")
    )
    columns = ("Python", "torch", "torchvision", "Transformers", "numpy", "networkx", "tests passed", "failed")
    return markdown(columns, rows) + f"\n\n*`python -m benchmarks.matrix`, {machine_of('matrix.json')[0]}.*"


def _tests_of(line: str) -> list[int]:
    """How many tests passed and failed, from the last line of pytest."""
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|error)", line)}
    return [counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0)]


def _sweep_row(label: str, counts: Counter[str]) -> list[object]:
    ran = counts.total() - counts["skipped"]
    partly = counts["partly"] + counts["frozen"]
    return [label, ran, counts["passed"], partly, ran - counts["passed"] - partly]


# ---------------------------------------------------------------- accuracy


def compare() -> str:
    columns = (
        "network",
        "MACs",
        "dense",
        LIBRARIES[0],
        *(head for other in LIBRARIES[1:] for head in (other, REPAIRED)),
    )
    networks = read_json("compare.json")["networks"]
    text = markdown((*columns, "seeds"), (row for name, found in networks.items() for row in _compared(name, found)))
    return text + source("compare")


def _compared(network: str, found: Mapping[str, Any]) -> Iterator[list[object]]:
    higher = found["higher"]
    dense = statistics.median(one["fine"] for one in found["dense"])
    outcomes = [Outcome(**one) for one in found["outcomes"]]
    for number, share in enumerate(sorted({one.share for one in outcomes}, reverse=True)):
        mine = [one for one in outcomes if one.share == share]
        others = (cells(mine, other, higher, names) for other in LIBRARIES[1:] for names in (WHEN, WITH_OUR_REPAIR))
        shown = ["", ""] if number else [NETWORKS[network], f"{dense:.4f}"]
        seeds = len({one.seed for one in mine if not one.screening})
        yield [shown[0], share, shown[1], cells(mine, LIBRARIES[0], higher), *others, seeds]


def compare_earlier() -> str:
    """Networks that are not measured again yet, after training only: before it, no batch norm was re-estimated."""
    data = read_json("compare_earlier.json")
    again = read_json("compare.json")["networks"]
    rows = (
        [NETWORKS[name], share, *(f"{_trained(data, name, share, library):.4f}" for library in LIBRARIES)]
        for name in data["dense"]
        for share in (0.5, 0.25)
        if name not in again
    )
    return markdown(("network", "MACs", *LIBRARIES), rows) + source("compare", "compare_earlier")


def _trained(data: Mapping[str, Any], network: str, share: float, library: str) -> float:
    """A library's best median over the seeds."""
    methods: dict[str, list[Any]] = {}
    for run in data["results"]:
        if (run["network"], run["share"], run["library"]) == (network, share, library) and run["seed"] != SCREENING:
            methods.setdefault(run["method"], []).append(run)
    best = min if network.startswith("text") else max
    return float(best(statistics.median(run["tuned"] for run in runs) for runs in methods.values()))


def repair() -> str:
    tasks = read_json("repair.json")["tasks"]
    rows = (row for name, task in tasks.items() for row in _repaired(NETWORKS[name], task))
    return markdown(("network", "", "median", "of the gap closed", "least of the seeds"), rows, left=2) + source(
        "repair"
    )


def searched() -> str:
    data = read_json("searched.json")
    rows = ([NETWORKS[one["network"]], one["share"], *_searched_cells(one)] for one in data["networks"])
    columns = ("network", "MACs", "global", "uniform", "isomorphic", "searched", "candidates", "time limit", "draws")
    return markdown(columns, rows) + source("searched")


def _searched_cells(one: Mapping[str, Any]) -> list[str]:
    middle = [f"{value:.4f}" for value in one["medians"].values()]
    return [*middle, f"{one['candidates']:.0f}", f"{one['time_limit']:.0f} s", str(one["draws"])]


def depth_or_width() -> str:
    rows = (
        [NETWORKS[one["network"]].partition(",")[0], f"{each['left']:.3f}", *_ways_cells(each)]
        for one in read_json("depth_or_width.json")["networks"]
        for each in one["rows"]
    )
    columns = ("network", "MACs", "depth", "width", "both", "branches gone", "time")
    return markdown(columns, rows) + source("depth_or_width")


def _ways_cells(each: Mapping[str, Any]) -> list[str]:
    increases = [f"{value:+.1%}" for value in each["increase"].values()]
    gone, times = each["gone"], each["time"].values()
    return [*increases, f"{gone['depth']}, 0, {gone['both']}", ", ".join(f"{value:.2f}" for value in times)]


def _repaired(label: str, task: Mapping[str, Any]) -> Iterator[list[object]]:
    runs, metric = task["runs"], task["metric"]
    for method in runs[0]:
        middle = statistics.median(run[method][metric] for run in runs)
        gaps = [_closed(run, method, metric) for run in runs]
        shown = ["", ""] if method in ("dense", "plain L2") else [f"{statistics.median(gaps):.0%}", f"{min(gaps):.0%}"]
        yield [label if method == "dense" else "", method, f"{middle:.4f}", *shown]


def _closed(run: Mapping[str, Any], method: str, metric: str) -> float:
    """The part of the gap between plain pruning and the dense network that a method closes."""
    dense, plain, found = (run[name][metric] for name in ("dense", "plain L2", method))
    return (found - plain) / (dense - plain) + 0.0  # no negative zero


def accuracy() -> str:
    networks = read_json("accuracy.json")["networks"]
    rows = (row for name, found in networks.items() for row in _criteria(f"{NETWORKS[name]}, {found['share']}", found))
    columns = ("network, MACs", "criterion", "plain", "repaired", "of L2's gap closed", "least of the draws", "draws")
    return markdown(columns, rows, left=2) + source("accuracy")


def _criteria(label: str, found: Mapping[str, Any]) -> Iterator[list[object]]:
    for name, middle in medians(found["runs"]).items():
        yield [label if name == "dense" else "", name, *criterion_cells(middle)]
    for name in failures(found["runs"]):
        yield ["", name, "failed", "", "", "", ""]


def fifty() -> str:
    middle = read_json("fifty.json")["medians"]
    columns = ("", "accuracy", "parameters", "one image, ms", "64 images, ms")
    rows = (
        [name, f"{middle[f'{own}accuracy']:.1%}", f"{middle[f'{own}params'] / 1e6:.3f} M", *_times(middle, own)]
        for name, own in (("dense", "dense_"), ("slim", ""))
    )
    return markdown(columns, rows) + source("fifty")


def size_curve() -> str:
    data = read_json("size_curve.json")
    columns = ("times fewer parameters", "parameters", "times fewer MACs", *curve.KINDS.values(), "seeds")
    rows = ([*curve.cells(one), len(data["seeds"])] for one in data["medians"])
    return markdown(columns, rows, left=0) + source("size_curve")


def _times(middle: Mapping[str, float], own: str) -> list[str]:
    return [f"{middle[f'{own}ms_{batch}']:.1f}" for batch in (1, 64)]


# ---------------------------------------------------------------- time, memory, budgets


def speed() -> str:
    data = read_json("speed.json")
    libraries = ("graphprune, ms", "of that the check", "Torch-Pruning, ms", "torch-kirigami")
    columns = ("model", *libraries, "times faster than Torch-Pruning", "memory, MB", "Torch-Pruning, MB")
    mean = ["geometric mean", "", "", "", "", f"{data['geometric_mean']:.1f}", "", ""]
    return markdown(columns, iter([*map(_speed_row, data["models"]), mean])) + source("speed")


def _speed_row(model: Mapping[str, Any]) -> list[object]:
    ours, theirs, kirigami = (_time(model[name]) for name in ("ours", "theirs", "kirigami"))
    faster = "" if model["times_faster"] is None else f"{model['times_faster']:.2f}"
    memory = ("" if model[name]["error"] else f"{model[name]['memory']:,.0f}" for name in ("ours", "theirs"))
    return [model["name"], ours, f"{model['check']:.0f}", theirs, kirigami, faster, *memory]


def _time(runs: Mapping[str, Any]) -> str:
    """Milliseconds, or why there are none."""
    if not runs["error"]:
        return f"{statistics.median(runs['times']):,.0f}"
    return str(runs["error"]) if runs["error"].startswith("over ") else "fails"


def memory() -> str:
    columns = ("model", "model, MB", "extra, MB", "of the model", "seconds")
    rows = (
        [
            name,
            f"{r['bytes'] / 1e6:,.0f}",
            f"{r['extra'] / 1e6:,.0f}",
            f"{r['extra'] / r['bytes']:.1%}",
            f"{r['seconds']:.1f}",
        ]
        for name, r in read_json("memory.json").items()
    )
    return markdown(columns, rows) + source("memory")


def planning_scale() -> str:
    columns = ("Llama", "layers", "trace, s", "plan, s", "budget plan, s", "all, ms a layer", "MiB", "KiB a layer")
    sizes = read_json("planning_scale.json")["sizes"]
    return markdown(columns, (_scale_row(*one) for one in sizes.items())) + source("planning_scale")


def _scale_row(name: str, found: Mapping[str, Any]) -> list[object]:
    layers, spent = found["layers"], found["processor"]
    each = (f"{spent[step]:.1f}" for step in ("trace", "ratio", "budget"))
    cost = f"{sum(spent.values()) * 1e3 / layers:.0f}"
    return [name, layers, *each, cost, f"{found['memory'] / 2**20:,.0f}", f"{found['memory'] / 2**10 / layers:,.0f}"]


def budgets() -> str:
    models = read_json("budgets.json")["models"]
    rows = (
        [kind, *_spent([value for model in models for value in model["spent"][kind]])] for kind in models[0]["spent"]
    )
    columns = ("budget on", "met within 1 % below", "exceeded", "least spent", "most spent")
    return markdown(columns, rows) + source("budgets")


def _spent(values: Sequence[float]) -> list[str]:
    met, exceeded = sum(0.99 <= value <= 1 for value in values), sum(value > 1 for value in values)
    return [f"{met} of {len(values)}", str(exceeded), f"{min(values):.4f}", f"{max(values):.4f}"]


def latency() -> str:
    columns = ("model, batch", "budget", "dense, ms", "slim, ms", "of the budget", "importance kept", "uniform keeps")
    rows = (
        [
            *(f"{r['model']}, {r['batch']}", r["budget"]),
            *(f"{r['dense_ms']:.1f}", f"{r['slim_ms']:.1f}", f"{r['of_budget']:.3f}"),
            *(f"{r[name]:.3f}" if name in r else "" for name in ("kept", "uniform_kept")),
        ]
        for r in read_json("latency.json")["results"]
    )
    return markdown(columns, rows) + source("latency")


def repair_cost() -> str:
    found = read_json("repair_cost.json")
    rows = (
        [
            name,
            f"{r['forward']:.2f}",
            f"{r['passes']:.1f}",
            f"{r['counted']:.1f}" if "counted" in r else "",
            f"{r['linear_algebra']:.1f}",
            f"{r['memory'] / 1e6:.0f}" if "memory" in r else "",
            r["fitted"],
        ]
        for name, r in found["networks"].items()
    )
    columns = (
        "network",
        "one pass, s",
        "passes",
        "passes, by operations",
        "linear algebra, in passes",
        f"memory at most, MB, of {found['memory']}",
        "consumers fitted",
    )
    return markdown(columns, rows) + source("repair_cost")


def resume() -> str:
    runs = read_json("resume.json")["runs"]
    rows = iter([[len(runs), sum(run["equal"] for run in runs)]])
    return markdown(("runs killed and started again", "with the same weights, bit for bit"), rows, left=0) + source(
        "resume"
    )


# ---------------------------------------------------------------- trust


def contexts() -> str:
    columns = ("context", "what is refused", "same", "refused", "wrong")
    rows = (
        [one["context"], "; ".join(one["refusals"]) if one["same"] else "everything", *(one[s] for s in columns[2:])]
        for one in read_json("contexts.json")["contexts"]
    )
    return markdown(columns, rows, left=2) + source("contexts")


def faults() -> str:
    totals: dict[str, Counter[str]] = {}
    for one in read_json("faults.json"):
        found = totals.setdefault(one["fault"], Counter())
        found.update({name: one[name] for name in ("tried", "felt", "wrong")} | {"jobs": 1})
    columns = ("fault", "jobs", "tried", "felt", "changed or lost")
    rows = ([name, *(found[key] for key in ("jobs", "tried", "felt", "wrong"))] for name, found in totals.items())
    return markdown(columns, rows) + source("faults")


def fuzz() -> str:
    columns = ("file", "damaged", "refused", "equal", "read", "wrong", "slowest, s")
    states = ("refused", "equal", "read", "wrong")
    rows = (
        [name, one["files"], *(one[state] for state in states), f"{one['slowest']:.2f}"]
        for name, one in read_json("fuzz.json").items()
    )
    return markdown(columns, rows) + source("fuzz")


TABLES: dict[str, Callable[[], str]] = {
    made.__name__.replace("_", "-"): made
    for made in (
        sweep,
        matrix,
        compare,
        compare_earlier,
        repair,
        accuracy,
        searched,
        depth_or_width,
        fifty,
        size_curve,
        speed,
        memory,
        planning_scale,
        budgets,
        latency,
        repair_cost,
        resume,
        contexts,
        faults,
        fuzz,
    )
}

if __name__ == "__main__":
    sys.exit(main())
