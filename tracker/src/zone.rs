//! The local time zone's offset, for the times in the GROUPS text: `ctime(3)` shows local time.

/// Seconds that local time is ahead of UTC at `unix` (seconds since 1970); 0 where the time zone
/// cannot be told.
pub(crate) fn utc_offset_s(unix: u64) -> i32 {
    let Ok(time) = libc::time_t::try_from(unix) else { return 0 };
    let mut local = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values of this frame, of the types that localtime_r takes;
    // it keeps neither.
    let done = unsafe { libc::localtime_r(&raw const time, local.as_mut_ptr()) };
    if done.is_null() {
        return 0;
    }
    // SAFETY: localtime_r filled it, and all zeros was a valid tm before.
    let local = unsafe { local.assume_init() };
    i32::try_from(local.tm_gmtoff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_offset_is_below_a_day() {
        for unix in [0, 1_710_159_242, u64::MAX] {
            assert!(super::utc_offset_s(unix).abs() <= 86_400, "{unix}");
        }
    }
}
