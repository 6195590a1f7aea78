"""Reads the options, runs the stories on the targets in turn, and reports. scripts/bench calls it."""

import argparse
import json
import os
import signal
import sys
import time

import audit
import calls
import content
import memory
import report
import targets
import trees
from bench_run import STORIES, Run
from machine import AREA, Failed, about, fail, say

MIB = 1 << 20
SIZES = {
    "disk": 20 << 30,
    "sequential": 128 * MIB,
    "random": 128 * MIB,
    "random cold": 4096,
    "syncs": 300,
    "lines": 50_000,
    "transactions": 300,
    "small files": 10_000,
    "names": 1_000_000,
    "copies": 13,
}
QUICK = {
    "disk": 4 << 30,
    "sequential": 32 * MIB,
    "random": 32 * MIB,
    "random cold": 1024,
    "syncs": 100,
    "lines": 10_000,
    "transactions": 100,
    "small files": 2_000,
    "names": 100_000,
    "copies": 3,
}


def options():
    parser = argparse.ArgumentParser(prog="bench", add_help=False)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only")
    parser.add_argument("--workloads", default="*")
    parser.add_argument("--skip-big", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--processor", action="store_true")
    parser.add_argument("--json", default="target/bench.json")
    parser.add_argument("--out")
    parser.add_argument("--calls", action="store_true")
    parser.add_argument("--audit", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--files", type=int, default=500_000)
    parser.add_argument("--soak", type=float)
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.quick else 3)
    return given


def sizes_of(given):
    return QUICK if given.quick else SIZES


def chosen_targets(only, base):
    known = targets.everything(base)
    names = only.split(",") if only else list(known)
    for name in names:
        if name not in known:
            fail(f"there is no target {name}; there are {', '.join(known)}")
    return [known[name] for name in known if name in names]


def chosen_stories(given):
    patterns = given.workloads.split(",")
    stories = [story for story in STORIES if story.fits(patterns) and not (given.skip_big and story.big)]
    if not stories:
        fail(f"no workload fits {given.workloads}; see bench --list")
    return stories


def tell(story, target, sizes, inputs):
    """The run of one story on one target, and what went wrong."""
    run, wrong = Run(target, sizes, inputs), None
    try:
        with run:
            story.tell(run)
    except (Failed, OSError) as error:
        wrong = str(error)
        say(f"  {target.name}: FAILED {story.names}: {wrong}")
    return run, wrong


def measure(given, stories, chosen):
    """All rounds. Each target does a story before any does the next one, and each round begins with another target."""
    sizes = sizes_of(given)
    inputs = {"tree": trees.source_tree()}
    times, work, faults, began = {}, {}, [], time.monotonic()
    for number in range(given.rounds):
        for at, story in enumerate(stories):
            if story.once and number > 0:
                continue
            turn = (number + at) % len(chosen)
            for target in chosen[turn:] + chosen[:turn]:
                if story.only and target.name not in story.only:
                    continue
                run, wrong = tell(story, target, sizes, inputs)
                for kept, new in ((times, run.times), (work, run.work)):
                    for name, seconds in new.items():
                        kept.setdefault(name, {}).setdefault(target.name, []).append(round(seconds, 6))
                if wrong:
                    faults.append({"target": target.name, "workloads": story.names, "wrong": wrong})
            say(f"round {number + 1} of {given.rounds}, after {time.monotonic() - began:.0f} s")
            for name in story.names:
                say(f"  {name}: " + ", ".join(f"{who} {took[-1]:.3f}" for who, took in times.get(name, {}).items()))
    return {
        "command": os.environ["BENCH_COMMAND"].strip(),
        "seconds": round(time.monotonic() - began),
        "rounds": given.rounds,
        "quick": given.quick,
        "sizes": sizes,
        "tree": {name: inputs["tree"][name] for name in ("files", "bytes")},
        "targets": [target.name for target in chosen],
        "machine": about(),
        "times": times,
        "processor": work,
        "faults": faults,
        "start": memory.starts(),
    }


def main():
    # Whatever ends this program, what it mounted goes away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    given = options()
    if given.list:
        for story in STORIES:
            say("\n".join(story.names))
        return 0
    if given.calls:
        return calls.main(given)
    if given.audit:
        return audit.main()
    if given.memory or given.soak:
        return memory.main(given)
    disk = targets.Disk(sizes_of(given)["disk"])
    stories, chosen = chosen_stories(given), chosen_targets(given.only, disk.base)
    made = [disk]
    try:
        disk.make()
        for target in chosen:
            made.append(target)
            target.make()
        results = measure(given, stories, chosen)
    finally:
        for target in reversed(made):
            target.remove()
    with open(given.json, "w") as file:
        json.dump(results, file, indent=1)
    report.show(results, "processor" if given.processor else "times")
    if given.out:
        report.publish(results, given.out)
    # A target that fails is a result; kmsfs may not.
    return 1 if any(fault["target"].startswith("kmsfs") for fault in results["faults"]) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except Failed as error:
        fail(str(error))
