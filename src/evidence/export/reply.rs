//! Replies as they go out. One writer at a time; a reply of several chunks may mix with those of other requests.

use std::io::{self, IoSlice, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use crate::block::nbd::wire::{self, chunk_type};

/// The writing half of a session.
pub struct Outgoing<'a> {
    stream: Mutex<&'a UnixStream>,
    structured: bool,
}

impl<'a> Outgoing<'a> {
    pub fn new(stream: &'a UnixStream, structured: bool) -> Self {
        Self { stream: Mutex::new(stream), structured }
    }

    pub fn structured(&self) -> bool {
        self.structured
    }

    /// A reply without data: success, or an error with its number and a sentence.
    pub fn plain(&self, cookie: u64, errno: u32, message: &str) -> io::Result<()> {
        if !self.structured {
            return self.send(&simple(cookie, errno), &[]);
        }
        if errno == 0 {
            return self.chunk(cookie, chunk_type::NONE, true, &[], &[]);
        }
        let message = clipped(message);
        let mut head = errno.to_be_bytes().to_vec();
        head.extend(u16::try_from(message.len()).unwrap_or(0).to_be_bytes());
        self.chunk(cookie, chunk_type::ERROR, true, &head, message.as_bytes())
    }

    /// The end of a structured reply: an error at a place.
    pub fn error_at(&self, cookie: u64, errno: u32, message: &str, offset: u64) -> io::Result<()> {
        let message = clipped(message);
        let mut data = errno.to_be_bytes().to_vec();
        data.extend(u16::try_from(message.len()).unwrap_or(0).to_be_bytes());
        data.extend(message.as_bytes());
        self.chunk(cookie, chunk_type::ERROR_OFFSET, true, &data, &offset.to_be_bytes())
    }

    /// A chunk of data.
    pub fn data(&self, cookie: u64, done: bool, offset: u64, data: &[u8]) -> io::Result<()> {
        self.chunk(cookie, chunk_type::OFFSET_DATA, done, &offset.to_be_bytes(), data)
    }

    /// A chunk of zeros.
    pub fn hole(&self, cookie: u64, done: bool, offset: u64, len: u32) -> io::Result<()> {
        self.chunk(cookie, chunk_type::OFFSET_HOLE, done, &offset.to_be_bytes(), &len.to_be_bytes())
    }

    /// A chunk of extents, encoded already.
    pub fn extents(&self, cookie: u64, context: u32, extents: &[u8]) -> io::Result<()> {
        self.chunk(cookie, chunk_type::BLOCK_STATUS, true, &context.to_be_bytes(), extents)
    }

    /// A simple reply and its data. `step` sends one piece with the function that it is given, and says whether there
    /// are more; nothing else goes out in between.
    pub fn simple_data(
        &self,
        cookie: u64,
        mut step: impl FnMut(&dyn Fn(&[u8]) -> io::Result<()>) -> io::Result<bool>,
    ) -> io::Result<()> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        write_both(&stream, &simple(cookie, 0), &[])?;
        while step(&|piece| write_both(&stream, &[], piece))? {}
        Ok(())
    }

    fn chunk(&self, cookie: u64, kind: u16, done: bool, head: &[u8], data: &[u8]) -> io::Result<()> {
        let mut out = [0; 32];
        let flags = if done { chunk_type::FLAG_DONE } else { 0 };
        let len = u32::try_from(head.len() + data.len()).unwrap_or(u32::MAX);
        wire::put(&mut out, 0, &wire::STRUCTURED_REPLY_MAGIC.to_be_bytes());
        wire::put(&mut out, 4, &flags.to_be_bytes());
        wire::put(&mut out, 6, &kind.to_be_bytes());
        wire::put(&mut out, 8, &cookie.to_be_bytes());
        wire::put(&mut out, 16, &len.to_be_bytes());
        if head.len() <= out.len() - 20 {
            wire::put(&mut out, 20, head);
            return self.send(&out[..20 + head.len()], data);
        }
        let joined = [&out[..20], head].concat();
        self.send(&joined, data)
    }

    fn send(&self, head: &[u8], data: &[u8]) -> io::Result<()> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        write_both(&stream, head, data)
    }
}

fn simple(cookie: u64, errno: u32) -> [u8; 16] {
    let mut out = [0; 16];
    wire::put(&mut out, 0, &wire::SIMPLE_REPLY_MAGIC.to_be_bytes());
    wire::put(&mut out, 4, &errno.to_be_bytes());
    wire::put(&mut out, 8, &cookie.to_be_bytes());
    out
}

/// At most as much of a message as the specification allows, whole characters.
fn clipped(message: &str) -> &str {
    let mut end = message.len().min(wire::STRING_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

fn write_both(mut stream: &UnixStream, head: &[u8], data: &[u8]) -> io::Result<()> {
    let mut slices = [IoSlice::new(head), IoSlice::new(data)];
    let mut rest = &mut slices[..];
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match stream.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut rest, n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
