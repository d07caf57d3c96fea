#!/usr/bin/env python3
"""What parallel layouts cost on this CPU: Trireme's training step in each layout against one rank with all cores.

    ./scripts/bench --layouts

The layouts train the same model (llama-9.6m.yaml) on the same global batch, as processes under mpirun with one thread
each, or (--ranks-as threads) as threads of one process. They take turns in each round, as in compare.py; a figure is the
median over the rounds. README.md in this folder says what is printed.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import time

import compare

CONFIG = pathlib.Path(__file__).resolve().parent / "llama-9.6m.yaml"
NUM_MICROBATCHES = 8  # of pipelines
GLOBAL_BATCH = 16
QUIET = 0.1  # cores: what other programs may use in a turn that counts, with --patience


@dataclasses.dataclass(frozen=True)
class Layout:
    name: str
    sets: tuple
    ranks: int = 2
    bubble: float = 0.0  # in theory: idle / work
    against: str = "one rank"
    floor: float | None = None


def pipeline(schedule, bubble, **rest):
    return Layout(f"pp 2 {schedule}", ("parallel.pipeline=2", f"parallel.schedule={schedule}",
                                       f"batch.micro={GLOBAL_BATCH // NUM_MICROBATCHES}"), bubble=bubble, **rest)


def zero(stage, microbatches=1, **rest):
    name = f"dp 2 zero {stage}" + (f", {microbatches} microb." if microbatches > 1 else "")
    return Layout(name, ("parallel.data=2", f"parallel.zero={stage}", f"batch.micro={GLOBAL_BATCH // 2 // microbatches}"),
                  **rest)


BUBBLE = 1 / NUM_MICROBATCHES  # (p - 1) / m
LAYOUTS = (
    Layout("one rank", (), ranks=1),
    Layout("one rank, 8 microb.", (f"batch.micro={GLOBAL_BATCH // NUM_MICROBATCHES}",), ranks=1),
    Layout("tp 2", ("parallel.tensor=2",), floor=0.85),
    Layout("tp 2 sp", ("parallel.tensor=2", "parallel.sequence=true"), floor=0.85),
    pipeline("1f1b", BUBBLE, floor=0.85),
    pipeline("zb_h1", BUBBLE / 3, floor=0.85),
    zero(0),
    zero(1, against="dp 2 zero 0"),
    zero(2, against="dp 2 zero 0"),
    zero(3, against="dp 2 zero 0", floor=0.9),
    zero(0, microbatches=4),
    zero(2, microbatches=4, against="dp 2 zero 0, 4 microb."),
    zero(3, microbatches=4, against="dp 2 zero 0, 4 microb."),
)


def command(options, layout, dtype):
    worker = [options.trireme, "--config", str(CONFIG)]
    threads = options.threads // layout.ranks
    for item in (*layout.sets, f"run.threads={threads}", f"precision.compute={dtype}"):
        worker += ["--set", item]
    if layout.ranks == 1:
        return worker
    if options.ranks_as == "threads":
        return [*worker, "--ranks", str(layout.ranks)]
    return ["mpirun", "-np", str(layout.ranks), *worker]


def wait_for_idle(deadline):
    """Until other programs leave the cores alone for half a second, or the deadline. All workers are frozen."""
    while time.time() < deadline:
        begin = compare.busy_seconds()
        time.sleep(0.5)
        if compare.busy_seconds() - begin < 0.5 * QUIET:
            return


def take_turns(options, workers):
    """So many rounds, in each of which every worker has a turn. With --patience, a turn that other programs disturbed is
    taken back and repeated later."""
    deadline = time.time() + options.patience
    rounds = options.rounds
    while True:
        waiting = [w for w in workers if len(w.turns) < rounds]
        if not waiting or (options.patience and time.time() > deadline and all(w.turns for w in workers)):
            return
        fewest = min(len(w.turns) for w in waiting)
        for worker in waiting:
            if len(worker.turns) > fewest:
                continue
            wait_for_idle(deadline)
            worker.turn()
            if worker.others[-1] > QUIET and time.time() < deadline:
                for list_ in (worker.turns, worker.answers, worker.others):
                    list_.pop()
        turns = [len(w.turns) for w in workers]
        print(f"  {min(turns)} to {max(turns)} of {rounds} turns: "
              + ", ".join(f"{w.label} {w.turns[-1]:.3f} s" for w in workers if w.turns), file=sys.stderr, flush=True)


def go_first(pid):
    """A session is scheduled as one (autogroup), and a worker is a session: it goes before all others while it runs."""
    try:
        (pathlib.Path("/proc") / str(pid) / "autogroup").write_text("-20")
    except OSError as error:
        print(f"  no precedence over other programs: {error}", file=sys.stderr)


def measure(options, commands):
    """The workers of (label, command), with their turns."""
    workers = []
    try:
        for label, line in commands:
            print(f"  starting {label} …", file=sys.stderr, flush=True)
            try:
                workers.append(compare.Worker(label, line))
                if options.first:
                    go_first(workers[-1].process.pid)
                workers[-1].warm_up(options.warm_up, options.turn_seconds)
                workers[-1].steps_per_turn = options.steps or workers[-1].steps_per_turn
            except (compare.WorkerError, OSError) as error:
                print(f"  left out: {error}", file=sys.stderr, flush=True)
                options.left_out.append(label)
                if workers and workers[-1].label == label:
                    workers.pop().close()
        take_turns(options, workers)
    finally:
        for worker in workers:
            worker.close()
    return workers


def sum_of(worker, key):
    return sum(statistics.median(answer[key][name] for answer in worker.answers) for name in worker.answers[0][key])


def row(options, layout, dtype, worker):
    answer = worker.answers[-1]
    return dict(layout=layout.name, dtype=dtype, ranks_as=options.ranks_as, seconds=worker.seconds(), turns=worker.turns,
                bubble=layout.bubble, exposed=answer["exposed"], exposed_seconds=sum_of(worker, "exposed"),
                bytes=sum(call["bytes"] for call in answer["communication"]), communication=answer["communication"],
                processor_seconds=statistics.median(a["processor_seconds"] for a in worker.answers),
                peak_memory_bytes=answer["peak_memory_bytes"], loss=answer["loss"],
                others=statistics.mean(worker.others), floor=layout.floor, against=layout.against)


def add_ratios(rows):
    """t_against / (t · (1 − bubble)): of the medians, and its range over the rounds."""
    by_name = {r["layout"]: r for r in rows}
    for r in rows:
        reference = by_name.get(r["against"])
        if reference is None or reference is r:
            continue
        work = 1 - r["bubble"]
        ratios = [theirs / (own * work) for theirs, own in zip(reference["turns"], r["turns"])]
        r["ratio"] = statistics.median(ratios)
        r["ratio_range"] = [min(ratios), max(ratios)]


def print_table(rows):
    head = (f"{'layout':26} {'dtype':5} {'ranks as':9} {'s/step':>7} {'bubble':>6} {'exposed s':>9} {'CPU s':>6} "
            f"{'MB/step':>8} {'peak MiB':>8}  ratio")
    print("\n" + head + "\n" + "-" * (len(head) + 50))
    passed = True
    for r in rows:
        line = (f"{r['layout']:26} {r['dtype']:5} {r['ranks_as']:9} {r['seconds']:7.3f} {r['bubble']:6.3f} "
                f"{r['exposed_seconds']:9.3f} {r['processor_seconds']:6.3f} {r['bytes'] / 1e6:8.1f} {r['peak_memory_bytes'] / 2**20:8.0f}")
        if "ratio" in r:
            low, high = r["ratio_range"]
            line += f"  {r['ratio']:.3f} [{low:.2f} … {high:.2f}] of {r['against']}"
            if r["floor"]:
                good = r["ratio"] >= r["floor"]
                passed &= good
                line += f", floor {r['floor']}: {'reached' if good else 'NOT reached'}"
        print(line)
    others = statistics.mean(r["others"] for r in rows)
    if others > 0.1:
        print(f"\nThe machine was not idle: other programs used {others:.2f} cores on average; every figure is noisy.")
    print("\nCalls of rank 0 in a step (of the last turn), and where it was blocked")
    for r in rows:
        if not r["communication"]:
            continue
        calls = "; ".join(f"{c['group']} {c['op']} {c['calls']:.0f} x {c['bytes'] / max(c['calls'], 1) / 1e3:.0f} kB "
                          f"{c['seconds']:.3f} s" for c in r["communication"] if c["calls"] >= 0.5)
        blocked = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in r["exposed"].items())
        print(f"{r['layout']:26} {r['dtype']:5} {r['ranks_as']:9} {calls}\n{'':43}blocked: {blocked}")
    return passed


def parse_options():
    parser = argparse.ArgumentParser(prog="scripts/bench --layouts", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="layouts whose names hold one of these words, comma-separated")
    parser.add_argument("--dtypes", default="fp32", help="fp32, bf16")
    parser.add_argument("--ranks-as", default="processes,threads", help="processes under mpirun, threads")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each layout (default: 7)")
    parser.add_argument("--warm-up", type=int, default=2, help="untimed steps before the first turn (default: 2)")
    parser.add_argument("--turn-seconds", type=float, default=2.0, help="least length of a turn (default: 2)")
    parser.add_argument("--steps", type=int, help="of a turn, instead of that")
    parser.add_argument("--patience", type=float, default=0,
                        help="seconds for which a kind of ranks may wait for moments when no other program runs; turns "
                        "that were disturbed are repeated (default: 0, every turn counts)")
    parser.add_argument("--first", action="store_true",
                        help="on a busy machine: let the worker at work go before other programs (needs root)")
    parser.add_argument("--trireme", default=str(compare.ROOT / "build" / "trireme_step_bench"), help="the worker")
    parser.add_argument("--json", type=pathlib.Path, help="write all figures here too")
    parser.add_argument("--check", action="store_true", help="exit 1 when a floor is not reached, or a layout left out")
    options = parser.parse_args()
    options.threads = 2  # cores in use, whatever the layout
    options.left_out = []
    return options


def main():
    options = parse_options()
    begin = time.time()
    words = [word for word in options.only.split(",") if word]
    layouts = [layout for layout in LAYOUTS if not words or any(word in layout.name for word in words)]
    everything = []
    kinds = options.ranks_as.split(",")
    for dtype in options.dtypes.split(","):
        for options.ranks_as in kinds:
            print(f"layouts: {dtype}, ranks as {options.ranks_as}", file=sys.stderr, flush=True)
            workers = measure(options, [(layout.name, command(options, layout, dtype)) for layout in layouts])
            by_name = {layout.name: layout for layout in layouts}
            rows = [row(options, by_name[worker.label], dtype, worker) for worker in workers]
            add_ratios(rows)
            everything += rows
    if not everything:
        sys.exit("error: no layout ran (expected at least one, see above)")
    passed = print_table(everything)
    print(f"\n{time.time() - begin:.0f} s in all")
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1) + "\n")
    return 0 if not options.check or (passed and not options.left_out) else 1


if __name__ == "__main__":
    sys.exit(main())
