"""What the machine is, and the few things that every measurement asks of it."""

import ctypes
import os
import platform
import re
import subprocess
import sys

AREA = os.environ.get("AREA", "")
KMSFS = os.environ.get("KMSFS_BIN", "")
PASSTHROUGH = os.environ.get("PASSTHROUGH", "")
LIBC = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A target did its work wrongly, or not at all."""


def say(text):
    print(text, flush=True)


def run(*command, **options):
    """Runs a command; its output if it went well, else Failed."""
    options.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode != 0:
        raise Failed(f"{command[0]}: exit {done.returncode}: {done.stdout.decode(errors='replace')[-400:].strip()}")
    return done.stdout.decode(errors="replace")


def settle(*paths):
    """What was written to these filesystems is on the disk, so that nobody pays for the work of others."""
    for path in paths:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if LIBC.syncfs(folder) != 0:
                raise OSError(ctypes.get_errno(), f"syncfs {path}")
        finally:
            os.close(folder)


def drop_caches():
    with open("/proc/sys/vm/drop_caches", "w") as knob:
        knob.write("3\n")


def is_mounted(path):
    with open("/proc/self/mountinfo") as table:
        return any(line.split(" ")[4] == path for line in table)


def processes_naming(text):
    """Ids of the processes whose command line contains `text`, this one excepted."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as line:
                words = line.read()
        except OSError:
            continue
        if os.fsencode(text) in words:
            found.append(int(entry))
    return found


def processor_seconds(pid):
    """What all threads of a process have used."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as used:
            total += int(used.read().split()[0])
    return total / 1e9


def first_line(*command):
    try:
        return run(*command).strip().splitlines()[0]
    except (Failed, OSError, IndexError):
        return "not here"


def package(name):
    return first_line("dpkg-query", "-W", "-f=${Version}", name)


def about():
    """The machine and the versions, for the report."""
    with open("/proc/cpuinfo") as info:
        cpu = re.search(r"model name\s*:\s*(.*)", info.read())
    with open("/proc/meminfo") as info:
        memory = int(re.search(r"MemTotal:\s*(\d+)", info.read()).group(1))
    return {
        "processor": f"{cpu.group(1) if cpu else platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{memory / (1 << 20):.0f} GiB",
        # The version without what a builder adds to it.
        "kernel": platform.release().split("-")[0],
        "system": first_line("sh", "-c", ". /etc/os-release; echo $PRETTY_NAME"),
        "backing filesystem": "ext4 with a journal, on a loop device with direct I/O over "
        + first_line("findmnt", "-n", "-o", "FSTYPE", "--target", AREA),
        "kmsfs": first_line(KMSFS, "--version"),
        "rustc": first_line("rustc", "--version"),
        "gocryptfs": first_line("gocryptfs", "-version").split(";")[0],
        "securefs": package("securefs"),
        "libfuse": package("libfuse3-dev"),
        "fio": first_line("fio", "--version"),
        "git": first_line("git", "--version"),
    }


def fail(text):
    print(f"bench: {text}", file=sys.stderr)
    raise SystemExit(2)
