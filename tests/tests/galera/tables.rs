//! What is in the tables at last, held against each other and against the files.

use std::collections::HashSet;
use std::path::Path;

use mysql_async::Row;
use mysql_async::prelude::Queryable;
use reel_engine::record::{self, Record, State};
use reel_tests::galera::{Galera, NODES};
use reel_tests::stored::{attribute, files_below};

/// Judges the tables of all servers, and the files; `users` were given a group.
pub(crate) async fn judge(galera: &Galera, store: &Path, users: u64) {
    let mut all = Vec::new();
    for node in 0..NODES {
        all.push(Tables::of(galera, node).await);
    }
    let places: HashSet<&str> = all[0].files.iter().map(|row| row.1.as_str()).collect();
    let stored = files_below(store).unwrap();
    // Of a purge whose outcome was not known the file may be left for the next repair.
    let stored =
        stored.iter().filter(|file| places.contains(file.to_str().unwrap()) || !is_purging(file));
    let stored: Vec<&str> = stored.map(|file| file.to_str().unwrap()).collect();
    let faults = faults(&all, &stored, users);
    assert!(faults.is_empty(), "{faults:?}");
    let Tables { files, routes, sequences } = &all[0];
    println!("{} files, {} users, {sequences:?}, on each server", files.len(), routes.len());
}

fn is_purging(file: &Path) -> bool {
    let record = Record::decode(&attribute(file, record::ATTRIBUTE).unwrap()).unwrap();
    record.state == State::Purging
}

/// What a server has, each in its order.
#[derive(Debug, PartialEq, Eq)]
struct Tables {
    /// File id and place, then the rest.
    files: Vec<(String, String, String)>,
    /// User and group.
    routes: Vec<(String, String)>,
    /// Key and next.
    sequences: Vec<(String, u64)>,
}

impl Tables {
    async fn of(galera: &Galera, node: usize) -> Self {
        let mut conn = galera.operator(node).await.unwrap();
        // Behind all that the cluster agreed on.
        conn.query_drop("SET SESSION wsrep_sync_wait = 1").await.unwrap();
        let mut files = Vec::new();
        for table in 1..=3 {
            let sql = format!(
                "SELECT id, file_path, t.* FROM tnv_storagedb.t_file_0{table} t ORDER BY id"
            );
            let rows: Vec<Row> = conn.query(sql).await.unwrap();
            files.extend(rows.into_iter().map(|mut row| {
                let (id, path) = (row.take(0).unwrap(), row.take(1).unwrap());
                (id, path, format!("{row:?}"))
            }));
        }
        let routes = "SELECT userid, group_name FROM tnv_trackerdb.t_router ORDER BY userid, id";
        let routes = conn.query(routes).await.unwrap();
        let sequences = "SELECT id, id_value FROM tnv_idsdb.t_id_gen ORDER BY id";
        let sequences = conn.query(sequences).await.unwrap();
        Self { files, routes, sequences }
    }
}

/// What is wrong. All servers have the same rows; each file id, each place and each user has one; each user who was given a
/// group has it; and a file lies in each place that a row names, and nowhere else.
fn faults(all: &[Tables], stored: &[&str], users: u64) -> Vec<String> {
    let mut faults = Vec::new();
    let Tables { files, routes, .. } = &all[0];
    for (node, tables) in all.iter().enumerate().filter(|(_, tables)| **tables != all[0]) {
        let rows = (tables.files.len(), tables.routes.len());
        faults.push(format!("server {node} has other rows than the first one: {rows:?}"));
    }
    twice("file id", files.iter().map(|row| row.0.as_str()), &mut faults);
    let places = twice("place", files.iter().map(|row| row.1.as_str()), &mut faults);
    let groups = twice("user", routes.iter().map(|row| row.0.as_str()), &mut faults);
    let stored: HashSet<&str> = stored.iter().copied().collect();
    faults.extend(places.difference(&stored).map(|place| format!("{place}: a row, no file")));
    faults.extend(stored.difference(&places).map(|place| format!("{place}: a file, no row")));
    let users = (0..users).map(|user| format!("new{user}"));
    let lost = users.filter(|user| !groups.contains(user.as_str()));
    faults.extend(lost.map(|user| format!("{user}: was given a group, and has none")));
    faults
}

/// All values; notes those that come twice.
fn twice<'a>(
    what: &str,
    values: impl Iterator<Item = &'a str>,
    faults: &mut Vec<String>,
) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for value in values {
        if !seen.insert(value) {
            faults.push(format!("{what} {value}: two rows"));
        }
    }
    seen
}

#[test]
fn the_judge_sees_each_fault() {
    let row = |id: &str, place: &str| (id.to_owned(), place.to_owned(), String::new());
    let route = |user: &str| (user.to_owned(), "group001".to_owned());
    let good = || Tables {
        files: vec![row("a", "/1"), row("b", "/2")],
        routes: vec![route("new0"), route("new1"), route("tnv001")],
        sequences: vec![("/".to_owned(), 3)],
    };
    let all = |change: fn(&mut Tables)| {
        let mut all = [good(), good()];
        all.iter_mut().for_each(change);
        faults(&all, &["/1", "/2"], 2)
    };
    assert_eq!(all(|_| {}), Vec::<String>::new());
    for (faults, word) in [
        (all(|tables| tables.files.truncate(1)), "/2: a file, no row"),
        (all(|tables| tables.files[0].1.push('0')), "/10: a row, no file"),
        (all(|tables| tables.files[1].1 = "/1".to_owned()), "place /1: two rows"),
        (all(|tables| tables.files[1].0 = "a".to_owned()), "file id a: two rows"),
        (all(|tables| tables.routes[2].0 = "new1".to_owned()), "user new1: two rows"),
        (all(|tables| drop(tables.routes.remove(1))), "new1: was given a group"),
    ] {
        assert!(faults.iter().any(|fault| fault.contains(word)), "{word}: {faults:?}");
    }
    let mut different = [good(), good()];
    different[1].files[1].2.push('x');
    assert_eq!(faults(&different, &["/1", "/2"], 2).len(), 1);
}
