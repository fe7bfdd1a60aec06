//! Every body: what is written is read back, a cut one is refused, a changed or arbitrary one never panics.

use std::fmt::Debug;

use proptest::prelude::*;
use reel_proto::{
    body::BodyError,
    ext::{
        self, FileStat, GET_HEAD_LEN, Get, GetHead, List, ListReply, Locate, Located, Nodes,
        NodesReply, Purge, PurgeReply, PutHead, PutReply, Usage, UsageReply,
    },
    idgen::{self, IdGet},
    peer::{
        DrainNode, DrainReply, GatewayBeat, IdBlock, IdBlockReply, JoinExt, OperatorDrain, Report,
    },
    storage::{self, Download, FileRef, UploadHead},
    tracker::{Beat, Join, Saddrs, SaddrsReply},
};

use super::samples;

/// Round trip; every truncation and one byte more are errors; every bit flip is anything but a panic, and what it
/// gives, if it gives a value, is written and read again.
fn holds<T: PartialEq + Debug>(
    value: &T,
    encode: impl Fn(&T, &mut Vec<u8>),
    decode: impl Fn(&[u8]) -> Result<T, BodyError>,
) -> Result<(), TestCaseError> {
    let mut bytes = Vec::new();
    encode(value, &mut bytes);
    prop_assert_eq!(&decode(&bytes).unwrap(), value);
    for end in 0..bytes.len() {
        prop_assert!(decode(&bytes[..end]).is_err(), "cut after {} of {}", end, bytes.len());
    }
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = decode(&bytes) {
            let mut again = Vec::new();
            encode(&other, &mut again);
            prop_assert_eq!(decode(&again).unwrap(), other);
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    Ok(())
}

macro_rules! round_trips {
    ($($name:ident: $strategy:expr, $type:ty;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(24))]
            $(#[test]
            fn $name(value in $strategy) {
                holds(&value, |value, out| value.encode(out), <$type>::decode)?;
            })*
        }

        proptest! {
            /// Any bytes at all, and any behind a layout version that is known, to every decoder.
            #[test]
            fn any_bytes_do_not_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
                $(let _ = <$type>::decode(&bytes);)*
                let _ = ext::decode_file(&bytes);
                let _ = idgen::decode_id(&bytes);
                let _ = storage::decode_size(&bytes);
                let _ = UploadHead::decode(&bytes, 1000);
                let _ = PutHead::decode(&bytes, 1000);
                let _ = GetHead::decode(&bytes, 1000);
                for version in [2, 1] {
                    if let Some(first) = bytes.first_mut() {
                        *first = version;
                    }
                    $(let _ = <$type>::decode(&bytes);)*
                }
                let _ = ext::decode_file(&bytes);
                let _ = PutHead::decode(&bytes, 1000);
                let _ = GetHead::decode(&bytes, 1000);
            }
        }
    };
}

round_trips! {
    join: samples::join(), Join;
    beat: samples::beat(), Beat;
    saddrs: samples::saddrs(), Saddrs;
    saddrs_reply: samples::saddrs_reply(), SaddrsReply;
    id_get: samples::id_get(), IdGet;
    file_ref: samples::file_ref(), FileRef;
    download: samples::download(), Download;
    locate: samples::locate(), Locate;
    located: samples::located(), Located;
    file_stat: samples::file_stat(), FileStat;
    list: samples::list(), List;
    list_reply: samples::list_reply(), ListReply;
    usage: samples::usage(), Usage;
    usage_reply: samples::usage_reply(), UsageReply;
    purge: samples::purge(), Purge;
    purge_reply: samples::purge_reply(), PurgeReply;
    put_reply: samples::put_reply(), PutReply;
    get: samples::get(), Get;
    id_block: samples::id_block(), IdBlock;
    id_block_reply: samples::id_block_reply(), IdBlockReply;
    join_ext: samples::join_ext(), JoinExt;
    report: samples::report(), Report;
    drain: samples::drain(), DrainNode;
    operator_drain: samples::operator_drain(), OperatorDrain;
    drain_reply: samples::drain_reply(), DrainReply;
    nodes: samples::nodes(), Nodes;
    nodes_reply: samples::nodes_reply(), NodesReply;
    gateway: samples::gateway(), GatewayBeat;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn stat_and_restore(file in samples::file_ref()) {
        holds(&file, ext::encode_file, ext::decode_file)?;
    }

    #[test]
    fn upload_head(file in samples::file_ref(), size in 0..=i64::MAX as u64 - 408) {
        let head = UploadHead { file, size };
        let length = head.body_length().unwrap();
        holds(&head, UploadHead::encode, |bytes| {
            // A flipped size no longer fits the body's length.
            let read = UploadHead::decode(bytes, length)?;
            assert_eq!(read.size, size);
            Ok(read)
        })?;
    }

    #[test]
    fn get_head(head in samples::get_head()) {
        let length = head.body_length();
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        prop_assert_eq!(bytes.len(), GET_HEAD_LEN);
        prop_assert_eq!(GetHead::decode(&bytes, length).unwrap(), head);
        prop_assert!(GetHead::decode(&bytes, length.wrapping_add(1)).is_err());
        prop_assert!(GetHead::decode(&bytes[..GET_HEAD_LEN - 1], length).is_err());
    }

    #[test]
    fn put_head(
        (file, size, expires_at, name, content_type) in samples::put(),
        content in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let head = PutHead {
            file, size, expires_at, name: name.as_deref(), content_type: content_type.as_deref(),
        };
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        let used = bytes.len();
        let length = head.body_length().unwrap();
        bytes.extend_from_slice(&content);
        for end in 0..used {
            prop_assert_eq!(PutHead::decode(&bytes[..end], length).unwrap(), None);
        }
        for end in used..=bytes.len() {
            prop_assert_eq!(PutHead::decode(&bytes[..end], length).unwrap(), Some((head, used)));
        }
        prop_assert!(PutHead::decode(&bytes, length + 1).is_err());
        for bit in 0..used * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = PutHead::decode(&bytes, length);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn ids_and_sizes(number in any::<u64>()) {
        prop_assert_eq!(idgen::decode_id(&idgen::encode_id(number)), Ok(number));
        let size = storage::decode_size(&storage::encode_size(number));
        prop_assert_eq!(size.ok(), i64::try_from(number).is_ok().then_some(number));
    }

    /// What follows the NUL of a field changes nothing.
    #[test]
    fn garbage_after_a_nul(file in samples::file_ref(), garbage in any::<u8>()) {
        let mut bytes = Vec::new();
        file.encode(&mut bytes);
        for (start, length, width) in [
            (0, file.app.as_bytes().len(), 16),
            (16, file.user.as_bytes().len(), 256),
            (272, file.file.as_bytes().len(), 128),
        ] {
            bytes[start + length + 1..start + width].fill(garbage);
        }
        prop_assert_eq!(FileRef::decode(&bytes), Ok(file));
    }

    #[test]
    fn a_range_is_within_the_file_or_refused(
        offset in 0u64..20, size in 0u64..20, file_size in 0u64..20,
    ) {
        match storage::resolve(offset, size, file_size) {
            Ok(length) => {
                prop_assert!(offset + length <= file_size);
                prop_assert_eq!(length, if size == 0 { file_size - offset } else { size });
            }
            Err(_) => prop_assert!(offset > file_size || offset + size > file_size),
        }
    }
}

#[test]
fn ranges_of_old_clients() {
    use storage::resolve;
    // Offset = size with size 0 is legal and empty; so is an empty file.
    assert_eq!(resolve(10, 0, 10), Ok(0));
    assert_eq!(resolve(0, 0, 0), Ok(0));
    assert_eq!(resolve(3, 0, 10), Ok(7));
    assert_eq!(resolve(3, 7, 10), Ok(7));
    for (offset, size) in [(11, 0), (10, 1), (3, 8), (u64::MAX, 0), (0, u64::MAX), (u64::MAX, 2)] {
        assert!(resolve(offset, size, 10).is_err(), "{offset} {size}");
    }
}

/// The check above must see a decoder that takes a cut body, and one that loses something.
#[test]
fn the_check_is_not_blind() {
    let encode = |value: &Vec<u8>, out: &mut Vec<u8>| out.extend_from_slice(value);
    let value = vec![1, 2, 3];
    assert!(holds(&value, encode, |bytes| Ok(bytes.to_vec())).is_err());
    let loses = |bytes: &[u8]| match bytes.len() {
        3 => Ok(vec![1, 2, 3]),
        _ => Err(BodyError::Cut { field: "all" }),
    };
    assert!(holds(&value, encode, loses).is_ok(), "equal values are all that it can compare");
    assert!(
        std::panic::catch_unwind(|| holds(&vec![3, 2, 1], encode, loses)).is_ok_and(|r| r.is_err())
    );
}
