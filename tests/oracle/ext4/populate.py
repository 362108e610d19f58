"""Fills a directory with everything that a file on ext4 can be. What the filesystem refuses is left out.

populate.py DIR ENTRIES [small]: ENTRIES is how many names the large directory gets; `small` leaves out what mke2fs
cannot copy into blocks of 1 KiB.
"""

import errno
import os
import random
import socket
import struct
import subprocess
import sys

root, entries = os.fsencode(sys.argv[1]), int(sys.argv[2])
small = "small" in sys.argv
random.seed(20)
os.chdir(root)
os.umask(0o022)

# What a filesystem may refuse: too large, no feature for it, no space left for attributes.
REFUSALS = (errno.EFBIG, errno.EOPNOTSUPP, errno.ENOSPC, errno.ERANGE, errno.E2BIG, errno.EINVAL, errno.EOVERFLOW, errno.EPERM, errno.ENAMETOOLONG)


def attempt(f, *args, **kwargs):
    try:
        return f(*args, **kwargs)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise


def write(name, data, mode="wb"):
    with open(name, mode) as f:
        f.write(data)


for size in (0, 1, 59, 60, 61, 100, 130, 156, 161, 1023, 1024, 4095, 4096, 4097, 65537, 300003):
    write(b"size-%d" % size, random.randbytes(size))
os.mkdir(b"empty")
os.makedirs(b"deep/" + b"/".join(b"%d" % i for i in range(30)))
write(b"deep/0/1/2/file", b"deep")

# Names.
os.mkdir(b"names")
for name in (b"x" * 255, b"\xff\xfe not utf-8", "äöü 日本語 😀".encode(), b" ", b"new\nline", b"tab\t\\", b"..."):
    write(b"names/" + name, name)

# Maps: sparse, far away, in 900 pieces, allocated and not written.
with open(b"sparse", "wb") as f:
    for at in (0, 70_000, 5_000_000, 40_000_000):
        f.seek(at)
        f.write(b"here %d" % at)
    f.truncate(50_000_001)
    if small:
        # mke2fs 1.47.0 ends a copy with the last block of data.
        os.pwrite(f.fileno(), b"!", 50_000_000)
with open(b"huge", "wb", buffering=0) as f:
    # More than fits into the inode: a file that grows from there by truncation alone is damaged by kernels to 6.18.
    f.write(b"begin" * 1000)
    for size in (1 << 30,) if small else (1 << 40, 1 << 34, 1 << 33):
        try:
            f.truncate(size)
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            continue
        for at in (size // 4, size // 2 + 12345, size - 4096):
            attempt(os.pwrite, f.fileno(), b"island at %d" % at, at)
        break
block = os.statvfs(b".").f_bsize
pieces = 900 if block <= 4096 else 60
with open(b"pieces", "wb") as f:
    for i in range(pieces):
        f.seek(2 * i * block)
        f.write(random.randbytes(block))
with open(b"unwritten", "wb") as f:
    if not small and attempt(os.posix_fallocate, f.fileno(), 0, 400_000) is None:
        f.seek(100_000)
        f.write(b"written" * 1000)
with open(b"punched", "wb") as f:
    f.write(random.randbytes(200_000))
subprocess.run(["fallocate", "-p", "-o", "20000", "-l", "100000", b"punched"], stderr=subprocess.DEVNULL)
with open(b"beyond", "wb") as f:
    f.write(b"ten bytes.")
subprocess.run(["fallocate", "-n", "-l", "100000", b"beyond"], stderr=subprocess.DEVNULL)

# Links.
for length in (1, 59, 60, 61, 120, 255, 1000) + (() if small else (4095,)):
    attempt(os.symlink, b"t" * length, b"link-%d" % length)
os.symlink(b"\xff\xfe/../names", b"link-odd")
os.link(b"size-100", b"names/hard")
os.link(b"size-100", b"deep/hard")

# Modes, owners, devices.
for mode in (0o000, 0o4755, 0o2755, 0o1777, 0o7777):
    name = b"mode-%o" % mode
    write(name, b"")
    os.chmod(name, mode)
write(b"owned", b"")
os.chown(b"owned", 70_000, 4_000_000_000)
for name, kind, dev in (
    (b"null", 0o020000, os.makedev(1, 3)),
    (b"disk", 0o060000, os.makedev(8, 17)),
    (b"wide", 0o060000, os.makedev(259, 70_000)),
    (b"minor", 0o020000, os.makedev(4, 300)),
):
    os.mknod(name, kind | 0o640, dev)
os.mkfifo(b"fifo")
socket.socket(socket.AF_UNIX).bind(b"socket")

# Attributes: short, in a block, many, longer than a block, labels, ACLs.
def acl(*items):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *item) for item in items)


none = 0xFFFFFFFF
entry = acl((1, 6, none), (2, 4, 1000), (2, 7, 70_000), (4, 4, none), (8, 5, 2000), (16, 7, none), (32, 0, none))
os.mkdir(b"attributes")
os.chdir(b"attributes")
for name in (b"one", b"block", b"many", b"long", b"label", b"acl", b"empty", b"trusted"):
    write(name, name)
attempt(os.setxattr, b"one", b"user.origin", b"here")
attempt(os.setxattr, b"block", b"user.block", random.randbytes(500))
attempt(os.setxattr, b"empty", b"user.empty", b"")
for i in range(10 if small else 30):
    attempt(os.setxattr, b"many", b"user.number-%d" % i, b"value %d" % i)
for size in () if small else (3000, 20_000, 60_000):
    attempt(os.setxattr, b"long", b"user.long-%d" % size, random.randbytes(size))
attempt(os.setxattr, b"label", b"security.selinux", b"system_u:object_r:etc_t:s0\0")
attempt(os.setxattr, b"trusted", b"trusted.overlay.opaque", b"y")
attempt(os.setxattr, b"acl", b"system.posix_acl_access", entry)
os.mkdir(b"dir")
attempt(os.setxattr, b"dir", b"system.posix_acl_default", entry)
attempt(os.setxattr, b"dir", b"user.on-a-directory", b"yes")
write(b"dir/inherits", b"")
os.symlink(b"one", b"link")
attempt(os.setxattr, b"link", b"trusted.on-a-link", b"yes", follow_symlinks=False)
os.chdir(root)
for flag, name in (("+d", b"nodump"), ("+A", b"noatime"), ("+a", b"append")):
    write(name, b"flag")
    subprocess.run(["chattr", flag, name], check=True)

# Directories: small and large, and one from which much was deleted.
for name, count in ((b"few", 20), (b"large", entries), (b"holes", entries // 4)):
    os.mkdir(name)
    for i in range(count):
        write(b"%s/entry number %d" % (name, i), b"")
for i in range(0, entries // 4, 3):
    os.unlink(b"holes/entry number %d" % i)

# Times, last: seconds and nanoseconds.
for name, seconds in (
    (b"1901", -2_147_483_648),
    (b"1960", -315_619_200),
    (b"1970", 0),
    (b"2038", 2_147_483_648),
    (b"2300", 10_413_792_000),
    (b"2446", 15_032_385_535),
):
    write(b"time-" + name, b"")
    os.utime(b"time-" + name, ns=(seconds * 10**9 + 123_456_789, seconds * 10**9 + 987_654_321))
