//! Paths and queries, decoded once.

use proptest::prelude::*;
use reel_proto::{
    http::query::{Query, QueryError, Route, decode, escape, path_of},
    limits,
    name::{FileId, UserId},
};

fn file(path: &str) -> Option<String> {
    match Route::parse(path).unwrap() {
        Route::File(file) => Some(file.as_str().to_owned()),
        _ => None,
    }
}

#[test]
fn paths() {
    assert_eq!(file("/files/abc"), Some("abc".into()));
    assert_eq!(file("/files/a%20b%41"), Some("a bA".into()), "RFC 3986 2.1");
    assert_eq!(file("/files/%e7%94%a8%E6%88%B7"), Some("用户".into()), "RFC 3986 2.5");
    assert_eq!(file("/files/a+b"), Some("a+b".into()), "RFC 3986 2.2");
    assert_eq!(file("/files/.."), Some("..".into()), "an id, never part of a path");
    assert_eq!(file("/files/%2541"), Some("%41".into()), "RFC 3986 2.4: decoded once");
    for (path, route) in [
        ("/files", Route::Files),
        ("/files/", Route::Nothing),
        ("/files/a/b", Route::Nothing),
        ("/filesx", Route::Nothing),
        ("/FILES/a", Route::Nothing),
        ("/", Route::Nothing),
        ("", Route::Server),
        ("*", Route::Server),
    ] {
        assert_eq!(Route::parse(path), Ok(route), "{path}");
    }
}

#[test]
fn paths_that_are_refused() {
    for path in ["/files/a%", "/files/a%4", "/files/a%zz", "/files/%ff", "/files/%c3%28"] {
        assert_eq!(Route::parse(path), Err(QueryError::Escape), "RFC 3986 2.1: {path}");
    }
    for path in ["/files/a%2Fb", "/files/a%00", "/files/a%0Ab", "/files/%7f"] {
        assert!(matches!(Route::parse(path), Err(QueryError::Name(_))), "{path}");
    }
    assert!(Route::parse(&format!("/files/{}", "i".repeat(127))).is_ok());
    assert!(Route::parse(&format!("/files/{}", "i".repeat(128))).is_err());
}

#[test]
fn queries() {
    let query = Query::parse("app=tnvideo&user=%E7%94%A8&download=a%20b.mp4&other=%41").unwrap();
    assert_eq!(query.app.unwrap().as_str(), "tnvideo");
    assert_eq!(query.user.unwrap().as_str(), "用");
    assert_eq!(query.download.as_deref(), Some("a b.mp4"));
    assert_eq!(Query::parse("").unwrap(), Query::default());
    assert_eq!(Query::parse("&&").unwrap(), Query::default());
    assert_eq!(Query::parse("download").unwrap().download.as_deref(), Some(""));
    assert_eq!(Query::parse("user=").unwrap().user, Some(UserId::EMPTY));
    assert_eq!(Query::parse("user=a+b").unwrap().user.unwrap().as_str(), "a+b");
    assert_eq!(Query::parse("%75ser=a").unwrap().user.unwrap().as_str(), "a");
    assert_eq!(Query::parse("name=a=b").unwrap().name.as_deref(), Some("a=b"));
}

#[test]
fn queries_that_are_refused() {
    // What two readers could read in two ways is refused.
    for query in ["user=a&user=b", "user=a&user=a", "user=a&%75ser=b"] {
        assert_eq!(Query::parse(query), Err(QueryError::Twice { name: "user" }), "{query}");
    }
    for query in ["app=a%2", "%g=1", "download=%ff"] {
        assert_eq!(Query::parse(query), Err(QueryError::Escape), "{query}");
    }
    for query in ["app=", "app=a-b", "app=0123456789abcdef", "user=%00"] {
        assert!(matches!(Query::parse(query), Err(QueryError::Name(_))), "{query}");
    }
    let name = |length| Query::parse(&format!("download={}", "a".repeat(length)));
    assert!(name(limits::HTTP_DOWNLOAD_NAME_BYTES_MAX).is_ok());
    assert_eq!(name(limits::HTTP_DOWNLOAD_NAME_BYTES_MAX + 1), Err(QueryError::TooLong));
    let many = |count| Query::parse(&vec!["x=1"; count].join("&"));
    assert!(many(limits::HTTP_QUERY_PARAMETERS_MAX).is_ok());
    assert_eq!(many(limits::HTTP_QUERY_PARAMETERS_MAX + 1), Err(QueryError::TooLong));
}

#[test]
fn paths_to_files() {
    let path = |id: &str| path_of(&FileId::parse(id).unwrap());
    assert_eq!(path("65F1560C-1"), "/files/65F1560C-1");
    assert_eq!(path("a b?c#d%e"), "/files/a%20b%3Fc%23d%25e");
    assert_eq!(path("用"), "/files/%E7%94%A8");
}

proptest! {
    #[test]
    fn an_id_comes_back_from_its_path(id in "\\PC{1,40}") {
        if let Ok(file) = FileId::parse(&id) {
            prop_assert_eq!(Route::parse(&path_of(&file)), Ok(Route::File(file)));
        }
    }

    #[test]
    fn any_text_comes_back_from_its_escape(text in any::<String>()) {
        let escaped = escape(&text).to_string();
        prop_assert!(escaped.is_ascii());
        prop_assert_eq!(&*decode(&escaped).unwrap(), text.as_str());
    }

    #[test]
    fn any_target_is_read_or_refused(text in "[/filesapuer%=&0-9a-f+]{0,60}|\\PC*") {
        let _ = (Route::parse(&text), Query::parse(&text), decode(&text));
    }
}
