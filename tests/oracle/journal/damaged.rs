//! Damaged logs against what the kernel makes of them.

use super::make::{CHURN, Case, damage, dirty, records};
use super::{TOOLS, replayed, same};
use crate::support::{Mount, full, need, need_root, temp};

/// Where a damaged log is damaged, in terms of the records before it.
#[derive(Clone, Copy, Debug)]
enum Where {
    /// The descriptor of the transaction before the last: its tags.
    Descriptor,
    /// A block of data behind it.
    Data,
    /// The commit block of the transaction before the last: behind its header, or the magic that makes it one.
    Commit(u64),
    /// The commit block of the last transaction.
    LastCommit(u64),
}

/// A damaged log: as much of it is applied as the kernel applies before it refuses the mount, or ends the log there.
#[test]
fn a_damaged_log_is_applied_as_far_as_the_kernel_applies_it() {
    if !need(TOOLS) || !need_root() {
        return;
    }
    let v3 = Case { name: "v3", mkfs: "-b 1024", mount: "", work: CHURN, proof: &["journal_checksum_v3"] };
    let v1 = Case { name: "v1", mkfs: "-O ^metadata_csum", mount: "journal_checksum", ..v3 };
    let v1_async = Case { name: "async", mount: "journal_async_commit,data=writeback", ..v1 };
    let v3_async = Case { name: "async-v3", mount: "journal_async_commit,data=writeback", ..v3 };
    let cases: &[Case<'_>] = if full() { &[v3, v1, v1_async, v3_async] } else { &[v3, v1_async] };
    for case in cases {
        let dir = temp();
        let sound = dirty(dir.path(), case);
        let log = records(&sound);
        let last = log.iter().map(|r| r.transaction).max().unwrap();
        let find = |transaction, kind: &str| {
            log.iter().find(|r| r.transaction == transaction && r.kind.starts_with(kind)).unwrap().block
        };
        for place in [
            Where::Descriptor,
            Where::Data,
            Where::Commit(0),
            Where::Commit(60),
            Where::LastCommit(1),
            Where::LastCommit(20),
            Where::LastCommit(900),
        ] {
            let copy = dir.path().join("damaged");
            std::fs::copy(&sound, &copy).unwrap();
            match place {
                Where::Descriptor => damage(&copy, find(last - 1, "descriptor"), 15),
                Where::Data => damage(&copy, find(last - 1, "descriptor") + 1, 100),
                Where::Commit(at) => damage(&copy, find(last - 1, "commit"), at),
                Where::LastCommit(at) => damage(&copy, find(last, "commit"), at),
            }
            let (ours, effort) = replayed(&copy);
            let recovered = dir.path().join("kernel");
            std::fs::copy(&copy, &recovered).unwrap();
            let mounted = Mount::try_new(&recovered, "ext4", "noatime").is_some();
            let what = format!("{} {place:?} (kernel mounts: {mounted}; {})", case.name, ours.summary);
            eprintln!("{what}");
            assert_eq!(mounted, effort.findings().0.is_empty(), "{what}: {:?}", effort.findings().0);
            same(&what, &ours.source, &recovered, false);
        }
    }
}
