//! How an operator re-admits a store path: over the admin server, from the machine itself.
#![allow(clippy::unwrap_used, missing_docs)]

mod kit;

use std::fs;

use kit::{
    engine::{Engine, IdServer},
    files, quick_folder, until,
};

#[test]
fn an_operator_re_admits_a_store_path_over_the_admin_server() {
    let folder = quick_folder();
    let [bad, well] = ["bad", "well"].map(|name| folder.path().join(name));
    let (idgen, _ids) = IdServer::start(false);
    drop(Engine::start(&[&bad, &well], &[idgen]));
    fs::write(bad.join(".reel/read-only"), "the sync of a commit: I/O error").unwrap();
    let engine = Engine::start(&[&bad, &well], &[idgen]);
    let status = engine.admin("GET /status HTTP/1.1");
    for part in ["read-only", "I/O error", "POST /store-paths/0/readmit"] {
        assert!(status.contains(part), "{part} in {status}");
    }
    assert!(!status.contains("/store-paths/1/readmit"), "{status}");
    let post = |path: &str| engine.admin(&format!("POST {path} HTTP/1.1\r\nContent-Length: 0"));
    for (path, code, text) in [
        ("/store-paths/1/readmit", 409, "not read-only"),
        ("/store-paths/2/readmit", 404, ""),
        ("/store-paths/x/readmit", 404, ""),
        ("/store-paths/0/readmit/", 404, ""),
    ] {
        let answer = post(path);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code} ")) && answer.contains(text),
            "{answer}"
        );
    }
    let only_posted = engine.admin("GET /store-paths/0/readmit HTTP/1.1");
    assert!(
        only_posted.starts_with("HTTP/1.1 405 ") && only_posted.contains("POST"),
        "{only_posted}"
    );
    let foreign = "POST /store-paths/0/readmit HTTP/1.1\r\nOrigin: http://elsewhere.example";
    assert!(engine.admin(foreign).starts_with("HTTP/1.1 403 "));
    // Not in order: the mark cannot be written.
    let in_the_way = bad.join(".reel/marks/local.mark.new");
    fs::create_dir(&in_the_way).unwrap();
    let refused = post("/store-paths/0/readmit");
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("writing the mark"),
        "{refused}"
    );
    assert!(bad.join(".reel/read-only").exists());
    fs::remove_dir(&in_the_way).unwrap();
    let done = post("/store-paths/0/readmit");
    assert!(done.starts_with("HTTP/1.1 200 ") && done.contains("\"swept\""), "{done}");
    assert!(!bad.join(".reel/read-only").exists());
    assert!(!engine.admin("GET /status HTTP/1.1").contains("readmit"));
    let mut turn = 0;
    until("it takes uploads again", || {
        engine.take(&format!("turn{turn}-"), 5);
        turn += 1;
        !files(&bad).is_empty()
    });
}
