//! coldread reads the disks of OpenStack Nova instances without changing them.
//!
//! # The floors
//!
//! A floor imports only from floors above it in this list; `tests/floors.rs` holds that.
//!
//! | floor | module | what it is |
//! |---|---|---|
//! | 0 | [`error`], [`bytes`], [`effort`], [`permit`] | failures, checked bytes, bounded work, leave to read |
//! | 1 | `block` | bytes at offsets: files, slices, joins, overlays, the cache; `trace` follows them down |
//! | 2 | `image` | one image file is one layer: raw, qcow2 |
//! | 3 | `chain` | layers become one disk; `gate` alone opens host files |
//! | 4 | `volume` | a disk becomes volumes |
//! | 5 | `fs` | a volume becomes names and contents |
//! | 6 | [`stack`] | a Spec becomes a View: floors 1 to 5 in one call |
//! | 7 | [`evidence`] | what is carried away |
//! | 8 | [`case`] | by whose leave, and the record of it |
//! | 9 | [`host`] | the hypervisor: Nova's tree, libvirt |
//! | 10 | the binary | words in, words out |
//!
//! Floors 1 to 5 are private to the crate. The feature `internals` opens them to fuzzing, benches and the contract
//! tests. The public way to content is [`stack`].
//!
//! # The tour of one byte
//!
//! A byte of `/etc/hostname` starts in a host file that `chain::gate` opened ([`std::os::fd`], read-only). The qcow2
//! layer maps its cluster, `chain::disk` finds the layer that has it, a partition is a slice of that disk, the ext4
//! reader joins extents of the slice into a file, and every one of these is a `BlockSource`: the same two calls read the
//! byte and tell where it comes from. [`evidence`] hashes it, writes it and puts both into the manifest.

#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod bytes;
pub mod effort;
pub mod error;
pub mod permit;

#[cfg(feature = "internals")]
pub mod block;
#[cfg(not(feature = "internals"))]
mod block;

#[cfg(feature = "internals")]
pub mod image;
#[cfg(not(feature = "internals"))]
mod image;

#[cfg(feature = "internals")]
pub mod chain;
#[cfg(not(feature = "internals"))]
mod chain;

#[cfg(feature = "internals")]
pub mod volume;
#[cfg(not(feature = "internals"))]
mod volume;

#[cfg(feature = "internals")]
pub mod fs;
#[cfg(not(feature = "internals"))]
mod fs;

pub mod case;
pub mod evidence;
pub mod host;
pub mod stack;
