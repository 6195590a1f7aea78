"""The kernel's file encryption, asked for with its own ioctls (Documentation/filesystems/fscrypt.rst)."""

import fcntl
import os
import struct

# _IOWR('f', 23, struct fscrypt_add_key_arg), which is 80 bytes before the key itself.
ADD_KEY = (3 << 30) | (80 << 16) | (ord("f") << 8) | 23
# _IOR('f', 19, struct fscrypt_policy_v1), which is 12 bytes; version 2 is told by its first byte.
SET_POLICY = (2 << 30) | (12 << 16) | (ord("f") << 8) | 19
# _IOWR('f', 22, __u8[9]).
GET_POLICY_EX = (3 << 30) | (9 << 16) | (ord("f") << 8) | 22

BY_IDENTIFIER = 2
AES_256_XTS, AES_256_CTS, PAD_32 = 1, 4, 3


def add_key(mount, key):
    """Gives the filesystem at `mount` a master key of 64 bytes; its identifier."""
    argument = bytearray(struct.pack("=II32sIII28s", BY_IDENTIFIER, 0, b"", len(key), 0, 0, b"") + key)
    folder = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(folder, ADD_KEY, argument, True)
    finally:
        os.close(folder)
    return bytes(argument[8:24])


def encrypt(directory, identifier):
    """Sets a version 2 policy on an empty directory, and reads it back."""
    policy = struct.pack("=BBBB4s16s", 2, AES_256_XTS, AES_256_CTS, PAD_32, b"", identifier)
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(folder, SET_POLICY, policy)
        answer = bytearray(struct.pack("=Q24s", 24, b""))
        fcntl.ioctl(folder, GET_POLICY_EX, answer, True)
    finally:
        os.close(folder)
    if bytes(answer[8:32]) != policy:
        raise OSError(f"{directory}: the kernel did not take the policy")
