"""Requests and system calls per operation beside those of the passthrough, as tests/syscalls.rs counts them."""

import os
import subprocess

import report
from machine import PASSTHROUGH, Failed, say

TEST = ("cargo", "test", "--release", "--locked", "--quiet", "--test", "syscalls", "--", "--ignored", "--nocapture")


def main(given):
    environment = {**os.environ, "KMSFS_PASSTHROUGH": PASSTHROUGH}
    done = subprocess.run(TEST, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    lines = [line for line in done.stdout.decode().splitlines() if line.startswith("|")]
    if done.returncode != 0 or not lines:
        raise Failed(f"{' '.join(TEST)}: exit {done.returncode}")
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    table = report.grid(head[:-1], [row[:-1] for row in rows])
    which = "\n".join(f"- {row[0]}: {row[-1] or 'nothing'}" for row in rows)
    say(f"{table}\n\n{which}")
    if given.out:
        report.update_page(given.out, "calls", f"{table}\n\nThe calls of kmsfs:\n\n{which}")
    return 0
