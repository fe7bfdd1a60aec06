//! Futures on the heap in memory that the thread uses again: the allocator is asked for the first ones only.
//!
//! A connection that waits for a request should be small, so what answers one is a future of its own on the heap, for
//! as long as the answer takes. It has several kilobytes, and comes a hundred thousand times a second.

use std::{
    alloc::{self, Layout},
    cell::RefCell,
    pin::Pin,
    ptr::NonNull,
    task::{Context, Poll},
};

/// Pieces of memory of one layout that a thread keeps.
const KEPT_MAX: usize = 64;

/// A future in memory of the thread that made it. It neither moves nor leaves the thread.
#[derive(Debug)]
pub struct Pooled<F>(NonNull<F>);

impl<F> Pooled<F> {
    /// Puts a future there.
    pub fn new(future: F) -> Self {
        let place = take(Layout::new::<F>()).cast::<F>();
        // SAFETY: the memory has the layout of `F` and is nobody else's.
        unsafe { place.write(future) };
        Self(place)
    }
}

impl<F: Future> Future for Pooled<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the future is in place from `new` to `drop`, and only this has it borrowed.
        let future = unsafe { self.get_mut().0.as_mut() };
        // SAFETY: it is never moved between the two.
        unsafe { Pin::new_unchecked(future) }.poll(cx)
    }
}

impl<F> Drop for Pooled<F> {
    fn drop(&mut self) {
        // SAFETY: the future is in place and nobody sees it after this.
        unsafe { self.0.drop_in_place() };
        give(Layout::new::<F>(), self.0.cast());
    }
}

/// Free memory of one layout.
struct Shelf {
    layout: Layout,
    free: Vec<NonNull<u8>>,
}

impl Drop for Shelf {
    fn drop(&mut self) {
        for place in self.free.drain(..) {
            // SAFETY: it was allocated with this layout and is in no use.
            unsafe { alloc::dealloc(place.as_ptr(), self.layout) };
        }
    }
}

thread_local! {
    /// A program has few kinds of futures that it puts here, so a search is as good as a map.
    static SHELVES: RefCell<Vec<Shelf>> = const { RefCell::new(Vec::new()) };
}

fn take(layout: Layout) -> NonNull<u8> {
    assert_ne!(layout.size(), 0, "a future without a state needs no memory");
    let kept = SHELVES.with_borrow_mut(|shelves| {
        shelves.iter_mut().find(|shelf| shelf.layout == layout)?.free.pop()
    });
    kept.unwrap_or_else(|| {
        // SAFETY: the size is not zero.
        let place = unsafe { alloc::alloc(layout) };
        NonNull::new(place).unwrap_or_else(|| alloc::handle_alloc_error(layout))
    })
}

fn give(layout: Layout, place: NonNull<u8>) {
    // At the thread's end the shelves may be gone before the last future is.
    let kept = SHELVES.try_with(|shelves| {
        let mut shelves = shelves.borrow_mut();
        let at = shelves.iter().position(|shelf| shelf.layout == layout).unwrap_or_else(|| {
            shelves.push(Shelf { layout, free: Vec::new() });
            shelves.len() - 1
        });
        let room = shelves[at].free.len() < KEPT_MAX;
        if room {
            shelves[at].free.push(place);
        }
        room
    });
    if !kept.unwrap_or(false) {
        // SAFETY: it was allocated with this layout, and its future has been dropped.
        unsafe { alloc::dealloc(place.as_ptr(), layout) };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{future::pending, rc::Rc, task::Waker};

    use super::*;

    fn poll<F: Future>(future: &mut Pooled<F>) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_future_runs_where_it_is_and_its_memory_is_used_again() {
        let mut places = Vec::new();
        for round in 0..100_u32 {
            let large = [round; 1000];
            let mut future = Pooled::new(async move { large.iter().sum::<u32>() });
            places.push(future.0.cast::<u8>());
            assert_eq!(poll(&mut future), Poll::Ready(1000 * round));
        }
        places.dedup();
        assert_eq!(places.len(), 1);
    }

    #[test]
    fn many_at_once_have_memory_of_their_own_and_what_they_hold_is_dropped() {
        let held = Rc::new(());
        let make = || {
            let held = held.clone();
            Pooled::new(async move {
                pending::<()>().await;
                drop(held);
            })
        };
        for _ in 0..2 {
            let mut futures: Vec<_> = (0..3 * KEPT_MAX).map(|_| make()).collect();
            assert!(futures.iter_mut().all(|future| poll(future).is_pending()));
            assert_eq!(Rc::strong_count(&held), 1 + 3 * KEPT_MAX);
            drop(futures);
            assert_eq!(Rc::strong_count(&held), 1);
        }
    }
}
