//! Admission by bytes in flight: a data thread hands out at most its share of the node's buffer memory.
//!
//! Only bytes that sit in our own buffers count: an upload's pieces on their way to the disk, and pages read for a
//! response that the page cache did not have. What `sendfile(2)` moves costs no buffer. A request that cannot start
//! is refused (503 or an error frame); a response that is under way waits its turn, first come first served.
//!
//! A disk that hangs keeps what was to be filled from it. So of several store paths none begins to read into more than half of
//! the buffers ([`Share`]), and the others go on.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// The bytes of one data thread. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Budget(Rc<Shared>);

struct Shared {
    limit: u64,
    used: Cell<u64>,
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
}

struct Waiter {
    bytes: u64,
    granted: Cell<bool>,
    gone: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Bytes taken from a [`Budget`]; they go back when it is dropped.
pub(crate) struct Permit {
    shared: Rc<Shared>,
    bytes: u64,
    share: Option<Share>,
}

/// What one store path has of a [`Budget`]. Cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct Share(Rc<Cell<u64>>);

impl Permit {
    /// Counts it among those of a store path.
    pub(crate) fn of(mut self, share: &Share) -> Self {
        debug_assert!(self.share.is_none(), "it is another's");
        share.0.set(share.0.get() + self.bytes);
        self.share = Some(share.clone());
        self
    }
}

impl Budget {
    /// A budget of `limit` bytes.
    pub(crate) fn new(limit: u64) -> Self {
        Self(Rc::new(Shared { limit, used: Cell::new(0), waiting: RefCell::new(VecDeque::new()) }))
    }

    /// The bytes handed out now.
    pub(crate) fn used(&self) -> u64 {
        self.0.used.get()
    }

    /// Takes `bytes` at once, or nothing. Those who wait in [`Budget::take`] come first. More than the whole budget
    /// counts as the whole budget, so that one request can always run alone.
    pub(crate) fn try_take(&self, bytes: u64) -> Option<Permit> {
        let bytes = bytes.min(self.0.limit);
        if !self.0.waiting.borrow().is_empty() || !self.0.fits(bytes) {
            return None;
        }
        self.0.used.set(self.0.used.get() + bytes);
        Some(Permit { shared: self.0.clone(), bytes, share: None })
    }

    /// As [`Budget::try_take`], for one of several store paths: nothing where it would have more than half of the budget then.
    pub(crate) fn try_take_share(&self, bytes: u64, share: &Share) -> Option<Permit> {
        let others = share.0.get();
        let is_within = others == 0 || others.saturating_add(bytes) <= self.0.limit / 2;
        is_within.then(|| self.try_take(bytes))?.map(|permit| permit.of(share))
    }

    /// Takes `bytes` at once if more than half of the budget then stays free, or nothing: for what is done ahead of
    /// its time, so that it never takes what a request needs to begin.
    pub(crate) fn try_take_spare(&self, bytes: u64) -> Option<Permit> {
        if self.0.used.get() + bytes > self.0.limit / 2 { None } else { self.try_take(bytes) }
    }

    /// Takes `bytes` as soon as they are free. Cancel safe: a dropped wait takes nothing.
    pub(crate) fn take(&self, bytes: u64) -> Take {
        Take { shared: self.0.clone(), bytes: bytes.min(self.0.limit), waiter: None }
    }
}

impl Shared {
    fn fits(&self, bytes: u64) -> bool {
        self.used.get() + bytes <= self.limit
    }

    fn give_back(&self, bytes: u64) {
        debug_assert!(self.used.get() >= bytes);
        self.used.set(self.used.get() - bytes);
        self.grant();
    }

    /// Grants to those who wait, in their order, as long as the next one fits.
    fn grant(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(waiter) = waiting.front() {
            if !waiter.gone.get() {
                if !self.fits(waiter.bytes) {
                    return;
                }
                self.used.set(self.used.get() + waiter.bytes);
                waiter.granted.set(true);
                if let Some(waker) = waiter.waker.borrow_mut().take() {
                    waker.wake();
                }
            }
            waiting.pop_front();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(share) = &self.share {
            share.0.set(share.0.get() - self.bytes);
        }
        self.shared.give_back(self.bytes);
    }
}

/// The wait for a [`Permit`].
pub(crate) struct Take {
    shared: Rc<Shared>,
    bytes: u64,
    waiter: Option<Rc<Waiter>>,
}

impl Take {
    fn permit(&self) -> Permit {
        Permit { shared: self.shared.clone(), bytes: self.bytes, share: None }
    }
}

impl Future for Take {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        if let Some(waiter) = &self.waiter {
            if !waiter.granted.get() {
                *waiter.waker.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            self.waiter = None;
            return Poll::Ready(self.permit());
        }
        if self.shared.waiting.borrow().is_empty() && self.shared.fits(self.bytes) {
            self.shared.used.set(self.shared.used.get() + self.bytes);
            return Poll::Ready(self.permit());
        }
        let waiter = Rc::new(Waiter {
            bytes: self.bytes,
            granted: Cell::new(false),
            gone: Cell::new(false),
            waker: RefCell::new(Some(cx.waker().clone())),
        });
        self.shared.waiting.borrow_mut().push_back(waiter.clone());
        self.waiter = Some(waiter);
        Poll::Pending
    }
}

impl Drop for Take {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else { return };
        waiter.gone.set(true);
        if waiter.granted.get() {
            self.shared.give_back(self.bytes);
        } else {
            // A large one that stood at the front may have held back small ones that fit.
            self.shared.grant();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn poll(take: &mut Take) -> Option<Permit> {
        match Pin::new(take).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    #[test]
    fn at_the_limit_it_fits_and_one_past_it_does_not() {
        let budget = Budget::new(100);
        let first = budget.try_take(99).unwrap();
        assert!(budget.try_take(2).is_none());
        let second = budget.try_take(1).unwrap();
        assert_eq!(budget.used(), 100);
        drop((first, second));
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.try_take(u64::MAX).unwrap().bytes, 100);
    }

    #[test]
    fn what_is_done_ahead_takes_only_the_first_half() {
        let budget = Budget::new(100);
        let first = budget.try_take_spare(50).unwrap();
        assert!(budget.try_take_spare(1).is_none());
        let second = budget.try_take(50).unwrap();
        drop(first);
        assert!(budget.try_take_spare(1).is_none());
        drop(second);
        assert!(budget.try_take_spare(51).is_none());
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn of_several_store_paths_none_takes_more_than_half() {
        let budget = Budget::new(100);
        let (hung, well) = (Share::default(), Share::default());
        let held: Vec<_> = (0..5).map(|_| budget.try_take_share(10, &hung).unwrap()).collect();
        assert!(budget.try_take_share(1, &hung).is_none());
        let other = budget.try_take_share(50, &well).unwrap();
        assert!(budget.try_take_share(1, &well).is_none());
        drop(other);
        assert_eq!(well.0.get(), 0);
        // What goes on counts, and is not refused.
        let more = poll(&mut budget.take(20)).unwrap().of(&hung);
        assert_eq!((hung.0.get(), budget.used()), (70, 70));
        drop((held, more));
        assert_eq!((hung.0.get(), budget.used()), (0, 0));
        // One that is larger than half of it runs alone.
        drop(budget.try_take_share(u64::MAX, &hung).unwrap());
        assert_eq!((hung.0.get(), budget.used()), (0, 0));
    }

    #[test]
    fn those_who_wait_are_served_in_order_and_before_new_ones() {
        let budget = Budget::new(10);
        let held = budget.try_take(8).unwrap();
        let mut large = budget.take(9);
        let mut small = budget.take(2);
        assert!(poll(&mut large).is_none());
        assert!(poll(&mut small).is_none(), "a small one must not starve the large one before it");
        assert!(budget.try_take(1).is_none());
        drop(held);
        let large = poll(&mut large).unwrap();
        assert!(poll(&mut small).is_none());
        drop(large);
        assert!(poll(&mut small).is_some());
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_dropped_wait_takes_nothing_and_lets_the_next_one_go() {
        let budget = Budget::new(10);
        let held = budget.try_take(8).unwrap();
        let mut large = budget.take(9);
        let mut small = budget.take(2);
        assert!(poll(&mut large).is_none());
        assert!(poll(&mut small).is_none());
        drop(large);
        let small = poll(&mut small).unwrap();
        assert_eq!(budget.used(), 10);
        drop((held, small));
        let held = budget.try_take(10).unwrap();
        let mut granted = budget.take(5);
        assert!(poll(&mut granted).is_none());
        drop(held);
        assert_eq!(budget.used(), 5);
        drop(granted);
        assert_eq!(budget.used(), 0);
    }
}
