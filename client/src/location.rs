//! Where a user's files are: the tracker's answer, kept for a short while.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use reel_proto::{
    http::query::{escape, path_of},
    name::{AppId, FileId, GroupName, UserId},
    storage::FileRef,
};

use crate::id::is_made;

/// Answers kept at once. A program that serves more users than this asks more often, and works.
const KEPT_MAX: usize = 1024;

/// App and user of a URL that names neither: the media HTTP defaults.
const DEFAULT_OWNER: (&str, &str) = ("tnvideo", "tnv001");

/// A storage node as a tracker names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Where it takes requests.
    pub binary: SocketAddr,
    /// Where it serves media over HTTP. Deployed nodes have none, and know none of our commands.
    pub media: Option<SocketAddr>,
    /// It takes no uploads.
    pub read_only: bool,
    /// It has much more under way than the others of its group.
    pub busy: bool,
}

/// What an operation does at a node, which decides which nodes are tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Reads: any node can.
    Read,
    /// Changes what is stored: a node whose store paths take nothing comes last.
    Write,
}

/// Where the files of a user, or of an app, are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The group that serves them.
    pub group: GroupName,
    /// Active nodes of the group, at least one, in the tracker's order: a random one, but those that take no uploads or are
    /// busy come after the others.
    pub nodes: Vec<Node>,
    /// Gateways that the tracker knows, for URLs.
    pub gateways: Vec<SocketAddr>,
}

impl Location {
    /// The node that is tried after so many others: in the tracker's order, but busy ones after the others, and for a write
    /// those that take none last of all. They are tried then: the tracker's word may be old.
    pub(crate) fn node(&self, tried: usize, purpose: Purpose) -> Option<Node> {
        let rank = |node: &Node| (purpose == Purpose::Write && node.read_only, node.busy);
        let mut nodes: Vec<Node> = self.nodes.clone();
        // Stable: within one rank the tracker's order, which is random, decides.
        nodes.sort_by_key(rank);
        nodes.get(tried).copied()
    }

    /// The URL of a file: of a gateway where there is one, else of a storage node. None where neither speaks HTTP.
    /// App and user are named, so that the URL means exactly this file; they are left out where they are the defaults
    /// and the id is one that this library makes: nobody else has such an id. A chosen id (`film`) may be somebody
    /// else's too, and without a user the older one would be meant.
    #[must_use]
    pub fn url(&self, file: &FileRef) -> Option<String> {
        let media = self.nodes.iter().find_map(|node| node.media);
        let host = self.gateways.first().copied().or(media)?;
        let mut url = format!("http://{host}{}", path_of(&file.file));
        if (file.app.as_str(), file.user.as_str()) != DEFAULT_OWNER || !is_made(&file.file) {
            let (app, user) = (escape(file.app.as_str()), escape(file.user.as_str()));
            url.push_str(&format!("?app={app}&user={user}"));
        }
        Some(url)
    }
}

/// Whose files a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The app.
    pub app: AppId,
    /// The user.
    pub user: UserId,
}

impl Owner {
    /// One of this owner's files.
    #[must_use]
    pub fn file(self, file: FileId) -> FileRef {
        FileRef { app: self.app, user: self.user, file }
    }

    /// The owner of a file.
    #[must_use]
    pub fn of(file: &FileRef) -> Self {
        Self { app: file.app, user: file.user }
    }
}

/// Of whom a tracker is asked who serves them: a user, or a whole app, whose files any node can list that shares the
/// database with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The app.
    pub app: AppId,
    /// The user; none: all of the app.
    pub user: Option<UserId>,
}

impl Scope {
    pub(crate) fn owner(self) -> Option<Owner> {
        self.user.map(|user| Owner { app: self.app, user })
    }
}

impl From<Owner> for Scope {
    fn from(Owner { app, user }: Owner) -> Self {
        Self { app, user: Some(user) }
    }
}

/// The answers that are still fresh.
#[derive(Debug)]
pub(crate) struct Locations {
    kept: Mutex<HashMap<Scope, (Instant, Arc<Location>)>>,
    ttl: Duration,
}

impl Locations {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { kept: Mutex::default(), ttl }
    }

    pub(crate) fn get(&self, scope: Scope) -> Option<Arc<Location>> {
        let kept = self.lock();
        let (since, location) = kept.get(&scope)?;
        (since.elapsed() < self.ttl).then(|| Arc::clone(location))
    }

    pub(crate) fn keep(&self, scope: Scope, location: &Arc<Location>) {
        if self.ttl.is_zero() {
            return;
        }
        let mut kept = self.lock();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, (since, _)| since.elapsed() < self.ttl);
        }
        if kept.len() < KEPT_MAX {
            kept.insert(scope, (Instant::now(), Arc::clone(location)));
        }
    }

    pub(crate) fn drop_answer(&self, scope: Scope) {
        self.lock().remove(&scope);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Scope, (Instant, Arc<Location>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn location(gateway: bool, media: bool) -> Location {
        Location {
            group: GroupName::parse("group001").unwrap(),
            nodes: vec![Node {
                binary: "127.0.0.1:23000".parse().unwrap(),
                media: media.then(|| "127.0.0.1:23080".parse().unwrap()),
                read_only: false,
                busy: false,
            }],
            gateways: if gateway { vec!["127.0.0.1:8080".parse().unwrap()] } else { vec![] },
        }
    }

    fn owner(app: &str, user: &str) -> Owner {
        Owner { app: AppId::parse(app).unwrap(), user: UserId::parse(user).unwrap() }
    }

    #[test]
    fn the_url_is_the_gateways_else_a_nodes() {
        let made = "65f1560c0f423f0000000000000abc234507";
        let file = owner("tnvideo", "tnv001").file(FileId::parse(made).unwrap());
        let url = |gateway, media| location(gateway, media).url(&file);
        assert_eq!(url(true, true).unwrap(), format!("http://127.0.0.1:8080/files/{made}"));
        assert_eq!(url(false, true).unwrap(), format!("http://127.0.0.1:23080/files/{made}"));
        assert_eq!(url(false, false), None);
    }

    #[test]
    fn the_url_names_an_owner_where_another_might_be_meant() {
        let chosen = owner("tnvideo", "tnv001").file(FileId::parse("a b?c").unwrap());
        assert_eq!(
            location(true, true).url(&chosen).unwrap(),
            "http://127.0.0.1:8080/files/a%20b%3Fc?app=tnvideo&user=tnv001"
        );
        let file = owner("tnvideo", "用户&x").file(FileId::parse("f").unwrap());
        assert_eq!(
            location(true, true).url(&file).unwrap(),
            "http://127.0.0.1:8080/files/f?app=tnvideo&user=%E7%94%A8%E6%88%B7%26x"
        );
    }

    #[test]
    fn busy_nodes_come_later_and_for_writes_those_that_take_none_last() {
        let node = |port: u16, read_only, busy| Node {
            binary: ([127, 0, 0, 1], port).into(),
            media: None,
            read_only,
            busy,
        };
        let nodes = vec![node(1, true, false), node(2, false, true), node(3, false, false)];
        let location = Location { nodes, ..location(false, false) };
        let ports = |purpose| -> Vec<u16> {
            let nodes = (0..).map_while(|tried| location.node(tried, purpose));
            nodes.map(|node| node.binary.port()).collect()
        };
        assert_eq!(ports(Purpose::Read), [1, 3, 2]);
        assert_eq!(ports(Purpose::Write), [3, 2, 1]);
    }

    #[test]
    fn answers_grow_old_and_are_bounded() {
        let answer = Arc::new(location(true, true));
        let scope = |user: &str| Scope::from(owner("tnvideo", user));
        let locations = Locations::new(Duration::from_secs(60));
        for index in 0..KEPT_MAX + 10 {
            locations.keep(scope(&format!("u{index}")), &answer);
        }
        assert_eq!(locations.lock().len(), KEPT_MAX);
        assert!(locations.get(scope("u0")).is_some());
        locations.drop_answer(scope("u0"));
        assert!(locations.get(scope("u0")).is_none());
        let never = Locations::new(Duration::ZERO);
        never.keep(scope("u0"), &answer);
        assert!(never.get(scope("u0")).is_none());
    }
}
