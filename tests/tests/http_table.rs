//! The table of HTTP cases against any address: `REEL_TEST_HTTP=127.0.0.1:8080 cargo test -p reel-tests --test
//! http_table -- --ignored`. The storage node's and the gateway's own tests run the same table.
#![allow(clippy::unwrap_used)]

use reel_tests::http_cases;

#[test]
#[ignore = "needs a running store at REEL_TEST_HTTP that takes writes from this machine"]
fn the_table_against_a_given_address() {
    let address = std::env::var("REEL_TEST_HTTP").unwrap().parse().unwrap();
    let run = format!("{:08x}", getrandom::u32().unwrap());
    let facts = http_cases::prepare(address, &run).unwrap();
    let verdicts = http_cases::run(address, &facts, &http_cases::cases());
    let faults: Vec<String> = verdicts
        .iter()
        .filter_map(|verdict| {
            Some(format!("{} ({}): {}", verdict.name, verdict.rfc, verdict.fault.as_ref()?))
        })
        .collect();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), verdicts.len(), faults.join("\n"));
}
