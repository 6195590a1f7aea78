"""Workloads on many files: trees, names, listings, git."""

import hashlib
import json
import os
import shutil
import subprocess

from bench_run import story
from machine import AREA, Failed, run as command

NOT_PASSTHROUGH = ("backing", "fscrypt", "gocryptfs", "securefs", "kmsfs", "kmsfs-fast", "kmsfs-xts")
# What only the names decide is the same for all modes of kmsfs.
OF_NAMES = ("backing", "passthrough", "fscrypt", "gocryptfs", "kmsfs")
TREE_FILES = 4000
# A few packages carry tables of tens of megabytes, which is not what a source tree is like.
MAX_PACKAGE = 8 << 20
SMALL = b"x" * 1024


def file_count(folder):
    return sum(len(files) for _, _, files in os.walk(folder))


def size_of(folder):
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(folder) for name in names)


def source_tree():
    """A tar of about 4,000 source files: the packages that Cargo.lock names, in the order of their names.

    They are on every machine that has built kmsfs, and the same on all. Its path, and what a check must find in it.
    """
    answer = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version=1", "--filter-platform=x86_64-unknown-linux-gnu"],
        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=True,
    )
    packages = [package for package in json.loads(answer.stdout)["packages"] if package["source"]]
    tree, files = os.path.join(AREA, "tree"), 0
    os.mkdir(tree)
    for package in sorted(packages, key=lambda package: (package["name"], package["version"])):
        folder = os.path.dirname(package["manifest_path"])
        if size_of(folder) > MAX_PACKAGE:
            continue
        shutil.copytree(folder, os.path.join(tree, f"{package['name']}-{package['version']}"), symlinks=True)
        files += file_count(folder)
        if files >= TREE_FILES:
            break
    tar = os.path.join(AREA, "tree.tar")
    command("tar", "-C", AREA, "--sort=name", "--owner=0", "--group=0", "-cf", tar, "tree")
    about = {"tar": tar, "files": files, "bytes": size_of(tree), "digest": digest(tree)}
    shutil.rmtree(tree)
    return about


def digest(folder):
    """One checksum over the names and contents of all files below."""
    total = hashlib.sha256()
    for at, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(at, name)
            total.update(os.path.relpath(path, folder).encode() + b"\0")
            if not os.path.islink(path):
                with open(path, "rb") as file:
                    total.update(hashlib.md5(file.read()).digest())
    return total.hexdigest()


def check_tree(run, folder):
    if digest(folder) != run.inputs["tree"]["digest"]:
        raise Failed(f"{folder}: not the tree that was unpacked")


def unpack(run, into):
    os.makedirs(into, exist_ok=True)
    command("tar", "-C", into, "-xf", run.inputs["tree"]["tar"])


def list_all(folder):
    """ls -lR; how many lines it printed."""
    return command("ls", "-lR", folder).count("\n")


def md5_all(folder):
    """md5sum of every file, one checksum over the answer."""
    answer = command("sh", "-c", 'cd "$0" && find . -type f -print0 | sort -z | xargs -0 md5sum', folder)
    return hashlib.sha256(answer.encode()).hexdigest(), answer.count("\n")


def check_count(what, got, expected):
    if got != expected:
        raise Failed(f"{what}: {got} instead of {expected}")


@story("untar", "ls-cold", "ls-warm", "md5-cold", "cp-a", "rm-rf")
def tree(run):
    files = run.inputs["tree"]["files"]
    with run.timed("untar"):
        unpack(run, run.path())
    check_tree(run, run.path("tree"))
    run.cool()
    with run.timed("ls-cold"):
        cold = list_all(run.path("tree"))
    with run.timed("ls-warm"):
        for _ in range(4):
            check_count("ls -lR", list_all(run.path("tree")), cold)
    run.cool()
    with run.timed("md5-cold"):
        _, summed = md5_all(run.path("tree"))
    run.cool()
    with run.timed("cp-a"):
        command("cp", "-a", run.path("tree"), run.path("copy"))
    check_count("files summed", summed, file_count(run.path("tree")))
    check_count("files", summed, files)
    check_tree(run, run.path("copy"))
    run.cool()
    with run.timed("rm-rf"):
        command("rm", "-rf", run.path("copy"))
    check_count("what is left", sorted(os.listdir(run.path())), ["tree"])


@story("git")
def git(run):
    unpack(run, run.path())
    run.cool()
    folder = run.path("tree")
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0", "-c", "safe.directory=*")

    def do(*words):
        return command("git", "-C", folder, *identity, *words, env={"PATH": os.environ["PATH"], "HOME": AREA})

    with run.timed("git"):
        do("init", "-q", ".")
        do("add", "-A", "-f")
        do("commit", "-q", "-m", "all")
        status = do("status", "--porcelain")
        do("fsck", "--full")
    check_count("changes that git sees", status, "")
    check_count("files in the commit", do("ls-tree", "-r", "--name-only", "HEAD").count("\n"), run.inputs["tree"]["files"])


def small_files(run, name):
    """Paths of small files, in ten directories."""
    return [run.path(f"d{number % 10}/{name}{number}") for number in range(run.sizes["small files"])]


@story("create-10k", "open-cold", "rename-10k", "unlink-10k")
def names(run):
    for number in range(10):
        os.mkdir(run.path(f"d{number}"))
    with run.timed("create-10k"):
        for path in small_files(run, "a"):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(file, SMALL)
            os.close(file)
    run.cool()
    with run.timed("open-cold"):
        for path in small_files(run, "a")[::5]:
            file = os.open(path, os.O_RDONLY)
            if os.read(file, 2048) != SMALL:
                raise Failed(f"{path}: wrong bytes")
            os.close(file)
    run.cool()
    with run.timed("rename-10k"):
        for old, new in zip(small_files(run, "a"), small_files(run, "b")):
            os.rename(old, new)
    check_count("files", file_count(run.path()), run.sizes["small files"])
    with run.timed("unlink-10k"):
        for path in small_files(run, "b"):
            os.unlink(path)
    check_count("files", file_count(run.path()), 0)


@story("list-1m", only=OF_NAMES, once=True, big=True)
def listing(run):
    """Names only. They are links to a few files, which makes the directory quickly; ext4 allows 65,000 for a file."""
    count = run.sizes["names"]
    for number in range(count):
        first = run.path(f"name{number - number % 50_000:07}")
        if number % 50_000 == 0:
            os.close(os.open(first, os.O_CREAT | os.O_WRONLY, 0o644))
        else:
            os.link(first, run.path(f"name{number:07}"))
    run.cool()
    with run.timed("list-1m"):
        got = len(os.listdir(run.path()))
    check_count("names", got, count)


@story("big-untar", "big-ls-cold", "big-ls-warm", "big-md5-cold", "big-rm-rf", only=NOT_PASSTHROUGH, once=True, big=True)
def big_tree(run):
    copies, files = run.sizes["copies"], run.inputs["tree"]["files"]
    with run.timed("big-untar"):
        for number in range(copies):
            unpack(run, run.path(f"tree{number}"))
    run.cool()
    with run.timed("big-ls-cold"):
        cold = list_all(run.path())
    with run.timed("big-ls-warm"):
        check_count("ls -lR", list_all(run.path()), cold)
    run.cool()
    with run.timed("big-md5-cold"):
        _, summed = md5_all(run.path())
    check_count("files summed", summed, copies * files)
    check_tree(run, run.path(f"tree{copies - 1}/tree"))
    run.cool()
    with run.timed("big-rm-rf"):
        command("sh", "-c", 'rm -rf "$0"/tree*', run.path())
    check_count("what is left", os.listdir(run.path()), [])
