#!/usr/bin/env python3
"""An independent reader of kmsfs volumes, written from docs/format.md alone.

  decoder.py list    KEYS BACKING        one JSON line for each object of the backing tree
  decoder.py extract KEYS BACKING OUT    the plain tree, into the new directory OUT
  decoder.py check   VECTORS.json...     recomputes every vector of tests/vectors/

KEYS is a JSON file with raw key material: {"keys": [{"number": 1, "version": 1, "secret": "<64 hex digits>"}]}
Needs python3-cryptography 38 or later. It reads everything into memory: it is a proof of the format, not a tool.
Sections are those of docs/format.md.
"""
import base64, hashlib, hmac, json, os, re, stat, struct, sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand


class Bad(Exception):
    """The bytes are not what the format says."""


def need(condition, what):
    if not condition:
        raise Bad(what)


# --- 1. Primitives

def expand(parent, label, context=b"", n=32):
    return HKDFExpand(SHA256(), n, b"kmsfs1 " + label.encode() + b"\0" + context).derive(parent)


def gcm_open(key, nonce, ciphertext, tag, aad):
    return AESGCM(key).decrypt(nonce, bytes(ciphertext) + bytes(tag), bytes(aad))


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def b32(data):
    return base64.b32encode(data).rstrip(b"=").decode().lower()


def unb64(text):
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    need(b64(data) == text, "base64url is not canonical")
    return data


def unb32(text):
    data = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    need(b32(data) == text, "base32 is not canonical")
    return data


# --- 2. Encryption context

def canonical(context):
    if not context:
        return b""
    pairs = sorted((k.encode(), v.encode()) for k, v in context.items())
    parts = b"".join(struct.pack(">H", len(x)) + x for pair in pairs for x in pair)
    return struct.pack(">H", len(pairs)) + parts


# --- 3. CiphertextBlob

def open_blob(keys, blob, context):
    need(len(blob) == 67 and blob[0] == 1, "not a blob of the embedded KMS")
    number, version = struct.unpack("<IH", blob[1:7])
    nonce, canon = blob[7:19], canonical(context)
    need((number, version) in keys, f"no material for key {number} version {version}")
    key = expand(keys[number, version], "wrap", nonce + hashlib.sha256(canon).digest())
    return gcm_open(key, nonce, blob[19:51], blob[51:67], blob[:7] + canon)


# --- 4. Envelopes

KINDS = {1: "file-gcm", 2: "file-xts", 3: "directory", 4: "directory-xts"}


def parse_envelope(envelope):
    """kind, linked, blobs (of which the first that opens counts)"""
    need(len(envelope) > 1, "envelope too short")
    code, rest = envelope[0], envelope[1:]
    kind, moving, linked = KINDS.get(code & 15), bool(code & 0x40), bool(code & 0x80)
    need(kind and not code & 0x30 and not (moving and linked), "bad envelope code")
    if not moving:
        return kind, linked, [rest]
    n = struct.unpack("<H", rest[:2])[0]
    need(0 < n < len(rest) - 2, "bad MOVING envelope")
    return kind, linked, [rest[2:2 + n], rest[2 + n:]]


def unlock(keys, volume, labels, envelope, parent, fits=lambda key: True):
    """kind and data key; `parent` is the id of the parent directory; `fits` knows the key of the object"""
    kind, linked, blobs = parse_envelope(envelope)
    context = {"kmsfs:volume": volume, "kmsfs:kind": ("linked-" if linked else "") + kind, **labels}
    if not linked:
        context["kmsfs:parent"] = parent.hex()
    for blob in blobs:
        try:
            key = open_blob(keys, blob, context)
            if fits(key):
                return kind, key
        except InvalidTag:
            pass
    raise Bad("the envelope does not open in this place")


# --- 5a. Content, XTS suite

def open_tail(key, number, tail):
    bits = 4 * len(tail)
    aes = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    value, mask = int.from_bytes(tail, "little"), (1 << bits) - 1
    left, right = value & mask, value >> bits
    for i in reversed(range(32)):
        block = left.to_bytes(8, "little") + number.to_bytes(6, "little") + bytes([bits, i])
        out = int.from_bytes(aes.update(block)[:8], "little") & mask
        left, right = right ^ out, left
    return (left | right << bits).to_bytes(len(tail), "little")


def open_xts(key, data):
    plain = b""
    for start in range(0, len(data), 4096):
        unit, (scope, number) = data[start:start + 4096], divmod(start // 4096, 1 << 28)
        context = struct.pack("<Q", scope)
        if unit == bytes(4096):
            plain += unit
        elif len(unit) < 16:
            plain += open_tail(expand(key, "xtt", context), number, unit)
        else:
            xts = modes.XTS(number.to_bytes(16, "little"))
            plain += Cipher(algorithms.AES(expand(key, "xts", context, 64)), xts).decryptor().update(unit)
    return plain


# --- 5. Content, GCM suite

BLOCK, GROUP, INLINE_MAX = 4096, 64 * 4096, 3584


def backing_size(size):
    if size <= INLINE_MAX:
        return size and 512 + size
    return size + 4096 * -(-size // GROUP)


class Meta:
    def __init__(self, page, group):
        (magic, version, suite, self.flags, log2, index, self.generation, self.size, self.previous_size, self.written,
         self.previous, _, self.salt, self.commitment, self.previous_salt) = struct.unpack("<4s4B7Q16s32s16s", page[:128])
        need((magic, version, suite, log2, index) == (b"KMSm", 1, 1, 12, group), "bad META header")
        need(not self.flags & ~7 and not any(page[128:152]) and not any(page[220:484]), "reserved META bytes are set")
        self.sparse, self.inline, self.resalt = (bool(self.flags & bit) for bit in (1, 2, 4))
        need(group == 0 or not (self.inline or self.size or self.previous_size or any(self.commitment)), "not page 0")
        self.head = page[:152] + bytes(68) + page[220:484]
        self.nonce, self.tag, self.entries = page[484:496], page[496:512], page[512:4096]

    def keys(self, key, salt=None):
        index = struct.unpack("<Q", self.head[8:16])[0]
        both = expand(key, "grp", struct.pack("<Q", index) + (salt or self.salt), 64)
        return both[:32], both[32:]


def open_file(key, data):
    """the content of a backing file with these bytes"""
    if not data:
        return b""
    need(len(data) >= 512, "no META page")
    first = Meta(data[:4096].ljust(4096, b"\0"), 0)
    need(hmac.compare_digest(first.commitment, expand(key, "com")), "wrong commitment: another file's key")
    if first.inline:
        need(first.size <= INLINE_MAX and len(data) >= 512 + first.size, "the inline file was cut")
        return gcm_open(first.keys(key)[0], first.nonce, data[512:512 + first.size], first.tag, first.head)
    check_page(key, first)
    size = first.size
    if len(data) < backing_size(size):
        grown = INLINE_MAX < first.previous_size < size and len(data) >= backing_size(first.previous_size)
        need(grown, "the file was cut")
        size = first.previous_size
    plain = b""
    for group in range(-(-size // GROUP)):
        page = data[group * 266240:][:4096]
        if group and not any(page):
            need(first.sparse, f"META page {group} is missing")
            plain += bytes(min(GROUP, size - len(plain)))
            continue
        meta = Meta(page, group) if group else first
        if group:
            check_page(key, meta)
        while len(plain) < min(size, (group + 1) * GROUP):
            plain += open_block(key, meta, data, len(plain) // BLOCK, size, (first.size, first.previous_size))
    return plain


def check_page(key, meta):
    gcm_open(meta.keys(key)[1], meta.nonce, b"", meta.tag, meta.head + meta.entries)


def open_block(key, meta, data, block, size, sizes):
    want = min(BLOCK, size - block * BLOCK)
    i = block % 64
    entry = meta.entries[56 * i:56 * i + 56]
    if not meta.written >> i & 1:
        return bytes(want)
    at = block // 64 * 266240 + 4096 + i * BLOCK
    parts = [(meta.keys(key)[0], entry[:12], entry[12:28])]
    if meta.previous >> i & 1:
        if not any(entry[28:]):
            parts.append(None)
        else:
            salt = meta.previous_salt if meta.resalt else meta.salt
            parts.append((meta.keys(key, salt)[0], entry[28:40], entry[40:56]))
    for part in parts:
        if part is None:
            need(not any(data[at:at + want]), f"block {block} does not authenticate")
            return bytes(want)
        for length in {max(0, min(BLOCK, s - block * BLOCK)) for s in sizes} - {0}:
            aad = struct.pack("<QIBBH", block, length, 1, 1, 0)
            try:
                return gcm_open(part[0], part[1], data[at:at + length], part[2], aad)[:want].ljust(want, b"\0")
            except InvalidTag:
                pass
    raise Bad(f"block {block} does not authenticate")


# --- 6. Names

class Names:
    def __init__(self, key, encoding):
        self.siv, self.long = AESSIV(expand(key, "nam", n=64)), expand(key, "lng")
        base32 = encoding == "base32"
        self.limit, self.letter, self.write, self.read = (142, "l", b32, unb32) if base32 else (174, "L", b64, unb64)

    def pad(self, plain):
        padded = plain + b"\x80"
        padded += bytes(-len(padded) % 16)
        return padded[:self.limit + 1] if len(plain) <= self.limit else padded

    def open(self, text):
        padded = self.siv.decrypt(self.read(text), None)
        plain = padded.rstrip(b"\0")[:-1]
        need(self.pad(plain) == padded, "the padding is not canonical")
        need(0 < len(plain) <= 255 and not set(b"\0/") & set(plain) and plain not in (b".", b".."), "not a name")
        return plain

    def long_text(self, plain):
        return self.write(hmac.digest(self.long, plain, "sha256")[:24])

    def decode(self, stored, read_side):
        """`read_side` gives the target of a side symlink"""
        if stored[0] == self.letter and len(stored) == 1 + len(self.write(bytes(24))):
            plain = self.open(read_side(".kmsfs.n." + stored[1:]))
            need(len(plain) > self.limit and self.letter + self.long_text(plain) == stored, "wrong side symlink")
            return plain
        plain = self.open(stored)
        need(len(plain) <= self.limit, "a long name stored whole")
        return plain


# --- 7. Symlinks

def open_sealed(key, data, aad):
    need(len(data) >= 28, "sealed bytes are too short")
    return gcm_open(key, data[:12], data[12:-16], data[-16:], aad)


def open_symlink(volume_key, text, read_home):
    """`read_home` gives the bytes of a file in .kmsfs/links"""
    key = expand(volume_key, "lnk")
    home = re.fullmatch(r"L([A-Za-z0-9_-]{22})\.([0-9]{5})", text)
    if not home:
        return open_sealed(key, unb64(text), b"symlink")
    target = open_sealed(key, read_home(home[1]), b"symlink")
    need(len(target) == int(home[2]), "the home holds another target")
    return target


# --- 8. Extended attributes

def open_xattr(key, stored_name, value):
    name = AESSIV(expand(key, "xat", n=64)).decrypt(unb64(stored_name.removeprefix("user.kmsx.")), None)
    return name, open_sealed(expand(key, "xav"), value, name)


# --- 9. The volume

def header_hash(header):
    rest = {k: v for k, v in header.items() if k != "volume_key"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def unlock_header(keys, header):
    need(header["format"] == 1 and header["features"]["incompat"] in ([], ["xts"]), "not a volume of format 1")
    context = {"kmsfs:volume": header["uuid"], "kmsfs:kind": "volume", "kmsfs:header": header_hash(header)}
    return open_blob(keys, unb64(header["volume_key"]), {**context, **header["context"]})


class Tree:
    def __init__(self, keys, root):
        self.keys, self.root = keys, root
        with open(os.path.join(root, ".kmsfs/volume.json"), encoding="utf-8") as file:
            self.header = json.load(file)
        self.volume_key = unlock_header(keys, self.header)

    def envelope(self, path):
        """the envelope of a file or directory, or None"""
        if self.header["placement"] == "xattr":
            there = "user.kmsf" in os.listxattr(path)
            return os.getxattr(path, "user.kmsf", follow_symlinks=False) if there else None
        directory, name = os.path.split(path)
        sidecar = ".kmsfs.e." + hashlib.sha256(name.encode()).digest()[:20].hex()
        sidecar = os.path.join(path, ".kmsfs.k") if os.path.isdir(path) else os.path.join(directory, sidecar)
        return (read(sidecar) if os.path.exists(sidecar) else b"") or None

    def unlock(self, path, parent, fits=lambda key: True):
        envelope = self.envelope(path)
        need(envelope, f"{path}: no envelope")
        kind, key = unlock(self.keys, self.header["uuid"], self.header["context"], envelope, parent, fits)
        need(not kind.endswith("xts") or "xts" in self.header["features"]["incompat"], "XTS in a volume that says to have none")
        return kind, key

    def side(self, path):
        """the sealed form of a long name"""
        return os.readlink(path) if self.header["placement"] == "xattr" else read(path).decode()

    def xattrs(self, path, key):
        names = [n for n in os.listxattr(path, follow_symlinks=False) if n.startswith("user.kmsx.")]
        return dict(open_xattr(key, n, os.getxattr(path, n, follow_symlinks=False)) for n in names)

    def walk(self, path=None, plain=b"", parent=bytes(16)):
        """yields plain path, type, content, extended attributes"""
        path = path or self.root
        kind, key = self.unlock(path, parent)
        need(kind in ("directory", "directory-xts"), "a directory with the envelope of a file")
        yield plain or b".", "directory", None, self.xattrs(path, key)
        names, own_id = Names(key, self.header["names"]), expand(key, "did", n=16)
        for stored in sorted(os.listdir(path)):
            if stored.startswith(".kmsfs") or (path == self.root and stored == "lost+found"):
                continue
            child = os.path.join(path, stored)
            name = names.decode(stored, lambda side: self.side(os.path.join(path, side)))
            child_plain = plain + b"/" + name if plain else name
            mode = os.lstat(child).st_mode
            if stat.S_ISDIR(mode):
                yield from self.walk(child, child_plain, own_id)
            elif stat.S_ISLNK(mode):
                home = lambda name: read(os.path.join(self.root, ".kmsfs/links", name))
                yield child_plain, "symlink", open_symlink(self.volume_key, os.readlink(child), home), {}
            elif stat.S_ISREG(mode):
                yield child_plain, "file", *self.open(child, own_id)
            else:
                yield child_plain, "special", None, {}

    def open(self, path, parent):
        data = read(path)
        if not data and not self.envelope(path):
            return b"", {}
        # Of two keys in a sidecar the commitment tells the right one. No volume with sidecars has XTS files.
        has_page = self.header["placement"] == "sidecar" and data
        fits = lambda key: not has_page or hmac.compare_digest(data[80:112], expand(key, "com"))
        kind, key = self.unlock(path, parent, fits)
        need(kind.startswith("file-"), f"{path}: a file with the envelope of a directory")
        content = open_file(key, data) if kind == "file-gcm" else open_xts(key, data)
        return content, self.xattrs(path, key)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def read_keys(path):
    with open(path, encoding="utf-8") as file:
        return {(k["number"], k["version"]): bytes.fromhex(k["secret"]) for k in json.load(file)["keys"]}


def show(tree):
    for path, kind, content, xattrs in tree.walk():
        line = {"path": path.hex() if b"\xff" in path else path.decode("utf-8", "backslashreplace"), "type": kind}
        if kind == "symlink":
            line["target"] = content.decode("utf-8", "backslashreplace")
        elif kind == "file":
            line.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        if xattrs:
            line["xattrs"] = {n.decode("utf-8", "backslashreplace"): v.hex() for n, v in sorted(xattrs.items())}
        print(json.dumps(line))


def extract(tree, out):
    for path, kind, content, xattrs in tree.walk():
        to = os.path.join(os.fsencode(out), path)
        if kind == "directory":
            os.mkdir(to) if path != b"." else os.makedirs(to)
        elif kind == "symlink":
            os.symlink(content, to)
        elif kind == "file":
            with open(to, "xb") as file:
                file.write(content)
        for name, value in xattrs.items():
            os.setxattr(to, b"user." + name, value)


# --- Vectors

def check(vectors):
    """Recomputes what is in a vectors file; every group of vectors has one line here."""
    h = bytes.fromhex
    for v in vectors.get("gcm", []):
        sealed = h(v["ciphertext"]), h(v["tag"])
        need(gcm_open(h(v["key"]), h(v["nonce"]), *sealed, h(v["aad"])) == h(v["plaintext"]), v["name"])
    for v in vectors.get("hkdf_expand", []):
        need(HKDFExpand(SHA256(), v["length"], h(v["info"])).derive(h(v["prk"])) == h(v["okm"]), v["name"])
    for v in vectors.get("siv", []):
        need(AESSIV(h(v["key"])).decrypt(h(v["sealed"]), None) == h(v["plaintext"]), v["name"])
    for v in vectors.get("derive", []):
        need(expand(h(v["parent"]), v["label"], h(v["context"]), len(v["key"]) // 2) == h(v["key"]), v["label"])
    for v in vectors.get("context", []):
        need(canonical(v["pairs"]) == h(v["canonical"]), f"context {v['pairs']}")
    keys = {(k["number"], k["version"]): h(k["secret"]) for k in vectors.get("keys", [])}
    for v in vectors.get("envelope", []):
        kind, key = unlock(keys, v["volume"], v["labels"], h(v["envelope"]), h(v["parent"]))
        need((kind, key) == (v["kind"], h(v["data_key"])), v["name"])
    for v in vectors.get("mirror", []):
        context = {"kmsfs:volume": v["volume"], "kmsfs:kind": "mirror-" + v["kind"], **v["labels"]}
        need(open_blob(keys, h(v["mirror"])[1:], context) == h(v["data_key"]), v["name"])
    for v in vectors.get("name", []):
        names = Names(h(v["directory_key"]), v["encoding"])
        need(names.decode(v["stored"], {v.get("side"): v.get("target")}.get) == h(v["plain"]), f"name {v['stored']}")
    for v in vectors.get("symlink", []):
        home = {v.get("home_name"): h(v.get("home", ""))}.get
        need(open_symlink(h(v["volume_key"]), v["text"], home) == h(v["target"]), f"symlink {v['text'][:40]}")
    for v in vectors.get("xattr", []):
        opened = open_xattr(h(v["owner_key"]), v["stored_name"], h(v["stored_value"]))
        need(opened == (h(v["name"]), h(v["value"])), f"xattr {v['stored_name']}")
    for v in vectors.get("file", []):
        try:
            content = open_file(h(v["data_key"]), unpack(v["backing"]))
        except (Bad, InvalidTag):
            content = None
        need(content == (None if v["content"] is None else unpack(v["content"])), v["name"])
    for v in vectors.get("xts_file", []):
        need(open_xts(h(v["data_key"]), h(v["backing"])) == h(v["content"]), v["name"])
    for v in vectors.get("header", []):
        need(header_hash(v["header"]) == v["hash"], v["name"])
        need(unlock_header(keys, v["header"]) == h(v["volume_key"]), v["name"])


def unpack(runs):
    """Long bytes in a vectors file: a list of hex strings and of [hex, times]."""
    return b"".join(bytes.fromhex(r) if isinstance(r, str) else bytes.fromhex(r[0]) * r[1] for r in runs)


def main(verb, *args):
    if verb == "check":
        for path in args:
            with open(path, encoding="utf-8") as file:
                vectors = json.load(file)
            check(vectors)
            print(f"{path}: {sum(len(v) for v in vectors.values() if isinstance(v, list))} vectors are right")
        return
    tree = Tree(read_keys(args[0]), args[1])
    show(tree) if verb == "list" else extract(tree, args[2])


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("list", "extract", "check"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
