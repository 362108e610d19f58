#!/usr/bin/env bash
# Times coldread beside its peers on one instances tree, in rotation (A B C A B C …) with a warm page cache, and prints
# medians and ratios as the README's table has them.
#
#   sudo benches/peers.sh TREE [GROUP…]       groups: image null list extract share cat (default: all)
#
# TREE is a directory with `instances/<uuid>/disk` on `instances/_base/<sha1>` (one ext4 root in partition 1), and, for
# the compressed bases, `variants/{zlib,zstd}/…` of the same shape. N=5 repeats; OUT is the scratch directory for copies;
# ONLY is a regular expression of the jobs that are run.
set -euo pipefail
export LC_ALL=C.UTF-8
TREE=$(cd "${1:?usage: peers.sh TREE [GROUP…]}" && pwd); shift
GROUPS_WANTED=${*:-image null list extract share cat}
HERE=$(cd "$(dirname "$0")/.." && pwd)
N=${N:-5}
OUT=${OUT:-$TREE/out}
S=$TREE/scratch
COLDREAD=${COLDREAD:-$HERE/target/release/coldread}
[ -x "$COLDREAD" ] || (cd "$HERE" && cargo build --release)
mkdir -p "$S/mnt"

DISK=$(ls "$TREE"/instances/*/disk | head -n1)
DIR=$(dirname "$DISK")
UUID=$(basename "$DIR")
FLAT=$TREE/flat.raw
[ -f "$FLAT" ] || qemu-img convert -O raw "$DISK" "$FLAT"
SECTOR=$(sfdisk -J "$FLAT" 2>/dev/null | jq '[.partitiontable.partitions[] | select(.node | endswith("raw1"))][0].start')
OFF=$((SECTOR * 512))
SIZE=$(qemu-img info --output=json "$DISK" | jq '."virtual-size"')
LEAVE="--ticket BENCH --approved-by nobody --reason measuring"
export COLDREAD DISK DIR FLAT OFF SECTOR SIZE OUT S TREE UUID LEAVE
export XDG_STATE_HOME=$S/state

mounted() { # mounted COMMAND…: with the flat file's root mounted at $S/mnt by the kernel
    local device
    device=$(losetup -r -f --show -o "$OFF" "$FLAT")
    mount -o ro,noload "$device" "$S/mnt"
    "$@"
    umount "$S/mnt"
    losetup -d "$device"
}
one_pass() { python3 "$S/onepass.py" 2 "$S/mnt$1" "$OUT" "$S/sums"; }
listing() { find "$S/mnt" -xdev -printf '%p\0%m %U %G %s %T@ %A@ %C@ %i %n %l\n' >"$OUT/list"; }
sums() { (cd "$1" && find . -type f -print0 | xargs -0 "${2:-sha256sum}" >"$S/sums"); }
export -f mounted one_pass listing sums

# Copies a tree and hashes it in the same pass, with two processes: what a careful operator's script can do at best.
cat >"$S/onepass.py" <<'PY'
import hashlib, os, stat, sys
jobs, src, dst, sums = int(sys.argv[1]), os.fsencode(sys.argv[2]), os.fsencode(sys.argv[3]), sys.argv[4]
ZERO = bytes(1 << 20)
def copy(source, target):
    digest, at = hashlib.sha256(), 0
    with open(source, "rb", 0) as i, open(target, "xb", 0) as o:
        while block := i.read(1 << 20):
            digest.update(block)
            if block != ZERO[:len(block)]:
                os.pwrite(o.fileno(), block, at)
            at += len(block)
        o.truncate(at)
    return digest.hexdigest()
files, linked = [], set()
for at, dirs, names in os.walk(src):
    here = os.path.relpath(at, src)
    for name in dirs + names:
        rel = os.path.normpath(os.path.join(here, name))
        st = os.lstat(os.path.join(src, rel))
        if stat.S_ISDIR(st.st_mode):
            os.mkdir(os.path.join(dst, rel), 0o700)
        elif stat.S_ISREG(st.st_mode) and (st.st_nlink == 1 or st.st_ino not in linked):
            linked.add(st.st_ino)
            files.append(rel)
def work(k):
    with open("%s.%d" % (sums, k), "wb") as out:
        for rel in files[k::jobs]:
            digest = copy(os.path.join(src, rel), os.path.join(dst, rel))
            out.write(digest.encode() + b"  " + rel + b"\n")
for k in range(1, jobs):
    if os.fork() == 0:
        work(k)
        os._exit(0)
work(0)
for _ in range(1, jobs):
    os.wait()
PY

declare -A COMMAND GROUP
NAMES=()
add() { NAMES+=("$2"); GROUP[$2]=$1; COMMAND[$2]=$3; }

add image 'openssl dgst -sha256 flat.raw'    'openssl dgst -sha256 "$FLAT"'
add image 'convert, then openssl'            'qemu-img convert -m 16 -W -O raw "$DISK" "$OUT/o" && openssl dgst -sha256 "$OUT/o"'
add image 'coldread image'                   '"$COLDREAD" -q image "$DIR" --to "$OUT/o" $LEAVE'
add image 'qemu-img convert -m 16 -W'        'qemu-img convert -m 16 -W -O raw "$DISK" "$OUT/o"'
add image 'coldread image --no-hash'         '"$COLDREAD" -q image "$DIR" --no-hash --to "$OUT/o" $LEAVE'
for v in zlib zstd; do
    [ -d "$TREE/variants/$v" ] || continue
    add null "qemu-img $v base to null" \
        "qemu-img convert -m 16 -W -n --target-image-opts -f qcow2 \"\$TREE/variants/$v/\$UUID/disk\" driver=null-co,size=\$SIZE"
    add null "coldread $v base to null" \
        "\"\$COLDREAD\" -q image \"\$TREE/variants/$v/\$UUID/disk\" --no-hash --to - \$LEAVE >/dev/null"
done
add list 'fls -r -p -m / flat.raw'           'fls -r -p -u -m / -o "$SECTOR" -f ext4 "$FLAT" >"$OUT/list"'
add list 'kernel mount + find -printf'       'mounted listing'
add list 'coldread ls -lR --json'            '"$COLDREAD" -q --json ls -lR "$DIR" --volume 1 / $LEAVE >"$OUT/list"'
add extract 'kernel mount + one pass, 2 processes' 'mounted one_pass /'
add extract 'tsk_recover + sha256sum'        'tsk_recover -a -o "$SECTOR" -f ext4 "$FLAT" "$OUT" && sums "$OUT"'
add extract 'coldread extract /'             '"$COLDREAD" -q extract "$DIR" --volume 1 / --to "$OUT/x" $LEAVE'
add share 'debugfs rdump + sha256sum'        'debugfs -R "rdump /usr/share $OUT" "$FLAT?offset=$OFF" 2>/dev/null; sums "$OUT"'
add share 'kernel mount + one pass, 2 processes ' 'mounted one_pass /usr/share'
add share 'coldread extract /usr/share'      '"$COLDREAD" -q extract "$DIR" --volume 1 /usr/share --to "$OUT/x" $LEAVE'
add cat 'debugfs cat flat.raw'               'debugfs -R "cat /etc/hostname" "$FLAT?offset=$OFF"'
add cat 'fcat flat.raw'                      'fcat -o "$SECTOR" -f ext4 /etc/hostname "$FLAT"'
add cat 'coldread cat'                       '"$COLDREAD" -q cat "$DIR" --volume 1 /etc/hostname $LEAVE'

# Every job finds its images in the page cache.
cat "$FLAT" "$DISK" "$TREE"/instances/_base/* "$TREE"/variants/z*/_base/* >/dev/null 2>&1 || true
RESULTS=$S/results
: >"$RESULTS"
for group in $GROUPS_WANTED; do
    for ((i = 0; i < N; i++)); do
        for name in "${NAMES[@]}"; do
            [ "${GROUP[$name]}" = "$group" ] && [[ $name =~ ${ONLY:-.} ]] || continue
            rm -rf "$OUT"; mkdir -p "$OUT"
            case $group in image | extract | share) sync -f "$OUT" ;; esac
            start=$EPOCHREALTIME
            status=0
            command time -o "$S/time" -f '%M' bash -c "${COMMAND[$name]}" >/dev/null 2>"$S/stderr" || status=$?
            end=$EPOCHREALTIME
            printf '%s\t%s\t%s\t%s\t%s\n' "$group" "$name" "$(awk -v a="$start" -v b="$end" 'BEGIN{print b-a}')" \
                "$(tail -n1 "$S/time")" "$status" >>"$RESULTS"
            [ "$status" = 0 ] || { echo "$name: exit $status" >&2; head -n 5 "$S/stderr" >&2; }
        done
    done
done
rm -rf "$OUT"

python3 - "$RESULTS" "$(uname -m), $(nproc) cores, $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n1)" <<'PY'
import statistics, sys
runs, order = {}, []
for line in open(sys.argv[1]):
    group, name, seconds, rss, status = line.rstrip("\n").split("\t")
    if (group, name) not in runs:
        order.append((group, name))
    runs.setdefault((group, name), []).append((float(seconds), int(rss), int(status)))
median = lambda key: statistics.median(r[0] for r in runs[key])
print(f"Medians of {len(next(iter(runs.values())))} runs on {sys.argv[2]}\n")
print("| job | seconds | of the largest process, MiB | coldread's time to it |\n|---|---|---|---|")
for key in order:
    # Each peer is held against the coldread row of its group that follows it.
    later = [k for k in order[order.index(key):] if k[0] == key[0] and k[1].startswith("coldread")]
    ratio = "" if key[1].startswith("coldread") or not later else "%.2f" % (median(later[0]) / median(key))
    print("| %s | %.3f | %.1f | %s |" % (key[1], median(key), max(r[1] for r in runs[key]) / 1024, ratio))
PY
