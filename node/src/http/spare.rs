//! Input buffers between requests: a connection that waits holds none, and the next request of
//! the thread takes one that is warm in the cache instead of asking the allocator.

use std::cell::RefCell;

use bytes::BytesMut;

/// Buffers kept a thread.
const KEPT_MAX: usize = 64;
/// A buffer that has grown beyond this is not kept, bytes.
const KEPT_BYTES_MAX: usize = 32 * 1024;
/// Size of a new one, bytes: nearly every head fits.
const NEW_BYTES: usize = 2 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room.
pub(super) fn take() -> BytesMut {
    SPARE
        .with(|spare| spare.borrow_mut().pop())
        .unwrap_or_else(|| BytesMut::with_capacity(NEW_BYTES))
}

/// Gives a buffer back.
pub(super) fn give(mut buffer: BytesMut) {
    buffer.clear();
    // What was split off keeps its allocation: only a buffer that is whole again has a capacity.
    if !(NEW_BYTES / 2..=KEPT_BYTES_MAX).contains(&buffer.capacity()) {
        return;
    }
    SPARE.with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT_MAX {
            spare.push(buffer);
        }
    });
}
