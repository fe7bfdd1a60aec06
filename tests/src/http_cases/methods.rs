//! Methods, targets, CORS, download names, and the life of a connection.

use super::{Body, Case, End, Exchange, Expect, case, get, refused, request, status};

fn whole() -> Expect {
    status(200).is("Content-Length", "{size}").body(Body::Whole)
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = methods();
    cases.extend(cors());
    cases.extend(presentation());
    cases.extend(connections());
    cases
}

fn methods() -> Vec<Case> {
    vec![
        case(
            "options-of-a-file",
            "RFC 9110 9.3.7",
            request("OPTIONS", "/files/{id}", &[]),
            status(204).or(200).has("Allow", "GET").has("Allow", "PUT"),
        ),
        case(
            "options-of-the-server",
            "RFC 9110 9.3.7",
            request("OPTIONS", "*", &[]),
            status(204).or(200),
        ),
        case(
            "options-of-the-server-in-absolute-form",
            "RFC 9112 3.2.4",
            request("OPTIONS", "http://{host}", &[]),
            status(204).or(200),
        ),
        case(
            "post-on-a-file",
            "RFC 9110 15.5.6",
            request("POST", "/files/{id}", &["Content-Length: 0"]),
            status(405).has("Allow", "GET").has("Allow", "HEAD").has("Allow", "PUT"),
        ),
        case(
            "get-where-files-are-made",
            "RFC 9110 15.5.6",
            request("GET", "/files", &[]),
            status(405).has("Allow", "POST"),
        ),
        case(
            "unknown-method",
            "RFC 9110 9.1",
            request("BREW", "/files/{id}", &[]),
            status(501).or(405),
        )
        .ends(End::Either),
        case(
            "method-in-lower-case",
            "RFC 9110 9.1",
            request("get", "/files/{id}", &[]),
            status(501).or(405),
        )
        .ends(End::Either),
        case("trace", "RFC 9110 9.3.8", request("TRACE", "/files/{id}", &[]), status(405).or(501))
            .ends(End::Either),
        case(
            "connect",
            "RFC 9110 9.3.6",
            "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
            status(405).or(501).or(400),
        )
        .ends(End::Either),
        case(
            "a-bad-parameter-whatever-the-method",
            "interfaces: the same on gateway and storage node",
            request("OPTIONS", "/files/{id}?user=a&user=b", &[]),
            status(400),
        ),
        case(
            "absolute-target",
            "RFC 9112 3.2.2",
            request("GET", "http://{host}/files/{id}", &[]),
            whole(),
        ),
    ]
}

fn cors() -> Vec<Case> {
    vec![
        case(
            "cross-origin-get",
            "interfaces: CORS",
            get(&["Origin: https://player.example"]),
            whole().any("Access-Control-Allow-Origin"),
        ),
        case(
            "cross-origin-range-shows-its-fields",
            "interfaces: CORS",
            get(&["Origin: https://player.example", "Range: bytes=0-0"]),
            status(206)
                .any("Access-Control-Allow-Origin")
                .has("Access-Control-Expose-Headers", "Content-Range"),
        ),
        case(
            "preflight-of-a-range",
            "interfaces: CORS with OPTIONS",
            request(
                "OPTIONS",
                "/files/{id}",
                &[
                    "Origin: https://player.example",
                    "Access-Control-Request-Method: GET",
                    "Access-Control-Request-Headers: range",
                ],
            ),
            status(204)
                .or(200)
                .any("Access-Control-Allow-Origin")
                .has("Access-Control-Allow-Methods", "GET")
                .has("Access-Control-Allow-Headers", "range"),
        ),
    ]
}

fn presentation() -> Vec<Case> {
    vec![
        case(
            "download-name",
            "RFC 6266 4.3",
            request("GET", "/files/{id}?download=a%20film.mp4", &[]),
            whole().has("Content-Disposition", "attachment").has("Content-Disposition", "film.mp4"),
        ),
        case(
            "download-name-beyond-ascii",
            "RFC 8187 3.2",
            request("GET", "/files/{id}?download=%E7%94%A8%E6%88%B7.mp4", &[]),
            whole().has("Content-Disposition", "filename*=UTF-8''%E7%94%A8%E6%88%B7.mp4"),
        ),
        case(
            "download-name-cannot-break-the-head",
            "RFC 9112 11.1",
            request("GET", "/files/{id}?download=a%0D%0AX-Evil:%201%22", &[]),
            status(200).or(400).without("X-Evil"),
        ),
    ]
}

fn connections() -> Vec<Case> {
    let mut two = get(&[]);
    two.extend(get(&["Range: bytes=0-0"]));
    two.extend(request("HEAD", "/files/{id}", &[]));
    let pipelined = Case {
        name: "pipelined",
        rfc: "RFC 9112 9.3.2",
        exchanges: vec![Exchange {
            send: two,
            expect: vec![whole(), status(206).body(Body::Bytes(0, 0)), status(200).head()],
        }],
        end: End::Open,
    };
    vec![
        pipelined,
        case("close", "RFC 9112 9.6", get(&["Connection: close"]), {
            whole().has("Connection", "close")
        })
        .ends(End::Closed),
        case("http-1.0", "RFC 9112 9.3", "GET /files/{id} HTTP/1.0\r\n\r\n", whole())
            .ends(End::Closed),
        case(
            "http-1.0-keep-alive",
            "RFC 9112 9.3",
            "GET /files/{id} HTTP/1.0\r\nHost: {host}\r\nConnection: keep-alive\r\n\r\n",
            whole(),
        )
        .ends(End::Either),
        case("empty-line-before", "RFC 9112 2.2", [b"\r\n".to_vec(), get(&[])].concat(), whole()),
        refused("http-2.0", "RFC 9110 15.6.6", "GET /files/{id} HTTP/2.0\r\n\r\n", &[505, 400]),
    ]
}
