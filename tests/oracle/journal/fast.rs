//! Fast commits against the kernel's replay of them.

use super::TOOLS;
use super::make::{Case, dirty};
use super::tree::as_the_kernel_shows;
use crate::support::{need, need_root, temp};

/// What the kernel's fast commits can record, one piece of work each.
const FAST: &[(&str, &str)] = &[
    ("create", "w('new',b'n'*50000); w('d0/new2',b'hi')"),
    ("mkdir", "os.mkdir('dd'); w('anchor',b'b'); w('dd/f',b'f'*3000); sync('anchor')"),
    (
        "rename",
        "os.rename('d0/x','d0/x2'); sync('d0/x2'); os.rename('d0/y','d0/z'); sync('d0/z'); os.rename('d0/z','zz'); sync('zz')",
    ),
    (
        "unlink",
        "os.unlink('d0/x'); w('anchor',b'q'); os.unlink('d0/y'); w('anchor',b'qq'); w('reuse',b'r'*5000); os.unlink('d0/gone'); w('d0/gone',b'new')",
    ),
    (
        "link",
        "os.link('d0/x','lx'); sync('lx'); os.link('d0/x','d0/lx2'); sync('d0/x'); os.unlink('d0/x'); sync('lx')",
    ),
    (
        "truncate",
        "f=os.open('d0/y',os.O_RDWR); os.ftruncate(f,100); os.fsync(f); os.lseek(f,20000,0); os.write(f,b'tail'*100); os.fsync(f)
os.ftruncate(f,0); os.fsync(f); os.write(f,b'again'*3000); os.fsync(f)",
    ),
    (
        "unwritten",
        "f=os.open('fa',os.O_RDWR|os.O_CREAT); os.posix_fallocate(f,0,200000); os.fsync(f); os.pwrite(f,b'm'*9000,50000); os.fsync(f)
os.pwrite(f,b'end',300000); os.fsync(f)",
    ),
    ("attributes", "os.chmod('d0/x',0o711); os.utime('d0/x',ns=(10**17+1,2*10**18+3)); sync('d0/x'); os.chown('d0/y',77,88); sync('d0/y')"),
    ("many", "for i in range(150): w(f'd0/many{i}',bytes([i])*(i*7+1)); i%3 or os.unlink(f'd0/many{i//2}')" ),
    ("scattered", "f=os.open('frag',os.O_RDWR|os.O_CREAT)
for i in range(40): os.pwrite(f,bytes([65+i])*700,i*9000); os.fsync(f)"),
    ("full-between", "os.symlink('base0','sl'); os.mknod('nod',0o20600,os.makedev(5,1)); os.sync(); w('anchor',b'c'); w('last',b'l'*70000)"),
];

const FAST_START: &str = r"
import os,sys
def sync(p):
    f=os.open(p,os.O_RDWR); os.fsync(f); os.close(f)
def w(p,data):
    f=os.open(p,os.O_RDWR|os.O_CREAT); os.write(f,data); os.fsync(f); os.close(f)
w('base0',b'z'*10000); os.mkdir('d0')
for n in 'xyz': w('d0/'+n,n.encode()*4000)
w('d0/gone',b'g'*100); os.sync(); w('anchor',b'a'); sync('anchor')
";

/// Fast commits, replayed from their records, against the kernel's replay. The kernel gives directories whose names
/// changed the time of the mount; those times are not compared.
#[test]
fn fast_commits_read_as_the_kernel_replays_them() {
    if !need(TOOLS) || !need_root() {
        return;
    }
    for (name, work) in FAST {
        for mkfs in ["-O fast_commit -b 1024", "-O fast_commit -b 4096 -I 512"] {
            let dir = temp();
            let script = format!("python3 - <<'END'{FAST_START}{work}\nEND\n");
            let case = Case { name, mkfs, mount: "", work: &script, proof: &[] };
            let copy = dirty(dir.path(), &case);
            let said = as_the_kernel_shows(name, "ext4", &copy, false);
            eprintln!("{name}: {said}");
            assert!(said.contains(" fast commits with "), "{name}: {said}");
        }
    }
}
