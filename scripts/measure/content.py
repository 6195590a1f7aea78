"""Workloads inside files: sequential, random, appending, and a database."""

import json
import os
import sqlite3
import subprocess
import zlib

from bench_run import story
from machine import Failed

BLOCK = 4096
MIB = 1 << 20
LINE = b"%07d " + b"a line of a log, as programs write them: one hundred bytes, newline included, with a number at first" [:91] + b"\n"


def chunk(seed, number, size):
    """`size` bytes that no other number has, quick to make."""
    return number.to_bytes(8, "little") + seed[8:size]


def write_file(path, seed, size, call, flags):
    """Writes in calls of `call` bytes and syncs."""
    file = os.open(path, os.O_WRONLY | flags, 0o644)
    try:
        for number in range(size // call):
            if os.write(file, chunk(seed, number, call)) != call:
                raise Failed(f"{path}: a short write")
        os.fsync(file)
    finally:
        os.close(file)


def read_file(path, size, call):
    """Reads all of it, looking at the number that begins each call."""
    buffer = bytearray(call)
    with open(path, "rb", buffering=0) as file:
        for number in range(size // call):
            if file.readinto(buffer) != call or int.from_bytes(buffer[:8], "little") != number:
                raise Failed(f"{path}: wrong bytes at {number * call}")
        if file.read(1):
            raise Failed(f"{path}: too long")


def check_file(path, seed, size, call):
    """Every byte is what was written."""
    with open(path, "rb", buffering=0) as file:
        for number in range(size // call):
            if file.read(call) != chunk(seed, number, call):
                raise Failed(f"{path}: wrong bytes at {number * call}")
        if file.read(1):
            raise Failed(f"{path}: too long")


def write_and_rewrite(run, call, name):
    size, path = run.sizes["sequential"], run.path("file")
    first, second = os.urandom(call), os.urandom(call)
    with run.timed(f"write-{name}"):
        write_file(path, first, size, call, os.O_CREAT | os.O_EXCL)
    check_file(path, first, size, call)
    with run.timed(f"rewrite-{name}"):
        write_file(path, second, size, call, 0)
    run.cool()
    return second, size


@story("write-1m", "rewrite-1m", "read-cold", "read-warm")
def sequential(run):
    seed, size = write_and_rewrite(run, MIB, "1m")
    with run.timed("read-cold"):
        read_file(run.path("file"), size, MIB)
    with run.timed("read-warm"):
        for _ in range(4):
            read_file(run.path("file"), size, MIB)
    check_file(run.path("file"), seed, size, MIB)


@story("write-128k", "rewrite-128k")
def sequential_small_calls(run):
    seed, size = write_and_rewrite(run, MIB // 8, "128k")
    check_file(run.path("file"), seed, size, MIB // 8)


def fio(run, *options):
    """Runs fio in the folder of the run; the seconds that its jobs took, without its start."""
    command = ["fio", "--output-format=json", "--thread", f"--directory={run.path()}", "--randseed=7"]
    command += ["--verify_fatal=1", "--verify_state_save=0", "--invalidate=0", "--fallocate=none", *options]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, cwd="/", check=False)
    output = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        raise Failed(f"fio {options[0]}: {(done.stderr.decode(errors='replace') or output)[-300:].strip()}")
    jobs = json.loads(output[output.index("{") :])["jobs"]
    if any(job["error"] for job in jobs):
        raise Failed(f"fio {options[0]}: error {max(job['error'] for job in jobs)}")
    return max(job[way]["runtime"] for job in jobs for way in ("read", "write")) / 1000


def laid_out(run):
    """A file in which each block has a header with its place and its checksum; the options that read it so."""
    size = run.sizes["random"]
    file = ["--filename=blocks", f"--size={size}", "--bs=4k", "--verify=crc32c"]
    fio(run, "--name=lay", "--rw=write", "--do_verify=0", "--end_fsync=1", *file)
    run.target.settle()
    return file


@story("read-4k-cold", "read-4k-warm")
def random_reads(run):
    file = laid_out(run)
    run.cool()
    run.took("read-4k-cold", lambda: fio(run, "--name=cold", "--rw=randread", few(run), *file))
    read_all(run.path("blocks"))
    run.took("read-4k-warm", lambda: fio(run, "--name=warm", "--rw=randread", "--loops=4", *file))


@story("read-4k-direct")
def direct_reads(run):
    file = laid_out(run)
    run.cool()
    run.took("read-4k-direct", lambda: fio(run, "--name=direct", "--rw=randread", "--direct=1", few(run), *file))


def few(run):
    """As many as are read where each waits for the disk."""
    return f"--number_ios={run.sizes['random cold']}"


def read_all(path):
    with open(path, "rb", buffering=0) as file:
        while file.read(MIB):
            pass


@story("write-4k", "write-4k-fsync")
def random_writes(run):
    file = laid_out(run)
    run.took("write-4k", lambda: fio(run, "--name=write", "--rw=randwrite", "--do_verify=0", "--end_fsync=1", *file))
    run.cool()
    fio(run, "--name=check", "--rw=randwrite", "--verify_only=1", *file)
    syncs = ["--rw=randwrite", f"--number_ios={run.sizes['syncs']}", "--fsync=1", "--do_verify=0"]
    run.took("write-4k-fsync", lambda: fio(run, "--name=sync", *syncs, *file))
    run.cool()
    fio(run, "--name=check", "--rw=read", *file)


@story("mixed-writers")
def mixed_writers(run):
    shape = ["--rw=randwrite", "--bsrange=4k-64k", f"--size={run.sizes['random'] // 4}", "--numjobs=4", "--verify=crc32c"]
    run.took("mixed-writers", lambda: fio(run, "--name=mixed", "--do_verify=0", "--end_fsync=1", *shape))
    run.cool()
    fio(run, "--name=mixed", "--verify_only=1", *shape)


@story("append-100")
def appending(run):
    count, path = run.sizes["lines"], run.path("log")
    with run.timed("append-100"):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for number in range(count):
            os.write(file, LINE % number)
        os.fsync(file)
        os.close(file)
    with open(path, "rb") as file:
        got = zlib.crc32(file.read())
    if got != zlib.crc32(b"".join(LINE % number for number in range(count))):
        raise Failed(f"{path}: other lines than were written")


@story("sqlite-wal")
def database(run):
    count, path = run.sizes["transactions"], run.path("test.db")
    with run.timed("sqlite-wal"):
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, name TEXT UNIQUE, body BLOB)")
        for number in range(count):
            connection.execute("BEGIN")
            for row in range(10):
                connection.execute("INSERT INTO entries (name, body) VALUES (?, ?)", (f"{row}/{number}", bytes(300)))
            connection.execute("COMMIT")
        connection.close()
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT count(*) FROM entries").fetchone()[0]
        verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
    connection.close()
    if rows != 10 * count or verdict != "ok":
        raise Failed(f"{path}: {rows} rows, {verdict}")
