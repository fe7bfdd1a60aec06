//! An operator's drain: the node goes on serving what it is asked, and has trackers name it to nobody while others are
//! there, so that it can be stopped without anybody noticing. Remembered over restarts, which is what it is for.

use tokio::sync::{Mutex, watch};

use crate::store::{DrainError, Stores};

/// Whether an operator has drained the node; shared by its threads.
pub(crate) struct OperatorDrain {
    state: watch::Sender<bool>,
    /// Held while the disks are told, so that what they say and what is told to others end up the same.
    changing: Mutex<()>,
}

impl OperatorDrain {
    /// As the stores remember it.
    pub(crate) fn new(stores: &Stores) -> Self {
        let is_on = stores.is_drained();
        if is_on {
            tracing::warn!(
                "drained by an operator: trackers name this node to nobody until `reel node undrain`"
            );
        }
        Self { state: watch::Sender::new(is_on), changing: Mutex::default() }
    }

    /// Whether it is drained.
    pub(crate) fn is_on(&self) -> bool {
        *self.state.borrow()
    }

    /// Tells of each change.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.state.subscribe()
    }

    /// Drains the node, or no longer; durably first, then for everybody to see. What is so already costs nothing.
    ///
    /// # Errors
    /// [`DrainError`]; nothing has changed then.
    pub(crate) async fn set(&self, stores: &Stores, on: bool) -> Result<(), DrainError> {
        let _changing = self.changing.lock().await;
        stores.set_drained(on).await?;
        let changed = self.state.send_if_modified(|state| std::mem::replace(state, on) != on);
        if changed {
            tracing::info!(on, "an operator's drain");
        }
        Ok(())
    }
}
