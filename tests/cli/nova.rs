//! A tree that a real Nova wrote, against what qemu-img, virsh and Nova said of it.

use std::path::PathBuf;

use serde_json::Value;

use super::{Desk, text};
use crate::support;

/// The tree unpacked, and the texts about it.
fn unpacked(desk: &Desk) -> Option<(PathBuf, PathBuf)> {
    let archive = support::nova_tree()?.join("real_nova_tree.tar.zst");
    if !support::need(&["zstd", "tar"]) {
        return None;
    }
    let to = desk.path("nova");
    support::shell("mkdir \"$2\" && tar -I zstd -xSpf \"$1\" --numeric-owner -C \"$2\"", &[&archive, &to]);
    Some((to.join("instances"), to.join("texts")))
}

fn read_json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        .unwrap()
}

#[test]
fn instances_and_chains_are_what_qemu_img_and_nova_said() {
    let desk = Desk::new();
    let Some((tree, texts)) = unpacked(&desk) else { return };
    let all = desk.run(&["--json", "instances", &text(&tree), "--domains", &text(&texts)]);
    let all: Value = serde_json::from_slice(&all.stdout).unwrap();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 4);
    let servers = read_json(texts.join("server-list-stopped.json"));
    for instance in all {
        let uuid = instance["uuid"].as_str().unwrap();
        let server = servers.as_array().unwrap().iter().find(|s| s["ID"] == uuid).unwrap();
        assert_eq!((&instance["name"], &instance["flavor"]), (&server["Name"], &server["Flavor"]));
        assert_eq!(instance["problems"], Value::Array(Vec::new()));
        let disks = instance["disks"].as_array().unwrap();
        assert_eq!(disks[0]["name"], "disk");
        assert_eq!(disks.len(), 4);
        for disk in disks {
            let name = disk["name"].as_str().unwrap();
            let said = read_json(texts.join(format!("qimg-{uuid}-{name}.json")));
            assert_eq!(disk["virtual_size"], said[0]["virtual-size"], "{uuid} {name}");
            assert_eq!(disk["format"], said[0]["format"], "{uuid} {name}");
            let backing: Vec<_> =
                disk["backing"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
            let recorded = said[0]["full-backing-filename"].as_str();
            let here = recorded.map(|path| path.replace("/var/lib/nova/instances", &text(&tree)));
            assert_eq!(backing, here.iter().map(String::as_str).collect::<Vec<_>>(), "{uuid} {name}");
        }
    }
}

#[test]
fn every_guest_knows_its_own_uuid() {
    let desk = Desk::new();
    let Some((tree, texts)) = unpacked(&desk) else { return };
    let (tree, texts) = (text(&tree), text(&texts));
    for (name, uuid) in [
        ("web-1", "46c4f79e-9b99-41da-ab3e-f0dfb7ee9ca3"),
        ("plain-1", "08105ff9-37fd-4750-a035-4485fbb3330a"),
        ("app-1", "80ede900-5ed6-4437-aaee-9235b4adf110"),
        ("instance-00001a05", "2331b5aa-18c9-4e38-b0d5-01f2c3e55995"),
    ] {
        let out = desk.act(&["cat", name, "/etc/machine-uuid", "--instances", &tree, "--domains", &texts]);
        assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), uuid, "{}", super::stderr(&out));
    }
}

/// web-1 was destroyed while it ran: its log is in the journal, and the kernel's own recovery is the oracle.
#[test]
fn a_dirty_journal_reads_as_after_the_kernels_recovery() {
    let desk = Desk::new();
    let Some((tree, _)) = unpacked(&desk) else { return };
    if !support::need(&["qemu-img", "sfdisk", "losetup"]) || !support::need_root() {
        return;
    }
    for uuid in ["46c4f79e-9b99-41da-ab3e-f0dfb7ee9ca3", "2331b5aa-18c9-4e38-b0d5-01f2c3e55995"] {
        let to = desk.path(uuid);
        let out = desk.act(&["extract", &text(&tree.join(uuid)), "/", "--to", &text(&to)]);
        assert_eq!(super::code(&out), 0, "{}", super::stderr(&out));
        let flat = desk.path("flat");
        // The recorded path is the original host's; qemu-img is told the right base.
        let base = support::text(support::run(
            "qemu-img",
            &["info", "-U", "--output=json", &text(&tree.join(uuid).join("disk"))],
        ));
        let base: Value = serde_json::from_str(&base).unwrap();
        let base =
            base["backing-filename"].as_str().unwrap().replace("/var/lib/nova/instances", &text(&tree));
        support::shell(
            "cp --sparse=always \"$1\" \"$3.qcow2\" && qemu-img rebase -u -F raw -b \"$2\" \"$3.qcow2\" && qemu-img convert -O raw \"$3.qcow2\" \"$3\" && dd if=\"$3\" of=\"$3.p1\" bs=1M skip=1 conv=sparse status=none",
            &[text(&tree.join(uuid).join("disk")), base, text(&flat)],
        );
        let mount = support::Mount::new(&desk.path("flat.p1"), "ext4", "rw");
        let sums = "cd \"$1\" && find . -xdev -type f -print0 | sort -z | xargs -0 sha256sum";
        let kernel = support::shell(sums, &[mount.path()]);
        assert_eq!(kernel, support::shell(sums, &[&to.join("files")]), "{uuid}");
    }
}
