//! Heads past every limit that a server may have: refused with the status that names the limit.

use super::{Case, End, case, get, request, status};

pub(super) fn cases() -> Vec<Case> {
    let long = "a".repeat(1 << 20);
    let many: Vec<String> = (0..5000).map(|at| format!("X-{at}: {at}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    vec![
        case(
            "target-of-a-mebibyte",
            "RFC 9110 15.5.15",
            request("GET", &format!("/files/{long}"), &[]),
            status(414),
        )
        .ends(End::Closed),
        case("field-of-a-mebibyte", "RFC 6585 5", get(&[&format!("X-Long: {long}")]), status(431))
            .ends(End::Closed),
        case("very-many-fields", "RFC 6585 5", get(&many), status(431)).ends(End::Closed),
        case(
            "id-of-128-bytes",
            "RFC 9110 15.5.5",
            request("GET", &format!("/files/{}", "i".repeat(128)), &[]),
            status(404).or(400),
        ),
        case(
            "id-of-127-bytes",
            "RFC 9110 15.5.5",
            request("GET", &format!("/files/{}", "i".repeat(127)), &[]),
            status(404),
        ),
        case(
            "length-of-an-exbibyte",
            "RFC 9110 15.5.14",
            request(
                "PUT",
                "/files/large-{run}",
                &["Content-Length: 1152921504606846976", "Expect: 100-continue"],
            ),
            status(413),
        )
        .ends(End::Either),
        case(
            "unknown-expectation",
            "RFC 9110 10.1.1",
            request("PUT", "/files/expect-{run}", &["Content-Length: 5", "Expect: 42-magic"]),
            status(417),
        )
        .ends(End::Either),
    ]
}
