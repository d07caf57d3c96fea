"""The GPU benchmarks' figures as Markdown tables."""

from gpu_models import LLMQ_H100, TOKENS_PER_STEP

# Bytes that the optimizer must move for one parameter: gradient, weight, moments and master read, all but the gradient
# written, and the gradient once more for its norm.
OPTIMIZER_BYTES = {"default": 4 + 12 + 12 + 2 + 4, "llmq": 2 + 6 + 6 + 2}
FEW_PERCENT = 0.002  # of a step: ops below are summed in one row


def table(head, rows, text_last=False):
    """Lines of a Markdown table; the first column is text, the others are right-aligned. With `text_last` the last one
    is text as well, and not filled up with blanks."""
    cells = [head, *rows]
    widths = [max(len(str(row[i])) for row in cells) for i in range(len(head))]
    if text_last:
        widths[-1] = 3

    def is_text(i):
        return i == 0 or text_last and i == len(head) - 1

    def line(row):
        return "| " + " | ".join(str(cell).ljust(width) if is_text(i) else str(cell).rjust(width)
                                 for i, (cell, width) in enumerate(zip(row, widths))) + " |"
    rule = "|" + "|".join("-" * (width + 2) if is_text(i) else "-" * (width + 1) + ":"
                          for i, width in enumerate(widths)) + "|"
    return [line(head), rule, *map(line, rows)]


def gib(count):
    return f"{count / 2**30:.1f}" if count else "–"


def peak_flops(case):
    return max((lane["peak_flops"] for lane in case["lanes"]), default=0)


def mfu(case, lane):
    peak = peak_flops(case)
    return f"{100 * lane['flops_per_token'] * lane['tokens_per_second'] / peak:.1f} %" if peak else "–"


def find_lane(case, label):
    return next((lane for lane in case["lanes"] if lane["label"] == label), None)


def ratio(case, lane):
    """The other's seconds over Trireme's, with the range over the turns when they took turns."""
    ours = find_lane(case, "trireme")
    if ours is None or lane is ours:
        return ""
    text = f"{lane['seconds'] / ours['seconds']:.2f}"
    if len(lane["turns"]) == len(ours["turns"]) > 1:
        pairs = [theirs / mine for theirs, mine in zip(lane["turns"], ours["turns"])]
        text += f" [{min(pairs):.2f} … {max(pairs):.2f}]"
    return text


def step_rows(cases):
    for case in cases:
        for lane in case["lanes"]:
            accumulation = case["tokens_per_step"] // (lane["micro"] * (case["sequence"]))
            yield (case["model"], case["contract"], lane["label"], f"{lane['micro']} × {accumulation}", lane["steps"],
                   f"{lane['seconds']:.3f}", f"{lane['tokens_per_second']:,.0f}", mfu(case, lane),
                   gib(lane["peak_memory_bytes"]), ratio(case, lane))
        if not case["lanes"]:
            yield (case["model"], case["contract"], "–", "–", 0, "–", "–", "–", "–",
                   "; ".join(case["errors"].values()) or "not measured")


def step_table(cases):
    head = ("model", "contract", "program", "micro × accum.", "steps", "s/step", "tokens/s", "MFU", "peak GiB",
            "torch's s / ours")
    return table(head, list(step_rows(cases)))


def llmq_table(cases):
    rows = []
    for case in cases:
        ours = find_lane(case, "trireme")
        whole = case["tokens_per_step"] == TOKENS_PER_STEP  # not a trial
        if whole and case["contract"] == "llmq" and ours and case["model"] in LLMQ_H100:
            published = LLMQ_H100[case["model"]]
            rows.append((case["model"], f"{ours['tokens_per_second']:,.0f}", f"{published:,}",
                         f"{ours['tokens_per_second'] / published:.2f}"))
    if not rows:
        return []
    return ["", "Contract llmq beside LLM.Q's published figures (one H100, its own run; orientation, not a race):", "",
            *table(("model", "tokens/s here", "LLM.Q's", "share"), rows)]


def phase_table(cases):
    """Seconds of each phase; Trireme's from a marked step, PyTorch's from all timed ones."""
    rows = []
    for case in cases:
        for lane in case["lanes"]:
            total = sum(lane["phases"].values())
            text = ", ".join(f"{name} {value:.3f} ({100 * value / total:.0f} %)"
                             for name, value in sorted(lane["phases"].items(), key=lambda item: -item[1]) if value > 0)
            rows.append((case["model"], case["contract"], lane["label"], text))
    return ["", "Where a step goes (seconds):", "", *table(("model", "contract", "program", "phases"), rows, text_last=True)] if rows else []


def ceilings(ops):
    """(bytes per second, FLOPs per second) that the device reached."""
    copy, product = 0.0, 0.0
    for op in ops:
        if op.get("ceiling") and "seconds" in op:
            if op["kind"] == "memory":
                copy = op["bytes"] / op["seconds"]
            else:
                product = op["flops"] / op["seconds"]
    return copy, product


def op_rows(case):
    """One row an op: its milliseconds in a step, those that the ceilings allow, what is lost."""
    ops = case["ops"]
    device = ops[0]
    copy, product = ceilings(ops)
    rows = []
    for op in ops[1:]:
        if op.get("ceiling"):
            continue
        if "seconds" not in op:
            rows.append(dict(name=op["op"], shape=op["shape"], error=op.get("error", "?"), ms=0, lost=0))
            continue
        times = op["calls"] * device["microbatches"]
        roof = op["flops"] / product if op["kind"] == "gemm" else op["bytes"] / copy
        if op["kind"] == "attention":
            roof = max(roof, op["flops"] / product)
        rate = (f"{op['flops'] / op['seconds'] * 1e-12:.3g} TFLOP/s" if op["flops"] else
                f"{op['bytes'] / op['seconds'] * 1e-9:,.0f} GB/s")
        rows.append(dict(name=op["op"], kind=op["kind"], shape=op["shape"], times=times, ms=1e3 * times * op["seconds"],
                         roof=1e3 * times * roof, rate=rate, share=roof / op["seconds"],
                         lost=1e3 * times * (op["seconds"] - roof)))
    ours = find_lane(case, "trireme")
    seconds = ours["phases"].get("optimizer") if ours else None
    if seconds:
        count = ours["parameters"] * OPTIMIZER_BYTES[case["contract"]]
        rows.append(dict(name="optimizer (from the phases)", kind="memory", shape="", times=1, ms=1e3 * seconds,
                         roof=1e3 * count / copy, rate=f"{count / seconds * 1e-9:,.0f} GB/s",
                         share=count / copy / seconds, lost=1e3 * (seconds - count / copy)))
    return rows


def op_table(case):
    """Where the rest of the roofline went, for one case."""
    if len(case.get("ops", [])) < 2:
        return [f"\n{case['model']}, {case['contract']}: ops not timed: {case['ops_error']}"] if "ops_error" in case else []
    copy, product = ceilings(case["ops"])
    if not copy or not product:
        return ["", f"{case['model']}, {case['contract']}: the ceilings could not be measured"]
    peak = case["ops"][0]["peak_flops"]
    rows = sorted(op_rows(case), key=lambda row: -row["lost"])
    total = sum(row["ms"] for row in rows)
    shown = [row for row in rows if "error" in row or row["ms"] >= FEW_PERCENT * total]
    rest = [row for row in rows if row not in shown]
    cells = []
    for row in shown:
        if "error" in row:
            cells.append((row["name"], row["shape"], "–", "–", "–", row["error"], "–", "–"))
        else:
            cells.append((row["name"], row["shape"], row["times"], f"{row['ms']:.1f}", f"{row['roof']:.1f}", row["rate"],
                          f"{100 * row['share']:.0f} %", f"{row['lost']:.1f}"))
    if rest:
        cells.append((f"{len(rest)} smaller ones", "", "", f"{sum(row['ms'] for row in rest):.1f}",
                      f"{sum(row['roof'] for row in rest):.1f}", "", "", f"{sum(row['lost'] for row in rest):.1f}"))
    roof = sum(row.get("roof", 0) for row in rows)
    cells.append(("sum", "", "", f"{total:.1f}", f"{roof:.1f}", "", f"{100 * roof / total:.0f} %", f"{total - roof:.1f}"))
    ours = find_lane(case, "trireme")
    if ours:
        cells.append(("the whole step, measured", "", "", f"{1e3 * ours['seconds']:.1f}", "", "",
                      f"{100 * roof / (1e3 * ours['seconds']):.0f} %", f"{1e3 * ours['seconds'] - roof:.1f}"))
    share = f" ({100 * product / peak:.0f} % of the data sheet's)" if peak else ""
    head = ("op", "shape", "in a step", "ms", "at the ceilings", "rate", "of the ceiling", "ms lost")
    device = case["ops"][0]
    return ["", f"{case['model']}, {case['contract']}: ceilings measured here are {copy * 1e-9:,.0f} GB/s of a copy, read "
            f"and written, and {product * 1e-12:.3g} TFLOP/s of a {device['dtype']} product{share}. "
            f"Attention runs on {device.get('attention', '?')}. Each op by itself:",
            "", *table(head, cells)]


def case_tables(cases):
    """All tables of the benchmarks, as lines."""
    lines = step_table(cases) + llmq_table(cases) + phase_table(cases)
    for case in cases:
        lines += op_table(case)
    errors = [f"- {case['model']}, {case['contract']}, {label}: {text}" for case in cases
              for label, text in case["errors"].items()]
    notes = [f"- {case['model']}, {case['contract']}, {lane['label']}: {note}" for case in cases
             for lane in case["lanes"] for note in lane["notes"]]
    return lines + (["", *errors, *notes] if errors or notes else [])
