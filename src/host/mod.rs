//! Floor 9: the hypervisor.
