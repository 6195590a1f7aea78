"""What the audit log costs an open: a mount with it beside one without it, in turns."""

import os
import statistics
import time

import report
from machine import AREA, processor_seconds, say
from targets import Kmsfs

FILES = 2_000
FILE_BYTES = 1024
PASSES = 5
TURNS = 15
# Each use is gathered for some milliseconds and synced within a second: work of a turn that is still to be done after it.
SETTLED_SECONDS = 1.2


class Side:
    """One of the two mounts."""

    def __init__(self, name, mount=()):
        self.target = Kmsfs(name, AREA, mount=mount)
        self.times, self.work = [], []

    def make(self):
        self.target.make()
        self.files = [os.path.join(self.target.dir, f"{number:05}") for number in range(FILES)]
        for path in self.files:
            with open(path, "wb") as file:
                file.write(os.urandom(FILE_BYTES))
        self.target.settle()
        self.opens(1)

    def opens(self, passes):
        opening, closing = os.open, os.close
        for _ in range(passes):
            for path in self.files:
                closing(opening(path, os.O_RDONLY))

    def turn(self):
        used = self.daemon()
        began = time.perf_counter()
        self.opens(PASSES)
        took = time.perf_counter() - began
        time.sleep(SETTLED_SECONDS)
        each = 1e6 / (FILES * PASSES)
        self.times.append(took * each)
        self.work.append((self.daemon() - used) * each)

    def daemon(self):
        return sum(processor_seconds(pid) for pid in self.target.daemons())


def main():
    recorded, silent = Side("kmsfs-audit"), Side("kmsfs-silent", ("--no-audit",))
    sides, made = [recorded, silent], []
    try:
        for side in sides:
            made.append(side.target)
            side.make()
        for number in range(TURNS):
            for side in sides if number % 2 == 0 else reversed(sides):
                side.turn()
    finally:
        for target in reversed(made):
            target.remove()
    rows = []
    for name, values in (("the clock", "times"), ("the daemon's processor time", "work")):
        with_log, without = (getattr(side, values) for side in sides)
        # Of each turn by itself: what disturbs both sides of it cancels out.
        low, ratio, high = statistics.quantiles([one / other for one, other in zip(with_log, without)], n=4)
        medians = [f"{statistics.median(each):.1f}" for each in (with_log, without)]
        rows.append([name, *medians, f"{ratio:.3f} ({low:.3f} to {high:.3f})"])
    say(f"{FILES * PASSES} opens a turn of {FILES} files of {FILE_BYTES} bytes, {TURNS} turns each; medians, in us an open")
    say(report.grid(["", "with the log", "without", "ratio of a turn: median (quartiles)"], rows))
    return 0
