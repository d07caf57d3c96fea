"""The table of a GPU check as Markdown, fit for tests/gpu/RESULTS.md."""

import bench_steps  # noqa: F401  (puts tests/bench on the path)
from gpu_tables import case_tables, table

PARTS = ("tests", "training", "sanitizer", "bench")


def one_line(text, limit=220):
    text = " ".join(str(text).split()).replace("|", "/")
    return text if len(text) <= limit else text[:limit - 1] + "…"


def head_lines(facts, commit, date):
    rows = [("date", date), ("commit", commit or "not given (--commit)"), *facts.items()]
    return table(("", "of this run"), [(name, one_line(value)) for name, value in rows], text_last=True)


def check_lines(results):
    rows = [(name, results[name]["status"], f"{results[name]['seconds']:.0f}", one_line(results[name]["detail"]))
            for part in PARTS for name in results if results[name]["part"] == part]
    return table(("check", "result", "seconds", "what"), rows, text_last=True)


def loss_lines(results):
    data = results.get("losses beside the CPU's", {}).get("data", {})
    if "cpu" not in data:
        return []
    count = len(data["cpu"])
    chosen = sorted({1, 2, 5, 10, 20, 30, count} & set(range(1, count + 1)))
    rows = [(step, *(f"{data[key][step - 1]:.5f}" for key in ("cpu", "fp32", "bf16"))) for step in chosen]
    return ["", "## Training beside the CPU", "", *table(("step", "CPU, fp32", "GPU, fp32", "GPU, bf16"), rows)]


def markdown(facts, commit, date, results):
    lines = [f"## {facts.get('GPU', 'GPU').split(',')[0]}, {date}", "", *head_lines(facts, commit, date), "", "## Checks",
             "", *check_lines(results), *loss_lines(results)]
    cases = [result["data"]["case"] for result in results.values() if result.get("data", {}).get("case")]
    if cases:
        lines += ["", "## Benchmarks", "", *case_tables(cases)]
    for name, result in results.items():
        if result.get("data", {}).get("text"):
            lines += ["", f"## {name[0].upper()}{name[1:]}", "", "```", result["data"]["text"].rstrip(), "```"]
    return "\n".join(lines) + "\n"
