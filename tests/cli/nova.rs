//! A tree that a real Nova wrote, against what qemu-img, virsh and Nova said of it.

use std::path::{Path, PathBuf};

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

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
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
    let list = texts.join("server-list-stopped.json");
    let joined = desk.run(&["--json", "instances", &text(&tree), "--servers", &text(&list)]);
    let joined: Value = serde_json::from_slice(&joined.stdout).unwrap();
    let servers = read_json(&list);
    for instance in all {
        let uuid = instance["uuid"].as_str().unwrap();
        let server = servers.as_array().unwrap().iter().find(|s| s["ID"] == uuid).unwrap();
        assert_eq!((&instance["name"], &instance["flavor"]), (&server["Name"], &server["Flavor"]));
        assert_eq!(instance["problems"], Value::Array(Vec::new()));
        let named = joined.as_array().unwrap().iter().find(|i| i["uuid"] == uuid).unwrap();
        assert_eq!((&named["name"], &named["status"]), (&server["Name"], &server["Status"]));
        let disks = instance["disks"].as_array().unwrap();
        assert_eq!(disks[0]["name"], "disk");
        assert_eq!(disks.len(), 4);
        for disk in disks {
            let name = disk["name"].as_str().unwrap();
            let said = read_json(&texts.join(format!("qimg-{uuid}-{name}.json")));
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

/// A tree as Nova wrote them before 2012, and directories in passing: made by hand after nova/virt/libvirt of those releases.
fn old_tree(desk: &Desk, name: &str, server: &str) -> PathBuf {
    let tree = desk.path(name);
    let script = r#"
        mkdir -p "$1/_base" "$1/locks" "$1/instance-0000274a" "$1/snapshots"
        base=da4b9237bacccdf19c0760cab7aec4a8359010b0_20
        truncate -s 1M "$1/_base/$base" "$1/_base/ephemeral_0_20_None"
        qemu-img create -q -f qcow2 -F raw -b "/var/lib/nova/instances/_base/$base" "$1/instance-0000274a/disk" -u 2M
        qemu-img create -q -f qcow2 -F raw -b "/var/lib/nova/instances/_base/ephemeral_0_20_None" "$1/instance-0000274a/disk.local" -u 1M
        echo "<domain type='kvm'><name>instance-0000274a</name><uuid>b42c7e0c-0001-4e2f-8f4f-6c4b2c7e0c01</uuid><metadata>
          <nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.0'><nova:name>$2</nova:name></nova:instance></metadata>
          <devices><disk type='file' device='disk'><driver type='qcow2'/><source file='/var/lib/nova/instances/instance-0000274a/disk'/>
          <target dev='vda' bus='virtio'/></disk></devices></domain>" >"$1/instance-0000274a/libvirt.xml"
        for kind in resize del; do
            mkdir "$1/b42c7e0c-0002-4e2f-8f4f-6c4b2c7e0c02_$kind"
            truncate -s 1M "$1/b42c7e0c-0002-4e2f-8f4f-6c4b2c7e0c02_$kind/disk"
            echo '{"/var/lib/nova/instances/b42c7e0c-0002-4e2f-8f4f-6c4b2c7e0c02/disk": "raw"}' >"$1/b42c7e0c-0002-4e2f-8f4f-6c4b2c7e0c02_$kind/disk.info"
        done"#;
    support::shell(script, &[tree.as_os_str(), server.as_ref()]);
    tree
}

#[test]
fn old_trees_and_directories_in_passing_are_instances_too() {
    if !support::need(&["qemu-img"]) {
        return;
    }
    let desk = Desk::new();
    let tree = old_tree(&desk, "old", "mail");
    let out = desk.run(&["--json", "instances", &text(&tree)]);
    let all: Value = serde_json::from_slice(&out.stdout).unwrap();
    let seen: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|i| (i["standing"].clone(), i["uuid"].clone(), i["name"].clone()))
        .collect();
    let moving = "b42c7e0c-0002-4e2f-8f4f-6c4b2c7e0c02";
    assert_eq!(
        seen,
        [
            ("deleted".into(), moving.into(), Value::Null),
            ("resize".into(), moving.into(), Value::Null),
            ("present".into(), "b42c7e0c-0001-4e2f-8f4f-6c4b2c7e0c01".into(), "mail".into()),
        ]
    );
    let disks: Vec<_> = all[2]["disks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (d["name"].clone(), d["target"].clone()))
        .collect();
    assert_eq!(disks, [("disk".into(), "vda".into()), ("disk.local".into(), Value::Null)]);
    for name in ["instance-0000274a", "b42c7e0c-0001-4e2f-8f4f-6c4b2c7e0c01", "mail"] {
        let out = desk.run(&["--json", "chain", name, "--instances", &text(&tree)]);
        let chain: Value =
            serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{name}: {}", super::stderr(&out)));
        assert_eq!(
            chain["layers"][1]["path"],
            format!("{}/_base/da4b9237bacccdf19c0760cab7aec4a8359010b0_20", text(&tree))
        );
        assert_eq!(chain["layers"][0]["format_from"], "libvirt XML");
    }
}

#[test]
fn a_name_that_two_trees_have_is_ambiguous_and_both_are_listed() {
    if !support::need(&["qemu-img"]) {
        return;
    }
    let desk = Desk::new();
    let (one, two) = (text(&old_tree(&desk, "one", "mail")), text(&old_tree(&desk, "two", "mail")));
    let out = desk.run(&["chain", "mail", "--instances", &one, "--instances", &two]);
    assert_eq!(super::code(&out), 2);
    assert!(
        super::stderr(&out).contains(&one) && super::stderr(&out).contains(&two),
        "{}",
        super::stderr(&out)
    );
    let all = desk.run(&["--json", "instances", &one, &two]);
    let all: Value = serde_json::from_slice(&all.stdout).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 6);
}

/// `ephemeral_1_0706d66` has one name on every host and another content on each: the overlay's own tree decides.
#[test]
fn of_two_copied_trees_the_wrong_base_is_never_taken() {
    if !support::need(&["qemu-img", "mkfs.ext4"]) {
        return;
    }
    let desk = Desk::new();
    let uuid = "b42c7e0c-0003-4e2f-8f4f-6c4b2c7e0c03";
    for host in ["one", "two"] {
        let script = r#"
            mkdir -p "$1/_base" "$1/$2"
            truncate -s 4M "$1/_base/ephemeral_1_0706d66"
            mkfs.ext4 -q -F -L "$3" "$1/_base/ephemeral_1_0706d66"
            qemu-img create -q -u -f qcow2 -F raw -b /var/lib/nova/instances/_base/ephemeral_1_0706d66 "$1/$2/disk.eph0" 4M"#;
        support::shell(script, &[&text(&desk.path(host)), uuid, host]);
    }
    let label = |host: &str, extra: &[&str]| {
        let instance = text(&desk.path(host).join(uuid));
        let out = desk.run(&[&["--json", "volumes", &instance, "--disk", "disk.eph0"], extra].concat());
        let volumes: Value =
            serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", super::stderr(&out)));
        volumes[0]["filesystem"]["label"].as_str().unwrap().to_string()
    };
    let (one, two) = (text(&desk.path("one/_base")), text(&desk.path("two/_base")));
    for host in ["one", "two"] {
        assert_eq!(label(host, &[]), host);
        assert_eq!(label(host, &["--map", &format!("/var/lib/nova/instances/_base={one}")]), "one");
        assert_eq!(label(host, &["--map", &format!("/var/lib/nova/instances/_base={two}")]), "two");
    }
    // Its own base gone, the other tree's is not taken unless it is named.
    std::fs::remove_file(desk.path("one/_base/ephemeral_1_0706d66")).unwrap();
    let out = desk.run(&["volumes", &text(&desk.path("one").join(uuid)), "--disk", "disk.eph0"]);
    assert_eq!(super::code(&out), 2, "{}", super::stderr(&out));
    assert_eq!(label("one", &["--base", &two]), "two");
}
