//! Which store path takes an upload, and whether a store path is full: by free space and health.
//!
//! Pure decisions, no IO: free space, the clock and a random number are arguments.

/// What keeps a store path from taking uploads, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Takes uploads.
    Ok,
    /// Less than the reserve is free, or a write said so. Comes back by itself.
    Full,
    /// A sync failed or the disk answered EIO. Stays so until an operator re-admits it.
    ReadOnly,
    /// The servers behind a mount do not take it now. Comes back by itself.
    Away,
    /// A call to the disk has not come back for a long time.
    Hung,
}

/// What stays free on each store path for metadata, directories and the commit journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// Part of the file system, in thousandths.
    pub permille: u64,
    /// At least this many bytes.
    pub bytes_min: u64,
}

impl Default for Reserve {
    /// 1 %, at least 1 GiB.
    fn default() -> Self {
        Self { permille: 10, bytes_min: 1 << 30 }
    }
}

impl Reserve {
    /// Bytes to keep free of `total`.
    pub fn bytes(self, total: u64) -> u64 {
        (total / 1000).saturating_mul(self.permille).max(self.bytes_min)
    }
}

/// Whether a path is full, with the gap between going and coming back that keeps it from flapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fullness {
    reserve: u64,
    full_since: Option<u64>,
}

/// After a write was refused for want of space, the path is not tried again for this long, in seconds, however
/// much statvfs shows as free: a quota (EDQUOT) does not show there.
pub const REFUSED_PAUSE: u64 = 10;

/// Files that may still be made, below which a path is full: without inodes free bytes are of no use.
pub const FILES_FREE_MIN: u64 = 16;

impl Fullness {
    /// `reserve` in bytes.
    pub fn new(reserve: u64) -> Self {
        Self { reserve, full_since: None }
    }

    /// Bytes that must be free before a full path comes back: a quarter of the reserve above it.
    pub fn resume_mark(&self) -> u64 {
        self.reserve.saturating_add(self.reserve / 4)
    }

    /// Full just now?
    pub fn is_full(&self) -> bool {
        self.full_since.is_some()
    }

    /// A write, a directory or a sync answered ENOSPC or EDQUOT at `now` (seconds).
    pub fn refused(&mut self, now: u64) {
        self.full_since = Some(now.saturating_add(REFUSED_PAUSE));
    }

    /// Free space was looked at. True if the answer of [`Self::is_full`] changed.
    pub fn observe(&mut self, free: u64, files_free: u64, now: u64) -> bool {
        let before = self.is_full();
        let inodes = files_free >= FILES_FREE_MIN;
        match self.full_since {
            None if free < self.reserve || !inodes => self.full_since = Some(now),
            Some(until) if free >= self.resume_mark() && inodes && now >= until => {
                self.full_since = None;
            }
            _ => {}
        }
        before != self.is_full()
    }
}

/// A store path as placement sees it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Whether it takes uploads.
    pub health: Health,
    /// Bytes above the reserve that no upload under way has been promised.
    pub usable: u64,
    /// Path ids in hand.
    pub ids_left: u64,
}

/// Why no store path can take an upload. Where they differ, the one that a retry helps most with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// A path is well but has no path ids in hand.
    #[error("no path ids in hand")]
    Ids,
    /// Some call to each disk that has space has not come back.
    #[error("every disk with space is hung")]
    Hung,
    /// The servers behind each mount that has space take nothing now.
    #[error("the servers behind every store path with space are away")]
    Away,
    /// Not enough space on any path.
    #[error("no space")]
    Full,
    /// Every path is read-only.
    #[error("every store path is read-only")]
    ReadOnly,
}

/// Picks among the paths that can take `size` bytes, each with a chance in proportion to its usable space, so that
/// all fill at the same rate. `random` is any number; `skip` are paths that just refused this very upload.
///
/// # Errors
/// [`NoPlace`].
pub fn choose(
    candidates: &[Candidate],
    size: u64,
    skip: &[usize],
    random: u64,
) -> Result<usize, NoPlace> {
    let fits = |candidate: &Candidate| candidate.usable > size;
    let open = |index: usize, candidate: &Candidate| {
        candidate.health == Health::Ok
            && candidate.ids_left > 0
            && fits(candidate)
            && !skip.contains(&index)
    };
    let total: u128 = candidates
        .iter()
        .enumerate()
        .filter(|(index, candidate)| open(*index, candidate))
        .map(|(_, candidate)| u128::from(candidate.usable))
        .sum();
    if total == 0 {
        return Err(why_not(candidates, fits));
    }
    let mut point = u128::from(random) % total;
    for (index, candidate) in candidates.iter().enumerate() {
        if !open(index, candidate) {
            continue;
        }
        let share = u128::from(candidate.usable);
        if point < share {
            return Ok(index);
        }
        point -= share;
    }
    Err(NoPlace::Full)
}

fn why_not(candidates: &[Candidate], fits: impl Fn(&Candidate) -> bool) -> NoPlace {
    let any = |health: Health| candidates.iter().any(|c| c.health == health && fits(c));
    if candidates.iter().any(|c| c.health == Health::Ok && fits(c) && c.ids_left == 0) {
        NoPlace::Ids
    } else if any(Health::Hung) {
        NoPlace::Hung
    } else if any(Health::Away) {
        NoPlace::Away
    } else if candidates.iter().all(|c| c.health == Health::ReadOnly) {
        NoPlace::ReadOnly
    } else {
        NoPlace::Full
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(health: Health, usable: u64, ids_left: u64) -> Candidate {
        Candidate { health, usable, ids_left }
    }

    #[test]
    fn the_reserve_is_a_part_but_at_least_a_gibibyte() {
        let reserve = Reserve::default();
        assert_eq!(reserve.bytes(10 << 30), 1 << 30);
        assert_eq!(reserve.bytes(1 << 42), (1 << 42) / 1000 * 10);
    }

    #[test]
    fn full_comes_back_by_itself_above_a_mark() {
        let mut fullness = Fullness::new(1000);
        assert!(!fullness.observe(1000, 100, 1));
        assert!(fullness.observe(999, 100, 2));
        assert!(!fullness.observe(1100, 100, 3), "between the marks nothing changes");
        assert!(fullness.is_full());
        assert!(fullness.observe(1250, 100, 4));
        assert!(!fullness.is_full());
        assert!(fullness.observe(5000, FILES_FREE_MIN - 1, 5), "no inodes is full too");
    }

    #[test]
    fn a_refused_write_pauses_even_with_space_in_sight() {
        let mut fullness = Fullness::new(1000);
        fullness.refused(100);
        assert!(!fullness.observe(9999, 100, 100 + REFUSED_PAUSE - 1));
        assert!(fullness.observe(9999, 100, 100 + REFUSED_PAUSE));
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let no = |candidates: &[Candidate]| choose(candidates, 10, &[], 0).unwrap_err();
        assert_eq!(no(&[candidate(Health::Ok, 5, 9)]), NoPlace::Full);
        assert_eq!(no(&[candidate(Health::Full, 50, 9)]), NoPlace::Full);
        assert_eq!(no(&[candidate(Health::ReadOnly, 50, 9)]), NoPlace::ReadOnly);
        assert_eq!(no(&[candidate(Health::Hung, 50, 9)]), NoPlace::Hung);
        assert_eq!(
            no(&[candidate(Health::Full, 50, 9), candidate(Health::Ok, 50, 0)]),
            NoPlace::Ids
        );
    }

    #[test]
    fn shares_follow_usable_space() {
        let paths = [candidate(Health::Ok, 300, 1), candidate(Health::Ok, 100, 1)];
        let picked = (0..400).filter(|random| choose(&paths, 1, &[], *random) == Ok(0)).count();
        assert_eq!(picked, 300);
    }

    proptest! {
        #[test]
        fn only_what_can_take_it_is_picked(
            paths in prop::collection::vec((0_u8..4, 0_u64..100, 0_u64..3), 0..6),
            size in 0_u64..100,
            skipped in 0_usize..6,
            random in any::<u64>(),
        ) {
            let all = [Health::Ok, Health::Full, Health::ReadOnly, Health::Hung];
            let paths: Vec<Candidate> = paths
                .into_iter()
                .map(|(health, usable, ids)| candidate(all[usize::from(health)], usable, ids))
                .collect();
            match choose(&paths, size, &[skipped], random) {
                Ok(index) => {
                    prop_assert_ne!(index, skipped);
                    prop_assert_eq!(paths[index].health, Health::Ok);
                    prop_assert!(paths[index].usable > size && paths[index].ids_left > 0);
                }
                Err(_) => {
                    let able = |path: &Candidate| {
                        path.health == Health::Ok && path.usable > size && path.ids_left > 0
                    };
                    let any = paths.iter().enumerate().any(|(i, path)| i != skipped && able(path));
                    prop_assert!(!any);
                }
            }
        }
    }
}
