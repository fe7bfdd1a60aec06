//! What clients ask: which nodes serve a user or a file, and who is there at all.

use std::time::{SystemTime, UNIX_EPOCH};

use reel_node::frame_server::{Ended, FrameConn};
use reel_proto::ext::{Locate, Nodes};
use reel_proto::name::{AppId, FileId, GroupName, UserId};
use reel_proto::refusal::Refusal;
use reel_proto::tracker::Saddrs;

use super::{Refused, Thread};
use crate::metrics::{Outcome, TrackerMetrics};
use crate::zone;

impl Thread {
    /// SADDRS: the user's group and at most three of its active nodes.
    pub(super) async fn saddrs(
        &self,
        conn: &mut FrameConn,
        question: &Saddrs,
        reply: &mut Vec<u8>,
    ) -> Result<Result<(), Refused>, Ended> {
        let (app, user) = (&question.app, &question.user);
        let group = match self.group_of(conn, app, user, NewUser::Record).await? {
            Ok(group) => group,
            Err(refused) => return Ok(Err(refused)),
        };
        let mut snapshots = self.snapshots.borrow_mut();
        Ok(match snapshots.load().active(&group) {
            Some(view) => {
                view.saddrs(&mut self.random.borrow_mut(), reply);
                Ok(())
            }
            None => Err(no_active_node(&group)),
        })
    }

    /// LOCATE: as SADDRS, with media addresses, gateways and more nodes.
    pub(super) async fn locate(
        &self,
        conn: &mut FrameConn,
        question: &Locate,
        reply: &mut Vec<u8>,
    ) -> Result<Result<(), Refused>, Ended> {
        let group = match self.group_for(conn, question).await? {
            Ok(group) => group,
            Err(refused) => return Ok(Err(refused)),
        };
        let mut snapshots = self.snapshots.borrow_mut();
        let snapshot = snapshots.load();
        Ok(match snapshot.active(&group) {
            Some(view) => {
                snapshot.locate(view, &mut self.random.borrow_mut()).encode(reply);
                Ok(())
            }
            None => Err(no_active_node(&group)),
        })
    }

    /// GROUPS: the text.
    pub(super) fn groups(&self, reply: &mut Vec<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let offset = zone::utc_offset_s(now);
        *reply = self.picture.look(|registry, _| registry.groups_text(offset));
    }

    /// NODES: a page of storage nodes.
    pub(super) fn nodes(&self, question: Nodes, reply: &mut Vec<u8>) {
        self.picture.look(|registry, now| registry.page(question, now)).encode(reply);
    }

    /// The group that LOCATE asks for: with embedded metadata the only one has every file and every
    /// user; else that of the user, or of the user whose file it is.
    async fn group_for(
        &self,
        conn: &mut FrameConn,
        question: &Locate,
    ) -> Result<Result<GroupName, Refused>, Ended> {
        // The configuration has at least one app.
        let app = question.app.unwrap_or(self.apps[0]);
        if let Err(refused) = self.check_app(&app) {
            return Ok(Err(refused));
        }
        let only = self.snapshots.borrow_mut().load().only_group();
        match (only, question.user, question.file) {
            (Some(group), _, Some(_)) | (Some(group), None, None) => Ok(Ok(group)),
            (None, None, Some(file)) if self.owners.is_some() => {
                self.group_of_file(conn, file, None).await
            }
            (_, Some(user), None) => self.group_of(conn, &app, &user, NewUser::Record).await,
            // A file that nobody uploaded must not give its user a group.
            (None, Some(user), Some(file)) => {
                match self.group_of(conn, &app, &user, NewUser::Refuse).await? {
                    Err(refused)
                        if refused.refusal == Refusal::NoSuchFile && self.owners.is_some() =>
                    {
                        self.group_of_file(conn, file, Some((app, user))).await
                    }
                    group => Ok(group),
                }
            }
            // The files of the whole app: with a shared database any node knows them.
            (None, None, None) if self.owners.is_some() => {
                let mut snapshots = self.snapshots.borrow_mut();
                let picked = snapshots.load().any(&mut self.random.borrow_mut());
                Ok(picked.ok_or_else(|| Refused::new(Outcome::NoNode, "no storage node is active")))
            }
            (None, None, _) => Ok(Err(Refused::new(
                Outcome::NoNode,
                "a group cannot be told without a user: no storage node with embedded metadata is \
                 there, and no shared database of files",
            ))),
        }
    }

    /// The group of a file's owner. One who was never given a group has uploaded past all trackers, to a node: that of its
    /// store.
    async fn group_of_file(
        &self,
        conn: &mut FrameConn,
        file: FileId,
        of: Option<(AppId, UserId)>,
    ) -> Result<Result<GroupName, Refused>, Ended> {
        let Some(owners) = &self.owners else {
            return Ok(Err(no_such_file("nobody has this file")));
        };
        // Replies to earlier requests must not wait for the database.
        conn.flush().await?;
        match owners.of_file(file, of).await {
            Ok(Some(owner)) => {
                let route = self.route(conn, &owner.app, &owner.user, NewUser::Refuse).await?;
                let of_store =
                    || self.picture.look(|registry, _| registry.group_of_store(&owner.store));
                Ok(route.and_then(|group| {
                    group.or_else(of_store).ok_or_else(|| {
                        let text =
                            "its user has no group, and its store is not that of one group alone";
                        Refused::new(Outcome::NoNode, text)
                    })
                }))
            }
            Ok(None) => Ok(Err(no_such_file("nobody has this file"))),
            Err(error) => Ok(Err(Refused::new(Outcome::Failed, error))),
        }
    }

    /// The group of a user; a new user may get one that has an active node.
    async fn group_of(
        &self,
        conn: &mut FrameConn,
        app: &AppId,
        user: &UserId,
        new: NewUser,
    ) -> Result<Result<GroupName, Refused>, Ended> {
        let route = self.route(conn, app, user, new).await?;
        Ok(route.and_then(|group| {
            group.ok_or_else(|| match new {
                NewUser::Refuse => no_such_file("this user has no group, so no files either"),
                NewUser::Record => Refused::new(
                    Outcome::NoNode,
                    "no storage node is active, so a new user cannot be given a group",
                ),
            })
        }))
    }

    /// The group that a user has, or is given.
    async fn route(
        &self,
        conn: &mut FrameConn,
        app: &AppId,
        user: &UserId,
        new: NewUser,
    ) -> Result<Result<Option<GroupName>, Refused>, Ended> {
        if let Err(refused) = self.check_app(app) {
            return Ok(Err(refused));
        }
        let remembered = self.routes.borrow_mut().get(app, user);
        if remembered.is_some() {
            self.metrics.add(TrackerMetrics::ROUTE_HITS, 1);
            return Ok(Ok(remembered));
        }
        let pick = match new {
            NewUser::Record => {
                self.snapshots.borrow_mut().load().pick(&mut self.random.borrow_mut())
            }
            NewUser::Refuse => None,
        };
        // Replies to earlier requests must not wait for the database.
        conn.flush().await?;
        Ok(match self.database.route(*app, *user, pick).await {
            Ok(group) => {
                if let Some(group) = group {
                    self.routes.borrow_mut().insert(app, user, group);
                }
                Ok(group)
            }
            Err(error) => Err(Refused::new(Outcome::Failed, error)),
        })
    }

    fn check_app(&self, app: &AppId) -> Result<(), Refused> {
        // A handful of apps: comparing them all is faster than a table.
        if self.apps.contains(app) {
            return Ok(());
        }
        let refused = Refused::new(Outcome::Refused, format_args!("unknown app id: {app}"));
        Err(Refused { refusal: Refusal::UnknownApp, ..refused })
    }
}

/// What a question does for a user who has no group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NewUser {
    /// Gives and records one.
    Record,
    /// Leaves it so.
    Refuse,
}

fn no_such_file(text: &str) -> Refused {
    Refused { refusal: Refusal::NoSuchFile, ..Refused::new(Outcome::Refused, text) }
}

fn no_active_node(group: &GroupName) -> Refused {
    Refused::new(Outcome::NoNode, format_args!("no storage node of {group} is active"))
}
