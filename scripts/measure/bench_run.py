"""One run of a story on one target: folders to work in, and times taken by name."""

import contextlib
import fnmatch
import os
import resource
import shutil
import time

from machine import processor_seconds

STORIES = []


class Story:
    """Workloads that follow each other and share what they made."""

    def __init__(self, tell, names, only, once, big):
        self.tell, self.names, self.only, self.once, self.big = tell, names, only, once, big

    def fits(self, patterns):
        return any(fnmatch.fnmatch(name, pattern) for name in self.names for pattern in patterns)


def story(*names, only=None, once=False, big=False):
    """Registers a function of a Run that times the workloads `names`.

    `only`: the targets that it says something about. `once`: one round, because it takes long. `big`: needs the large sizes.
    """

    def register(tell):
        STORIES.append(Story(tell, names, only, once, big))
        return tell

    return register


class Run:
    """What a story sees: a target, the sizes, and a clock."""

    def __init__(self, target, sizes, inputs):
        self.target, self.sizes, self.inputs = target, sizes, inputs
        self.times, self.work = {}, {}
        self.folder = "work"

    def path(self, name=""):
        """Below the folder of this run on the target; it may change with a remount."""
        return os.path.join(self.target.dir, self.folder, name)

    def __enter__(self):
        os.mkdir(self.path())
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path(), ignore_errors=True)
        self.target.settle()

    @contextlib.contextmanager
    def timed(self, name):
        """Times its body; everything written before is on the disk first."""
        self.target.settle()
        work, began = self.worked(), time.perf_counter()
        yield
        self.times[name] = time.perf_counter() - began
        self.work[name] = self.worked() - work

    def worked(self):
        """Processor seconds so far of the programs that ask and of the daemon that answers."""
        asked = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(used.ru_utime + used.ru_stime for used in asked) + sum(map(processor_seconds, self.target.daemons()))

    def took(self, name, measure):
        """Enters the seconds that a program measured by itself, which `measure` returns."""
        self.target.settle()
        work = self.worked()
        self.times[name] = measure()
        self.work[name] = self.worked() - work

    def cool(self):
        self.target.cool()
