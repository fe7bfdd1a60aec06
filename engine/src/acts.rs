//! What an operator may ask of a storage node at its admin server.

use std::sync::Arc;

use reel_node::{Act, ActError};

use crate::{
    adopt::AdoptError,
    store::{
        ReadmitError, Stores,
        adoption::{AdoptionMode, AdoptionState},
    },
};

/// One of them; on the store path of the given index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Readmit(usize),
    Adopt(usize, AdoptionMode),
    Pause(usize),
    Scrub(usize),
}

impl Asked {
    /// What a POST of this path asks; `None`: nothing that there is.
    fn parse(path: &str) -> Option<Self> {
        let (store, what) = path.strip_prefix("/store-paths/")?.split_once('/')?;
        let store = store.parse().ok()?;
        Some(match what {
            "readmit" => Self::Readmit(store),
            "scrub" => Self::Scrub(store),
            "adopt" => Self::Adopt(store, AdoptionMode::Adopt),
            "adopt/check" => Self::Adopt(store, AdoptionMode::Check),
            "adopt/finish" => Self::Adopt(store, AdoptionMode::Finish),
            "adopt/pause" => Self::Pause(store),
            _ => return None,
        })
    }

    fn store(self) -> usize {
        match self {
            Self::Readmit(store)
            | Self::Adopt(store, _)
            | Self::Pause(store)
            | Self::Scrub(store) => store,
        }
    }

    async fn run(self, stores: Arc<Stores>) -> Result<serde_json::Value, ActError> {
        let store = self.store();
        let begun = match self {
            Self::Readmit(_) => {
                return match stores.readmit(store).await {
                    Ok(swept) => Ok(serde_json::json!({ "store": store, "swept": swept })),
                    Err(error @ ReadmitError::NotReadOnly) => {
                        Err(ActError::Needless(error.to_string()))
                    }
                    Err(error) => Err(ActError::Failed(error.to_string())),
                };
            }
            Self::Scrub(_) => {
                return match stores.scrub(store) {
                    true => Ok(serde_json::json!({ "store": store })),
                    false => Err(ActError::Needless(
                        "it has no brick, its brick is being read, or `engine.scrub_within` is 0"
                            .into(),
                    )),
                };
            }
            Self::Adopt(_, mode) => stores.adopt(store, mode),
            Self::Pause(_) => stores.pause_adoption(store),
        };
        match begun {
            Ok(()) => Ok(serde_json::json!({ "store": store })),
            Err(AdoptError::Busy) => Err(ActError::Failed(AdoptError::Busy.to_string())),
            Err(error) => Err(ActError::Needless(error.to_string())),
        }
    }
}

/// What `POST path` asks for; `None`: no such thing.
pub(crate) fn act(stores: &Arc<Stores>, path: &str) -> Option<Act> {
    let asked = Asked::parse(path)?;
    stores.paths().get(asked.store())?;
    Some(Box::pin(asked.run(Arc::clone(stores))))
}

/// What may be asked for as things are.
pub(crate) fn possible(stores: &Stores) -> Vec<String> {
    let mut all = Vec::new();
    for path in stores.paths() {
        let at = format!("POST /store-paths/{}", path.index);
        if path.is_read_only() {
            all.push(format!("{at}/readmit"));
        }
        if path.brick.is_some() {
            all.push(format!("{at}/scrub"));
        }
        if path.adoption().is_some_and(|adoption| adoption.state == AdoptionState::Open) {
            let acts = ["adopt", "adopt/check", "adopt/finish", "adopt/pause"];
            all.extend(acts.map(|act| format!("{at}/{act}")));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_what_they_ask() {
        let cases = [
            ("/store-paths/0/readmit", Some(Asked::Readmit(0))),
            ("/store-paths/3/scrub", Some(Asked::Scrub(3))),
            ("/store-paths/12/adopt", Some(Asked::Adopt(12, AdoptionMode::Adopt))),
            ("/store-paths/1/adopt/check", Some(Asked::Adopt(1, AdoptionMode::Check))),
            ("/store-paths/1/adopt/finish", Some(Asked::Adopt(1, AdoptionMode::Finish))),
            ("/store-paths/1/adopt/pause", Some(Asked::Pause(1))),
            ("/store-paths/1/adopt/", None),
            ("/store-paths/1", None),
            ("/store-paths//adopt", None),
            ("/store-paths/-1/adopt", None),
            ("/store-path/1/adopt", None),
        ];
        for (path, asked) in cases {
            assert_eq!(Asked::parse(path), asked, "{path}");
        }
    }
}
