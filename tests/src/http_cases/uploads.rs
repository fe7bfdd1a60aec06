//! Uploads, the same id again, zero bytes, deletion, and active types.

use super::{Body, Case, End, Exchange, Expect, case, request, status};

fn put(id: &str, lines: &[&str], body: &str) -> Vec<u8> {
    let length = format!("Content-Length: {}", body.len());
    let mut all = lines.to_vec();
    all.push(&length);
    let mut bytes = request("PUT", &format!("/files/{id}-{{run}}"), &all);
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

fn read(id: &str, lines: &[&str]) -> Vec<u8> {
    request("GET", &format!("/files/{id}-{{run}}"), lines)
}

fn several(name: &'static str, rfc: &'static str, exchanges: Vec<(Vec<u8>, Expect)>) -> Case {
    let exchanges = exchanges
        .into_iter()
        .map(|(send, expect)| Exchange { send, expect: vec![expect] })
        .collect();
    Case { name, rfc, exchanges, end: End::Open }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = puts();
    cases.extend(continues());
    cases.extend(empties());
    cases.extend(deletes());
    cases
}

fn puts() -> Vec<Case> {
    let chunked = {
        let mut bytes = request("PUT", "/files/chunked-{run}", &["Transfer-Encoding: chunked"]);
        bytes.extend_from_slice(b"5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n");
        bytes
    };
    let no_id = {
        let mut bytes = request("POST", "/files", &["Content-Length: 5"]);
        bytes.extend_from_slice(b"hello");
        bytes
    };
    vec![
        several(
            "put-new-same-other",
            "RFC 9110 9.3.4",
            vec![
                (put("put", &[], "hello"), status(201)),
                (put("put", &[], "hello"), status(200)),
                (put("put", &[], "other"), status(409)),
                (read("put", &[]), status(200).body(Body::Is(b"hello"))),
            ],
        ),
        several(
            "put-chunked",
            "RFC 9112 7.1",
            vec![
                (chunked, status(201)),
                (read("chunked", &[]), {
                    status(200).is("Content-Length", "12").body(Body::Is(b"hello, world"))
                }),
            ],
        ),
        case("post-makes-an-id", "RFC 9110 9.3.3", no_id, {
            status(201).has("Location", "/files/")
        }),
        case(
            "put-without-a-length",
            "RFC 9110 15.5.12",
            request("PUT", "/files/length-{run}", &[]),
            status(411),
        )
        .ends(End::Either),
        case(
            "put-of-a-part",
            "RFC 9110 14.5",
            put("part", &["Content-Range: bytes 0-4/10"], "hello"),
            status(400),
        )
        .ends(End::Either),
        case(
            "put-without-an-id",
            "RFC 9110 15.5.6",
            request("PUT", "/files", &["Content-Length: 0"]),
            status(405).or(404).or(400),
        )
        .ends(End::Either),
        several(
            "put-only-where-nothing-is",
            "RFC 9110 13.1.2",
            vec![
                (put("new", &["If-None-Match: *"], "hello"), status(201)),
                (put("new", &["If-None-Match: *"], "hello"), status(412)),
            ],
        )
        .ends(End::Either),
    ]
}

fn continues() -> Vec<Case> {
    let head = |id: &str| {
        request(
            "PUT",
            &format!("/files/{id}-{{run}}"),
            &["Content-Length: 5", "Expect: 100-continue"],
        )
    };
    vec![
        several(
            "expect-continue",
            "RFC 9110 10.1.1",
            vec![
                (head("continue"), status(100)),
                (b"hello".to_vec(), status(201)),
                (read("continue", &[]), status(200).body(Body::Is(b"hello"))),
            ],
        ),
        several("expect-continue-in-another-case", "RFC 9110 10.1.1", {
            let bytes = request(
                "PUT",
                "/files/continue2-{run}",
                &["Content-Length: 5", "expect: 100-Continue"],
            );
            vec![(bytes, status(100)), (b"hello".to_vec(), status(201))]
        }),
    ]
}

fn empties() -> Vec<Case> {
    let all = vec![
        (put("empty", &[], ""), status(201)),
        (read("empty", &[]), status(200).is("Content-Length", "0").body(Body::Empty)),
        (read("empty", &["Range: bytes=0-0"]), status(416).is("Content-Range", "bytes */0")),
        (read("empty", &["Range: bytes=0-"]), status(416).is("Content-Range", "bytes */0")),
        (read("empty", &["Range: bytes=-5"]), status(416).or(200)),
    ];
    vec![several("a-file-of-no-bytes", "RFC 9110 14.1.2", all)]
}

fn deletes() -> Vec<Case> {
    let delete = || request("DELETE", "/files/gone-{run}", &[]);
    vec![
        several(
            "delete",
            "RFC 9110 9.3.5",
            vec![
                (put("gone", &[], "hello"), status(201)),
                (delete(), status(204).or(200)),
                (read("gone", &[]), status(404)),
                (request("HEAD", "/files/gone-{run}", &[]), status(404).head()),
                (delete(), status(404).or(204)),
                (put("gone", &[], "hello"), status(409)),
            ],
        ),
        case(
            "delete-unknown",
            "RFC 9110 15.5.5",
            request("DELETE", "/files/no-such-{run}", &[]),
            status(404),
        ),
        several(
            "an-active-type-is-an-attachment",
            "interfaces: active types as attachment",
            vec![
                (put("page", &["Content-Type: text/html"], "<script>1</script>"), status(201)),
                (
                    read("page", &[]),
                    status(200)
                        .has("Content-Disposition", "attachment")
                        .has("Content-Security-Policy", "sandbox")
                        .is("X-Content-Type-Options", "nosniff"),
                ),
            ],
        ),
    ]
}
