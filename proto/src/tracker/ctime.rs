//! Times in `ctime(3)` form, `Mon Mar 11 20:14:02 2024`, for the GROUPS text. Without the C library: its local time
//! zone is a global that reads files, so the offset from UTC is an argument.

use std::fmt;

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY_S: i64 = 86_400;
/// 9999-12-31 23:59:59: the last time of four-digit years. Later ones are shown as this one.
const LAST: i64 = 253_402_300_799;

/// Shows seconds since 1970 in the form of `ctime(3)`, without its newline.
pub(super) struct Ctime {
    pub(super) time: u64,
    pub(super) utc_offset_s: i32,
}

impl fmt::Display for Ctime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = i64::try_from(self.time).unwrap_or(LAST).min(LAST);
        let local = (time + i64::from(self.utc_offset_s)).min(LAST);
        let (days, second) = (local.div_euclid(DAY_S), local.rem_euclid(DAY_S));
        let (year, month, day) = civil(days);
        // 1970-01-01 was a Thursday.
        let weekday = WEEKDAYS[(days + 4).rem_euclid(7) as usize];
        let month = MONTHS[month - 1];
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{weekday} {month}{day:3} {hour:02}:{minute:02}:{second:02} {year}")
    }
}

/// Reads what [`Ctime`] writes; the day of the week is not looked at. `None` for anything else, and before 1970.
pub(super) fn parse(text: &str, utc_offset_s: i32) -> Option<u64> {
    let bytes: &[u8; 24] = text.as_bytes().try_into().ok()?;
    let number = |from: usize, to: usize| -> Option<i64> {
        let field = std::str::from_utf8(&bytes[from..to]).ok()?.trim_start();
        let digits = !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| field.parse().ok()).flatten()
    };
    let separators = [(3, b' '), (7, b' '), (10, b' '), (13, b':'), (16, b':'), (19, b' ')];
    if separators.iter().any(|&(at, separator)| bytes[at] != separator) {
        return None;
    }
    let month = MONTHS.iter().position(|month| month.as_bytes() == &bytes[4..7])? + 1;
    let (day, year) = (number(8, 10)?, number(20, 24)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let local = days(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second;
    u64::try_from(local - i64::from(utc_offset_s)).ok()
}

/// Year, month 1–12, day 1–31 of a day counted from 1970-01-01.
///
/// Years run from March here, so that the leap day is the last of its year; 400 years are 146,097 days.
/// Source: H. Hinnant, "chrono-compatible low-level date algorithms".
fn civil(days: i64) -> (i64, usize, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as usize, day)
}

/// The other way round: days from 1970-01-01.
fn days(year: i64, month: usize, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month_from_march = (month as i64 + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn show(time: u64, utc_offset_s: i32) -> String {
        Ctime { time, utc_offset_s }.to_string()
    }

    #[test]
    fn as_the_c_library_writes_it() {
        assert_eq!(show(0, 0), "Thu Jan  1 00:00:00 1970");
        assert_eq!(show(1_710_188_042, 0), "Mon Mar 11 20:14:02 2024");
        assert_eq!(show(951_782_400, 0), "Tue Feb 29 00:00:00 2000");
        assert_eq!(show(4_102_444_799, 0), "Thu Dec 31 23:59:59 2099");
        assert_eq!(show(0, 8 * 3600), "Thu Jan  1 08:00:00 1970");
        assert_eq!(show(0, -5 * 3600), "Wed Dec 31 19:00:00 1969");
    }

    #[test]
    fn a_time_out_of_reach_is_clamped() {
        assert_eq!(show(u64::MAX, i32::MAX), "Fri Dec 31 23:59:59 9999");
        assert_eq!(show(u64::MAX, 0), "Fri Dec 31 23:59:59 9999");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "Mon Mar 11 20:14:02 202",
            "Mon Mar 11 20:14:02 2024\n",
            "Mon Mrz 11 20:14:02 2024",
            "Mon Mar 32 20:14:02 2024",
            "Mon Mar 11 24:14:02 2024",
            "Mon Mar -1 20:14:02 2024",
            "Mon Mar 11 20-14-02 2024",
        ] {
            assert_eq!(parse(text, 0), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(time in 0..LAST as u64 - 86_400, utc_offset_s in -43_200..=50_400) {
            prop_assert_eq!(parse(&show(time, utc_offset_s), utc_offset_s), Some(time));
        }

        #[test]
        fn any_text_and_time_do_not_panic(text in "\\PC*", time in any::<u64>(), offset in any::<i32>()) {
            let _ = parse(&text, offset);
            let _ = show(time, offset);
        }
    }
}
