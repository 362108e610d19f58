#!/usr/bin/env bash
# Makes the sample tree beside this script: two instances on one base image, as Nova lays them out under
# /var/lib/nova/instances. Run as root (the expected digests come from the kernel's own mount and recovery).
#
#   base      GPT, one ext4 root (1 KiB blocks, metadata_csum, 64bit, SELinux labels on everything)
#   web-1     its journal holds two transactions that never reached the filesystem; modern layout
#   web-2     shut down cleanly; older layout with libvirt.xml
#
# Every UUID, hash seed and time is fixed: the same versions of the tools give the same bytes. The files in git were made by
# e2fsprogs 1.47.0, qemu-img 7.2, gdisk 1.0.9 and genisoimage 1.1.11.
set -euo pipefail
umask 022
cd "$(dirname "$0")"
export LC_ALL=C TZ=UTC PATH=$PATH:/usr/sbin:/sbin

NOVA=/var/lib/nova/instances
IMAGE_ID=2b1d6f0e-5c3a-4e0f-9d53-7a4f0d6c1e11
BASE=$(printf %s "$IMAGE_ID" | sha1sum | cut -d' ' -f1)
WEB1=5d0c7c2e-8f0b-4f3d-9a51-6b1d2f3a4c01
WEB2=9a7e1b44-2c6d-4c58-8f0e-3e5b7d9f1a02
ROOT_UUID=0f6e3a52-41c8-4d6a-b1a7-2f9d8c7b6a03
START=64          # sector where the root partition starts
BLOCKS=2200       # its size, in KiB
DISK=1073741824   # the flavour's root disk, in bytes

work=$(mktemp -d)
mounted=
finish() {
    [ -z "$mounted" ] || umount "$mounted"
    rm -rf "$work"
}
trap finish EXIT

# --- what debugfs is told -------------------------------------------------------------------------------------------------------

# debug IMAGE CLOCK: runs the debugfs commands on standard input with the filesystem's clock at CLOCK.
debug() {
    { echo "set_current_time $2"; cat; } >"$work/commands"
    debugfs -w -f "$work/commands" "$1" >"$work/debugfs.log" 2>&1 || { cat "$work/debugfs.log" >&2; exit 1; }
    if grep -v '^debugfs' "$work/debugfs.log" | grep -E 'not found|File exists|[Uu]nknown|Usage|error|Could not' >&2; then
        exit 1
    fi
}

# owned PATH MODE UID GID LABEL: mode, owner, SELinux label.
owned() {
    printf 'sif "%s" mode 0%o\nsif "%s" uid %d\nsif "%s" gid %d\n' "$1" "$2" "$1" "$3" "$1" "$4"
    printf 'system_u:object_r:%s:s0\0' "$5" >"$work/label.$5"
    printf 'ea_set -f %s "%s" security.selinux\n' "$work/label.$5" "$1"
}

# file PATH MODE UID GID LABEL: a file with the content of standard input. debugfs gives it the source's times, so they are set.
file() {
    local source
    source=$(mktemp "$work/content.XXXXXX")
    cat >"$source"
    printf 'write %s "%s"\n' "$source" "$1"
    owned "$1" $((0100000 | $2)) "$3" "$4" "$5"
    dated "$1"
}

dated() {
    for field in atime mtime ctime crtime; do
        printf 'sif "%s" %s %s\nsif "%s" %s_extra 0x%x\n' "$1" "$field" "$clock" "$1" "$field" $((4 * (${#1} * 7919237 % 1000000000)))
    done
}

# directory PATH MODE UID GID LABEL
directory() {
    printf 'mkdir "%s"\n' "$1"
    owned "$1" $((0040000 | $2)) "$3" "$4" "$5"
    dated "$1"
}

symlink() { # PATH TARGET
    printf 'symlink "%s" "%s"\n' "$1" "$2"
    owned "$1" $((0120777)) 0 0 bin_t
    dated "$1"
}

# acl ENTRY…: the bytes of system.posix_acl_access; an entry is TAG:PERMISSIONS:ID (include/uapi/linux/posix_acl_xattr.h).
acl() {
    python3 - "$@" <<'END'
import struct, sys
tags = {"user_obj": 1, "user": 2, "group_obj": 4, "group": 8, "mask": 16, "other": 32}
out = struct.pack("<I", 2)
for entry in sys.argv[1:]:
    tag, perm, *ident = entry.split(":")
    out += struct.pack("<HHI", tags[tag], int(perm), int(ident[0]) if ident else 0xFFFFFFFF)
sys.stdout.buffer.write(out)
END
}

# --- the base image -------------------------------------------------------------------------------------------------------------

clock=20240301120000
fs=$work/base.ext4
truncate -s ${BLOCKS}K "$fs"
E2FSPROGS_FAKE_TIME=1709294400 mkfs.ext4 -q -F -b 1024 -N 128 -J size=1 -m 0 -L root -U "$ROOT_UUID" \
    -O metadata_csum,64bit,^resize_inode,^orphan_file,^metadata_csum_seed \
    -E "lazy_itable_init=0,lazy_journal_init=0,hash_seed=7c1f5b3e-6d2a-4b8c-9e0f-1a2b3c4d5e04" "$fs"

{
    owned / $((0040755)) 0 0 root_t; dated /
    owned /lost+found $((0040700)) 0 0 lost_found_t; dated /lost+found
    for d in dev etc home root srv tmp usr usr/bin usr/share usr/share/doc var var/lib var/log; do
        case $d in tmp) mode=$((01777)) ;; root) mode=$((0700)) ;; *) mode=$((0755)) ;; esac
        directory "/$d" $mode 0 0 "$(case $d in etc) echo etc_t ;; var/log) echo var_log_t ;; usr*) echo usr_t ;; *) echo default_t ;; esac)"
    done
    echo localhost | file /etc/hostname $((0644)) 0 0 hostname_etc_t
    printf 'PRETTY_NAME="Sample Linux 1"\nNAME="Sample Linux"\nID=sample\nVERSION_ID="1"\n' | file /etc/os-release $((0644)) 0 0 etc_t
    printf 'UUID=%s / ext4 defaults 0 1\n' "$ROOT_UUID" | file /etc/fstab $((0644)) 0 0 etc_t
    printf 'root:x:0:0:root:/root:/bin/sh\ndebian:x:1000:1000::/home/debian:/bin/sh\n' | file /etc/passwd $((0644)) 0 0 passwd_file_t
    printf 'root:*:19783:0:99999:7:::\ndebian:!:19783:0:99999:7:::\n' | file /etc/shadow $((0640)) 0 42 shadow_t
    printf '#!/bin/sh\nexec true\n' | file /usr/bin/tool $((0755)) 0 0 bin_t
    printf 'ln /usr/bin/tool /usr/bin/tool-1.0\nsif /usr/bin/tool links_count 2\n'
    seq -f 'Line %g of a manual that nobody has changed since the image was built.' 1 400 | file /usr/share/doc/manual.txt $((0644)) 0 0 usr_t
    seq -f 'Mar  1 12:00:%02g localhost kernel: boot message' 0 59 | file /var/log/boot.log $((0600)) 0 0 var_log_t
    symlink /bin usr/bin
    symlink /etc/mtab ../proc/self/mounts
} | debug "$fs" $clock
e2fsck -fn "$fs" >"$work/fsck.log" 2>&1 || { cat "$work/fsck.log"; exit 1; }

# disk OUT FS: a GPT disk around a root filesystem.
disk() {
    local sectors=$((START + BLOCKS * 2 + 40))
    rm -f "$1"
    truncate -s $((sectors * 512)) "$1"
    sgdisk -a 1 -U 1e0f5a7c-3b2d-4c6e-8f90-a1b2c3d4e505 -n "1:$START:$((START + BLOCKS * 2 - 1))" -t 1:8304 -c 1:root \
        -u 1:4d5e6f70-8192-4a3b-9c5d-6e7f80919a06 "$1" >/dev/null
    dd if="$2" of="$1" bs=512 seek=$START conv=notrunc,sparse status=none
}

# --- web-1: written to disk -----------------------------------------------------------------------------------------------------

clock=20240302081500
cp "$fs" "$work/web-1.flushed"
cafe=$(printf 'caf\351.txt')
python3 - "$work/sparse" <<'END'
import sys
with open(sys.argv[1], "wb") as f:
    for offset in (0, 1 << 20, (5 << 20) + 1024):
        f.seek(offset)
        f.write(b"record at %d\n" % offset * 40)
    f.truncate(8 << 20)
END
acl user_obj:6 user:4:1001 group_obj:4 mask:4 other:0 >"$work/acl.file"
acl user_obj:7 user:7:1001 group_obj:5 mask:7 other:0 >"$work/acl.default"
{
    printf 'rm /etc/hostname\n'
    echo web-1 | file /etc/hostname $((0644)) 0 0 hostname_etc_t
    echo "${WEB1//-/}" | file /etc/machine-id $((0444)) 0 0 machineid_t
    directory /home/debian $((0750)) 1000 1000 user_home_dir_t
    directory /home/debian/.ssh $((0700)) 1000 1000 ssh_home_t
    echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGExampleExampleExampleExampleExampleExample0 debian@sample' |
        file /home/debian/.ssh/authorized_keys $((0600)) 1000 1000 ssh_home_t
    printf 'Call the bank.\nRenew the certificate.\n' | file /home/debian/notes.txt $((0640)) 1000 1000 user_home_t
    printf 'ea_set -f %s /home/debian/notes.txt system.posix_acl_access\n' "$work/acl.file"
    printf 'ea_set /home/debian/notes.txt user.origin "typed in"\n'
    echo 'name in Latin-1' | file "/home/debian/$cafe" $((0644)) 1000 1000 user_home_t
    seq -f 'draft line %g' 1 90 | file /home/debian/draft.txt $((0644)) 1000 1000 user_home_t
    directory /srv/shared $((0770)) 0 1000 public_content_rw_t
    printf 'ea_set -f %s /srv/shared system.posix_acl_default\n' "$work/acl.default"
    printf 'write %s /var/lib/records.db\n' "$work/sparse"
    owned /var/lib/records.db $((0100600)) 0 0 var_lib_t; dated /var/lib/records.db
    printf 'cd /dev\nmknod vda b 253 0\ncd /\n'
    owned /dev/vda $((0060660)) 0 6 fixed_disk_device_t; dated /dev/vda
    printf 'Mar  2 08:15:01 web-1 sshd[611]: Accepted publickey for debian from 192.0.2.7\n' |
        file /var/log/auth.log $((0640)) 0 4 var_log_t
} | debug "$work/web-1.flushed" $clock

# --- web-1: what is only in the journal ----------------------------------------------------------------------------------------------

# First transaction: files come.
clock=20240302093000
cp "$work/web-1.flushed" "$work/web-1.first"
{
    seq -f 'invoice 2024-%04g, paid in cash' 1 120 | file /home/debian/invoice.txt $((0600)) 1000 1000 user_home_t
    printf 'Quarterly report, final version.\n' | file /home/debian/report.txt $((0644)) 1000 1000 user_home_t
    printf 'ea_set -f %s /home/debian/report.txt system.posix_acl_access\n' "$work/acl.file"
    printf 'ln /home/debian/report.txt /srv/shared/report.txt\nsif /home/debian/report.txt links_count 2\n'
    { printf 'Mar  2 08:15:01 web-1 sshd[611]: Accepted publickey for debian from 192.0.2.7\n'
      seq -f 'Mar  2 09:2%g:44 web-1 sshd[702]: Failed password for root from 198.51.100.23' 0 9; } |
        file /var/log/auth.new $((0640)) 0 4 var_log_t
    printf 'rm /var/log/auth.log\nln /var/log/auth.new /var/log/auth.log\nunlink /var/log/auth.new\n'
} | debug "$work/web-1.first" $clock
data=$(for f in /home/debian/invoice.txt /home/debian/report.txt /var/log/auth.log; do
    debugfs -R "blocks $f" "$work/web-1.first" 2>/dev/null; done)

# Second transaction: one goes (as the kernel deletes: no size, no extents), one changes its name, one its mode.
clock=20240302094500
cp "$work/web-1.first" "$work/web-1.second"
invoice=$(debugfs -R 'stat /home/debian/invoice.txt' "$work/web-1.first" 2>/dev/null | sed -n 's/^Inode: \([0-9]*\).*/\1/p')
{
    printf 'rm /home/debian/invoice.txt\nsif <%d> block[0] 0xf30a\n' "$invoice"
    for field in size blocks 'block[3]' 'block[4]' 'block[5]'; do printf 'sif <%d> %s 0\n' "$invoice" "$field"; done
    printf 'ln /home/debian/draft.txt /home/debian/letter.txt\nunlink /home/debian/draft.txt\n'
    printf 'sif /home/debian/letter.txt ctime %s\n' $clock
    printf 'sif /etc/machine-id mode 0100400\n'
} | debug "$work/web-1.second" $clock
e2fsck -fn "$work/web-1.second" >"$work/fsck.log" 2>&1 || { cat "$work/fsck.log"; exit 1; }

# The metadata that differs goes into the journal, one transaction a step; the data went to its place, as in data=ordered.
for image in "$work/web-1.first" "$work/web-1.second"; do
    echo 'feature needs_recovery' | debug "$image" $clock
done
python3 - "$work" $data <<'END'
import sys
work, data = sys.argv[1], {int(b) for b in sys.argv[2:]}
size = 1024
states = [open(f"{work}/web-1.{name}", "rb").read() for name in ("flushed", "first", "second")]
block = lambda state, n: state[n * size : (n + 1) * size]
count = len(states[0]) // size
raw = bytearray(states[0])
for n in data:
    raw[n * size : (n + 1) * size] = block(states[1], n)
open(f"{work}/web-1.ext4", "wb").write(raw)
commands = ["set_current_time 20240302094500", "jo -c"]
for i in (1, 2):
    changed = [n for n in range(count) if n not in data and block(states[i - 1], n) != block(states[i], n)]
    with open(f"{work}/transaction.{i}", "wb") as f:
        for n in changed:
            f.write(block(states[i], n))
    commands.append(f"jw -b {','.join(map(str, changed))} {work}/transaction.{i}")
commands.append("jc")
open(f"{work}/journal.commands", "w").write("\n".join(commands) + "\n")
END
debugfs -w -f "$work/journal.commands" "$work/web-1.ext4" >"$work/debugfs.log" 2>&1
dumpe2fs -h "$work/web-1.ext4" 2>/dev/null | grep -q needs_recovery || { cat "$work/debugfs.log"; exit 1; }

# debugfs dates commit blocks by the host's clock: the transactions' own times instead, and the block's crc32c anew.
python3 - "$work/web-1.ext4" 1709371800 1709372700 <<'END'
import struct, sys
def crc32c(crc, data):
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc
size = 1024
image = bytearray(open(sys.argv[1], "rb").read())
times = [int(t) for t in sys.argv[2:]]
header = lambda kind: b"\xc0\x3b\x39\x98" + struct.pack(">I", kind)
starts = {kind: [at for at in range(0, len(image), size) if image[at : at + 8] == header(kind)] for kind in (2, 4)}
seed = crc32c(0xFFFFFFFF, image[starts[4][0] + 0x30 :][:16])
assert len(starts[2]) == len(times)
for at, time in zip(starts[2], times):
    struct.pack_into(">QI", image, at + 48, time, 0)
    struct.pack_into(">I", image, at + 16, 0)
    struct.pack_into(">I", image, at + 16, crc32c(seed, image[at : at + size]))
open(sys.argv[1], "wb").write(image)
END

# --- web-2 ----------------------------------------------------------------------------------------------------------------------

clock=20240305170000
cp "$fs" "$work/web-2.ext4"
{
    printf 'rm /etc/hostname\n'
    echo web-2 | file /etc/hostname $((0644)) 0 0 hostname_etc_t
    echo "${WEB2//-/}" | file /etc/machine-id $((0444)) 0 0 machineid_t
    seq -f '192.0.2.%g - - "GET / HTTP/1.1" 200' 1 80 | file /var/log/access.log $((0644)) 0 4 var_log_t
    printf 'rm /var/log/boot.log\n'
} | debug "$work/web-2.ext4" $clock
e2fsck -fn "$work/web-2.ext4" >"$work/fsck.log" 2>&1 || { cat "$work/fsck.log"; exit 1; }

# --- the tree -------------------------------------------------------------------------------------------------------------------

rm -rf instances ./*.sha256
mkdir -p instances/_base instances/locks "instances/$WEB1" "instances/$WEB2"
: >"instances/locks/nova-$BASE"
disk "instances/_base/$BASE" "$fs"

# overlay NAME FS: the instance's `disk`, with the 4 KiB clusters that differ from the base and the base's path on its own host.
overlay() {
    local out=instances/$1/disk
    disk "$work/flat" "$2"
    qemu-img create -q -f qcow2 -o cluster_size=4k -b "$PWD/instances/_base/$BASE" -F raw "$out" $DISK
    python3 - "instances/_base/$BASE" "$work/flat" <<'END' >"$work/writes"
import sys
a, b = (open(path, "rb").read() for path in sys.argv[1:])
size = 4096
for at in range(0, len(b), size):
    if a[at : at + size] != b[at : at + size]:
        with open(f"{sys.argv[2]}.{at}", "wb") as f:
            f.write(b[at : at + size].ljust(size, b"\0"))
        print(f"write -q -s {sys.argv[2]}.{at} {at} {size}")
END
    qemu-io -f qcow2 "$out" <"$work/writes" >/dev/null
    rm -f "$work"/flat.*
    qemu-img compare -q -f qcow2 -F raw "$out" "$work/flat"
    qemu-img rebase -q -u -b "$NOVA/_base/$BASE" -F raw "$out"
    printf '{"%s/%s/disk": "qcow2"}' "$NOVA" "$1" >"instances/$1/disk.info"
}
overlay $WEB1 "$work/web-1.ext4"
overlay $WEB2 "$work/web-2.ext4"

# config_drive UUID NAME: as Nova calls genisoimage; then the clock's traces are overwritten.
config_drive() {
    local tree=$work/drive/$2
    mkdir -p "$tree/openstack/latest" "$tree/ec2/latest"
    printf '{"uuid": "%s", "hostname": "%s.novalocal", "name": "%s", "launch_index": 0, "availability_zone": "nova", "admin_pass": "not-a-real-one", "project_id": "c0ffee00c0ffee00c0ffee00c0ffee00", "devices": []}' \
        "$1" "$2" "$2" >"$tree/openstack/latest/meta_data.json"
    printf '#cloud-config\nhostname: %s\n' "$2" >"$tree/openstack/latest/user_data"
    printf '{"hostname": "%s.novalocal", "instance-type": "m1.sample"}' "$2" >"$tree/ec2/latest/meta-data.json"
    find "$tree" -exec touch -h -d '2024-03-02 08:00:00 UTC' {} +
    genisoimage -o "$work/drive.iso" -ldots -allow-lowercase -allow-multidot -l -publisher "OpenStack Nova 26.2.2" -quiet -J -r -no-pad \
        -V config-2 "$tree" 2>"$work/genisoimage.log" || { cat "$work/genisoimage.log"; exit 1; }
    python3 - "$work/drive.iso" "instances/$1/disk.config" <<'END'
import re, sys
image = bytearray(open(sys.argv[1], "rb").read())
when = bytes([124, 3, 2, 8, 0, 0, 0])
# Rock Ridge TF entries: modification, access and attribute change, seven bytes each.
for entry in re.finditer(rb"TF\x1a\x01\x0e", bytes(image)):
    image[entry.end() : entry.end() + 21] = when * 3
# Volume descriptors: creation, modification, expiration, effective.
sector = 16
while image[sector * 2048] != 255:
    for field in (813, 830, 864):
        image[sector * 2048 + field : sector * 2048 + field + 17] = b"2024030208000000\0"
    sector += 1
# Directory records: the date of each, in every directory of both trees.
def records(extent, size, seen):
    at, end = extent * 2048, extent * 2048 + size
    while at < end:
        length = image[at]
        if length == 0:
            at = (at // 2048 + 1) * 2048
            continue
        image[at + 18 : at + 25] = when
        child = int.from_bytes(image[at + 2 : at + 6], "little")
        if image[at + 25] & 2 and child not in seen:
            seen.add(child)
            records(child, int.from_bytes(image[at + 10 : at + 14], "little"), seen)
        at += length
for sector in range(16, sector):
    root = sector * 2048 + 156
    if image[sector * 2048] in (1, 2):
        image[root + 18 : root + 25] = when
        extent = int.from_bytes(image[root + 2 : root + 6], "little")
        records(extent, int.from_bytes(image[root + 10 : root + 14], "little"), {extent})
open(sys.argv[2], "wb").write(image)
END
}
config_drive $WEB1 web-1
config_drive $WEB2 web-2

printf 'Sample Linux 1 web-1 ttyS0\n\nweb-1 login: ' >"instances/$WEB1/console.log"
printf 'Sample Linux 1 web-2 ttyS0\n\nweb-2 login: \nreboot: Power down\n' >"instances/$WEB2/console.log"

cat >"instances/$WEB2/libvirt.xml" <<END
<domain type="kvm">
  <uuid>$WEB2</uuid>
  <name>instance-0000274b</name>
  <memory>524288</memory>
  <vcpu>1</vcpu>
  <metadata>
    <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.0">
      <nova:package version="15.1.5"/>
      <nova:name>web-2</nova:name>
      <nova:creationTime>2024-03-02 08:00:00</nova:creationTime>
      <nova:flavor name="m1.sample">
        <nova:memory>512</nova:memory>
        <nova:disk>1</nova:disk>
        <nova:swap>0</nova:swap>
        <nova:ephemeral>0</nova:ephemeral>
        <nova:vcpus>1</nova:vcpus>
      </nova:flavor>
      <nova:owner>
        <nova:user uuid="0123456789abcdef0123456789abcdef">alice</nova:user>
        <nova:project uuid="c0ffee00c0ffee00c0ffee00c0ffee00">sample</nova:project>
      </nova:owner>
      <nova:root type="image" uuid="$IMAGE_ID"/>
    </nova:instance>
  </metadata>
  <devices>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" cache="none"/>
      <source file="$NOVA/$WEB2/disk"/>
      <target bus="virtio" dev="vda"/>
    </disk>
    <disk type="file" device="cdrom">
      <driver name="qemu" type="raw" cache="none"/>
      <source file="$NOVA/$WEB2/disk.config"/>
      <target bus="ide" dev="hdd"/>
    </disk>
    <interface type="bridge">
      <mac address="fa:16:3e:00:27:4b"/>
      <source bridge="brq0f6e3a52-41"/>
      <target dev="tap4d5e6f70-81"/>
    </interface>
  </devices>
</domain>
END

# --- what must come out ---------------------------------------------------------------------------------------------------------

# expect FS OUT: the kernel recovers a copy of the filesystem and mounts it; then every file is hashed.
expect() {
    cp "$1" "$work/recovered"
    mkdir -p "$work/mnt"
    mount -o loop "$work/recovered" "$work/mnt"
    mounted=$work/mnt
    (cd "$work/mnt" && find . -type f -printf '%P\0' | sort -z | xargs -0 sha256sum) >"$2"
    umount "$work/mnt"
    mounted=
}
expect "$work/web-1.ext4" expect.sha256
expect "$work/web-2.ext4" expect-web-2.sha256

find instances -exec touch -h -d '2024-03-06 12:00:00 UTC' {} +
du -sb --apparent-size instances | cut -f1
