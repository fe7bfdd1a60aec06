//! Buffers between requests: a connection that waits holds none, and the next request of the thread
//! takes those that are warm in the cache instead of asking the allocator.

use std::cell::RefCell;

use bytes::BytesMut;
use reel_proto::http::head::HeadMemory;

/// Buffers of a kind kept a thread.
const KEPT_MAX: usize = 64;
/// A buffer that has grown beyond this is not kept, bytes.
const KEPT_BYTES_MAX: usize = 32 * 1024;
/// Size of a new one, bytes: nearly every head fits.
const NEW_BYTES: usize = 2 * 1024;

thread_local! {
    static INPUTS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static OUTPUTS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static HEADS: RefCell<Vec<HeadMemory>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for what comes in.
pub(crate) fn take_input() -> BytesMut {
    INPUTS
        .with(|spare| spare.borrow_mut().pop())
        .unwrap_or_else(|| BytesMut::with_capacity(NEW_BYTES))
}

/// Gives one back.
pub(crate) fn give_input(mut buffer: BytesMut) {
    buffer.clear();
    // What was split off keeps its allocation: only a buffer that is whole again has a capacity.
    if buffer.capacity() >= NEW_BYTES / 2 {
        let capacity = buffer.capacity();
        INPUTS.with(|spare| keep(spare, buffer, capacity));
    }
}

/// An empty buffer with room for what goes out.
pub(crate) fn take_output() -> Vec<u8> {
    OUTPUTS.with(|spare| spare.borrow_mut().pop()).unwrap_or_else(|| Vec::with_capacity(NEW_BYTES))
}

/// Gives one back.
pub(crate) fn give_output(mut buffer: Vec<u8>) {
    buffer.clear();
    let capacity = buffer.capacity();
    OUTPUTS.with(|spare| keep(spare, buffer, capacity));
}

/// A buffer for texts that are made on the way; the thread has it back when it is dropped.
#[derive(Debug)]
pub struct Scratch(Vec<u8>);

impl Scratch {
    /// An empty one.
    pub fn take() -> Self {
        Self(take_output())
    }
}

impl std::ops::Deref for Scratch {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl std::ops::DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        give_output(std::mem::take(&mut self.0));
    }
}

/// Memory for a request's head.
pub(crate) fn take_head() -> HeadMemory {
    HEADS.with(|spare| spare.borrow_mut().pop()).unwrap_or_default()
}

/// Gives it back.
pub(crate) fn give_head(memory: HeadMemory) {
    let capacity = memory.capacity();
    HEADS.with(|spare| keep(spare, memory, capacity));
}

fn keep<B>(spare: &RefCell<Vec<B>>, buffer: B, capacity: usize) {
    let mut spare = spare.borrow_mut();
    if (1..=KEPT_BYTES_MAX).contains(&capacity) && spare.len() < KEPT_MAX {
        spare.push(buffer);
    }
}
