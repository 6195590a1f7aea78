#!/usr/bin/env python3
"""Writes format1.json: worked examples of docs/format.md, with fixed keys and nonces. Run in this directory.

The writing side of tests/decoder.py, from which it takes the primitives. Every run gives the same bytes.
"""
import hashlib, json, re, struct, sys

sys.path.insert(0, "..")
sys.dont_write_bytecode = True
from decoder import AESGCM, AESSIV, Names, b64, backing_size, canonical, check, expand, header_hash, open_xts

VOLUME = "0f8fad5b-d9cb-469f-a165-70867728950e"
LABELS = {"team": "blue", "\u00e9t\u00e9": "\U0001f600"}
KINDS = {"file-gcm": 1, "file-xts": 2, "directory": 3, "directory-xts": 4}


def fixed(label, n):
    """n bytes that differ from every other label's"""
    return hashlib.shake_128(label.encode()).digest(n)


def gcm(key, nonce, plain, aad):
    sealed = AESGCM(key).encrypt(nonce, plain, aad)
    return sealed[:-16], sealed[-16:]


MATERIAL = {(number, version): fixed(f"material {number} {version}", 32) for number, version in [(1, 1), (1, 2), (70000, 513)]}
ROOT_KEY, DIR_KEY, FILE_KEY, VOLUME_KEY = (fixed(f"{name} key", 32) for name in ("root", "dir", "file", "volume"))
DIR_ID = expand(DIR_KEY, "did", n=16)


def blob(number, version, key, context):
    nonce, canon = fixed(f"blob {number} {version} {context}", 12), canonical(context)
    head = struct.pack("<BIH", 1, number, version)
    wrap = expand(MATERIAL[number, version], "wrap", nonce + hashlib.sha256(canon).digest())
    return head + nonce + b"".join(gcm(wrap, nonce, key, head + canon))


def place(kind, parent):
    pairs = {"kmsfs:volume": VOLUME, **LABELS}
    if parent is None:
        return {**pairs, "kmsfs:kind": "linked-" + kind}
    return {**pairs, "kmsfs:kind": kind, "kmsfs:parent": parent.hex()}


def mirror(kind, key):
    context = {"kmsfs:volume": VOLUME, "kmsfs:kind": "mirror-" + kind, **LABELS}
    return bytes([KINDS[kind]]) + blob(1, 1, key, context)


def envelopes():
    rows = []

    def row(name, kind, key, parent, envelope):
        rows.append({"name": name, "kind": kind, "volume": VOLUME, "labels": LABELS, "parent": parent.hex(),
                     "data_key": key.hex(), "envelope": envelope.hex()})

    for kind, code in KINDS.items():
        row(kind, kind, FILE_KEY, DIR_ID, bytes([code]) + blob(1, 2, FILE_KEY, place(kind, DIR_ID)))
    row("the root directory", "directory", ROOT_KEY, bytes(16), b"\3" + blob(1, 1, ROOT_KEY, place("directory", bytes(16))))
    row("large numbers", "file-gcm", FILE_KEY, DIR_ID, b"\1" + blob(70000, 513, FILE_KEY, place("file-gcm", DIR_ID)))
    row("LINKED, at any place", "file-gcm", FILE_KEY, b"x" * 16, b"\x81" + blob(1, 1, FILE_KEY, place("file-gcm", None)))
    new, old = (blob(1, 1, FILE_KEY, place("file-gcm", parent)) for parent in (DIR_ID, b"o" * 16))
    moving = b"\x41" + struct.pack("<H", len(new)) + new + old
    row("MOVING, at the new place", "file-gcm", FILE_KEY, DIR_ID, moving)
    row("MOVING, at the old place", "file-gcm", FILE_KEY, b"o" * 16, moving)
    return rows


def names():
    plains = [b"a", b"hello.txt", b"x" * 15, b"x" * 16, b"x" * 128, b"x" * 142, b"x" * 143, b"x" * 160, b"x" * 174, b"x" * 175,
              b"y" * 255, b"\xff\xfe \x80", "\u0444\u0430\u0439\u043b".encode()]
    for encoding in ("base64url", "base32"):
        dir_names = Names(DIR_KEY, encoding)
        for plain in plains:
            sealed = dir_names.write(dir_names.siv.encrypt(dir_names.pad(plain), None))
            row = {"encoding": encoding, "directory_key": DIR_KEY.hex(), "plain": plain.hex(), "stored": sealed}
            if len(plain) > dir_names.limit:
                text = dir_names.long_text(plain)
                row.update(stored=dir_names.letter + text, side=".kmsfs.n." + text, target=sealed)
            yield row


def symlinks():
    key = expand(VOLUME_KEY, "lnk")
    for target in (b"x", b"../else/where", b"t" * 3043):
        nonce = fixed(f"link {target}", 12)
        yield {"volume_key": VOLUME_KEY.hex(), "target": target.hex(), "text": b64(nonce + b"".join(gcm(key, nonce, target, b"symlink")))}
    target, name, nonce = b"t" * 4095, b64(fixed("home", 16)), fixed("long link", 12)
    home = nonce + b"".join(gcm(key, nonce, target, b"symlink"))
    yield {"volume_key": VOLUME_KEY.hex(), "target": target.hex(), "text": f"L{name}.04095", "home_name": name, "home": home.hex()}


def xattrs():
    names, values = AESSIV(expand(FILE_KEY, "xat", n=64)), expand(FILE_KEY, "xav")
    for name, value in ((b"mime_type", b"text/plain"), (b"n" * 167, b""), (b"\xc3\xa9", bytes(range(256)))):
        nonce = fixed(f"xattr {name}", 12)
        yield {"owner_key": FILE_KEY.hex(), "name": name.hex(), "value": value.hex(),
               "stored_name": "user.kmsx." + b64(names.encrypt(name, None)),
               "stored_value": (nonce + b"".join(gcm(values, nonce, value, name))).hex()}


# --- Content

def plain_bytes(n):
    """content of n bytes whose description is short"""
    return b"p" * (n - 1) + b"q"


def runs(data):
    """long bytes in a vectors file: hex, with long runs of one byte folded"""
    pieces = re.split(rb"(?s)((?P<byte>.)(?P=byte){31,})", data)
    rows = []
    for i in range(0, len(pieces), 3):
        rows.append(pieces[i].hex())
        if i + 1 < len(pieces):
            rows.append([pieces[i + 2].hex(), len(pieces[i + 1])])
    return [row for row in rows if row]


def group_keys(group, salt):
    both = expand(FILE_KEY, "grp", struct.pack("<Q", group) + salt, 64)
    return both[:32], both[32:]


def meta_page(group, salt, *, flags=0, size=0, previous_size=0, written=0, previous=0, seals=0, old_salt=bytes(16), entries=b"",
              inline=None):
    """a META page; of the inline form, page and ciphertext"""
    head = struct.pack("<4s4B7Q16s32s16s24x", b"KMSm", 1, 1, flags, 12, group, 1, size, previous_size, written, previous, seals,
                       salt, expand(FILE_KEY, "com") if group == 0 else bytes(32), old_salt)
    mirrored = head + (mirror("file-gcm", FILE_KEY) if group == 0 else bytes(68)) + bytes(264)
    head += bytes(68 + 264)
    entries, nonce = entries.ljust(3584, b"\0"), fixed(f"page {group} {salt} {size} {written}", 12)
    if inline is not None:
        ciphertext, tag = gcm(group_keys(0, salt)[0], nonce, inline, head)
        return mirrored + nonce + tag + ciphertext
    _, tag = gcm(group_keys(group, salt)[1], nonce, b"", head + entries)
    return mirrored + nonce + tag + entries


def seal_block(number, salt, plain, generation="new"):
    nonce = fixed(f"block {number} {generation}", 12)
    sealed, tag = gcm(group_keys(number // 64, salt)[0], nonce, plain, struct.pack("<QIBBH", number, len(plain), 1, 1, 0))
    return sealed, nonce + tag


SALT, OLD_SALT = fixed("salt", 16), fixed("old salt", 16)


def inline_file(content):
    return meta_page(0, SALT, flags=2, size=len(content), previous_size=len(content), seals=1, inline=content)


def one_block_of_two(**how):
    """two blocks, the second of them short; the first is being overwritten"""
    old, new, tail = b"O" * 4096, b"N" * 4096, b"T" * 100
    old_salt = how.get("old_salt", SALT)
    sealed_old, part_old = seal_block(0, old_salt, old, "old")
    sealed_new, part_new = seal_block(0, SALT, new)
    sealed_tail, part_tail = seal_block(1, SALT, tail)
    previous = bytes(28) if how.get("hole") else part_old
    page = meta_page(0, SALT, flags=4 if "old_salt" in how else 0, size=4196, previous_size=4196, written=3, previous=1, seals=2,
                     old_salt=how.get("old_salt", bytes(16)), entries=part_new + previous + part_tail)
    on_disk = {"new": sealed_new, "old": sealed_old, "zeros": bytes(4096), "neither": b"?" * 4096}[how["disk"]]
    reads = {"new": new, "old": old, "zeros": bytes(4096) if how.get("hole") else None, "neither": None}[how["disk"]]
    return page + on_disk + sealed_tail, reads and reads + tail


def sparse_file(flags):
    """a block at the end of the third group, before it nothing; the second META page was never written"""
    number, tail = 2 * 64, b"end"
    size = number * 4096 + len(tail)
    sealed, part = seal_block(number, SALT, tail)
    data = bytearray(backing_size(size))
    first, third = meta_page(0, SALT, flags=flags, size=size, previous_size=size), meta_page(2, SALT, written=1, seals=1, entries=part)
    data[:4096], data[532480:532480 + 4096], data[-3:] = first, third, sealed
    return bytes(data), bytes(size - 3) + tail


def growing(size_on_disk):
    """from 5000 to 9000 bytes; the tail was sealed anew if the backing file is long enough"""
    content, old = plain_bytes(9000), plain_bytes(5000)
    blocks = [seal_block(i, SALT, content[4096 * i:4096 * i + 4096]) for i in range(3)]
    sealed_old, part_old = seal_block(1, SALT, old[4096:], "old")
    entries = blocks[0][1] + bytes(28) + blocks[1][1] + part_old + blocks[2][1] + bytes(28)
    page = meta_page(0, SALT, size=9000, previous_size=5000, written=7, previous=6, seals=4, entries=entries)
    if size_on_disk == 5000:
        return page + blocks[0][0] + sealed_old, old
    return page + b"".join(sealed for sealed, _ in blocks), content


def files():
    def row(name, backing, content):
        return {"name": name, "data_key": FILE_KEY.hex(), "backing": runs(backing), "content": None if content is None else runs(content)}

    yield row("empty", b"", b"")
    for n in (1, 3584):
        yield row(f"inline, {n} bytes", inline_file(plain_bytes(n)), plain_bytes(n))
    small = inline_file(b"hello, world")
    yield row("inline, what lies behind is ignored", small + b"junk", b"hello, world")
    yield row("inline, cut", small[:-1], None)
    yield row("inline, altered", small[:-1] + bytes([small[-1] ^ 1]), None)
    yield row("inline, wrong commitment", small[:80] + b"\0" + small[81:], None)
    yield row("inline, reserved byte set", small[:300] + b"\1" + small[301:], None)
    yield row("inline, another mirror does not matter", small[:152] + bytes(68) + small[220:], b"hello, world")
    content = plain_bytes(3585)
    sealed, part = seal_block(0, SALT, content)
    page = meta_page(0, SALT, size=3585, previous_size=3585, written=1, seals=1, entries=part)
    yield row("paged, 3585 bytes", page + sealed, content)
    yield row("paged, cut", page + sealed[:-1], None)
    for disk in ("new", "old", "neither", "zeros"):
        yield row(f"overwriting, {disk} on the disk", *one_block_of_two(disk=disk))
    yield row("overwriting a hole, new on the disk", *one_block_of_two(disk="new", hole=True))
    yield row("overwriting a hole, zeros on the disk", *one_block_of_two(disk="zeros", hole=True))
    for disk in ("new", "old"):
        yield row(f"RESALT, {disk} on the disk", *one_block_of_two(disk=disk, old_salt=OLD_SALT))
    for size in (5000, 9000):
        yield row(f"growing, {size} bytes on the disk", *growing(size))
    yield row("sparse, the second META page is zeros", *sparse_file(flags=1))
    yield row("not SPARSE, the second META page is zeros", sparse_file(flags=0)[0], None)


def headers():
    header = {"format": 1, "uuid": VOLUME, "features": {"compat": ["harmless"], "ro_compat": [], "incompat": []}, "suite": "gcm",
              "placement": "xattr", "names": "base64url", "context": LABELS, "key": "5d2c6e0a-0b8f-4c55-9a0e-0d0f6a1f3b11",
              "unknown": {"b": [1, -2, True, None, "\u0001\"\\/\u007f\n"], "a": {}}}
    context = {"kmsfs:volume": VOLUME, "kmsfs:kind": "volume", "kmsfs:header": header_hash(header), **LABELS}
    header["volume_key"] = b64(blob(1, 1, VOLUME_KEY, context))
    yield {"name": "a header with an unknown member", "header": header, "hash": header_hash(header), "volume_key": VOLUME_KEY.hex()}


def derivations():
    group = struct.pack("<Q", 3) + SALT
    rows = [(FILE_KEY, "com", b"", 32), (FILE_KEY, "grp", group, 64), (FILE_KEY, "xat", b"", 64), (FILE_KEY, "xav", b"", 32),
            (FILE_KEY, "xts", struct.pack("<Q", 3), 64), (FILE_KEY, "fid", b"", 16), (DIR_KEY, "did", b"", 16), (DIR_KEY, "nam", b"", 64), (DIR_KEY, "lng", b"", 32),
            (VOLUME_KEY, "lnk", b"", 32), (MATERIAL[1, 1], "wrap", bytes(44), 32), (MATERIAL[1, 1], "slot", SALT, 64),
            (MATERIAL[1, 1], "store", b"", 32), (MATERIAL[1, 1], "bundle", b"", 32)]
    for parent, label, context, n in rows:
        yield {"parent": parent.hex(), "label": label, "context": context.hex(), "key": expand(parent, label, context, n).hex()}


def contexts():
    for pairs in ({}, {"a": "bc"}, {"ab": "c"}, {"b": "", "a": "1"}, place("file-gcm", DIR_ID)):
        yield {"pairs": pairs, "canonical": canonical(pairs).hex()}


def xts_files():
    """Any bytes are the ciphertext of something."""
    for length in (*range(1, 18), 31, 32, 33, 4095, 4096, 4097, 4111, 4112, 4113):
        backing = fixed(f"xts {length}", length)
        yield {"name": f"{length} bytes", "data_key": FILE_KEY.hex(), "backing": backing.hex(),
               "content": open_xts(FILE_KEY, backing).hex()}
    holes = bytes(4096) + fixed("xts behind a hole", 4096) + bytes(5)
    yield {"name": "a hole, data, zeros that are no hole", "data_key": FILE_KEY.hex(), "backing": holes.hex(),
           "content": open_xts(FILE_KEY, holes).hex()}


vectors = {
    "about": "Worked examples of docs/format.md, written by make.py. Long bytes are lists of hex strings and [hex, times].",
    "keys": [{"number": n, "version": v, "secret": secret.hex()} for (n, v), secret in MATERIAL.items()],
    "derive": list(derivations()),
    "context": list(contexts()),
    "envelope": envelopes(),
    "mirror": [{"name": kind, "kind": kind, "volume": VOLUME, "labels": LABELS, "data_key": FILE_KEY.hex(),
                "mirror": mirror(kind, FILE_KEY).hex()} for kind in KINDS],
    "name": list(names()),
    "symlink": list(symlinks()),
    "xattr": list(xattrs()),
    "header": list(headers()),
    "file": list(files()),
    "xts_file": list(xts_files()),
}
check(vectors)
with open("format1.json", "w", encoding="ascii") as out:
    json.dump(vectors, out, indent=1)
    out.write("\n")
