"""What kmsfs costs besides the time of requests: its start, its memory and its descriptors."""

import os
import statistics
import subprocess
import time

import report
from machine import AREA, KMSFS, Failed, drop_caches, run, say
from targets import Kmsfs

TRIES = 9
PER_DIRECTORY = 500
SAMPLE_SECONDS = 5
# What a daemon may grow in a soak after its first quarter, when its caches are full.
GROWTH = 1.10


def milliseconds(work):
    """Median over a few tries."""
    times = []
    for _ in range(TRIES):
        began = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def starts():
    """How long it takes until kmsfs is there, with the aim of each."""
    target = Kmsfs("start", AREA)
    try:
        target.make()
        times = []
        for _ in range(TRIES):
            target.unmount()
            began = time.perf_counter()
            target.mount()
            os.listdir(target.dir)
            times.append(1000 * (time.perf_counter() - began))
    finally:
        target.remove()
    return {
        "mount ready, unlocked with a key file": {"milliseconds": statistics.median(times), "aim": 100},
        "kmsfs --help": {"milliseconds": milliseconds(lambda: run(KMSFS, "--help")), "aim": 10},
    }


def resident(pid):
    """Resident bytes of a process."""
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def state(pid):
    return {"resident MB": round(resident(pid) / 1e6, 1), "descriptors": descriptors(pid)}


def fill(folder, files):
    for number in range(files):
        at = os.path.join(folder, f"d{number // PER_DIRECTORY}")
        if number % PER_DIRECTORY == 0:
            os.mkdir(at)
        file = os.open(os.path.join(at, f"f{number}"), os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(file, b"x" * 100)
        os.close(file)


def shown(said):
    """A table of states."""
    rows = [[when, str(figures["resident MB"]), str(figures["descriptors"])] for when, figures in said.items()]
    return report.grid(["state of the daemon", "MB resident", "descriptors"], rows)


def walk(target, files):
    """Memory after everything was made, and after it was walked by a fresh daemon."""
    fill(target.dir, files)
    said = {"after making": state(target.daemons()[0])}
    target.cool()
    said["fresh"] = state(target.daemons()[0])
    counted = int(run("sh", "-c", 'find "$0" -type f -printf "%s\\n" | wc -l', target.dir))
    if counted != files:
        raise Failed(f"{counted} files instead of {files}")
    said["after find"] = state(target.daemons()[0])
    run("sh", "-c", 'find "$0" -type f -print0 | xargs -0 cat >/dev/null', target.dir)
    said["after reading all"] = state(target.daemons()[0])
    drop_caches()
    said["after the kernel forgot all"] = state(target.daemons()[0])
    return said


CHURN = r"""
cd "$0" && mkdir -p "churn$1" && cd "churn$1"
while [ ! -e "$2" ]; do
    for n in $(seq 200); do head -c $((n * 37)) /dev/zero >"f$n"; done
    for n in $(seq 200); do mv "f$n" "g$n"; done
    cat g* >all; ln all link; rm link; truncate -s 5000 all
    ls -l >/dev/null
    rm -f g* all
done
"""


def soak(target, minutes):
    """Churns; the memory of the daemon over time."""
    stop = os.path.join(target.home, "stop")
    churners = [subprocess.Popen(["bash", "-c", CHURN, target.dir, str(n), stop], stdin=subprocess.DEVNULL) for n in range(3)]
    samples, end = [], time.monotonic() + 60 * minutes
    try:
        while time.monotonic() < end:
            time.sleep(min(SAMPLE_SECONDS, 6 * minutes))
            samples.append(state(target.daemons()[0]))
            if any(churner.poll() is not None for churner in churners):
                raise Failed("the churn ended by itself: it failed")
    finally:
        open(stop, "w").close()
        for churner in churners:
            churner.wait()
    return samples


def verdict_of_soak(samples):
    """An exit status and a sentence."""
    sizes = [sample["resident MB"] for sample in samples]
    quarter = max(1, len(sizes) // 4)
    early, late = statistics.median(sizes[quarter : 2 * quarter] or sizes), statistics.median(sizes[-quarter:])
    most = max(sample["descriptors"] for sample in samples)
    verdict = f"{early} MB resident in the second quarter, {late} MB in the last, at most {max(sizes)} MB; at most {most} descriptors."
    return 0 if late <= GROWTH * early else 1, verdict


def main(given):
    target = Kmsfs("kmsfs", AREA)
    try:
        target.make()
        if given.soak:
            status, verdict = verdict_of_soak(soak(target, given.soak))
            say(verdict)
            if given.out:
                report.update_page(given.out, "soak", f"{given.soak:g} minutes of churn: {verdict}")
            return status
        said = walk(target, given.files)
        say(shown(said))
        if given.out:
            report.update_page(given.out, "memory", f"A tree of {given.files:,} files:\n\n{shown(said)}")
        worst = max(figures["resident MB"] for figures in said.values())
        most = max(figures["descriptors"] for figures in said.values())
        return 0 if worst < 150 and most < 1000 else 1
    finally:
        target.remove()
