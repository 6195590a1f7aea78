"""What is measured: each target makes its store once, and gives a directory to work in."""

import os
import shutil
import time

import fscrypt
from machine import AREA, KMSFS, PASSTHROUGH, Failed, drop_caches, is_mounted, processes_naming, run, settle

PASSPHRASE = "a passphrase for measuring"
PATIENCE = 20.0


def wait_for(what, done):
    """Polls until `done`."""
    end = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > end:
            raise Failed(f"waited {PATIENCE:.0f} s in vain for {what}")
        time.sleep(0.002)


class Target:
    """A FUSE filesystem over a directory of its own; the others differ in what they override."""

    def __init__(self, name, base):
        self.name = name
        self.home = os.path.join(base, name)
        self.store = os.path.join(self.home, "store")
        self.dir = os.path.join(self.home, "mnt")
        self.passfile = os.path.join(self.home, "pass")

    def make(self):
        for folder in (self.home, self.store, self.dir):
            os.mkdir(folder)
        with open(self.passfile, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(PASSPHRASE + "\n")
        self.format()
        self.mount()

    def format(self):
        """Makes the store, before the first mount."""

    def start(self):
        """Runs the command that mounts."""
        raise NotImplementedError(self.name)

    def stop(self):
        run("umount", self.dir)

    def mount(self):
        self.start()
        wait_for(f"the mount of {self.name}", lambda: is_mounted(self.dir))
        self.pids = processes_naming(self.dir)

    def daemons(self):
        """Process ids of what serves the mount."""
        return self.pids

    def unmount(self):
        if not is_mounted(self.dir):
            return
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.stop()
                break
            except Failed:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        wait_for(f"the end of {self.name}", lambda: not processes_naming(self.dir))

    def settle(self):
        """What was written is on the disk."""
        settle(self.dir, self.home)

    def cool(self):
        """Nothing is cached any more, neither by the kernel nor by a daemon."""
        self.settle()
        self.unmount()
        settle(self.home)
        drop_caches()
        self.mount()

    def remove(self):
        self.unmount()
        shutil.rmtree(self.home, ignore_errors=True)


class Backing(Target):
    """The directory itself, without a filesystem above."""

    def mount(self):
        self.dir, self.pids = self.store, []

    def unmount(self):
        pass


class Passthrough(Target):
    """libfuse's passthrough_ll with all caches on: what FUSE costs without encryption."""

    def start(self):
        run(PASSTHROUGH, "-o", f"source={self.store},cache=always,writeback", self.dir)


class Fscrypt(Backing):
    """The kernel's own encryption, which ext4 has itself: a directory with a policy, in the same filesystem."""

    KEY = bytes(range(64))

    def format(self):
        fscrypt.encrypt(self.store, fscrypt.add_key(self.home, self.KEY))


class Gocryptfs(Target):
    """gocryptfs as it comes; only its derivation of the key is made cheap."""

    def format(self):
        run("gocryptfs", "-init", "-q", "-scryptn", 10, "-passfile", self.passfile, self.store)

    def start(self):
        run("gocryptfs", "-q", "-passfile", self.passfile, self.store, self.dir)


class Securefs(Target):
    """securefs in its lite format, which is its default."""

    SECRET = ("--pass", PASSPHRASE)

    def format(self):
        run("securefs", "create", "--pbkdf", "pkcs5-pbkdf2-hmac-sha256", "-r", 1, *self.SECRET, self.store)

    def start(self):
        run("securefs", "mount", "-b", *self.SECRET, self.store, self.dir)


class Kmsfs(Target):
    """kmsfs, unlocked with a key file: no passphrase is derived, so that mounting can be timed."""

    def __init__(self, name, base, init=(), mount=()):
        super().__init__(name, base)
        self.init_options, self.mount_options = init, mount

    def arguments(self):
        return ("--keystore", os.path.join(self.home, "keystore"), "--keyfile", self.keyfile)

    def format(self):
        self.keyfile = os.path.join(self.home, "keyfile")
        with open(self.keyfile, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(os.urandom(32))
        run(KMSFS, "init", self.store, *self.arguments(), *self.init_options)

    def start(self):
        run(KMSFS, "mount", self.store, self.dir, *self.arguments(), *self.mount_options)

    def stop(self):
        run(KMSFS, "umount", self.dir)


class Disk:
    """A fresh ext4 with a journal, on an image in `AREA`, for the stores of all targets.

    On the disk's own filesystem the rounds would not be alike: others share its journal; and where it has none, as on
    some virtual machines, ext4 walks past all inodes that were removed within the last minutes whenever a file is made
    (`recently_deleted` in fs/ext4/ialloc.c), so that who comes after a removal of many files pays for it.
    """

    def __init__(self, size):
        self.size, self.image, self.base = size, os.path.join(AREA, "disk.img"), os.path.join(AREA, "disk")

    def make(self):
        os.mkdir(self.base)
        # Written once: else the first writes would allocate below.
        run("dd", "if=/dev/zero", f"of={self.image}", "bs=4M", f"count={self.size >> 22}", "oflag=direct")
        device = run("losetup", "--find", "--show", "--direct-io=on", self.image).strip()
        try:
            run("mkfs.ext4", "-q", "-b", 4096, "-O", "encrypt", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
            run("mount", device, self.base)
        finally:
            # It goes with its mount.
            run("losetup", "--detach", device)

    def remove(self):
        if is_mounted(self.base):
            run("umount", self.base)
        if os.path.exists(self.image):
            os.remove(self.image)


def everything(base):
    """All targets with their homes below `base`, by name and in the order of the columns."""
    targets = [
        Backing("backing", base),
        Passthrough("passthrough", base),
        Fscrypt("fscrypt", base),
        Gocryptfs("gocryptfs", base),
        Securefs("securefs", base),
        Kmsfs("kmsfs", base),
        Kmsfs("kmsfs-fast", base, mount=("-o", "durability=fast")),
        Kmsfs("kmsfs-xts", base, init=("--suite", "xts")),
    ]
    return {target.name: target for target in targets}
