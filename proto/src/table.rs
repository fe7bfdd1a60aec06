//! Which of the three file tables holds a user's rows: the deployed system's hash, bit for bit.

/// File tables of a storage database: `t_file_01` … `t_file_03`.
pub const TABLES: u8 = 3;

/// The names of the file tables, in order.
pub const TABLE_NAMES: [&str; TABLES as usize] = ["t_file_01", "t_file_02", "t_file_03"];

/// The deployed system's hash of a user id's bytes (the AP hash with a zero start). Bytes are signed, as in its C++.
pub fn hash_of_user(user: &[u8]) -> u32 {
    user.iter().enumerate().fold(0, |hash: u32, (index, &byte)| {
        let c = i32::from(byte as i8) as u32;
        hash ^ if index % 2 == 1 {
            !((hash << 11) ^ c ^ (hash >> 5))
        } else {
            (hash << 7) ^ c ^ (hash >> 3)
        }
    })
}

/// The table of a user's files: 1, 2 or 3.
pub fn table_of_user(user: &[u8]) -> u8 {
    ((hash_of_user(user) & 0x7FFF_FFFF) % u32::from(TABLES)) as u8 + 1
}

/// The name of the table of a user's files.
pub fn table_name_of_user(user: &[u8]) -> &'static str {
    TABLE_NAMES[usize::from(table_of_user(user) - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn vectors_of_the_deployed_system() {
        assert_eq!(hash_of_user(b"tnv001"), 3_600_463_905);
        for (user, table) in [
            ("tnv001", 2),
            ("tnv002", 3),
            ("tnv003", 1),
            ("alice", 2),
            ("bob", 3),
            ("carol", 3),
            ("a", 2),
            ("", 1),
            ("12345", 2),
            ("用户", 2),
            ("张三", 1),
            ("0123456789abcdef", 2),
        ] {
            assert_eq!(table_of_user(user.as_bytes()), table, "{user}");
        }
        assert_eq!(table_name_of_user(b"tnv001"), "t_file_02");
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_table(user in any::<Vec<u8>>()) {
            prop_assert!((1..=TABLES).contains(&table_of_user(&user)));
        }
    }
}
