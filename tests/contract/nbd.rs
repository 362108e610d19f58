//! Floor 1: exports of NBD servers.

use std::time::Duration;

use coldread::block::nbd::Client;

use crate::support::laws::laws;
use crate::support::{need, serve, shell, temp};

#[test]
fn exports_of_qemu_nbd_and_nbdkit() {
    if !need(&["qemu-img", "qemu-io", "qemu-nbd", "nbdkit"]) {
        return;
    }
    let dir = temp();
    shell(
        r#"cd "$1"
        qemu-img create -q -f qcow2 disk.qcow2 9000448
        qemu-io -c 'write -P 1 0 1M' -c 'write -z 2M 1M' -c 'write -P 2 5M 3000' -c 'write -c -P 3 6M 64k' disk.qcow2 >/dev/null
        qemu-img convert -O raw disk.qcow2 disk.raw"#,
        &[dir.path()],
    );
    let image = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (qemu, kit, blocks) = (dir.path().join("qemu"), dir.path().join("kit"), dir.path().join("blocks"));
    let _qemu = serve(
        "qemu-nbd",
        &["-r", "-t", "-f", "qcow2", "-k", qemu.to_str().unwrap(), &image("disk.qcow2")],
        &qemu,
    );
    let _kit = serve("nbdkit", &["-f", "-r", "-U", kit.to_str().unwrap(), "file", &image("disk.raw")], &kit);
    let _blocks = serve(
        "nbdkit",
        &[
            "-f",
            "-r",
            "-U",
            blocks.to_str().unwrap(),
            "--filter=blocksize-policy",
            "--filter=truncate",
            "file",
            &image("disk.raw"),
            "round-up=4096",
            "blocksize-minimum=4096",
            "blocksize-preferred=4096",
            "blocksize-maximum=65536",
            "blocksize-error-policy=error",
        ],
        &blocks,
    );
    for socket in [qemu, kit, blocks] {
        laws(&*Client::connect(&socket, "", Duration::from_secs(20)).unwrap());
    }
}
