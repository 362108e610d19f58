//! Floors 2 and 3: disks of chains.

use std::path::Path;

use coldread::block::cache::Cache;
use coldread::chain::gate::Gate;
use coldread::chain::{self, Chain};
use coldread::effort::Effort;

use crate::support::laws::laws;
use crate::support::{need, shell, temp};

fn open(path: &Path) -> Chain {
    let gate = Gate::around(path, &[]).unwrap();
    chain::open(path, None, &gate, &Cache::new(4 << 20), &Effort::default()).unwrap()
}

/// A base that is raw and short, a compressed layer, one with zero clusters, and one with subclusters on top.
#[test]
fn a_chain_of_every_kind() {
    if !need(&["qemu-img", "qemu-io"]) {
        return;
    }
    let dir = temp();
    shell(
        r#"cd "$1"
        head -c 3000000 /dev/urandom > base.raw
        truncate -s 5000000 base.raw
        head -c 100000 /dev/urandom | tr '\0-\177' ab | dd of=base.raw bs=1 seek=4000000 conv=notrunc status=none
        qemu-img create -q -f qcow2 -b base.raw -F raw -o compression_type=zstd one.qcow2 7000000
        qemu-io -c 'write -c -P 7 64k 128k' -c 'write -c -P 9 6M 64k' one.qcow2 >/dev/null
        qemu-img create -q -f qcow2 -b one.qcow2 -F qcow2 -o cluster_size=4k two.qcow2 9000000
        qemu-io -c 'write -z 1M 100k' -c 'write -P 3 1100k 300k' -c 'discard 128k 64k' two.qcow2 >/dev/null
        qemu-img snapshot -c before two.qcow2
        qemu-io -c 'write -P 5 0 2M' two.qcow2 >/dev/null
        qemu-img create -q -f qcow2 -b two.qcow2 -F qcow2 -o extended_l2=on,cluster_size=64k top.qcow2 9000448
        qemu-io -c 'write -P 6 10k 4k' -c 'write -z 20k 8k' -c 'write -P 8 8700k 89k' top.qcow2 >/dev/null"#,
        &[dir.path()],
    );
    for name in ["base.raw", "one.qcow2", "two.qcow2", "top.qcow2"] {
        laws(&*open(&dir.path().join(name)).disk("disk").unwrap());
    }
    laws(&*open(&dir.path().join("two.qcow2")).snapshot_disk("disk", "before").unwrap());
}

/// A copy that was cut short: what is gone is lost, and says so.
#[test]
fn a_file_cut_short() {
    if !need(&["qemu-img"]) {
        return;
    }
    let dir = temp();
    shell(
        r#"cd "$1"
        head -c 3000000 /dev/urandom > a.raw
        qemu-img convert -O qcow2 a.raw whole.qcow2
        head -c 2000000 whole.qcow2 > cut.qcow2
        qemu-img convert -c -O qcow2 a.raw packed.qcow2
        head -c 2000000 packed.qcow2 > cut-packed.qcow2"#,
        &[dir.path()],
    );
    for name in ["cut.qcow2", "cut-packed.qcow2"] {
        let disk = open(&dir.path().join(name)).disk("disk").unwrap();
        assert!(disk.read_at(2_500_000, &mut [0; 10]).is_err(), "{name}");
        laws(&*disk);
    }
}
