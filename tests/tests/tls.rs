//! A shared database over TLS: nothing goes in the clear, and a server that cannot prove who it is is not used.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reel_meta::mysql::{MysqlFileStore, MysqlOptions, Tls, migrate};
use reel_meta::{FileStore, InsertOutcome, Role};
use reel_tests::database::{block_on, is_installed, new_file, said};
use reel_tests::http;
use reel_tests::mariadb::MariaDb;
use reel_tests::process::Up;
use reel_tests::proxy::{Fault, Proxy};

/// Another name of the server than its address.
const NAME: &str = "db.reel.internal";

/// An authority of its own, and what it vouches for: a server on loopback.
struct Certificates {
    authority: PathBuf,
    server: PathBuf,
    key: PathBuf,
}

impl Certificates {
    fn make(folder: &Path) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned(), NAME.to_owned()]).unwrap();
        let server = params.signed_by(&key, &authority).unwrap();
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        Self {
            authority: write("authority.pem", authority.pem()),
            server: write("server.pem", server.pem()),
            key: write("server.key", key.serialize_pem()),
        }
    }

    fn required(&self, name: Option<&str>) -> Tls {
        let name = name.map(str::to_owned);
        Tls::Required { authorities: Some(self.authority.clone()), name }
    }
}

fn server(certificates: &Certificates) -> MariaDb {
    let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let arguments = [
        option("ssl-cert", &certificates.server),
        option("ssl-key", &certificates.key),
        "--require-secure-transport=ON".to_owned(),
    ];
    MariaDb::start_with(&arguments.each_ref().map(String::as_str)).unwrap()
}

fn options(server: &MariaDb, role: Role, tls: Tls) -> MysqlOptions {
    MysqlOptions { tls, ..MysqlOptions::new(role, vec![server.address()], "root") }
}

/// Why a store cannot be opened.
fn refusal(options: MysqlOptions) -> String {
    said(&block_on(MysqlFileStore::open(options)).map(drop).unwrap_err())
}

#[test]
fn a_server_must_prove_who_it_is() {
    if !is_installed() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ours = Certificates::make(folder.path());
    let server = server(&ours);
    let with = |tls: Tls| options(&server, Role::Storage, tls);
    block_on(async {
        migrate(&with(ours.required(None)), Role::Storage, false).await.unwrap();
        for name in [None, Some(NAME)] {
            let mut store = MysqlFileStore::open(with(ours.required(name))).await.unwrap();
            let new = new_file("tnv001", name.unwrap_or("f"), "/data/000/000/000/1_001");
            let inserted = store.insert(std::slice::from_ref(&new)).await.unwrap();
            assert_eq!(inserted, [InsertOutcome::Inserted]);
            assert!(store.get(None, &new.file).await.unwrap().is_some());
        }
    });
    // The server's word for it is that nobody may enter so.
    let in_the_clear = refusal(with(Tls::Off));
    assert!(in_the_clear.contains("Access denied"), "{in_the_clear}");
    let other_name = refusal(with(ours.required(Some("other.reel.internal"))));
    assert!(other_name.contains("certificate"), "{other_name}");
    let elsewhere = tempfile::tempdir().unwrap();
    let theirs = Certificates::make(elsewhere.path());
    let unknown = refusal(with(theirs.required(None)));
    assert!(unknown.contains("certificate"), "{unknown}");
    let public = refusal(with(Tls::Required { authorities: None, name: None }));
    assert!(public.contains("certificate"), "{public}");
}

#[test]
fn a_server_without_tls_is_not_used_where_it_is_required() {
    if !is_installed() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(folder.path());
    let server = MariaDb::start_with(&["--skip-ssl"]).unwrap();
    let refused = refusal(options(&server, Role::Storage, certificates.required(None)));
    assert!(refused.to_lowercase().contains("ssl"), "{refused}");
}

#[test]
fn a_whole_store_says_nothing_in_the_clear() {
    if !is_installed() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(folder.path());
    let server = server(&certificates);
    let proxy = Proxy::start(server.address()).unwrap();
    let (host, port) = proxy.address();
    let up = Up::new(&folder.path().join("data"))
        .set("meta.mysql.servers", &format!("[\"{host}:{port}\"]"))
        .set("meta.mysql.user", "root")
        .set("meta.mysql.tls", "true")
        .set("meta.mysql.tls_ca", &certificates.authority.display().to_string());
    for role in Role::ALL {
        let options = options(&server, role, certificates.required(None));
        block_on(migrate(&options, role, false)).unwrap();
    }
    // It would meet the first message that names a table.
    proxy.arm("t_file_0", Fault::CutRequest(0));
    let store = up.start().unwrap();
    let media = store.addresses.media;
    let put = http::request(media, "PUT", "/files/secret-name", &[], Some(b"content")).unwrap();
    assert_eq!(put.status, 201, "{}", put.text());
    let got = http::request(media, "GET", "/files/secret-name", &[], None).unwrap();
    assert_eq!(got.body, b"content");
    assert!(store.reel(&["ls"]).unwrap().contains("secret-name"));
    assert!(proxy.is_armed(), "statements can be read on the way");
    store.drain().unwrap();
}
