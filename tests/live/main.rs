//! A real guest under libvirt and QEMU, read while it runs.
mod driver;

fn main() {
    driver::run_if_asked();
}
