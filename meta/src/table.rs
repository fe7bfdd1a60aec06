//! Which of the three tables of the storage database holds a user's rows.

/// Number of the table of a user, 1 to 3 (layout-and-tables: the hash of the deployed system).
#[must_use]
pub fn table_of_user(user: &str) -> u8 {
    let mut hash = 0_u32;
    for (index, &byte) in user.as_bytes().iter().enumerate() {
        // The deployed system's `char` is signed.
        let byte = i32::from(byte.cast_signed()).cast_unsigned();
        hash ^= if index % 2 == 1 {
            !((hash << 11) ^ byte ^ (hash >> 5))
        } else {
            (hash << 7) ^ byte ^ (hash >> 3)
        };
    }
    ((hash & 0x7FFF_FFFF) % 3) as u8 + 1
}
