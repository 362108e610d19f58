//! Floor 9: the hypervisor.

pub mod libvirt;
pub mod live;
pub mod nova;
pub mod openstack;
pub mod qemu_nbd;
